"""Runs that fall silent are ended with a reason: when, and which; `test_run_control` has them in a real Dagster."""

import time
from collections.abc import Iterator

import dagster as dg
import pytest

from elt_dagster.orchestration import silence
from elt_dagster.orchestration.heartbeat import Pulse
from elt_dagster.orchestration.tags import SYNC_ID_TAG


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
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
