"""The tags on every run of a sync, and which run they belong to."""

from elt_dagster.model import Execution, RunMode, SyncSpec, TriggeredBy

SYNC_ID_TAG = "elt/sync_id"
SYNC_TAG = "elt/sync"
TRIGGERED_BY_TAG = "elt/triggered_by"
TRIGGER_REF_TAG = "elt/trigger_ref"
RUN_MODE_TAG = "elt/run_mode"
REVISION_TAG = "elt/sync_revision"
"""The store's revision of the sync that a run loads; no tag for a sync in a file."""
EXECUTION_MODE_TAG = "elt/execution_mode"
EXECUTION_BACKEND_TAG = "elt/execution_backend"
CONFIGURATION_TAGS = frozenset({REVISION_TAG, EXECUTION_MODE_TAG, EXECUTION_BACKEND_TAG})
CANCEL_REASON_TAG = "elt/cancel_reason"
CANCEL_REQUESTED_AT_TAG = "elt/cancel_requested_at"
CANCEL_REQUESTED_BY_TAG = "elt/cancel_requested_by"
END_REASON_TAG = "elt/end_reason"
"""Why we ended the run, as a reason code; whatever Dagster makes of its end."""
SKIPPED_FOR_TAG = "elt/skipped_for"
"""The run that was loading a stream which this run therefore left out."""
# Dagster's own
PARTITION_TAG = "dagster/partition"
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
MAX_RETRIES_TAG = "dagster/max_retries"
RETRY_ON_STEP_FAILURE_TAG = "dagster/retry_on_asset_or_op_failure"
RETRY_STRATEGY_TAG = "dagster/retry_strategy"
MAX_RUNTIME_TAG = "dagster/max_runtime"
EXECUTOR_TAG = ".dagster/run_worker"
"""Hidden: the worker that took a run, where the launcher tells."""
PARENT_RUN_TAG = "dagster/parent_run_id"
ROOT_RUN_TAG = "dagster/root_run_id"


def sync_tags(sync_id: str, slug: str) -> dict[str, str]:
    """What tells a run's sync."""
    return {SYNC_ID_TAG: sync_id, SYNC_TAG: slug}


def trigger_tags(triggered_by: TriggeredBy, trigger_ref: str, run_mode: RunMode) -> dict[str, str]:
    """What tells why a run exists and what it does."""
    tags = {TRIGGERED_BY_TAG: triggered_by.value, RUN_MODE_TAG: run_mode.value}
    return {**tags, TRIGGER_REF_TAG: trigger_ref} if trigger_ref else tags


def configuration_tags(spec: SyncSpec, revision: int | None) -> dict[str, str]:
    """What tells how a run was carried out, whatever becomes of its sync later."""
    tags = {EXECUTION_MODE_TAG: spec.execution_mode.value, EXECUTION_BACKEND_TAG: spec.execution_backend.value}
    return {**tags, REVISION_TAG: str(revision)} if revision is not None else tags


def recovery_tags(execution: Execution) -> dict[str, str]:
    """What makes Dagster end a run that takes too long, and start one again whose process was lost; a stream that failed has had its own
    retries by then."""
    tags: dict[str, str] = {}
    if execution.max_runtime_seconds is not None:
        tags[MAX_RUNTIME_TAG] = str(execution.max_runtime_seconds)
    if execution.max_retries:
        tags[MAX_RETRIES_TAG] = str(execution.max_retries)
        tags[RETRY_ON_STEP_FAILURE_TAG] = "false"
        tags[RETRY_STRATEGY_TAG] = "FROM_FAILURE"
    return tags
