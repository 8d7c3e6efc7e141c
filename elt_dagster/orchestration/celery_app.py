"""Celery's application for workers that run steps of syncs: ``celery -A elt_dagster.orchestration.celery_app worker -Q dagster``.

It is dagster-celery's own, with what its workers lack:

- **Every step in a fresh process**, forked from one that has imported everything. dagster-celery keeps the definitions it loaded first for as
  long as a process lives, and would run a sync as it was before somebody changed it.
- **Cancelling.** Dagster takes back the tasks that wait and leaves alone those that run. Here a thread looks after the run of its step: once
  that is cancelled, or over in any other way, the step is asked to stop, then interrupted, and its process ended if nothing helps.
- **No tasks in stock.** A worker takes a task when a process is free for it, so that no step waits behind another while a second worker idles.
- **No password on disk.** The broker and result backend come from `CELERY_BROKER` and `CELERY_BACKEND`; ``dagster-celery worker
  start -y`` would write them into DAGSTER_HOME.
"""

import importlib
import logging
import os
import signal
import threading
from contextlib import ExitStack, suppress
from typing import Any

import dagster as dg
from celery import signals
from celery.concurrency.prefork import TaskPool
from celery.worker import WorkController
from dagster._serdes import unpack_value
from dagster_celery.app import app
from dagster_celery.config import TASK_EXECUTE_PLAN_NAME

import elt_dagster.orchestration.definitions  # noqa: F401 - before processes are forked
from elt_dagster.orchestration._run_scope import add_step_worker
from elt_dagster.orchestration.executors import CELERY_BACKEND, CELERY_BROKER
from elt_dagster.sdk.cancellation import Cancellation

LOOK_SECONDS = 2.0
"""Between two looks at the state of the run."""
POLITE_SECONDS = 1.0
"""From asking a step to stop to interrupting it."""
GIVE_UP_SECONDS = 30.0
"""From asking a step to stop to ending its process."""
_PRELOADED = (
    "alembic.context",
    "asyncpg",
    "dagster_postgres",
    "duckdb",
    "elt_dagster.destinations.postgres",
    "pandas",
    "psycopg2",
)
"""What most steps import, as far as it is installed: a second of work that each would do anew."""
STEP_TASK = "_execute_plan", "dagster_celery.tasks"
"""The function that runs a step, and its module."""
_OVER = frozenset(
    {
        dg.DagsterRunStatus.CANCELING,
        dg.DagsterRunStatus.CANCELED,
        dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.SUCCESS,
    }
)
_log = logging.getLogger("elt_dagster.celery")

_from_environment = {"broker_url": os.environ.get(CELERY_BROKER), "result_backend": os.environ.get(CELERY_BACKEND)}
app.conf.update(
    {name: url for name, url in _from_environment.items() if url},
    worker_max_tasks_per_child=1,
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    # A step that was taken and then lost with its machine is not run again behind Dagster's back.
    task_acks_late=False,
    broker_connection_retry_on_startup=True,
)
add_step_worker(*STEP_TASK)
for module in _PRELOADED:
    with suppress(ImportError):
        importlib.import_module(module)


@signals.worker_init.connect  # type: ignore[untyped-decorator]  # Celery has no types
def one_step_per_process(sender: WorkController, **_: Any) -> None:
    """Insist on it, whatever the command line says."""
    if sender.pool_cls not in ("prefork", "processes", TaskPool):
        raise SystemExit("elt_dagster's steps need Celery's prefork pool: leave --pool away.")
    sender.max_tasks_per_child = 1


class StepWatch:
    """Stops the step that this process executes when its run is over."""

    def __init__(self, instance: dg.DagsterInstance, run_id: str) -> None:
        self._instance, self._run_id = instance, run_id
        self._cancellation, self._ended = Cancellation(), threading.Event()
        self._step_thread = threading.current_thread()

    def start(self) -> ExitStack:
        """Begin to watch; closing the result ends it. Call it in the thread of the step."""
        stack = ExitStack()
        stack.enter_context(self._cancellation.active())
        stack.callback(self._ended.set)
        threading.Thread(target=self._watch, name="step-watch", daemon=True).start()
        return stack

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            if self._is_over():
                self._stop()
                return

    def _is_over(self) -> bool:
        try:
            run = self._instance.get_run_by_id(self._run_id)
        except Exception as error:  # a database that restarts must not cost the step
            _log.warning("The state of run %s cannot be read: %s", self._run_id, type(error).__name__)
            return False
        return run is None or run.status in _OVER

    def _stop(self) -> None:
        _log.warning("Run %s is over; stopping the step that runs for it.", self._run_id)
        self._cancellation.cancel()
        if self._ended.wait(POLITE_SECONDS):
            return
        self._interrupt()
        if not self._ended.wait(GIVE_UP_SECONDS - POLITE_SECONDS):
            _log.error("The step of run %s does not stop; ending its process.", self._run_id)
            os.kill(os.getpid(), signal.SIGKILL)

    def _interrupt(self) -> None:
        self._cancellation.interrupt()
        # Dagster's handler raises DagsterExecutionInterruptedError in the step; outside of a step Celery ignores the signal.
        if self._step_thread.ident is not None:
            with suppress(ProcessLookupError):
                signal.pthread_kill(self._step_thread.ident, signal.SIGINT)


_watching = ExitStack()


@signals.task_prerun.connect  # type: ignore[untyped-decorator]
def watch(task: Any, kwargs: dict[str, Any], **_: Any) -> None:
    """Watch the run of the step that begins."""
    if task.name != TASK_EXECUTE_PLAN_NAME:
        return
    arguments: Any = unpack_value(kwargs["execute_step_args_packed"])
    instance = _watching.enter_context(dg.DagsterInstance.from_ref(arguments.instance_ref))
    _watching.enter_context(StepWatch(instance, arguments.run_id).start())


@signals.task_postrun.connect  # type: ignore[untyped-decorator]
def end_watch(**_: Any) -> None:
    """The step has ended."""
    _watching.close()


__all__ = ["app"]
