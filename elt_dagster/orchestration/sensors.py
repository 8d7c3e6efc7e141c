"""The sensor ``elt_syncs``: makes a code location follow the store, and starts the runs that a sync's creation asks for.

A sync with ``trigger_mode: on_create`` runs once in its life, by itself, as soon as it is active and its job is loaded. The sensor keeps no
cursor for that, so none can be lost. A sync had its run when a run with its run key is there, and then the store remembers it for ever;
until then the run is asked for with every tick, and Dagster makes no second one for a run key. So it does not matter when a
daemon or a code server is killed, whether runs are deleted later, or how often definitions load.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from elt_dagster.errors import EltError
from elt_dagster.model import RunMode, TriggeredBy
from elt_dagster.orchestration.live import FirstRun, Loaded, Watcher, watcher_of
from elt_dagster.orchestration.resources import run_config
from elt_dagster.orchestration.tags import sync_tags, trigger_tags
from elt_dagster.store import DEFAULT_WORKSPACE

SENSOR = "elt_syncs"
TICK_SECONDS = 3
"""Less than the daemon's five seconds between two rounds, or every other round would come too early."""
SETTLE_SECONDS = 2.0
"""The daemon sees a new job a second after it was loaded, and refuses a run of a job it does not see."""
FIRST_RUN_SECONDS = 10
"""For a sync in a file, which comes with a deployment and can wait for it to settle."""
MOST_A_TICK = 50
"""Runs asked for in one tick; a project of hundreds of syncs is started over a few ticks."""


def sensor_name(workspace: str) -> str:
    """``elt_syncs``, with the workspace's name when it is not the default one."""
    return SENSOR if workspace == DEFAULT_WORKSPACE else f"{SENSOR}_{workspace.replace('-', '_')}"


def run_key(sync_id: str) -> str:
    """What the run that a sync's creation starts is known by."""
    return f"on_create:{sync_id}"


def build_sensor(loaded: Loaded, jobs: Sequence[Any]) -> dg.SensorDefinition:
    """The sensor of definitions that were built from what is ``loaded``; ``jobs`` are those of its first runs."""

    def evaluate(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        watcher = watcher_of(loaded.store, loaded.workspace)
        if (
            context.repository_def is not None and context.code_location_origin is not None
        ):  # not when tried out by hand
            watcher.attend(context.repository_def, context.code_location_origin)
        yield from tick(context.instance, loaded, watcher)
        if watcher.problem:
            context.log.warning(watcher.problem)

    return dg.SensorDefinition(
        name=sensor_name(loaded.workspace),
        evaluation_fn=evaluate,
        jobs=list(jobs) or None,
        minimum_interval_seconds=TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Shows syncs that were created, changed or deleted, without a restart; starts the first run of syncs with "
        "trigger_mode on_create. Stopped, changes show when the code location is reloaded by hand.",
    )


def build_first_run_sensor(first: FirstRun, job: Any) -> dg.SensorDefinition:
    """The sensor of one sync that stands in a file: no store remembers its first run, so this sensor's cursor does.

    Dagster writes the cursor after the run; should the daemon die in between, the run key keeps it from making another.
    """
    key = run_key(first.sync_id)

    def evaluate(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if context.cursor == key:
            return dg.SkipReason(f"The sync {first.slug} has had its first run.")
        if not _is_due(first):
            return dg.SkipReason(f"No window of the sync {first.slug} has ended yet.")
        context.update_cursor(key)
        return _request(first)

    return dg.SensorDefinition(
        name=f"{first.job}_on_create",
        evaluation_fn=evaluate,
        job=job,
        minimum_interval_seconds=FIRST_RUN_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Runs {first.slug} once, as its trigger_mode on_create says. Resetting the cursor alone starts no second run.",
    )


def tick(instance: dg.DagsterInstance, loaded: Loaded, watcher: Watcher) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One evaluation: requests for first runs, or the reason why there are none."""
    revision = watcher.revision()
    try:
        waiting = [] if revision is None else _waiting(instance, loaded)
    except EltError as error:
        yield dg.SkipReason(f"{error} The next tick tries again.")
        return
    if waiting and time.monotonic() - loaded.at < SETTLE_SECONDS:
        yield dg.SkipReason(f"{len(waiting)} first runs start with the next tick, when the daemon has seen their jobs.")
    elif waiting:
        yield from map(_request, waiting[:MOST_A_TICK])
    else:
        yield dg.SkipReason(_state(loaded, revision, watcher.problem))


def _waiting(instance: dg.DagsterInstance, loaded: Loaded) -> list[FirstRun]:
    """The loaded syncs that never had their first run, after the store was told of those that have it by now."""
    if not loaded.first_runs:
        return []
    unknown = loaded.store.without_first_run({first.sync_id for first in loaded.first_runs})
    found = {first.sync_id: _run_of(instance, first) for first in loaded.first_runs if first.sync_id in unknown}
    for sync_id, run_id in found.items():
        if run_id is not None:
            loaded.store.note_first_run(sync_id, run_id)
    return [first for first in loaded.first_runs if found.get(first.sync_id, "had") is None and _is_due(first)]


def _is_due(first: FirstRun) -> bool:
    return first.windows is None or first.windows.get_last_partition_key() is not None


def _run_of(instance: dg.DagsterInstance, first: FirstRun) -> str | None:
    wanted = dg.RunsFilter(tags={"dagster/run_key": run_key(first.sync_id)})
    return next((run.run_id for run in instance.get_runs(wanted, limit=1)), None)


def _request(first: FirstRun) -> dg.RunRequest:
    key, mode = run_key(first.sync_id), RunMode.INCREMENTAL
    return dg.RunRequest(
        run_key=key,
        job_name=first.job,
        run_config=run_config(mode),
        tags={**sync_tags(first.sync_id, first.slug), **trigger_tags(TriggeredBy.ON_CREATE, key, mode)},
        partition_key=first.windows.get_last_partition_key() if first.windows is not None else None,
    )


def _state(loaded: Loaded, revision: int | None, problem: str) -> str:
    if problem or loaded.problem:
        return problem or loaded.problem
    if revision is None or loaded.revision is None or revision > loaded.revision:
        return f"Revision {revision} of the store is being loaded; {loaded.revision} is loaded."
    return f"Revision {revision} of the store is loaded."
