"""Dagster's own commands on our definitions: a store behind a workspace.yaml, and a dg project with a SyncComponent."""

import shutil
from pathlib import Path

import pytest

from tests.integration.dagster_project import REPOSITORY, ShopProject, shop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ShopProject:
    """A folder with the definitions.py and workspace.yaml of this repository."""
    project = ShopProject.make(tmp_path_factory.mktemp("commands"))
    for name in ("definitions.py", "workspace.yaml"):
        shutil.copy(REPOSITORY / name, project.folder)
    project.put(shop())
    return project


def test_the_workspace_is_valid(project: ShopProject) -> None:
    assert "All code locations passed validation" in project.command(
        "dagster", "definitions", "validate", "-w", "workspace.yaml"
    )


def test_one_asset_is_materialized_by_its_key(project: ShopProject) -> None:
    project.command("dagster", "asset", "materialize", "--select", "raw_shop/orders", "-f", "definitions.py")
    assert project.rows("SELECT count(*) FROM raw_shop.orders") == [(3,)]


def test_a_job_runs_with_the_run_mode_of_its_config(project: ShopProject) -> None:
    config = project.folder / "full.yaml"
    config.write_text("resources: {sync_run: {config: {run_mode: full_refresh}}}\n")
    said = project.command("dagster", "job", "execute", "-j", "sync_shop", "-f", "definitions.py", "-c", str(config))
    assert "public.orders: 3 rows" in said
    assert project.rows("SELECT count(*) FROM raw_shop.customers") == [(3,)]


PYPROJECT = """
[project]
name = "scratch"
version = "0.1"
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "scratch"
"""
DEFINITIONS = """
from pathlib import Path
import dagster as dg

@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
SECOND = """
---
type: elt_dagster.SyncComponent
attributes:
  connections:
    - {name: other, connector: scripted, config: {password: PASSWORD}}
    - {name: warehouse, connector: duckdb, config: {path: warehouse.duckdb}}
  syncs:
    - {slug: other, connection: other, destination: warehouse, schema: raw_other, streams: [{name: public.orders}]}
"""


@pytest.fixture(scope="module")
def dg_project(tmp_path_factory: pytest.TempPathFactory) -> ShopProject:
    """A project as ``dg`` wants it, with one scaffolded component."""
    project = ShopProject.make(tmp_path_factory.mktemp("scratch"))
    package = project.folder / "src" / "scratch"
    (package / "defs").mkdir(parents=True)
    (project.folder / "pyproject.toml").write_text(PYPROJECT)
    (package / "__init__.py").touch()
    (package / "defs" / "__init__.py").touch()
    (package / "definitions.py").write_text(DEFINITIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(project.folder / "src"))
        project.command("dg", "scaffold", "defs", "elt_dagster.SyncComponent", "my_shop")
    return project


def defs_yaml(project: ShopProject) -> Path:
    return project.folder / "src" / "scratch" / "defs" / "my_shop" / "defs.yaml"


@pytest.fixture
def in_project(dg_project: ShopProject, monkeypatch: pytest.MonkeyPatch) -> ShopProject:
    monkeypatch.setenv("PYTHONPATH", str(dg_project.folder / "src"))
    return dg_project


@pytest.mark.again("what the other tests scaffold was found by its name")
def test_dg_finds_the_component(in_project: ShopProject) -> None:
    assert "elt_dagster.SyncComponent" in in_project.command("dg", "list", "components")


def test_what_was_scaffolded_runs_beside_a_second_document(in_project: ShopProject) -> None:
    yaml = defs_yaml(in_project)
    scaffolded = yaml.read_text()
    yaml.write_text(scaffolded + SECOND.replace("PASSWORD", "{env: PASSWORD}"))
    assert "All definitions loaded successfully" in in_project.command("dg", "check", "defs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PASSWORD", "x")
        in_one_process = '{"execution": {"config": {"in_process": {}}}}'  # three would import the same three times
        assets = "raw_my_shop/orders,raw_other/orders"
        in_project.command("dg", "launch", "--assets", assets, "--config-json", in_one_process)
    folder = in_project.folder
    project = ShopProject(folder, in_project.store)
    assert project.rows("SELECT sum(amount)::DOUBLE FROM raw_my_shop.orders") == [(19.5,)]
    # merge by the key that only the source knew: it was asked when the run began
    assert project.rows("SELECT count(*), count(_elt_run_id) FROM raw_other.orders") == [(3, 3)]
    yaml.write_text(scaffolded)


def test_a_literal_secret_in_the_file_is_refused(in_project: ShopProject) -> None:
    yaml = defs_yaml(in_project)
    scaffolded = yaml.read_text()
    yaml.write_text(scaffolded + SECOND.replace("PASSWORD", "hunter2"))
    said = in_project.command("dg", "check", "defs", ok=False)
    yaml.write_text(scaffolded)
    assert "`password: {env: OTHER_PASSWORD}`" in said.replace("\n", " ")
    assert "hunter2" not in said
