"""Definitions built anew in a running process, as the code server asks for it; the server itself is in `test_live_syncs`."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType  # noqa: TID251
from dagster._core.types.loadable_target_origin import (  # noqa: TID251
    LoadableTargetOrigin,
    enter_loadable_target_origin_load_context,
)

from elt_dagster.errors import ConfigError, EltError
from elt_dagster.orchestration import _live_load, live
from elt_dagster.orchestration import _live_reload as reloading
from tests.integration.dagster_project import ShopProject, shop

HELPER = "from elt_dagster import build_definitions\nours = build_definitions(executor=None)\n"
MAIN = """
import dagster as dg
from live_helper_module import ours

@dg.asset
def mine() -> None: ...

defs = dg.Definitions.merge(ours, dg.Definitions(assets=[mine]))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShopProject]:
    """A user's project whose main module merges what another of its modules built, loaded as a code server does it."""
    project = ShopProject.make(tmp_path)
    (tmp_path / "live_helper_module.py").write_text(HELPER)
    (tmp_path / "live_main_module.py").write_text(MAIN)
    monkeypatch.setenv("ELT_DAGSTER_STORE", project.url)
    monkeypatch.setattr(reloading, "_target", None)
    monkeypatch.setattr(reloading, "_importing", {})
    project.put(shop())
    with DefinitionsLoadContext.scoped(DefinitionsLoadContext(DefinitionsLoadType.INITIALIZATION)):
        yield project
    for name in ("live_helper_module", "live_main_module"):
        sys.modules.pop(name, None)


def target(project: ShopProject) -> LoadableTargetOrigin:
    return LoadableTargetOrigin(
        executable_path=sys.executable,
        python_file=str(project.folder / "live_main_module.py"),
        working_directory=str(project.folder),
        attribute="defs",
    )


def load(project: ShopProject) -> dg.RepositoryDefinition:
    """What the code server does when it starts."""
    with enter_loadable_target_origin_load_context(target(project)):
        found: Any = reloading._Again(target(project), dg.Definitions().get_repository_def())._load()
    repository: dg.RepositoryDefinition = found.get_repository_def()
    return repository


def again(project: ShopProject, before: dg.RepositoryDefinition) -> dg.RepositoryDefinition:
    return reloading._Again(target(project), before).reload_with_state(["elt_dagster"]).get_repository_def()


def keys(repository: dg.RepositoryDefinition) -> set[str]:
    return {key.to_user_string() for key in repository.assets_defs_by_key}


def test_every_module_that_holds_definitions_is_executed_again(project: ShopProject) -> None:
    before = load(project)
    project.put(shop(slug="second", schema="second"))
    with project.store.transaction() as tx:
        tx.delete_sync("shop")
    after = again(project, before)
    assert {"second/orders", "mine"} <= keys(after)
    assert not any(key.startswith("raw_shop") for key in keys(after))
    assert "raw_shop/orders" in keys(before), "runs and requests under way still have theirs"
    loaded = live.watcher_of(project.store, "default").loaded
    assert loaded is not None
    assert loaded.revision == project.store.revision()


def test_a_module_that_breaks_leaves_everything_as_it_was(project: ShopProject) -> None:
    before = load(project)
    modules = {name: sys.modules[name] for name in ("live_helper_module", "live_main_module")}
    (project.folder / "live_main_module.py").write_text(MAIN + "\nraise ValueError('a typo')\n# longer than before\n")
    with pytest.raises(ValueError, match="a typo"):
        again(project, before)
    assert {name: sys.modules[name] for name in modules} == modules
    assert not reloading.is_reloading()


def test_a_store_that_goes_away_in_the_middle_ends_the_reload_and_not_the_definitions(project: ShopProject) -> None:
    before = load(project)
    (project.folder / "store.sqlite").rename(project.folder / "away")
    with pytest.raises(EltError):
        again(project, before)
    assert not reloading.is_reloading()


def test_a_job_that_is_gone_is_known_until_those_who_were_fetching_it_are_done(
    project: ShopProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(project)
    with project.store.transaction() as tx:
        tx.delete_sync("shop")
    second = again(project, first)
    project.put(shop(slug="other", schema="other"))
    third = again(project, second)
    for repository in (second, third):
        assert not repository.has_job("sync_shop")
        assert repository.get_job("sync_shop").name == "sync_shop"
    assert third.get_job("sync_other").name == "sync_other"
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + reloading.GONE_SECONDS + 1)
    with pytest.raises(dg.DagsterInvariantViolationError, match="sync_shop"):
        third.get_job("sync_shop")


def test_a_run_loads_the_revision_it_was_planned_from(project: ShopProject) -> None:
    planned = load(project)
    pins = DefinitionsLoadContext.get().get_pending_reconstruction_metadata()
    project.put(shop(streams=[{"name": "public.customers"}]))
    with project.store.transaction() as tx:
        tx.delete_sync("shop")
    sys.modules.pop("live_main_module")
    sys.modules.pop("live_helper_module")
    data = planned.replace_repository_load_data(pins, None).repository_load_data
    context = DefinitionsLoadContext(DefinitionsLoadType.RECONSTRUCTION, repository_load_data=data)
    with DefinitionsLoadContext.scoped(context):
        assert keys(load(project)) == keys(planned)
        (project.folder / "store.sqlite").rename(project.folder / "away")
        project.store._is_current = False
        with pytest.raises(ConfigError, match="not initialised"):
            _live_load.read_store(None, "default")


@pytest.mark.parametrize(
    ("words", "environ", "socket", "port"),
    [
        (["dagster", "api", "grpc", "--socket", "/tmp/s"], {}, "/tmp/s", None),  # noqa: S108
        (["dagster", "api", "grpc", "-p", "4000", "-h", "0.0.0.0"], {}, None, 4000),  # noqa: S104
        (["dagster", "api", "grpc", "--port=4000"], {}, None, 4000),
        (["dagster", "api", "grpc", "-f", "x.py"], {"DAGSTER_GRPC_PORT": "4001"}, None, 4001),
    ],
)
def test_a_code_server_finds_itself(
    words: list[str], environ: dict[str, str], socket: str | None, port: int | None
) -> None:
    client = reloading.own_client(words, environ)
    assert (client.socket, client.port, client.host) == (socket, port, "localhost")


@pytest.mark.parametrize("words", [["pytest"], ["dagster", "dev", "-p", "3000"], ["dagster", "api", "grpc"]], ids=len)
def test_no_other_process_takes_itself_for_one(words: list[str]) -> None:
    assert reloading.own_client(words, {}) is None


def test_outside_a_code_server_nothing_is_reloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "_target", None)
    assert reloading.reload_in_place(dg.Definitions().get_repository_def(), object(), "1") is None
    assert reloading.restart(object()) is False
