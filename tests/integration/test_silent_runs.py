"""Runs that fall silent are ended with a reason, and started again from where they had committed: in a real Dagster with its daemon."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from elt_dagster.control.runs import ResultClass, Runs, RunStatus
from elt_dagster.orchestration import silence
from elt_dagster.orchestration.heartbeat import Pulse
from elt_dagster.orchestration.runs import open_runs
from elt_dagster.orchestration.tags import SYNC_ID_TAG
from tests.integration.dagster_project import shop
from tests.integration.running_dagster import next_attempt, started_dagster, wait_for, worker_of
from tests.integration.test_live_syncs import SHOWN, Deployment, assets

QUICK: dict[str, Any] = {"max_retries": 1, "retry_delay_seconds": 0.1, "heartbeat_timeout_seconds": 10}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    found = started_dagster(tmp_path_factory.mktemp("silent"))
    try:
        one = {"streams": [{"name": "public.orders"}]}
        found.project.put(
            shop(slug="stopped", schema="stopped", execution=QUICK, streams=[{"name": "public.customers"}])
        )
        found.project.put(
            shop(slug="blocked", schema="blocked", execution={**QUICK, "stall_timeout_seconds": 10}, **one)
        )
        found.wait(lambda shown: {"stopped/customers", "blocked/orders"} <= assets(shown), "the syncs", SHOWN)
        yield found
    finally:
        for name in list(found.processes):
            found.kill(name)


@pytest.mark.slow
def test_a_stopped_worker_and_a_read_that_blocks_are_ended_and_resumed(deployment: Deployment) -> None:
    project = deployment.project
    project.say("rows", 3_000)
    project.say("orders.slow", 2)
    project.say("customers.slow", 60)
    with open_runs(webserver_url=f"http://127.0.0.1:{deployment.port}") as runs:
        stopped, blocked = runs.launch("stopped"), runs.launch("blocked")
        wait_for(runs, stopped, lambda v: any(s.status is RunStatus.RUNNING for s in v.streams))
        worker = worker_of(deployment, stopped)
        os.kill(worker, signal.SIGSTOP)
        wait_for_rows(runs, blocked, 1_000)
        project.say("orders.slow", 600)
        for run_id, stream in ((stopped, "public.customers"), (blocked, "public.orders")):
            view = wait_for(runs, run_id)
            assert (view.result_class, view.reason) == (ResultClass.FAILURE, "heartbeat_timeout")
            assert view.error is not None
            assert "gave no sign of life" in view.error
            assert [(s.stream, s.reason) for s in view.failures] == [(stream, "heartbeat_timeout")]
            (project.folder / f"{stream.rpartition('.')[2]}.slow").write_text("")
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


def is_gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().split()[2] == "Z"


def wait_for_rows(runs: Runs, run_id: str, rows: int) -> None:
    end = time.monotonic() + 60
    while not any(p.rows >= rows for p in runs.events(run_id).progress):
        assert time.monotonic() < end
        time.sleep(0.3)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp() as found:
        yield found


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dg.op
def waits() -> None: ...


@dg.job
def job() -> None:
    waits()


def under_way(instance: dg.DagsterInstance) -> dg.DagsterRun:
    """A run with a step that has begun."""
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags={SYNC_ID_TAG: "s1"})
    log(instance, run, dg.DagsterEventType.STEP_START)
    return run


def log(instance: dg.DagsterInstance, run: dg.DagsterRun, kind: dg.DagsterEventType) -> None:
    event = dg.DagsterEvent(event_type_value=kind.value, job_name=run.job_name, step_key="waits", message="")
    instance.report_dagster_event(event, run.run_id)


def test_silence_is_counted_from_what_is_seen_and_by_no_wall_clock(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, limits = Clock(), {"s1": 180.0}
    watch, run = silence.Watch(clock), under_way(instance)
    assert watch.silent(instance, [run], limits) == {}
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)  # somebody sets the clock forth by years
    assert watch.silent(instance, [run], limits) == {}
    clock.now = 170
    instance.report_engine_event("a sign of life", run)
    assert watch.silent(instance, [run], limits) == {}
    clock.now = 340
    assert watch.silent(instance, [run], limits) == {}
    clock.now = 351
    assert watch.silent(instance, [run], limits) == {run.run_id: 181.0}


def test_a_run_that_waits_for_a_retry_or_a_worker_is_not_silent(instance: dg.DagsterInstance) -> None:
    clock = Clock()
    watch, run = silence.Watch(clock), under_way(instance)
    log(instance, run, dg.DagsterEventType.STEP_UP_FOR_RETRY)
    watch.silent(instance, [run], {"s1": 180.0})
    clock.now = 10_000
    assert watch.silent(instance, [run], {"s1": 180.0}) == {}
    log(instance, run, dg.DagsterEventType.STEP_RESTARTED)
    watch.silent(instance, [run], {"s1": 180.0})
    clock.now = 20_000
    assert list(watch.silent(instance, [run], {"s1": 180.0})) == [run.run_id]


def test_an_ended_run_is_failed_with_its_reason_once(instance: dg.DagsterInstance) -> None:
    run = under_way(instance)
    assert silence.end_run(instance, run, 200)
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert (found.status, found.tags["elt/end_reason"]) == (dg.DagsterRunStatus.FAILURE, "heartbeat_timeout")
    assert not silence.end_run(instance, run, 200)


def test_whoever_reads_that_a_run_failed_finds_it_failed(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, storage = under_way(instance), instance.event_log_storage
    store_event, seen = storage.store_event, list[dg.DagsterRunStatus]()

    def store(event: dg.EventLogEntry) -> None:
        store_event(event)
        if event.dagster_event_type is dg.DagsterEventType.RUN_FAILURE:
            found = instance.get_run_by_id(run.run_id)
            assert found is not None
            seen.append(found.status)

    monkeypatch.setattr(storage, "store_event", store)
    assert silence.end_run(instance, run, 200)
    assert seen == [dg.DagsterRunStatus.FAILURE], "else Dagster's daemon may decide that it is not tried again"


def test_runs_of_others_are_let_alone(instance: dg.DagsterInstance) -> None:
    clock, run = Clock(), under_way(instance)
    watch = silence.Watch(clock)
    for now in (0, 10_000):
        clock.now = now
        assert "0 runs" in str(silence.tick(instance, watch, {"another": 10.0}).skip_message)
    silence.tick(instance, watch, {"s1": 10.0})
    clock.now = 20_000
    told = str(silence.tick(instance, watch, {"s1": 10.0}).skip_message)
    assert run.run_id in told
    assert "Run retries are off" in told


def test_a_pulse_vouches_for_work_that_moves_and_says_once_that_it_hangs() -> None:
    clock, said = Clock(), list[str]()
    pulse = Pulse(said.append, "orders", 100.0, clock)
    for now in (30, 60, 110, 140):
        clock.now = now
        pulse.beat()
    assert [line.partition(":")[2].split(";")[0].strip() for line in said] == [
        "alive", "alive", "has not moved for 110 s, and will be ended as hanging.",
    ]  # fmt: skip
    pulse.moved()
    pulse.beat()
    assert said[-1] == "orders: alive; last moved 0 s ago."
