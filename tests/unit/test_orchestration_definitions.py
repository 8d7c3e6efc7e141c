"""From stored syncs to definitions, without running any."""

import logging
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from elt_dagster import SyncTranslator
from elt_dagster.control.configured import ConfiguredSync, derived_id
from elt_dagster.control.connections import InlineConnections
from elt_dagster.model import ConnectionSpec, Stream, SyncSpec
from elt_dagster.orchestration import metadata as keys
from elt_dagster.orchestration.definitions import build_definitions, sync_definitions
from elt_dagster.orchestration.translator import BindingProps
from tests.integration.dagster_project import CUSTOMERS, ITEMS, ORDERS, ShopProject, shop


@pytest.fixture
def project(tmp_path: Path) -> ShopProject:
    return ShopProject.make(tmp_path)


def spec_of(defs: dg.Definitions, key: dg.AssetKey) -> dg.AssetSpec:
    return next(spec for spec in defs.resolve_all_asset_specs() if spec.key == key)


def slugs(defs: dg.Definitions) -> list[str]:
    return sorted({str(spec.tags["elt/sync"]) for spec in defs.resolve_all_asset_specs()})


def names(defs: dg.Definitions) -> set[str]:
    return {job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}


def test_an_asset_says_all_that_is_known(project: ShopProject) -> None:
    schedule = {"cron": "*/10 * * * *", "timezone": "Europe/Copenhagen"}
    project.put(
        shop(slug="my-shop", schedule=schedule, freshness_sla_seconds=3600, owners=["team:data"], tags={"a": "b"})
    )
    defs = project.defs()
    dg.Definitions.validate_loadable(defs)
    spec = spec_of(defs, ORDERS)
    assert spec.group_name == "my_shop"
    assert spec.kinds == {"scripted", "duckdb"}
    assert list(spec.owners) == ["team:data"]
    assert {"elt/sync": "my-shop", "a": "b"}.items() <= spec.tags.items()
    assert spec.metadata[keys.TABLE_NAME] == "raw_shop.orders"
    assert [c.name for c in spec.metadata[keys.COLUMN_SCHEMA].columns][:3] == ["id", "updated_at", "amount"]
    assert spec.freshness_policy == dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=1))
    assert "| Cursor | `updated_at` |" in str(spec.description)
    assert str(spec.description).startswith("What was bought.\n\n")
    assert str(spec_of(defs, ITEMS).description).startswith("public.items of scripted, from ")
    assert [dep.asset_key for dep in spec_of(defs, ITEMS).deps] == [ORDERS]
    assert names(defs) == {"sync_my_shop"}


def test_a_parent_that_is_not_selected_is_no_dependency(project: ShopProject) -> None:
    project.put(shop(streams=[{"name": "public.items"}]))
    assert not list(spec_of(project.defs(), ITEMS).deps)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, "RUNNING"),
        ({"trigger_mode": "manual"}, "STOPPED"),
    ],
)
def test_only_scheduled_syncs_run_by_themselves(project: ShopProject, change: dict[str, Any], status: str) -> None:
    streams = [{"name": "public.orders", "full_sync_at_midnight": True}, {"name": "public.customers"}]
    project.put(shop(schedule={"cron": "5 4 * * *", "timezone": "Asia/Tokyo"}, streams=streams, **change))
    repository = project.defs().get_repository_def()
    schedules = {s.name: s for s in repository.schedule_defs}
    assert set(schedules) == {"sync_shop_schedule", "sync_shop_midnight"}
    assert {s.default_status.value for s in schedules.values()} == {status}
    assert {s.execution_timezone for s in schedules.values()} == {"Asia/Tokyo"}
    assert schedules["sync_shop_midnight"].cron_schedule == "0 0 * * *"


@pytest.mark.parametrize("status", ["paused", "error"])
def test_a_sync_that_is_not_active_has_no_schedule_that_somebody_could_have_switched_on(
    project: ShopProject, status: str
) -> None:
    project.put(shop(schedule={"cron": "5 4 * * *"}, status=status))
    repository = project.defs().get_repository_def()
    assert not list(repository.schedule_defs)
    assert repository.has_job("sync_shop")


def test_a_schedules_request_carries_mode_tags_and_selection(project: ShopProject) -> None:
    streams = [{"name": "public.orders", "full_sync_at_midnight": True}, {"name": "public.customers"}]
    project.put(shop(schedule={"cron": "5 4 * * *"}, streams=streams))
    repository = project.defs().get_repository_def()
    requests = {}
    with dg.DagsterInstance.ephemeral() as instance:
        for schedule in repository.schedule_defs:
            context = dg.build_schedule_context(instance=instance, repository_def=repository)
            (requests[schedule.name],) = list(schedule.evaluate_tick(context).run_requests or ())
    usual, midnight = requests["sync_shop_schedule"], requests["sync_shop_midnight"]
    assert usual.asset_selection is None
    assert usual.tags["elt/triggered_by"] == "schedule"
    assert usual.tags["elt/trigger_ref"] == "sync_shop_schedule"
    assert usual.run_config["resources"]["sync_run"]["config"] == {"run_mode": "incremental"}
    assert list(midnight.asset_selection or ()) == [ORDERS]
    assert (midnight.tags["elt/triggered_by"], midnight.tags["elt/run_mode"]) == ("midnight", "full_refresh")
    assert midnight.run_config["resources"]["sync_run"]["config"] == {"run_mode": "full_refresh"}


