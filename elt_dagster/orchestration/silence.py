"""The sensor ``elt_runs``: ends runs that have fallen silent, so that Dagster starts them again from where they had committed.

Dagster itself notices when a run's process is gone. It does not notice one that is there and stands still: stopped, swapped out, or waiting
for an answer that never comes. A step that works says so every 30 s (`heartbeat`); a run with a step under way and nothing new in its log for the
sync's ``heartbeat_timeout_seconds`` is therefore ended as failed, with the reason ``heartbeat_timeout``.

Silence is measured by what this process sees and its own monotonic clock, never by comparing clocks: one that is set, or another machine's that is wrong,
ends no run. Restarting the code server only begins the wait anew.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from dagster._core.events import DagsterEvent  # noqa: TID251 - the public way writes the event before the status

from elt_dagster.control.runs import LOST
from elt_dagster.orchestration.tags import END_REASON_TAG, SYNC_ID_TAG
from elt_dagster.store import DEFAULT_WORKSPACE

SENSOR = "elt_runs"
SENSOR_OF_FILES = "elt_runs_of_files"
TICK_SECONDS = 15
_BEGIN = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED}
_END = {
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.STEP_UP_FOR_RETRY,
    dg.DagsterEventType.STEP_SKIPPED,
}


@dataclass(frozen=True, slots=True)
class Sight:
    """The newest event of a run (its id in the log), and when it was first seen (monotonic seconds)."""

    event: int
    at: float


class Watch:
    """What this process has seen of runs that are under way. Threads may share it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._seen: dict[str, Sight] = {}

    def silent(
        self, instance: dg.DagsterInstance, runs: Collection[dg.DagsterRun], limits: Mapping[str, float]
    ) -> dict[str, float]:
        """For how many seconds each of those ``runs`` is silent whose sync's limit (by sync id) is passed, by run id."""
        found: dict[str, float] = {}
        with self._lock:
            self._seen = {run.run_id: self._look(instance, run.run_id) for run in runs}
            for run in runs:
                quiet = self._clock() - self._seen[run.run_id].at
                if quiet >= limits[run.tags[SYNC_ID_TAG]] and has_step_under_way(instance, run.run_id):
                    found[run.run_id] = quiet
        return found

    def _look(self, instance: dg.DagsterInstance, run_id: str) -> Sight:
        records = instance.get_records_for_run(run_id, limit=1, ascending=False).records
        newest = records[0].storage_id if records else 0
        known = self._seen.get(run_id)
        return known if known is not None and known.event == newest else Sight(newest, self._clock())


_watches: dict[str, Watch] = {}
_limits: dict[str, dict[str, float]] = {}
"""By sensor. A sync that was deleted stays in, for its runs may still be under way."""
_joining = threading.Lock()
_files: tuple[object, str] = (None, "")
"""The load of files that is going on, and the document that brings its sensor."""


def sensor_name(workspace: str) -> str:
    """``elt_runs``, with the workspace's name when it is not the default one."""
    return SENSOR if workspace == DEFAULT_WORKSPACE else f"{SENSOR}_{workspace.replace('-', '_')}"


def add_limits(name: str, limits: Mapping[str, float]) -> None:
    """Let the sensor ``name`` of this process look after the syncs in ``limits`` as well: sync id to seconds of silence."""
    with _joining:
        # replaced, not changed: a tick in another thread goes on with what it has
        _limits[name] = {**_limits.get(name, {}), **limits}


def build_sensor(name: str) -> dg.SensorDefinition:
    """The sensor for the syncs of `add_limits`. What was seen and added outlives reloads of the definitions."""
    watch = _watches.setdefault(name, Watch())

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        return tick(context.instance, watch, _limits.get(name, {}))

    return dg.SensorDefinition(
        name=name,
        evaluation_fn=evaluate,
        minimum_interval_seconds=TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Ends runs of syncs that give no sign of life any more; Dagster then starts them again, as often as max_retries says.",
    )


