"""Syncs that stand in a file, with a store beside them or with none: no two runs load one stream, the first run comes once, windows are what they are."""

import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

import elt_dagster
from elt_dagster.control.configured import derived_id
from elt_dagster.errors import TransientError
from elt_dagster.model import RunMode, Window
from elt_dagster.orchestration import silence
from elt_dagster.orchestration.resources import run_config
from elt_dagster.orchestration.tags import PARTITION_TAG, SKIPPED_FOR_TAG, SYNC_ID_TAG
from elt_dagster.store import open_store
from tests.integration.dagster_project import CONNECTORS, ORDERS

SYNC = {"slug": "shop", "connection": "shop-db", "destination": "warehouse", "schema": "raw_shop"}
BINDING = derived_id("binding", "shop", "public.orders")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ELT_DAGSTER_CONNECTORS", str(CONNECTORS))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.delenv("ELT_DAGSTER_STORE", raising=False)
    return tmp_path


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


def defs(folder: Path, **changes: Any) -> dg.Definitions:
    return elt_dagster.sync_definitions(
        {
            "connections": [
                {"name": "shop-db", "connector": "scripted", "config": {"folder": str(folder)}},
                {"name": "warehouse", "connector": "duckdb", "config": {"path": f"{folder}/w.duckdb"}},
            ],
            "syncs": [{**SYNC, "streams": [{"name": "public.orders"}], **changes}],
        }
    )


def run(definitions: dg.Definitions, instance: dg.DagsterInstance, **more: Any) -> dg.ExecuteInProcessResult:
    job = definitions.resolve_job_def("sync_shop")
    return job.execute_in_process(instance=instance, raise_on_error=False, **more)


def other_run(instance: dg.DagsterInstance, **tags: str) -> dg.DagsterRun:
    """A run of the same sync that another process is in the middle of."""

    @dg.job
    def sync_shop() -> None: ...

    mine = {SYNC_ID_TAG: derived_id("sync", "shop"), **tags}
    return instance.create_run_for_job(sync_shop, status=dg.DagsterRunStatus.STARTED, tags=mine)


