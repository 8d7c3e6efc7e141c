"""Runs of a sync in this process: what lands, what is told, what happens when something goes wrong."""

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from elt_dagster.model import Batch, ReadRequest, RunMode
from elt_dagster.orchestration import io_manager
from elt_dagster.orchestration import metadata as keys
from elt_dagster.orchestration.definitions import build_definitions
from elt_dagster.orchestration.resources import run_config
from elt_dagster.orchestration.run_reading import InstanceReader
from elt_dagster.orchestration.run_views import observed_estimate
from elt_dagster.store import open_store
from tests.dagster_connectors.scripted import Scripted
from tests.integration.dagster_project import CANARY, CUSTOMERS, ITEMS, ORDERS, ShopProject, shop


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShopProject:
    monkeypatch.setattr("elt_dagster.control.configured.load_connector", {"scripted": Scripted}.__getitem__)
    return ShopProject.make(tmp_path)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def run(
    defs: dg.Definitions, instance: dg.DagsterInstance, job: str = "sync_shop", **options: Any
) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False, **options)


def told(result: dg.ExecuteInProcessResult, key: dg.AssetKey) -> dict[str, Any]:
    (event,) = [e for e in result.get_asset_materialization_events() if e.asset_key == key]
    return {name: value.value for name, value in event.materialization.metadata.items()}


def hearts() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name in ("elt-heartbeat", "elt-cancel")}


def failure_of(result: dg.ExecuteInProcessResult, step: str) -> dg.DagsterEvent:
    (event,) = [e for e in result.all_events if e.is_step_failure and e.step_key == step]
    return event


