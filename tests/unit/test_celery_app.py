"""What our Celery workers do beside running steps; with a real broker in tests/integration/test_celery.py."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import FunctionType, SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from celery.concurrency.prefork import TaskPool
from celery.concurrency.solo import TaskPool as SoloPool
from dagster_celery import tasks

from elt_dagster.orchestration import _run_scope as run_scope
from elt_dagster.orchestration import celery_app
from elt_dagster.sdk.cancellation import cancelled, interruptible


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setattr(celery_app, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(celery_app, "POLITE_SECONDS", 0.1)
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def begun(instance: dg.DagsterInstance) -> str:
    """A run that has started."""
    run_id = dg.job(name="j")(_nothing).execute_in_process(instance=instance).run_id
    run = instance.get_run_by_id(run_id)
    assert run is not None
    instance.delete_run(run_id)
    instance.add_run(run.with_status(dg.DagsterRunStatus.STARTED))
    return run_id


def _nothing() -> None:
    pass


def until(done: Any, seconds: float = 10.0) -> bool:
    """Whether ``done`` came true."""
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(done())


def cancel(instance: dg.DagsterInstance, run_id: str) -> None:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    instance.report_run_canceling(run)


@pytest.fixture
def interrupts() -> Iterator[list[int]]:
    """The interrupts that reach this thread."""
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    yield seen
    signal.signal(signal.SIGINT, before)


def test_a_step_learns_that_its_run_was_cancelled(instance: dg.DagsterInstance, interrupts: list[int]) -> None:
    run_id = begun(instance)
    with celery_app.StepWatch(instance, run_id).start():
        assert not until(cancelled, seconds=0.2)
        cancel(instance, run_id)
        assert until(cancelled)
    time.sleep(0.2)
    assert not interrupts  # it stopped by itself


def test_a_step_that_waits_is_interrupted(instance: dg.DagsterInstance, interrupts: list[int]) -> None:
    run_id, ended = begun(instance), threading.Event()
    with celery_app.StepWatch(instance, run_id).start(), interruptible(ended.set):
        cancel(instance, run_id)
        assert until(lambda: interrupts)
        assert ended.is_set()  # a blocking call of a driver was ended in its own way


def test_a_step_whose_run_is_gone_stops(instance: dg.DagsterInstance, interrupts: list[int]) -> None:
    run_id = begun(instance)
    with celery_app.StepWatch(instance, run_id).start():
        instance.delete_run(run_id)
        assert until(cancelled)


def test_a_database_that_is_away_costs_no_step(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = begun(instance)
    looks: list[str] = []

    def away(run_id: str) -> None:
        looks.append(run_id)
        raise OSError("connection refused")

    monkeypatch.setattr(instance, "get_run_by_id", away)
    with celery_app.StepWatch(instance, run_id).start():
        assert until(lambda: len(looks) > 3)
        assert not cancelled()


def test_nobody_watches_when_the_step_has_ended(instance: dg.DagsterInstance) -> None:
    run_id = begun(instance)
    with celery_app.StepWatch(instance, run_id).start():
        assert "step-watch" in _threads()
    assert until(lambda: "step-watch" not in _threads())
    assert not cancelled()


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_a_step_that_nothing_can_stop_is_ended_with_its_process() -> None:
    program = (
        "import signal, time, types\n"
        "from elt_dagster.orchestration import celery_app as app\n"
        "app.LOOK_SECONDS, app.POLITE_SECONDS, app.GIVE_UP_SECONDS = 0.01, 0.05, 0.3\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "gone = types.SimpleNamespace(get_run_by_id=lambda run_id: None)\n"
        "with app.StepWatch(gone, 'r').start():\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("pool", ["prefork", TaskPool], ids=["name", "class"])
def test_every_step_gets_a_process_whatever_the_command_line_says(pool: Any) -> None:
    worker: Any = SimpleNamespace(pool_cls=pool, max_tasks_per_child=50)
    celery_app.one_step_per_process(worker)
    assert worker.max_tasks_per_child == 1


@pytest.mark.parametrize("pool", ["solo", SoloPool], ids=["name", "class"])
def test_a_pool_without_processes_is_refused(pool: Any) -> None:
    worker: Any = SimpleNamespace(pool_cls=pool, max_tasks_per_child=None)
    with pytest.raises(SystemExit, match="prefork"):
        celery_app.one_step_per_process(worker)


def test_the_broker_comes_from_the_environment_and_not_from_a_file() -> None:
    environ = {**os.environ, "ELT_DAGSTER_CELERY_BROKER": "redis://b/3", "ELT_DAGSTER_CELERY_BACKEND": "redis://b/4"}
    program = (
        "from elt_dagster.orchestration.celery_app import app; print(app.conf.broker_url, app.conf.result_backend)"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["redis://b/3", "redis://b/4"]


def test_a_worker_loads_the_sync_of_its_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_scope, "_RUN_WORKERS", {})
    place = {"__name__": tasks.__name__, "run_scope": run_scope}
    exec("def _execute_plan(run):\n    dagster_run = run\n    return run_scope.run_scope()\n", place)  # noqa: S102
    run = SimpleNamespace(job_name="sync_shop", asset_selection=None, asset_check_selection=None)
    execute: Any = place["_execute_plan"]
    assert execute(run) is None
    run_scope.add_step_worker(*celery_app.STEP_TASK)
    assert execute(run) == run_scope.RunScope("sync_shop")


def test_the_task_of_dagster_celery_is_still_the_one_we_know() -> None:
    name, module = celery_app.STEP_TASK
    assert tasks.__name__ == module
    make: Any = tasks.create_task
    function = make(SimpleNamespace(task=lambda **_: lambda found: found))
    assert isinstance(function, FunctionType)
    assert function.__name__ == name
    assert "dagster_run" in function.__code__.co_varnames + function.__code__.co_cellvars
