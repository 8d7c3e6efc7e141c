"""Loading is to grow with what is loaded: jobs that look at their own assets, and runs that load their own sync."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from elt_dagster import SyncTranslator
from elt_dagster.orchestration import _run_scope as scopes
from elt_dagster.orchestration._job_scope import ScopedJob, scoped
from elt_dagster.orchestration._run_scope import RunScope
from tests.integration.dagster_project import CUSTOMERS, ITEMS, ORDERS, ShopProject, shop

HOURLY = {"execution_mode": "fan_out_window", "slicing": {"window": "1h", "start": "2026-01-01"}}


@pytest.fixture
def project(tmp_path: Path) -> ShopProject:
    made = ShopProject.make(tmp_path)
    made.put(shop())  # items depend on orders
    made.put(shop(slug="stock", schema="raw_stock", streams=[{"name": "public.items"}]))
    made.put(
        shop(slug="by-hour", schema="raw_hours", streams=[{"name": "public.orders", "load_mode": "append"}], **HOURLY)
    )
    return made


def loaded(defs: dg.Definitions) -> list[str]:
    return sorted({str(s.tags["elt/sync"]) for s in defs.resolve_all_asset_specs() if "elt/sync" in s.tags})


# --- jobs


def test_a_scoped_job_is_the_job_that_dagster_makes(project: ShopProject) -> None:
    defs = project.defs()
    theirs = {j.name: as_dagster_makes_it(j) for j in defs.jobs or () if isinstance(j, ScopedJob)}
    repository = defs.get_repository_def()
    graph, resources = repository.asset_graph, repository.get_top_level_resources()
    for name in ("sync_shop", "sync_stock", "sync_by_hour"):
        expected = theirs[name].resolve(graph, resource_defs=resources)
        made = repository.get_job(name)
        assert made.get_job_snapshot_id() == expected.get_job_snapshot_id()
        assert made.asset_layer.asset_graph.asset_check_keys == expected.asset_layer.asset_graph.asset_check_keys


def as_dagster_makes_it(job: ScopedJob) -> Any:
    return dg.define_asset_job(
        job.name,
        selection=job.selection,
        description=job.description,
        tags=job.tags,
        run_tags=job.run_tags,
        executor_def=job.executor_def,
    )


def test_a_selection_by_other_means_than_keys_looks_at_everything(project: ShopProject) -> None:
    everything = scoped(dg.define_asset_job("everything", selection=dg.AssetSelection.groups("shop")))
    graph = project.defs().get_repository_def().asset_graph
    assert everything.resolve(graph).asset_layer.executable_asset_keys == {ORDERS, CUSTOMERS, ITEMS}


def test_a_key_that_is_not_there_is_told_as_dagster_tells_it(project: ShopProject) -> None:
    wrong = scoped(
        dg.define_asset_job("wrong", selection=dg.AssetSelection.assets(dg.AssetKey(["raw_shop", "ordres"])))
    )
    with pytest.raises(dg.DagsterInvalidSubsetError, match="ordres"):
        wrong.resolve(project.defs().get_repository_def().asset_graph)


# --- runs


def in_a_run(
    monkeypatch: pytest.MonkeyPatch, job: str, *keys: dg.AssetKey, checks: tuple[dg.AssetCheckKey, ...] = ()
) -> None:
    """Have definitions loaded as a run worker would."""
    run = SimpleNamespace(job_name=job, asset_selection=set(keys) or None, asset_check_selection=set(checks) or None)
    monkeypatch.setattr(scopes, "_run_of_this_process", lambda: run)


@pytest.mark.parametrize(
    ("job", "keys", "expected"),
    [
        ("sync_stock", [], ["stock"]),
        ("sync_by_hour", [], ["by-hour"]),
        ("__ASSET_JOB", [ORDERS], ["shop"]),
        ("__ASSET_JOB", [ORDERS, dg.AssetKey(["raw_stock", "items"])], ["shop", "stock"]),
        ("__ASSET_JOB", [dg.AssetKey(["other", "raw_shop", "orders"])], ["shop"]),
        ("__ASSET_JOB", [ORDERS, dg.AssetKey(["mart", "sales"])], ["by-hour", "shop", "stock"]),
        ("__ASSET_JOB", [ORDERS, dg.AssetKey("sales")], ["by-hour", "shop", "stock"]),
        ("__ASSET_JOB", [], ["by-hour", "shop", "stock"]),
        ("my_own_job", [], ["by-hour", "shop", "stock"]),
    ],
)
def test_a_run_loads_what_it_runs(
    project: ShopProject, monkeypatch: pytest.MonkeyPatch, job: str, keys: list[dg.AssetKey], expected: list[str]
) -> None:
    in_a_run(monkeypatch, job, *keys)
    assert loaded(project.defs()) == expected


def test_a_run_of_checks_alone_loads_their_sync(project: ShopProject, monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_run(monkeypatch, "__ASSET_JOB", checks=(dg.AssetCheckKey(ORDERS, "primary_key"),))
    assert loaded(project.defs()) == ["shop"]


def test_other_keys_than_ours_mean_loading_everything(project: ShopProject, monkeypatch: pytest.MonkeyPatch) -> None:
    class Renaming(SyncTranslator):
        def get_asset_spec(self, props: Any) -> dg.AssetSpec:
            spec = super().get_asset_spec(props)
            return spec.replace_attributes(key=[props.sync.spec.slug.replace("-", "_"), "x", spec.key.path[-1]])

    in_a_run(monkeypatch, "__ASSET_JOB", dg.AssetKey(["stock", "raw_shop", "items"]))
    assert loaded(project.defs(translator=Renaming())) == ["by-hour", "shop", "stock"]
    in_a_run(monkeypatch, "sync_stock")
    assert loaded(project.defs(translator=Renaming())) == ["stock"]


def test_outside_of_run_workers_there_is_no_scope() -> None:
    assert scopes.run_scope() is None


def test_a_key_of_one_part_is_no_table_of_ours() -> None:
    assert RunScope("__ASSET_JOB", frozenset({scopes._table_of(dg.AssetKey("orders"))})).slugs(["a"], str, dict) is None


@pytest.mark.parametrize(
    ("function", "module"),
    [("core_execute_run", "dagster._grpc.impl"), ("_execute_step_command_body", "dagster._cli.api")],
)
def test_dagster_still_has_the_workers_that_are_looked_for(function: str, module: str) -> None:
    """Without them everything is loaded: right, but slow."""
    import importlib
    import inspect

    assert scopes._RUN_WORKERS[function] == module
    assert "dagster_run" in inspect.signature(getattr(importlib.import_module(module), function)).parameters