@pytest.mark.parametrize("status", ["draft", "archived"])
def test_drafts_and_archived_syncs_have_no_assets(project: ShopProject, status: str) -> None:
    project.put(shop(status=status))
    assert not project.defs().resolve_all_asset_keys()


@pytest.mark.parametrize(
    ("select", "found"),
    [("shop-*", ["shop-a", "shop-b"]), ("other, shop-b", ["other", "shop-b"]), (["nothing"], []), ("", ["other", "shop-a", "shop-b"])],
)  # fmt: skip
def test_syncs_are_selected_by_pattern(
    project: ShopProject, select: Any, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for slug in ("shop-a", "shop-b", "other"):
        project.put(shop(slug=slug, schema=f"raw_{slug.replace('-', '_')}"))
    assert slugs(project.defs(select=select)) == found
    if isinstance(select, str):
        monkeypatch.setenv("ELT_DAGSTER_SELECT", select)
        assert slugs(project.defs()) == found


def broken(defs: dg.Definitions, slug: str) -> str:
    dg.Definitions.validate_loadable(defs)
    return str(spec_of(defs, dg.AssetKey(["broken", slug])).description)


def test_a_damaged_row_is_one_broken_asset_that_fails_with_its_message(project: ShopProject) -> None:
    import sqlite3

    project.put(shop())
    project.put(shop(slug="dam-aged", schema="other"))
    with sqlite3.connect(project.folder / "store.sqlite") as connection:
        connection.execute("UPDATE elt_syncs SET spec = '{\"slug\": 1}' WHERE slug = 'dam-aged'")
    defs = project.defs()
    assert "dam-aged" in broken(defs, "dam_aged")
    assert ORDERS in defs.resolve_all_asset_keys()
    job = defs.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(asset_selection=[dg.AssetKey(["broken", "dam_aged"])], raise_on_error=False)
    (event,) = [e for e in result.all_events if e.is_step_failure]
    data = event.step_failure_data.user_failure_data
    assert data is not None
    assert "cannot be read" in str(data.description)


def test_two_syncs_of_one_table_break_only_the_second() -> None:
    other = inline("b")
    same = replace(other, spec=other.spec.model_copy(update={"dataset": "a"}))
    defs = sync_definitions([inline("a"), same])
    assert "a/orders belongs to sync 'a' already" in broken(defs, "b")
    assert names(defs) == {"sync_a"}


def test_two_slugs_of_one_job_break_only_the_second(project: ShopProject) -> None:
    project.put(shop(slug="a-b"))
    project.put(shop(slug="a_b", schema="other"))
    defs = project.defs()
    assert "sync_a_b belongs to sync" in broken(defs, "a_b")


class Ownerless(SyncTranslator):
    """Gives the assets of one sync an owner that Dagster refuses; what a sync says itself is refused before it gets here."""

    def get_asset_spec(self, props: BindingProps) -> dg.AssetSpec:
        """As usual, but for that sync."""
        spec = super().get_asset_spec(props)
        return spec.replace_attributes(owners=["nobody at all"]) if props.sync.spec.slug == "owners" else spec


def test_what_dagster_refuses_breaks_only_its_sync(project: ShopProject) -> None:
    project.put(shop(slug="good"))
    project.put(shop(slug="owners", schema="o"))
    project.put(shop(slug="nothing", schema="n", streams=[]))
    defs = project.defs(translator=Ownerless())
    assert "nobody at all" in broken(defs, "owners")
    assert "selects no stream" in broken(defs, "nothing")
    assert ORDERS in defs.resolve_all_asset_keys()


class Renaming(SyncTranslator):
    """What a user writes."""

    def get_asset_spec(self, props: BindingProps) -> dg.AssetSpec:
        """Another owner and group, the same key; breaks on customers."""
        if props.sync.spec.slug == "explode":
            raise RuntimeError("boom")
        spec = super().get_asset_spec(props)
        return spec.replace_attributes(
            owners=["team:us"], group_name="ours", automation_condition=dg.AutomationCondition.eager()
        )


def test_a_translator_decides_and_may_break_only_its_sync(project: ShopProject) -> None:
    project.put(shop())
    project.put(shop(slug="explode", schema="other"))
    defs = project.defs(translator=Renaming())
    spec = spec_of(defs, ORDERS)
    assert (list(spec.owners), spec.group_name) == (["team:us"], "ours")
    assert spec.automation_condition is not None
    assert "boom" in broken(defs, "explode")


def inline(slug: str = "shop", *, path: str = "w.duckdb", streams: dict[str, Stream] | None = None) -> ConfiguredSync:
    spec = SyncSpec.model_validate(shop(slug=slug, schema=slug))
    connections = InlineConnections(
        [
            ConnectionSpec(name="shop-db", connector="scripted"),
            ConnectionSpec(name="warehouse", connector="duckdb", config={"path": path}),
        ]
    )
    ids = {b.name: derived_id(slug, b.name) for b in spec.streams}
    return ConfiguredSync(
        id=derived_id(slug), spec=spec, streams=streams or {}, binding_ids=ids, connections=connections
    )


def test_definitions_of_two_syncs_merge(project: ShopProject) -> None:
    merged = dg.Definitions.merge(sync_definitions(inline("a")), sync_definitions(inline("b")), dg.Definitions())
    dg.Definitions.validate_loadable(merged)
    assert names(merged) == {"sync_a", "sync_b"}
    with pytest.raises(dg.DagsterInvariantViolationError, match="warehouse_io"):
        dg.Definitions.merge(sync_definitions(inline("a")), sync_definitions(inline("b", path="other.duckdb")))


def test_the_yaml_is_linked(project: ShopProject) -> None:
    defs = sync_definitions(replace(inline("a"), source_file="/srv/shop.yaml:14"))
    reference = spec_of(defs, dg.AssetKey(["a", "orders"])).metadata[keys.CODE_REFERENCES].code_references[0]
    assert (reference.file_path, reference.line_number) == ("/srv/shop.yaml", 14)


def test_streams_that_wait_for_each_other_break_only_their_sync() -> None:
    ring = {
        "public.orders": Stream(name="public.orders", depends_on=("public.items",)),
        "public.items": Stream(name="public.items", depends_on=("public.orders",)),
    }
    defs = sync_definitions([inline("good"), inline("ring", streams=ring)])
    assert "wait for each other" in broken(defs, "ring")
    assert dg.AssetKey(["good", "orders"]) in defs.resolve_all_asset_keys()


def test_no_store_and_an_unreachable_store_are_one_broken_asset_and_a_sensor_that_waits_for_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="elt_dagster"):
        defs = build_definitions(f"sqlite:///{tmp_path}/missing.sqlite")
        dg.Definitions.validate_loadable(defs)
        assert "elt-dagster init" in broken(defs, "elt_store")
        assert not (tmp_path / "missing.sqlite").exists()
        defs = build_definitions("postgresql://nobody:hunter2@127.0.0.1:1/none")
    dg.Definitions.validate_loadable(defs)
    assert "cannot be reached" in broken(defs, "elt_store")
    assert [s.name for s in defs.get_repository_def().sensor_defs] == ["elt_syncs"]
    assert [r.levelname for r in caplog.records][-1] == "ERROR"
    assert "hunter2" not in caplog.text


