"""What orchestration says and understands, without Dagster running: progress lines, failures, metadata, run views, literal secrets."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import httpx
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elt_dagster.control.runs import RunStatus
from elt_dagster.engine import Progress, resolve_binding
from elt_dagster.errors import AuthError, ConfigError, NotFoundError, TransientError
from elt_dagster.model import Checkpoint, Execution, LoadMode, RunMode, Stream, StreamResult, TableBinding
from elt_dagster.model.run import SchemaChange
from elt_dagster.orchestration import metadata as keys
from elt_dagster.orchestration.errors import dagster_errors, retry_wait, translate
from elt_dagster.orchestration.http_transport import HttpTransport
from elt_dagster.orchestration.literals import secret_literals
from elt_dagster.orchestration.metadata import result_metadata
from elt_dagster.orchestration.progress import Throttled, format_progress, parse_progress
from elt_dagster.orchestration.run_views import JobStream, event_message, run_view, stream_errors, with_streams
from elt_dagster.orchestration.runs import GraphQLRuns

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=60)


@given(NAMES, st.integers(0, 10**13), st.integers(0, 10**16), st.floats(0, 10**7))
def test_a_progress_line_says_what_was_put_in(stream: str, rows: int, size: int, seconds: float) -> None:
    read = parse_progress(format_progress(Progress(stream, rows, size, seconds)))
    assert read is not None
    assert (read.stream, read.rows) == (stream, rows)
    assert abs(read.bytes - size) <= 50_001
    assert abs(read.seconds - seconds) <= 0.0501


def test_the_line_keeps_its_shape() -> None:
    line = format_progress(Progress("orders", 1_200_000, 310_240_000, 2.9))
    assert line == "orders: 1,200,000 rows, 413,793 rows/s, 310.2 MB, 2.9 s"
    assert parse_progress("Finished execution of step: 3 rows") is None


def test_progress_is_told_every_two_seconds_and_at_the_end() -> None:
    lines: list[str] = []
    tell = Throttled(lines.append)
    for tenths in range(51):
        tell(Progress("orders", tenths, 0, tenths / 10))
    tell.finish()
    tell.finish()
    found = [parse_progress(line) for line in lines]
    assert [p.seconds for p in found if p is not None] == [2.0, 4.0, 5.0]


EXECUTION = Execution(max_retries=2, retry_delay_seconds=5)


def test_what_a_person_must_fix_is_not_retried() -> None:
    found = translate(AuthError("Refused.", fix="Log in."), EXECUTION, 0, "orders")
    assert isinstance(found, dg.Failure)
    assert (found.description, found.allow_retries) == ("Refused. Log in.", False)
    assert found.metadata["elt/reason"].value == "auth_failed"
    assert found.metadata["elt/stream"].value == "orders"


@pytest.mark.parametrize(("attempt", "asked", "wait"), [(0, None, 5), (1, None, 10), (0, 42.0, 42)])
def test_a_busy_source_is_asked_again_later(attempt: int, asked: float | None, wait: float) -> None:
    found = translate(TransientError("Busy.", retry_after=asked), EXECUTION, attempt)
    assert isinstance(found, dg.RetryRequested)
    shortest = wait if asked is not None else wait * 0.75
    assert found.seconds_to_wait is not None
    assert shortest <= found.seconds_to_wait <= wait
    assert found.max_retries == 2


def test_streams_that_were_refused_together_do_not_come_back_together() -> None:
    waits = {retry_wait(TransientError("Busy."), EXECUTION, 0) for _ in range(20)}
    assert len(waits) > 10


@pytest.mark.parametrize(("attempt", "asked"), [(2, None), (0, 3600.0)])
def test_no_worker_waits_for_ever(attempt: int, asked: float | None) -> None:
    found = translate(TransientError("Busy.", retry_after=asked), EXECUTION, attempt)
    assert isinstance(found, dg.Failure)
    assert not found.allow_retries


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, dg.DagsterExecutionInterruptedError])
def test_an_interrupt_is_a_failure_that_no_policy_retries(interrupt: type[BaseException]) -> None:
    with pytest.raises(dg.Failure) as caught, dagster_errors(EXECUTION):
        raise interrupt
    assert not caught.value.allow_retries
    assert caught.value.metadata["elt/reason"].value == "cancelled"


def test_foreign_errors_pass_through() -> None:
    with pytest.raises(ZeroDivisionError), dagster_errors(EXECUTION):
        raise ZeroDivisionError


NOW = datetime(2026, 1, 2, tzinfo=UTC)


def result(after: Any = None, **more: Any) -> dict[str, Any]:
    stream = Stream(name="s.orders", schema=pa.schema([("ID", pa.int64()), ("note", pa.string())]), primary_key=("ID",))
    resolved = resolve_binding(TableBinding(name="s.orders", hashed_columns=("note",)), stream)
    outcome = StreamResult(
        stream="s.orders",
        table="raw.orders",
        load_mode=LoadMode.MERGE,
        run_mode=RunMode.INCREMENTAL,
        columns=pa.schema([("id", pa.int64()), ("note", pa.string())]),
        after=Checkpoint(after) if after is not None else None,
        **more,
    )
    return result_metadata(outcome, resolved, now=NOW)


@pytest.mark.parametrize(
    ("cursor", "lag"),
    [
        (NOW - timedelta(hours=1), 3600),
        (datetime(2026, 1, 1, 23), 3600),  # naive: taken for UTC
        (date(2026, 1, 1), 86400),
        (7, None),
        ("2026-01-01", None),
    ],
)
def test_the_lag_is_told_where_the_cursor_is_a_time(cursor: Any, lag: float | None) -> None:
    told = result(cursor)
    assert told.get(keys.CURSOR_LAG_SECONDS) == lag
    assert keys.CURSOR_AFTER in told


def test_counters_and_changes_are_told() -> None:
    change = SchemaChange("widened", "note", "int64", "string")
    told = result(counts={"null_cursor_rows": 3}, schema_changes=(change,))
    assert told["elt/counts/null_cursor_rows"] == 3
    assert "| note | widened | int64 | string |" in told[keys.SCHEMA_CHANGES].value
    assert keys.CURSOR_AFTER not in told
    columns = {c.name: c for c in told[keys.COLUMN_SCHEMA].columns}
    assert columns["id"].constraints.unique
    assert columns["note"].tags == {"elt/hashed": ""}


SECRETS = frozenset({"password", "auth.token", "storage_options", "keys.token"})


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"password": "x", "user": "u"}, ["password"]),
        ({"password": {"env": "P"}, "user": "u"}, []),
        ({"password": None}, []),
        ({"auth": {"token": "x", "kind": "bearer"}}, ["auth.token"]),
        ({"auth": {"token": {"file": "/x"}}}, []),
        ({"storage_options": {"secret": "x", "anon": True}}, ["storage_options.secret"]),
        ({"storage_options": {"secret": {"env": "S"}, "anon": True}}, []),
        ({"keys": [{"token": {"env": "A"}}, {"token": "x"}]}, ["keys.token"]),
        ({"unknown": {"password": "x"}}, []),
    ],
)
def test_literal_secrets_are_found_wherever_they_stand(config: dict[str, Any], found: list[str]) -> None:
    assert list(secret_literals(config, SECRETS)) == found


def a_run(status: str, steps: list[dict[str, Any]], **tags: str) -> dict[str, Any]:
    labels = {"elt/sync": "shop", "elt/run_mode": "full_refresh", **tags}
    return {
        "runId": "r1",
        "status": status,
        "jobName": "sync_shop",
        "creationTime": 1.0,
        "startTime": 2.0,
        "endTime": None,
        "rootRunId": None,
        "parentRunId": None,
        "tags": [{"key": k, "value": v} for k, v in labels.items()],
        "stepStats": steps,
        "assetSelection": None,
        "stepKeysToExecute": None,
    }


def a_step(key: str, status: str, **entries: int) -> dict[str, Any]:
    told = [{"label": label.replace("__", "/"), "intRepr": str(value)} for label, value in entries.items()]
    done = [{"metadataEntries": told}] if told else []
    return {"stepKey": key, "status": status, "startTime": 2.0, "endTime": 3.5, "materializations": done}


STREAMS = [JobStream(f"public.{n}", ("raw", n), f"raw__{n}") for n in ("orders", "items", "customers")]
FAILED_STEP = {
    "__typename": "ExecutionStepFailureEvent",
    "stepKey": "raw__orders",
    "message": "failed",
    "error": {"message": "dagster.Failure: x", "causes": []},
    "failureMetadata": {
        "description": "Refused. Log in.",
        "metadataEntries": [{"label": "elt/reason", "text": "auth_failed"}],
    },
}


def test_a_view_shows_every_stream_whatever_became_of_it() -> None:
    steps = [a_step("raw__orders", "FAILURE"), a_step("raw__customers", "SUCCESS", elt__rows_read=5, elt__bytes_read=9)]
    run = a_run("FAILURE", steps)
    view = with_streams(run_view(run, "http://x"), run, STREAMS, stream_errors([FAILED_STEP]))
    assert (view.status, view.run_mode, view.sync) == (RunStatus.FAILED, RunMode.FULL_REFRESH, "shop")
    orders, items, customers = view.streams
    assert (orders.status, orders.error, orders.reason) == (RunStatus.FAILED, "Refused. Log in.", "auth_failed")
    assert items.status is RunStatus.SKIPPED
    assert (customers.rows, customers.bytes, customers.seconds) == (5, 9, 1.5)
    assert view.failures == (orders,)
    assert view.error is None


def test_a_cancelled_run_has_no_failed_streams() -> None:
    run = a_run("CANCELED", [a_step("raw__orders", "FAILURE")])
    view = with_streams(run_view(run, None), run, STREAMS[:1], stream_errors([FAILED_STEP]))
    assert (view.status, view.streams[0].status, view.streams[0].error) == (
        RunStatus.CANCELLED,
        RunStatus.CANCELLED,
        None,
    )


def test_what_no_step_said_is_said_for_the_run() -> None:
    run = a_run("FAILURE", [])
    event = {"__typename": "RunFailureEvent", "message": "failed", "error": {"message": "a.b.Gone: worker died\n"}}
    view = with_streams(run_view(run, None), run, (), stream_errors([event]))
    assert view.error == "worker died"


def test_only_what_a_person_wants_to_read_becomes_a_message() -> None:
    retry = {
        "__typename": "ExecutionStepUpForRetryEvent",
        "stepKey": "raw__orders",
        "secondsToWait": 5,
        "error": {"message": "outer", "causes": [{"message": "elt_dagster.errors.TransientError: Busy.\n"}]},
    }
    assert event_message(retry) == "raw__orders: Busy. Trying again in 5 s."
    assert event_message(FAILED_STEP) == "raw__orders: Refused. Log in."
    assert event_message({"__typename": "LogMessageEvent", "level": "INFO", "message": "x"}) is None
    assert event_message({"__typename": "LogMessageEvent", "level": "WARNING", "message": "x"}) == "x"


def http_runs(answer: Any, status: int = 200) -> GraphQLRuns:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/graphql"
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(status, json=answer) if isinstance(answer, dict) else httpx.Response(status, text=answer)

    return GraphQLRuns(HttpTransport("http://user:secret@dagster:3000/", httpx.MockTransport(handle)))


@pytest.mark.parametrize(
    ("answer", "status", "error"),
    [
        (httpx.ConnectError("no"), 200, TransientError),
        ("<html>", 502, TransientError),
        ("<html>", 200, ConfigError),
        ({"errors": [{"message": "no such field"}]}, 200, ConfigError),
        (
            {"data": {"instance": {"info": None}, "runsOrError": {"__typename": "Runs", "results": []}}},
            200,
            NotFoundError,
        ),
    ],
)
def test_a_webserver_that_is_not_there_or_is_none_is_said_clearly(
    answer: Any, status: int, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught, http_runs(answer, status) as runs:
        runs.get("r1")
    assert "secret" not in str(caught.value)


def test_a_view_of_a_webservers_run_links_to_its_page() -> None:
    page = {"data": {"runsOrError": {"__typename": "Runs", "results": [a_run("STARTED", [])]}}}
    with http_runs(page) as runs:
        (view,) = runs.list("shop", limit=1)
    assert view.url is not None
    assert view.url.endswith("/runs/r1")
    assert view.status is RunStatus.RUNNING