def sensors_of_file(load: object, document: str, limits: Mapping[str, float]) -> list[dg.SensorDefinition]:
    """One sensor for all documents of one ``load`` (any object that stands for it): the first document brings it, the others join it."""
    global _files  # noqa: PLW0603 - the documents of a load know nothing of each other
    add_limits(SENSOR_OF_FILES, limits)
    with _joining:
        if _files[0] is not load:
            _files = (load, document)
        _, first = _files
    return [build_sensor(SENSOR_OF_FILES)] if document == first else []


def tick(instance: dg.DagsterInstance, watch: Watch, limits: Mapping[str, float]) -> dg.SkipReason:
    """One look at the runs that are under way; what was done."""
    started = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])) if limits else []
    runs = [run for run in started if run.tags.get(SYNC_ID_TAG) in limits]
    silent = watch.silent(instance, runs, limits)
    ended = [run.run_id for run in runs if run.run_id in silent and end_run(instance, run, silent[run.run_id])]
    if ended:
        off = (
            ""
            if instance.run_retries_enabled
            else " Run retries are off in dagster.yaml, so nothing starts them again."
        )
        return dg.SkipReason(f"Ended without a sign of life: {', '.join(ended)}.{off}")
    return dg.SkipReason(f"{len(runs)} runs of syncs are under way; all give signs of life.")


def has_step_under_way(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a step has begun and not ended. A run that waits for a retry, a pool or a worker has none, and is silent for good reasons."""
    under_way: set[str] = set()
    for entry in instance.all_logs(run_id, of_type=_BEGIN | _END):
        event = entry.dagster_event
        if event is None or event.step_key is None:
            continue
        if event.event_type in _BEGIN:
            under_way.add(event.step_key)
        else:
            under_way.discard(event.step_key)
    return bool(under_way)


def end_run(instance: dg.DagsterInstance, run: dg.DagsterRun, seconds: float) -> bool:
    """Fail ``run`` as lost and have its process stopped; False when it has ended by itself meanwhile.

    Failed and not cancelled, because only a failed run is started again by Dagster.
    """
    now = instance.get_run_by_id(run.run_id)
    if now is None or now.is_finished:
        return False
    instance.add_run_tags(run.run_id, {END_REASON_TAG: LOST})
    told = f"The run gave no sign of life for {seconds:,.0f} s and was ended. What it had committed stays; the next attempt goes on from there."
    worker = _own_worker(instance, run.run_id)
    if worker is None:
        _terminate(instance, now)
    # before its process dies, of which the code server would tell in words of its own
    _fail(instance, now, told)
    if worker is not None:
        _kill_with_children(worker)
    return True


def _fail(instance: dg.DagsterInstance, run: dg.DagsterRun, told: str) -> None:
    """Report a run as failed, and have it failed before it is reported.

    Dagster writes the event first. Its daemon, which looks every few seconds, as our sensor does, may read that event while the run still counts as
    started; it then decides that nothing is to be tried again, and does not look twice.
    """
    failed = DagsterEvent(event_type_value=dg.DagsterEventType.RUN_FAILURE.value, job_name=run.job_name, message=told)
    instance.run_storage.handle_run_event(run.run_id, failed, datetime.now(UTC))
    instance.report_run_failed(run, told)


def _terminate(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Have whoever launched the worker stop it. It may be gone, or not react; its lease and fence keep it out of the warehouse."""
    try:
        instance.run_launcher.terminate(run.run_id)
    except Exception as error:
        instance.report_engine_event(f"The run's worker could not be told to stop ({type(error).__name__}).", run)


def _own_worker(instance: dg.DagsterInstance, run_id: str) -> int | None:
    """The process id of the run's worker when it is a child of this process, which is when code servers start their own runs."""
    children = {str(child.pid): child.pid for child in multiprocessing.active_children()}
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        data = entry.dagster_event.event_specific_data if entry.dagster_event is not None else None
        pid = getattr(data, "metadata", {}).get("pid")
        if pid is not None and str(pid.value) in children:
            return children[str(pid.value)]
    return None


def _kill_with_children(pid: int) -> None:
    """SIGKILL: what has been silent for minutes does not listen. Its own children (steps in processes) would go on without it."""
    for victim in [pid, *_descendants(pid)]:
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    """From /proc; nothing where there is none."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [below for child in found for below in _descendants(child)]
