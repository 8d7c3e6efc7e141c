"""No two runs load one stream at once: leases say who is ahead, and where there are none (a sync in a file, no store), Dagster's runs do.

A run that is over holds nothing any more, whatever its lease says: its process may have died with it. Should it still live, the fence of the
next lease shuts it out of the warehouse.
"""

import time
from collections.abc import Iterable

import dagster as dg

from elt_dagster.control.configured import ConfiguredSync
from elt_dagster.engine import StreamRead
from elt_dagster.errors import CancelledError
from elt_dagster.orchestration.tags import PARTITION_TAG, RANGE_END_TAG, RANGE_START_TAG, SYNC_ID_TAG
from elt_dagster.sdk.cancellation import cancelled

_POLL_SECONDS = 1.0


def run_ahead(
    context: dg.AssetExecutionContext, sync: ConfiguredSync, read: StreamRead, key: dg.AssetKey
) -> str | None:
    """The run that this one has to leave the stream to; None when it may go on.

    Where the sync waits instead, this returns None: its lease is waited for by the load, and runs without leases are waited for here.
    Raises CancelledError when the step is cancelled meanwhile.
    """
    if sync.connections.has_leases:
        active = _holder(context, sync, read)
        return active if not read.waits_for_lease else None
    active = _earlier_run(context, sync, key)
    if active is None or not read.waits_for_lease:
        return active
    context.log.warning(f"{read.binding.name}: waiting for run {active}, which is loading the same table.")
    while _earlier_run(context, sync, key) is not None:
        if cancelled():
            raise CancelledError(f"Stream {read.binding.name!r} was cancelled while it waited for its turn.")
        time.sleep(_POLL_SECONDS)
    return None


def _holder(context: dg.AssetExecutionContext, sync: ConfiguredSync, read: StreamRead) -> str | None:
    active = sync.connections.active_run(read.state_id)
    if active is None:
        return None
    run = context.instance.get_run_by_id(active)
    # Its own run is another process of this very step, which is gone when the step is tried again.
    if active == context.run.run_id or (run is not None and run.is_finished):
        sync.connections.end_lease(read.state_id, active)
        return None
    return active


def _earlier_run(context: dg.AssetExecutionContext, sync: ConfiguredSync, key: dg.AssetKey) -> str | None:
    """A run of the sync that loads the same asset and window and was made before this one; of two, only the younger waits."""
    wanted = dg.RunsFilter(
        tags={SYNC_ID_TAG: sync.id}, statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    )
    records = context.instance.get_run_records(wanted)
    own = context.instance.get_run_record_by_id(context.run.run_id)
    older = [r.dagster_run for r in records if own is None or r.storage_id < own.storage_id]
    return next((run.run_id for run in older if _loads(run, context.run, key)), None)


def _loads(run: dg.DagsterRun, mine: dg.DagsterRun, key: dg.AssetKey) -> bool:
    selected: Iterable[dg.AssetKey] | None = run.asset_selection
    windows = [(r.tags.get(PARTITION_TAG), r.tags.get(RANGE_START_TAG), r.tags.get(RANGE_END_TAG)) for r in (run, mine)]
    return (not selected or key in selected) and windows[0] == windows[1]
