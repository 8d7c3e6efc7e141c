"""Windows of a stream's history as Dagster partitions, and which window a run is about."""

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from elt_dagster.control.configured import ConfiguredSync
from elt_dagster.engine.windows import slicing_of
from elt_dagster.errors import ConfigError
from elt_dagster.model import Slicing, Window
from elt_dagster.orchestration.resources import SyncRun

_DAY, _HOUR = "%Y-%m-%d", "%Y-%m-%d-%H:%M"
_CLOCKS_DIFFER = timedelta(hours=1)
"""By no more between whoever made the partition and the worker; a window that began on one of them is not refused on the other."""


def partitions_of(slicing: Slicing) -> dg.TimeWindowPartitionsDefinition:
    """A partition per window: ``2026-07-01`` for days, weeks and months, ``2026-07-01-06:00`` for hours, in the slicing's zone."""
    zone = slicing.timezone or "UTC"
    return dg.TimeWindowPartitionsDefinition(
        start=datetime.combine(slicing.start, time(), ZoneInfo(zone)),
        end=datetime.combine(slicing.end, time(), ZoneInfo(zone)) if slicing.end is not None else None,
        fmt=_HOUR if slicing.window.endswith("h") else _DAY,
        cron_schedule=slicing.cron,
        timezone=zone,
        end_offset=1 if slicing.include_current else 0,
    )


def sync_partitions(sync: ConfiguredSync) -> dg.TimeWindowPartitionsDefinition | None:
    """The windows of a sync; None when none of its streams is cut. One sync has one way of cutting."""
    found = (slicing_of(sync.spec, sync.resolved(binding)) for binding in sync.spec.streams)
    slicing = next((s for s in found if s is not None), None)
    return partitions_of(slicing) if slicing is not None else None


def run_window(context: dg.AssetExecutionContext, sync_run: SyncRun) -> Window | None:
    """The window this step loads: its partition (or a range of them in one run), else the one in the run's config.

    Raises ConfigError for a partitioned asset without a partition, and for a window that has not begun.
    """
    window = _window(context, sync_run)
    if window is not None and window.start > datetime.now(UTC) + _CLOCKS_DIFFER:
        raise ConfigError(
            f"The window from {window.start:%Y-%m-%d %H:%M} has not begun, so there is nothing to load.",
            fix="Choose one that has.",
        )
    return window


def _window(context: dg.AssetExecutionContext, sync_run: SyncRun) -> Window | None:
    if context.assets_def.partitions_def is None:
        return sync_run.window()
    if not context.has_partition_key and not context.has_partition_key_range:
        raise ConfigError(
            f"{context.asset_key.to_user_string()} is loaded in windows, and this run names none.",
            fix="Choose a partition, or `elt-dagster run` with --from and --to.",
        )
    found = context.partition_time_window
    return Window(found.start, found.end)


def newest_to_load(
    context: dg.ScheduleEvaluationContext, partitions: dg.TimeWindowPartitionsDefinition, keys: Sequence[dg.AssetKey]
) -> str | None:
    """The newest window, unless it has ended and every asset of ``keys`` has it already; None also before the first."""
    with dg.partition_loading_context(effective_dt=context.scheduled_execution_time):
        newest = partitions.get_last_partition_key()
    if newest is None:
        return None
    is_open = (
        partitions.time_window_for_partition_key(newest).end.timestamp() > context.scheduled_execution_time.timestamp()
    )
    return newest if is_open or not all(_is_loaded(context.instance, key, newest) for key in keys) else None


def _is_loaded(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str) -> bool:
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
    return bool(instance.fetch_materializations(wanted, limit=1).records)