def skipped_for(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> str | None:
    found = instance.get_run_by_id(result.run_id)
    assert found is not None
    assert result.success
    return found.tags.get(SKIPPED_FOR_TAG)


def test_without_a_store_an_earlier_run_of_the_sync_goes_first(folder: Path, instance: dg.DagsterInstance) -> None:
    other = other_run(instance)
    result = run(defs(folder, execution={"overlap": "skip"}), instance)
    assert skipped_for(instance, result) == other.run_id
    assert instance.get_latest_materialization_event(ORDERS) is None
    instance.report_run_failed(other)
    assert skipped_for(instance, run(defs(folder, execution={"overlap": "skip"}), instance)) is None
    assert instance.get_latest_materialization_event(ORDERS) is not None


def test_without_a_store_a_run_waits_until_the_earlier_one_has_ended(
    folder: Path, instance: dg.DagsterInstance
) -> None:
    other = other_run(instance)
    ends = threading.Timer(2.5, instance.report_run_failed, [other])
    ends.start()
    began = time.monotonic()
    result = run(defs(folder), instance)
    ends.join()
    assert skipped_for(instance, result) is None
    assert time.monotonic() - began > 2.5
    told = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert any(f"waiting for run {other.run_id}" in line for line in told)


def test_a_run_of_another_window_or_of_another_stream_is_no_reason_to_wait(
    folder: Path, instance: dg.DagsterInstance
) -> None:
    other_run(instance, **{PARTITION_TAG: "2026-01-01"})
    elsewhere = frozenset({dg.AssetKey(["raw_shop", "customers"])})
    instance.add_run(other_run(instance)._replace(run_id=str(uuid.uuid4()), asset_selection=elsewhere))
    newest = instance.get_runs(limit=2)
    instance.delete_run(next(run.run_id for run in newest if run.asset_selection is None))
    assert skipped_for(instance, run(defs(folder, execution={"overlap": "skip"}), instance)) is None


@pytest.mark.parametrize("place", ["named", "home"])
def test_with_a_store_a_file_uses_its_leases_and_a_dead_runs_lease_is_free(
    folder: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if place == "named":
        monkeypatch.setenv("ELT_DAGSTER_STORE", f"sqlite:///{folder}/mine.sqlite")
    store = open_store()
    store.init()
    skips = defs(folder, execution={"overlap": "skip"})
    other = other_run(instance)
    store.acquire_lease(BINDING, "another process", other.run_id)
    assert skipped_for(instance, run(skips, instance)) == other.run_id
    instance.report_run_failed(other)
    assert skipped_for(instance, run(skips, instance)) is None, "90 s before the dead run's lease would have ended"
    assert store.active_run(BINDING) is None
    fence = store.acquire_lease(BINDING, "now", "now").fence
    assert fence == 3
    monkeypatch.delenv("ELT_DAGSTER_STORE", raising=False)
    monkeypatch.delenv("DAGSTER_HOME")
    assert run(skips, instance).success, "without the store it goes on under the fence of its table"


def test_a_store_out_of_reach_is_waited_for_and_not_passed_over(
    folder: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELT_DAGSTER_STORE", "postgresql://nobody:secret@127.0.0.1:1/none")
    result = run(defs(folder, execution={"max_retries": 0}), instance)
    assert not result.success
    (failure,) = [e.step_failure_data.user_failure_data for e in result.all_events if e.is_step_failure]
    assert failure is not None
    assert failure.metadata["elt/error_class"].value == TransientError.__name__
    assert "secret" not in str(failure)


def test_on_create_starts_one_run_in_the_life_of_a_file(folder: Path, instance: dg.DagsterInstance) -> None:
    definitions = defs(folder, trigger_mode="on_create")
    (sensor,) = definitions.get_repository_def().sensor_defs
    assert (sensor.name, sensor.default_status) == ("sync_shop_on_create", dg.DefaultSensorStatus.RUNNING)
    context = dg.build_sensor_context(instance, repository_def=definitions.get_repository_def())
    (request,) = list(sensor.evaluate_tick(context).run_requests or [])
    key = f"on_create:{derived_id('sync', 'shop')}"
    assert (request.run_key, request.job_name, request.tags["elt/triggered_by"]) == (key, "sync_shop", "on_create")
    again = dg.build_sensor_context(instance, cursor=context.cursor, repository_def=definitions.get_repository_def())
    ticked = sensor.evaluate_tick(again)
    assert not ticked.run_requests
    assert "has had its first run" in str(ticked.skip_message)
    assert defs(folder).get_repository_def().sensor_defs == []


def test_windows_that_are_not_there_are_refused_and_load_nothing(folder: Path, instance: dg.DagsterInstance) -> None:
    orders = {"name": "public.orders", "cursor_field": "updated_at", "primary_key": ["id"], "sliced": True}
    cut = {"streams": [orders], "execution_mode": "fan_out_window", "slicing": {"window": "1d", "start": "2026-01-01"}}
    for missing in ("2099-01-01", "2025-12-31"):
        with pytest.raises(dg.DagsterUnknownPartitionError, match=missing):
            run(defs(folder, **cut), instance, partition_key=missing)
    assert not (folder / "w.duckdb").exists()
    not_yet = {**cut, "slicing": {"window": "1d", "start": "2099-01-01"}, "trigger_mode": "on_create"}
    definitions = defs(folder, **not_yet)
    (sensor,) = definitions.get_repository_def().sensor_defs
    context = dg.build_sensor_context(instance, repository_def=definitions.get_repository_def())
    assert "has ended yet" in str(sensor.evaluate_tick(context).skip_message)
    assert context.cursor is None


def test_a_window_of_the_future_is_refused_in_words(folder: Path, instance: dg.DagsterInstance) -> None:
    window = Window(datetime(2099, 1, 1, tzinfo=UTC), datetime(2099, 1, 2, tzinfo=UTC))
    config: Any = run_config(RunMode.INCREMENTAL, window=window)
    result = run(defs(folder), instance, run_config=config)
    (failure,) = [e.step_failure_data.user_failure_data for e in result.all_events if e.is_step_failure]
    assert failure is not None
    assert str(failure.description).startswith("The window from 2099-01-01 00:00 has not begun")
    assert not (folder / "w.duckdb").exists()


def test_documents_of_one_load_share_the_sensor_that_ends_silent_runs() -> None:
    load, again = object(), object()
    (sensor,) = silence.sensors_of_file(load, "a", {"sync-a": 180.0})
    assert silence.sensors_of_file(load, "b", {"sync-b": 60.0}) == []
    assert (sensor.name, sensor.default_status) == ("elt_runs_of_files", dg.DefaultSensorStatus.RUNNING)
    assert [s.name for s in silence.sensors_of_file(load, "a", {})] == [sensor.name], "a document may be read again"
    assert [s.name for s in silence.sensors_of_file(again, "b", {})] == [sensor.name], (
        "the first of the next load brings it"
    )
    looked_after = silence._limits[sensor.name]
    assert (looked_after["sync-a"], looked_after["sync-b"]) == (180.0, 60.0)
