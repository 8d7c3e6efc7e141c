"""Syncs that Dagster loads by itself: declarative automation, and schedules over a change of clocks."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._utils.schedules import schedule_execution_time_iterator

from tests.integration.dagster_project import CUSTOMERS, ITEMS, ORDERS, ShopProject, shop


def wanted(
    defs: dg.Definitions, instance: dg.DagsterInstance, cursor: object = None
) -> tuple[set[dg.AssetKey], object]:
    """What one evaluation of all conditions asks for."""
    found = dg.evaluate_automation_conditions(defs=defs, instance=instance, cursor=cursor)  # type: ignore[arg-type]
    return {key for key in (ORDERS, CUSTOMERS, ITEMS) if found.get_num_requested(key)}, found.cursor


def load(project: ShopProject, instance: dg.DagsterInstance, *keys: dg.AssetKey) -> None:
    job = project.defs(executor=dg.in_process_executor).resolve_job_def("sync_shop")
    assert job.execute_in_process(instance=instance, asset_selection=list(keys)).success


def test_what_was_never_loaded_is_loaded(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(shop(automation="on_missing"))
    load(project, instance, CUSTOMERS)
    defs = project.defs()
    asked, cursor = wanted(defs, instance)
    assert asked == {ORDERS, ITEMS}, "in one run, the child after its parent"
    load(project, instance, ORDERS, ITEMS)
    asked, _ = wanted(defs, instance, cursor)
    assert asked == set()


def test_a_child_follows_its_parent(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(shop(automation="eager"))
    defs = project.defs()
    load(project, instance, ORDERS, CUSTOMERS, ITEMS)
    _, cursor = wanted(defs, instance)
    load(project, instance, ORDERS)
    asked, _ = wanted(defs, instance, cursor)
    assert asked == {ITEMS}


@pytest.mark.parametrize("change", [{}, {"automation": "eager", "status": "paused"}])
def test_nothing_is_automatic_unless_an_active_sync_says_so(project: ShopProject, change: dict[str, str]) -> None:
    project.put(shop(**change))
    defs = project.defs()
    assert all(spec.automation_condition is None for spec in defs.resolve_all_asset_specs())
    assert "elt_automation" not in {s.name for s in defs.sensors or ()}


def test_the_sensor_runs_without_being_switched_on(project: ShopProject) -> None:
    project.put(shop(automation="eager"))
    (sensor,) = [s for s in project.defs().sensors or () if s.name == "elt_automation"]
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


def test_a_daily_schedule_fires_once_on_the_days_when_clocks_change(project: ShopProject) -> None:
    project.put(shop(schedule={"cron": "30 2 * * *", "timezone": "Europe/Copenhagen"}))
    schedule = project.defs().resolve_schedule_def("sync_shop_schedule")
    for first, last in ((28, 31), (24, 27)):
        month = 3 if first == 28 else 10
        start, end = (datetime(2026, month, day, tzinfo=UTC).timestamp() for day in (first, last))
        ticks = list(_ticks(schedule, start, end))
        assert len({tick.date() for tick in ticks}) == len(ticks) == 3


def _ticks(schedule: dg.ScheduleDefinition, start: float, end: float) -> Iterator[datetime]:
    """What the daemon goes by."""
    for tick in schedule_execution_time_iterator(start, schedule.cron_schedule, schedule.execution_timezone):
        if tick.timestamp() >= end:
            return
        yield tick
