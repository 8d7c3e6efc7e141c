"""Run control in a real Dagster with its daemon: retries by Dagster and by us, limits, runs that fall silent, what happens to runs whose sync
changes while they wait. One ``dagster dev`` for all of it.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from elt_dagster.control.runs import ResultClass, Runs, RunStatus
from elt_dagster.errors import NotFoundError
from elt_dagster.model import RunMode
from elt_dagster.orchestration.runs import open_runs
from tests.integration.dagster_project import shop
from tests.integration.running_dagster import DAGSTER_YAML, next_attempt, started_dagster, wait_for, worker_of
from tests.integration.test_live_syncs import SHOWN, Deployment, assets, schedules, succeeded

pytestmark = pytest.mark.slow
ONE: dict[str, Any] = {"streams": [{"name": "public.orders"}]}
SILENT: dict[str, Any] = {"max_retries": 1, "retry_delay_seconds": 0.1, "heartbeat_timeout_seconds": 10}
ONE_AT_A_TIME = """
run_coordinator:
  module: dagster
  class: QueuedRunCoordinator
  config: {tag_concurrency_limits: [{key: elt/trigger_ref, value: one at a time, limit: 1}]}
"""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    found = started_dagster(tmp_path_factory.mktemp("control"), DAGSTER_YAML + ONE_AT_A_TIME)
    try:
        quick = {"retry_delay_seconds": 0.1}
        syncs = {
            "killed": {"execution": {**quick, "max_retries": 1, "overlap": "skip"}, **ONE},
            "long": {"execution": {**quick, "max_retries": 0, "max_runtime_seconds": 3}, **ONE},
            "busy": {"execution": {**quick, "max_retries": 2}},
            "stopped": {"execution": SILENT, "streams": [{"name": "public.customers"}]},
            "blocked": {"execution": {**SILENT, "stall_timeout_seconds": 10}, **ONE},
            "holds": {**ONE},
            "paused": {**ONE},
            "archived": {**ONE},
            "deleted": {**ONE},
        }
        for slug, more in syncs.items():
            found.project.put(shop(slug=slug, schema=slug, **more))
        found.wait(lambda shown: set(syncs) <= {key.partition("/")[0] for key in assets(shown)}, "the syncs")
        yield found
    finally:
        for name in list(found.processes):
            found.kill(name)


@pytest.fixture(scope="module")
def runs(deployment: Deployment) -> Iterator[Runs]:
    with open_runs(webserver_url=f"http://127.0.0.1:{deployment.port}") as runs:
        yield runs


@pytest.fixture(autouse=True)
def well_behaved(deployment: Deployment) -> Iterator[None]:
    """A source that no test leaves slow to the next one, not even a test that failed."""
    yield
    for said in ("*.slow", "*.slow_from", "*.busy", "*.fail", "rows"):
        for file in deployment.project.folder.glob(said):
            file.unlink()


def test_a_killed_run_is_started_again_by_dagster_and_finds_its_stream_free(deployment: Deployment, runs: Runs) -> None:
    deployment.project.say("orders.slow", 60)
    first = runs.launch("killed")
    wait_for(runs, first, lambda v: any(s.status is RunStatus.RUNNING for s in v.streams))
    time.sleep(1)  # it has its lease by then
    os.kill(worker_of(deployment, first), signal.SIGKILL)
    view = wait_for(runs, first)
    deployment.project.say("orders.slow", "")
    killed = time.monotonic()
    assert (view.result_class, view.reason, view.attempt) == (ResultClass.FAILURE, "heartbeat_timeout", 1)
    assert [s.error for s in view.streams] == ["Its process was lost while it worked; what it had committed stays."]
    again = next_attempt(runs, first)
    assert (again.status, again.attempt, again.parent_id) == (RunStatus.COMPLETED, 2, first)
    assert [s.rows for s in again.streams] == [3], "the dead run's lease neither skips the stream nor makes it wait"
    assert time.monotonic() - killed < 60
    assert again.url == f"http://127.0.0.1:{deployment.port}/runs/{again.id}"
    full = wait_for(runs, runs.retry(again.id, run_mode=RunMode.FULL_REFRESH))
    assert (full.attempt, full.root_id, full.run_mode) == (3, first, RunMode.FULL_REFRESH)
    assert [v.id for v in runs.attempts(first)] == [first, again.id, full.id]


def test_a_run_that_takes_longer_than_its_sync_allows_is_ended(deployment: Deployment, runs: Runs) -> None:
    deployment.project.say("orders.slow", 120)
    view = wait_for(runs, runs.launch("long"))
    assert (view.result_class, view.reason) == (ResultClass.FAILURE, "max_runtime_exceeded")
    assert view.error is not None
    assert "3 seconds" in view.error


def test_steps_are_tried_again_for_what_time_may_mend_and_for_nothing_else(deployment: Deployment, runs: Runs) -> None:
    deployment.project.say("orders.busy", 2)
    deployment.project.say("customers.fail", "yes")
    run_id = runs.launch("busy", streams=["public.orders", "public.customers"])
    view = wait_for(runs, run_id)
    assert (view.result_class, view.reason, view.next_id) == (ResultClass.PARTIAL, "auth_failed", None)
    assert {s.stream: (s.status, s.error_class) for s in view.streams} == {
        "public.orders": (RunStatus.COMPLETED, None),
        "public.customers": (RunStatus.FAILED, "AuthError"),
    }
    again = [line for line in runs.events(run_id).messages if "Trying again" in line]
    assert [line.partition(":")[0] for line in again] == ["busy__orders"] * 2
    orders = next(s for s in view.streams if s.stream == "public.orders")
    assert (orders.rows_inserted, orders.rows_updated, orders.rows_deleted, orders.rows_rejected) == (3, 0, 0, 0)
    assert (orders.cursor_before, orders.cursor_after) == (None, "2026-01-01T00:00:03+00:00")


def test_a_stopped_worker_and_a_read_that_blocks_are_ended_and_resumed(deployment: Deployment, runs: Runs) -> None:
    project = deployment.project
    project.say("rows", 3_000)
    project.say("orders.slow_from", 1_001)  # one batch is committed, the next never comes
    for stream in ("orders", "customers"):
        project.say(f"{stream}.slow", 600)
    stopped, blocked = runs.launch("stopped"), runs.launch("blocked")
    wait_for(runs, stopped, lambda v: any(s.status is RunStatus.RUNNING for s in v.streams))
    worker = worker_of(deployment, stopped)
    os.kill(worker, signal.SIGSTOP)
    for run_id, stream in ((stopped, "public.customers"), (blocked, "public.orders")):
        view = wait_for(runs, run_id)
        assert (view.result_class, view.reason) == (ResultClass.FAILURE, "heartbeat_timeout")
        assert view.error is not None
        assert "gave no sign of life" in view.error
        assert [(s.stream, s.reason) for s in view.failures] == [(stream, "heartbeat_timeout")]
        project.say(f"{stream.rpartition('.')[2]}.slow", "")
    assert is_gone(worker)
    for run_id in (stopped, blocked):
        again = next_attempt(runs, run_id)
        assert (again.status, again.attempt, again.parent_id) == (RunStatus.COMPLETED, 2, run_id)
    (orders,) = again.streams
    assert orders.rows is not None
    assert orders.rows < 3_000, "it went on from what the first attempt had committed"
    assert orders.cursor_before is not None
    assert project.rows("SELECT count(*), count(DISTINCT id) FROM blocked.orders") == [(3_000, 3_000)]
    assert project.rows("SELECT count(*) FROM stopped.customers") == [(3_000,)]


def test_a_sync_comes_runs_is_paused_and_goes_under_dagster_dev(deployment: Deployment) -> None:
    project = deployment.project
    at_night = shop(slug="nightly", schema="nightly", schedule={"cron": "0 4 1 1 *"}, **ONE)
    project.put(at_night)
    project.put(shop(slug="fresh", schema="fresh", trigger_mode="on_create", **ONE))
    deployment.wait(lambda shown: {"fresh/orders", "nightly/orders"} <= assets(shown), "their assets")
    assert schedules(deployment.ask(SHOWN))["sync_nightly_schedule"] == "RUNNING"
    deployment.wait(lambda shown: succeeded(shown, "fresh"), "the success of its first run")
    assert project.rows("SELECT count(*) FROM fresh.orders") == [(3,)]
    project.put({**at_night, "status": "paused"})
    deployment.wait(lambda shown: not schedules(shown) and "nightly/orders" in assets(shown), "that it is paused")
    with project.store.transaction() as tx:
        tx.delete_sync("fresh")
    deployment.wait(lambda shown: "fresh/orders" not in assets(shown) and "nightly/orders" in assets(shown), "gone")
    assert len(deployment.started("fresh")) == 1


@pytest.mark.again("half a minute of a queue; what a run loads of an earlier version is tested without one")
def test_runs_in_the_queue_outlive_that_their_sync_is_paused_archived_or_deleted(
    deployment: Deployment, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = deployment.project
    monkeypatch.setenv("DAGSTER_HOME", str(project.folder / "home"))  # GraphQL has no way to write a reason
    project.say("orders.slow", 120)
    holding = runs.launch("holds", trigger_ref="one at a time")
    wait_for(runs, holding, lambda v: v.status is RunStatus.RUNNING)
    slugs = ("paused", "archived", "deleted")
    queued = {slug: runs.launch(slug, trigger_ref="one at a time") for slug in slugs}
    project.put(shop(slug="paused", schema="paused", status="paused", **ONE))
    project.put(shop(slug="archived", schema="archived", status="archived", **ONE))
    with project.store.transaction() as tx:
        tx.delete_sync("deleted")
    deployment.wait(
        lambda shown: (
            {"archived/orders", "deleted/orders"}.isdisjoint(assets(shown)) and "paused/orders" in assets(shown)
        ),
        "that they are gone",
    )
    assert {runs.get(run_id).status for run_id in queued.values()} == {RunStatus.PENDING}
    project.say("orders.slow", "")
    runs.cancel(holding, "enough waiting")
    held = wait_for(runs, holding)
    assert (held.reason, held.cancel_reason) == ("cancelled", "enough waiting")
    for slug, run_id in queued.items():
        view = wait_for(runs, run_id)
        assert (slug, view.result_class) == (slug, ResultClass.SUCCESS)
        assert project.rows(f"SELECT count(*) FROM {slug}.orders") == [(3,)]
    for slug in ("archived", "deleted"):
        with pytest.raises(NotFoundError, match="Is it archived"):
            runs.launch(slug)


def is_gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().split()[2] == "Z"
