"""Streams that Dagster loads by itself: declarative automation, as the sync chooses."""

from collections.abc import Sequence

import dagster as dg

from elt_dagster.model import Automation, SyncSpec, SyncStatus
from elt_dagster.store import DEFAULT_WORKSPACE

SENSOR = "elt_automation"


def condition_of(spec: SyncSpec) -> "dg.AutomationCondition[dg.AssetKey | dg.AssetCheckKey] | None":
    """The condition of every asset of an active sync that chose one; a paused sync does nothing by itself."""
    if spec.automation is None or spec.status is not SyncStatus.ACTIVE:
        return None
    if spec.automation is Automation.EAGER:
        return dg.AutomationCondition.eager()
    # Dagster's own `on_missing` leaves out what was missing when it was first looked at: every stream of a new sync.
    able = ~dg.AutomationCondition.any_deps_missing() & ~dg.AutomationCondition.in_progress()
    missing = dg.AutomationCondition.in_latest_time_window() & dg.AutomationCondition.missing()
    return (missing & able & ~dg.AutomationCondition.execution_failed()).with_label("on_missing")


def automation_sensor(
    assets: Sequence[dg.AssetsDefinition], workspace: str
) -> dg.AutomationConditionSensorDefinition | None:
    """A sensor that evaluates the conditions of ``assets``, and runs from the start: Dagster's own waits to be switched on."""
    keys = [spec.key for asset in assets for spec in asset.specs if spec.automation_condition is not None]
    if not keys:
        return None
    name = SENSOR if workspace == DEFAULT_WORKSPACE else f"{SENSOR}_{workspace.replace('-', '_')}"
    return dg.AutomationConditionSensorDefinition(
        name,
        target=dg.AssetSelection.assets(*keys),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Loads streams of syncs with `automation` when their condition holds.",
    )
