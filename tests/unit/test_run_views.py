"""What Dagster says of a run, in our words."""

from typing import Any

from elt_dagster.control.runs import BackendRun, ResultClass, RunStatus, RunView
from elt_dagster.orchestration.run_views import (
    JobStream,
    in_chain,
    observed_backend,
    observed_estimate,
    run_view,
    stream_errors,
    with_streams,
)

ORDERS = JobStream("public.orders", ("raw", "orders"), "raw__orders")
AT_PREFECT = [
    {"label": "elt/backend", "text": "prefect"},
    {"label": "elt/backend_run", "text": "flow-1"},
    {"label": "elt/backend_status", "text": "Running"},
    {"label": "elt/backend_heartbeat_at", "text": "2026-01-01T00:00:00+00:00"},
    {"label": "elt/backend_url", "url": "http://prefect/flow-1"},
]


def run(status: str, step: str, *entries: dict[str, Any], **tags: str) -> dict[str, Any]:
    stats = {"stepKey": ORDERS.step, "status": step, "startTime": 1.0, "endTime": 3.0}
    return {
        "runId": "r1", "status": status, "creationTime": 1.0, "startTime": 1.0, "endTime": 3.0, "rootRunId": None, "parentRunId": None,
        "tags": [{"key": key.replace("__", "/"), "value": value} for key, value in tags.items()],
        "stepStats": [{**stats, "materializations": [{"metadataEntries": list(entries)}]}],
    }  # fmt: skip


def shown(found: dict[str, Any], *events: dict[str, Any], **backends: BackendRun) -> RunView:
    return with_streams(run_view(found, None), found, [ORDERS], stream_errors(events), backends)


def failed(message: str) -> dict[str, Any]:
    return {"__typename": "RunFailureEvent", "error": None, "message": message}


def test_who_loads_a_stream_elsewhere_is_known_while_it_runs_and_after() -> None:
    seen = observed_backend({"__typename": "ObservationEvent", "stepKey": ORDERS.step, "metadataEntries": AT_PREFECT})
    assert seen is not None
    assert (seen.backend, seen.run, seen.status, seen.url) == ("prefect", "flow-1", "Running", "http://prefect/flow-1")
    assert seen.heartbeat_at is not None
    assert seen.heartbeat_at.year == 2026
    assert shown(run("STARTED", "IN_PROGRESS"), raw__orders=seen).backend == seen
    done = [{**entry, "text": "Completed"} if entry["label"].endswith("status") else entry for entry in AT_PREFECT]
    after = shown(run("SUCCESS", "SUCCESS", *done), raw__orders=seen).backend
    assert after is not None
    assert after.status == "Completed"
    assert observed_backend({"__typename": "LogMessageEvent", "message": ""}) is None
    assert shown(run("SUCCESS", "SUCCESS")).backend is None


def test_what_was_under_way_when_its_run_was_lost_has_failed() -> None:
    view = shown(run("FAILURE", "IN_PROGRESS"), failed("terminated by signal 9"))
    assert [(s.status, s.reason) for s in view.streams] == [(RunStatus.FAILED, "heartbeat_timeout")]
    assert view.reason == "heartbeat_timeout"


def test_a_run_that_we_ended_keeps_its_reason_whatever_its_process_says_last() -> None:
    found = run("CANCELED", "IN_PROGRESS", elt__end_reason="heartbeat_timeout")
    view = shown(found)
    assert (view.result_class, view.reason) == (ResultClass.FAILURE, "heartbeat_timeout")
    assert [s.status for s in view.streams] == [RunStatus.FAILED]
    assert shown(run("CANCELED", "IN_PROGRESS")).reason == "cancelled"
    assert shown(run("STARTED", "IN_PROGRESS", elt__end_reason="heartbeat_timeout")).reason is None


def test_a_run_that_took_too_long_says_so_though_more_is_said_after_it() -> None:
    told = [failed("Exceeded maximum runtime of 3 seconds."), failed("This job is being forcibly marked as failed.")]
    view = shown(run("FAILURE", "IN_PROGRESS"), *told)
    assert (view.reason, view.error) == ("max_runtime_exceeded", "Exceeded maximum runtime of 3 seconds.")


def test_attempts_know_their_number_and_the_next() -> None:
    first = run_view(run("FAILURE", "FAILURE"), None)
    second = run_view({**run("SUCCESS", "SUCCESS"), "runId": "r2", "rootRunId": "r1", "parentRunId": "r1"}, None)
    chain = [in_chain(view, [first, second]) for view in (first, second)]
    assert [(v.attempt, v.next_id) for v in chain] == [(1, "r2"), (2, None)]


def test_how_many_rows_a_stream_expects_is_known_while_it_runs_and_after() -> None:
    entries = [{"label": "elt/counts/estimated_rows", "intRepr": "500"}]
    told = {"__typename": "ObservationEvent", "stepKey": ORDERS.step, "metadataEntries": entries}
    expected = observed_estimate(told)
    assert expected == 500
    running = run("STARTED", "IN_PROGRESS")
    view = with_streams(run_view(running, None), running, [ORDERS], {}, estimates={ORDERS.step: expected})
    assert [s.expected_rows for s in view.streams] == [500]
    assert [s.expected_rows for s in shown(run("SUCCESS", "SUCCESS", *entries)).streams] == [500]
    assert [s.expected_rows for s in shown(running).streams] == [None]
    others = ({"__typename": "LogMessageEvent", "message": ""}, {**told, "metadataEntries": AT_PREFECT})
    assert [observed_estimate(event) for event in others] == [None, None]


def test_how_a_run_was_carried_out_stays_with_it() -> None:
    then = run_view(
        run("SUCCESS", "SUCCESS", elt__execution_mode="fan_out_entity", elt__execution_backend="temporal"), None
    )
    assert (then.execution_mode, then.execution_backend) == ("fan_out_entity", "temporal")
    by_hand = run_view(run("SUCCESS", "SUCCESS", elt__execution_mode="quickly"), None)
    assert (by_hand.execution_mode, by_hand.execution_backend) == (None, None)
