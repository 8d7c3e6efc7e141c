"""The tags on every run of a sync, and which run they belong to."""

from elt_dagster.model import RunMode, TriggeredBy

SYNC_ID_TAG = "elt/sync_id"
SYNC_TAG = "elt/sync"
TRIGGERED_BY_TAG = "elt/triggered_by"
TRIGGER_REF_TAG = "elt/trigger_ref"
RUN_MODE_TAG = "elt/run_mode"
CANCEL_REASON_TAG = "elt/cancel_reason"


def sync_tags(sync_id: str, slug: str) -> dict[str, str]:
    """What tells a run's sync."""
    return {SYNC_ID_TAG: sync_id, SYNC_TAG: slug}


def trigger_tags(triggered_by: TriggeredBy, trigger_ref: str, run_mode: RunMode) -> dict[str, str]:
    """What tells why a run exists and what it does."""
    tags = {TRIGGERED_BY_TAG: triggered_by.value, RUN_MODE_TAG: run_mode.value}
    return {**tags, TRIGGER_REF_TAG: trigger_ref} if trigger_ref else tags
