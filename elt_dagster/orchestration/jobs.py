"""A job per sync, and the schedules that start it."""

from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from elt_dagster.control.configured import ConfiguredSync
from elt_dagster.model import RunMode, SyncStatus, TriggeredBy, TriggerMode
from elt_dagster.orchestration._job_scope import scoped
from elt_dagster.orchestration.executors import build_executor
from elt_dagster.orchestration.resources import run_config
from elt_dagster.orchestration.tags import configuration_tags, recovery_tags, sync_tags, trigger_tags
from elt_dagster.orchestration.translator import group_name
from elt_dagster.orchestration.windows import newest_to_load

MIDNIGHT_CRON = "0 0 * * *"


def job_name(slug: str) -> str:
    """``sync_`` and the slug with underscores."""
    return f"sync_{group_name(slug)}"


def build_job(sync: ConfiguredSync, keys: Sequence[dg.AssetKey]) -> Any:
    """The job that loads all of ``sync`` with the executor it asks for."""
    lasting = {
        **sync_tags(sync.id, sync.spec.slug),
        **configuration_tags(sync.spec, sync.revision),
        **recovery_tags(sync.spec.execution),
    }
    job = dg.define_asset_job(
        job_name(sync.spec.slug),
        selection=dg.AssetSelection.assets(*keys),
        description=f"{sync.spec.title}: {sync.spec.connection} to {sync.spec.destination}, schema {sync.spec.dataset}.",
        # The launchpad takes `run_tags`, a launch over GraphQL takes `tags`.
        run_tags={**lasting, **trigger_tags(TriggeredBy.MANUAL, "", RunMode.INCREMENTAL)},
        tags=lasting,
        executor_def=build_executor(sync.spec),
    )
    return scoped(job)


def build_schedules(
    sync: ConfiguredSync, assets: Sequence[dg.AssetsDefinition], midnight_keys: Sequence[dg.AssetKey]
) -> list[dg.ScheduleDefinition]:
    """The sync's own schedule, and one at midnight in its zone for ``midnight_keys``, the assets that then start afresh.

    Only active syncs have any: a schedule that somebody once switched on in the UI would tick whatever its default status says.
    """
    if sync.spec.schedule is None or sync.spec.status is not SyncStatus.ACTIVE:
        return []
    name = job_name(sync.spec.slug)
    windows = [asset for asset in assets if asset.partitions_def is not None]
    own = f"{name}_schedule"
    request = _window_request(sync, own, windows, assets) if windows else _request(sync, own, TriggeredBy.SCHEDULE)
    schedules = [_schedule(sync, own, sync.spec.schedule.cron, request)]
    if midnight_keys:
        again = _request(sync, f"{name}_midnight", TriggeredBy.MIDNIGHT, midnight_keys)
        schedules.append(_schedule(sync, f"{name}_midnight", MIDNIGHT_CRON, again))
    return schedules


_Request = Callable[[dg.ScheduleEvaluationContext], dg.RunRequest | dg.SkipReason]


def _request(sync: ConfiguredSync, name: str, by: TriggeredBy, keys: Sequence[dg.AssetKey] | None = None) -> _Request:
    mode = RunMode.FULL_REFRESH if by is TriggeredBy.MIDNIGHT else RunMode.INCREMENTAL
    tags = {**sync_tags(sync.id, sync.spec.slug), **trigger_tags(by, name, mode)}

    def request(_: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(run_config=run_config(mode), tags=tags, asset_selection=keys)

    return request


def _window_request(
    sync: ConfiguredSync, name: str, windows: Sequence[dg.AssetsDefinition], assets: Sequence[dg.AssetsDefinition]
) -> _Request:
    """The newest window, once it has ended; the streams that have none are loaded by every tick."""
    partitions = windows[0].partitions_def
    assert isinstance(partitions, dg.TimeWindowPartitionsDefinition)  # noqa: S101 - for the type checkers
    whole = [asset.key for asset in assets if asset.partitions_def is None]
    tags = {**sync_tags(sync.id, sync.spec.slug), **trigger_tags(TriggeredBy.SCHEDULE, name, RunMode.INCREMENTAL)}

    def request(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        newest = newest_to_load(context, partitions, [asset.key for asset in windows])
        if newest is None and not whole:
            return dg.SkipReason("Every window that has ended is loaded.")
        return dg.RunRequest(
            run_config=run_config(RunMode.INCREMENTAL),
            tags=tags,
            partition_key=newest,
            asset_selection=whole if newest is None else None,
        )

    return request


def _schedule(sync: ConfiguredSync, name: str, cron: str, request: _Request) -> dg.ScheduleDefinition:
    assert sync.spec.schedule is not None  # noqa: S101 - for the type checkers; the caller looked
    return dg.ScheduleDefinition(
        name=name,
        job_name=job_name(sync.spec.slug),
        cron_schedule=cron,
        execution_timezone=sync.spec.schedule.timezone,
        execution_fn=request,
        default_status=dg.DefaultScheduleStatus.RUNNING if _runs_by_itself(sync) else dg.DefaultScheduleStatus.STOPPED,
        description=f"Loads {sync.spec.title} by itself.",
    )


def _runs_by_itself(sync: ConfiguredSync) -> bool:
    return sync.spec.trigger is TriggerMode.SCHEDULED