def test_a_run_loads_every_stream_and_tells_what_it_did(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(shop())
    result = run(project.defs(), instance)
    assert result.success
    assert project.rows("SELECT id, amount FROM raw_shop.orders ORDER BY id")[0] == (1, 1)
    orders = told(result, ORDERS)
    assert orders[keys.ROW_COUNT] == orders[keys.ROWS_READ] == orders[keys.ROWS_INSERTED] == 3
    assert orders[keys.CURSOR_AFTER] == "2026-01-01T00:00:03+00:00"
    assert orders[keys.CURSOR_LAG_SECONDS] > 0
    assert (orders[keys.LOAD_MODE], orders[keys.RUN_MODE]) == ("merge", "incremental")
    assert orders[keys.URI].endswith("raw_shop/orders")
    id_column = orders[keys.COLUMN_SCHEMA].columns[0]
    assert (id_column.name, id_column.type, id_column.description) == ("id", "int64", "The order's number.")
    assert id_column.constraints.unique
    assert not id_column.constraints.nullable
    assert all(isinstance(orders[k], int | float) for k in (keys.SECONDS, keys.ROWS_PER_SECOND, keys.BYTES_READ))


def test_the_next_run_goes_on_and_a_full_refresh_starts_afresh(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    project.put(shop())
    defs = project.defs()
    run(defs, instance)
    project.say("rows", 5)
    assert told(run(defs, instance), ORDERS)[keys.ROWS_READ] == 3  # the last one again, and two new ones
    by_config = run(defs, instance, run_config=run_config(RunMode.FULL_REFRESH))
    by_tag = run(defs, instance, tags={"elt/run_mode": "full_refresh"})
    for result in (by_config, by_tag):
        assert (told(result, ORDERS)[keys.ROWS_READ], told(result, ORDERS)[keys.LOAD_MODE]) == (5, "replace")
        stored = instance.get_run_by_id(result.run_id)
        assert stored is not None
        assert stored.tags["elt/run_mode"] == "full_refresh"
        assert stored.tags["elt/sync"] == "shop"


def test_a_marked_stream_is_read_from_the_beginning_once(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(shop())
    store = open_store(project.url)
    orders = store.sync("shop").binding_ids["public.orders"]
    assert run(project.defs(), instance).success
    store.full_refreshes.mark(orders, requested_by="key")
    project.say("orders.fail", "yes")
    assert not run(project.defs(), instance).success
    assert store.full_refreshes.get(orders) is not None, "what failed is still to be done"
    (project.folder / "orders.fail").unlink()
    second, third = run(project.defs(), instance), run(project.defs(), instance)
    assert (told(second, ORDERS)[keys.RUN_MODE], told(second, ORDERS)[keys.LOAD_MODE]) == ("full_refresh", "replace")
    assert store.full_refreshes.get(orders) is None
    assert told(third, ORDERS)[keys.RUN_MODE] == "incremental"


def test_run_config_outranks_the_tag(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(shop())
    tags = {"elt/run_mode": "full_refresh"}
    result = run(project.defs(), instance, run_config=run_config(RunMode.INCREMENTAL), tags=tags)
    assert told(result, ORDERS)[keys.RUN_MODE] == "incremental"
    stored = instance.get_run_by_id(result.run_id)
    assert stored is not None
    assert stored.tags["elt/run_mode"] == "incremental"


def test_a_tag_that_names_no_run_mode_is_refused(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(shop())
    result = run(project.defs(), instance, tags={"elt/run_mode": "everything"})
    described = failure_of(result, "raw_shop__orders").step_failure_data.user_failure_data
    assert described is not None
    assert "'everything'" in str(described.description)


def test_a_failing_stream_leaves_its_siblings_green_and_its_children_undone(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    project.put(shop())
    project.say("orders.fail", "yes")
    result = run(project.defs(), instance)
    assert not result.success
    assert {e.asset_key for e in result.get_asset_materialization_events()} == {CUSTOMERS}
    data = failure_of(result, "raw_shop__orders").step_failure_data.user_failure_data
    assert data is not None
    assert data.description == "Scripted refused 'orders'. Check the credentials."
    assert data.metadata["elt/reason"].value == "auth_failed"
    assert data.metadata["elt/stream"].value == "public.orders"
    assert not [e for e in result.all_events if e.is_step_up_for_retry]


def test_from_failure_runs_what_failed_and_what_hangs_on_it(
    project: ShopProject, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELT_TEST_STORE", project.url)
    project.put(shop())
    project.say("orders.fail", "yes")
    defs = project.defs()
    first = run(defs, instance)
    project.say("orders.fail", "")
    job = dg.reconstructable(_job_of_test)
    options = dg.ReexecutionOptions.from_failure(first.run_id, instance)
    with dg.execute_job(job, instance=instance, reexecution_options=options) as again:
        done = {e.asset_key for e in again.all_events if e.is_step_materialization}
    assert done == {ORDERS, ITEMS}


def _job_of_test() -> dg.JobDefinition:
    return build_definitions(os.environ["ELT_TEST_STORE"]).resolve_job_def("sync_shop")


def test_what_time_may_mend_is_tried_again(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(shop())
    project.say("orders.busy", 2)
    result = run(project.defs(), instance)
    assert result.success
    retries = [e for e in result.all_events if e.is_step_up_for_retry]
    waits = [e.step_retry_data.seconds_to_wait or 0 for e in retries]
    assert [0.075 <= waits[0] <= 0.1, 0.15 <= waits[1] <= 0.2, len(waits)] == [True, True, 2]
    assert project.rows("SELECT count(*) FROM raw_shop.orders") == [(3,)]


def test_retries_come_to_an_end(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(shop())
    project.say("orders.busy", 9)
    before = hearts()
    result = run(project.defs(), instance)
    assert not result.success
    assert len([e for e in result.all_events if e.is_step_up_for_retry]) == 2
    assert (project.folder / "orders.busy").read_text() == "6"
    for heart in hearts() - before:  # although the result keeps the errors, and with them what the attempts had begun
        heart.join(timeout=10)
        assert not heart.is_alive()


def test_an_interrupt_ends_the_run_at_once_although_the_step_has_a_retry_policy(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    project.put(shop(execution={"max_retries": 5, "retry_delay_seconds": 30}))
    project.say("orders.slow", 1.5)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    job = project.defs().resolve_job_def("sync_shop")
    try:
        events = job.execute_in_process(asset_selection=[ORDERS], instance=instance, raise_on_error=False).all_events
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        (run_id,) = instance.get_run_ids()
        events = [e.dagster_event for e in instance.all_logs(run_id) if e.dagster_event is not None]
    assert not [e for e in events if e.is_step_up_for_retry or e.is_step_success]
    assert project.rows("SELECT count(*) FROM information_schema.tables WHERE table_name = 'orders'") == [(0,)]


def test_no_secret_reaches_the_event_log(project: ShopProject, instance: dg.DagsterInstance) -> None:
    project.put(shop())
    project.say("customers.fail", "yes")
    result = run(project.defs(), instance)
    everything = "".join(str(entry) for entry in instance.all_logs(result.run_id))
    stored = instance.get_run_by_id(result.run_id)
    assert "raw_shop" in everything
    assert CANARY not in everything + repr(stored)


def test_a_run_from_the_asset_graph_gets_the_tags_of_its_sync(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    project.put(shop())
    job = project.defs().resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(asset_selection=[ORDERS], instance=instance)
    stored = instance.get_run_by_id(result.run_id)
    assert stored is not None
    assert (stored.tags["elt/sync"], stored.tags["elt/triggered_by"]) == ("shop", "manual")
    assert stored.tags["elt/execution_backend"] == "native"


def test_how_many_rows_are_expected_is_told_while_they_are_read_and_with_what_came_of_it(
    project: ShopProject, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Scripted.read

    def told_first(self: Scripted, request: ReadRequest) -> Iterator[Batch]:
        expected = {"estimated_rows": 4} if request.stream.name == "public.orders" else {}
        for batch in read(self, request):
            yield replace(batch, counts=expected)
            expected = {}

    monkeypatch.setattr(Scripted, "read", told_first)
    monkeypatch.setattr(io_manager, "EXPECTING_SECONDS", 0.0)
    project.put(shop())
    result = run(project.defs(), instance)
    assert told(result, ORDERS)[keys.EXPECTED] == 4
    assert keys.EXPECTED not in told(result, CUSTOMERS)
    events, _, _ = InstanceReader(instance).log(result.run_id)
    assert [(e["stepKey"], observed_estimate(e)) for e in events] == [("raw_shop__orders", 4)]
    monkeypatch.setattr(io_manager, "EXPECTING_SECONDS", 60.0)
    assert InstanceReader(instance).log(run(project.defs(), instance).run_id)[0] == []


def test_two_destinations_of_one_store_have_separate_keys_and_managers(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    from elt_dagster.model import ConnectionSpec

    with project.store.transaction() as tx:
        lake = {"path": str(project.folder / "lake.duckdb")}
        tx.put_connection(ConnectionSpec(name="my-lake", connector="duckdb", config=lake), frozenset())
    project.put(shop())
    project.put(shop(slug="shop-lake", destination="my-lake"))
    defs = project.defs()
    found = {key.to_user_string() for key in defs.resolve_all_asset_keys()}
    assert {"raw_shop/orders", "my_lake/raw_shop/orders"} <= found
    assert run(defs, instance, "sync_shop_lake").success
    assert (project.folder / "lake.duckdb").exists()
    assert not project.file.exists()