def test_the_default_destination_stays_whatever_is_added_later(project: ShopProject) -> None:
    project.put(shop())
    with project.store.transaction() as tx:
        for name in ("aaa", "zzz"):
            tx.put_connection(ConnectionSpec(name=name, connector="duckdb", config={"path": "x"}), frozenset())
    project.put(shop(slug="lake", destination="aaa"))
    found = {key.to_user_string() for key in project.defs().resolve_all_asset_keys()}
    assert {"raw_shop/orders", "aaa/raw_shop/orders"} <= found
    only = {key.to_user_string() for key in project.defs(select="lake").resolve_all_asset_keys()}
    assert only == {f"aaa/raw_shop/{t}" for t in ("orders", "customers", "items")}


def test_two_destinations_that_need_one_resource_key_break_only_the_second(project: ShopProject) -> None:
    with project.store.transaction() as tx:
        for name in ("my-lake", "my_lake"):
            tx.put_connection(ConnectionSpec(name=name, connector="duckdb", config={"path": name}), frozenset())
    project.put(shop(slug="a", destination="my-lake"))
    project.put(shop(slug="b", destination="my_lake", schema="other"))
    assert "my_lake_io" in broken(project.defs(), "b")


@pytest.mark.parametrize(
    ("mode", "choice", "executor"),
    [
        ("sequential", {}, "in_process"),
        ("fan_out_entity", {}, "threaded"),
        ("fan_out_entity", {"executor": "threads"}, "threaded"),
        ("fan_out_entity", {"executor": "multiprocess"}, "multiprocess"),
    ],
)
def test_a_sync_runs_with_the_executor_it_asks_for(
    project: ShopProject, mode: str, choice: dict[str, str], executor: str
) -> None:
    project.put(shop(execution_mode=mode, execution={"max_concurrent": 3, **choice}))
    defs = project.defs()
    assert {ORDERS, CUSTOMERS, ITEMS} == set(defs.resolve_all_asset_keys())
    assert defs.resolve_job_def("sync_shop").executor_def.name == executor


@pytest.mark.parametrize(("choice", "module"), [("celery", "dagster_celery"), ("k8s", "dagster_k8s")])
def test_an_executor_whose_package_is_missing_breaks_its_own_sync_only(
    project: ShopProject, monkeypatch: pytest.MonkeyPatch, choice: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    project.put(shop(slug="a", execution_mode="fan_out_entity", execution={"executor": choice}))
    project.put(shop(slug="b", schema="other"))
    defs = project.defs()
    assert f"pip install {module.replace('_', '-')}" in broken(defs, "a")
    assert defs.resolve_job_def("sync_b").executor_def.name == "in_process"
