"""A project as ``create-dagster`` makes it, and a project that was there before us: the component, documents that share, merging."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from dagster.components.core.component_tree import ComponentTreeException

from elt_dagster import SyncComponent, SyncTranslator, build_definitions
from tests.integration.dagster_project import CUSTOMERS, ORDERS, ShopProject, shop


class Fresh:
    """A project of ``create-dagster project`` with one scaffolded sync and one subclass of the component."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "fresh"
        self.defs = self.root / "src" / "fresh" / "defs"
        self.home = folder / "home"

    def say(self, *words: str, ok: bool = True) -> str:
        """What a command says, in the project, both channels."""
        environ = {**os.environ, "DAGSTER_HOME": str(self.home), "PYTHONPATH": str(self.root / "src")}
        environ |= {"DO_NOT_TRACK": "1", "DAGSTER_DISABLE_TELEMETRY": "1", "COLUMNS": "200"}
        command = [str(Path(sys.executable).parent / words[0]), *words[1:]]
        folder = self.root if self.root.exists() else self.root.parent
        done = subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        said = done.stdout + done.stderr
        assert (done.returncode == 0) is ok, said
        return said


OWN = '''"""Our syncs: every asset has an owner and stands below one prefix."""

import elt_dagster


class OurTranslator(elt_dagster.SyncTranslator):
    def get_asset_spec(self, props):
        spec = super().get_asset_spec(props)
        return spec.replace_attributes(key=spec.key.with_prefix("lake"), owners=["team:data"])


class OurSync(elt_dagster.SyncComponent):
    """A sync as we want it."""

    def translator(self):
        return OurTranslator()
'''


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """Made once by the commands a person would type; everything a test changes is below a folder of its own."""
    project = Fresh(tmp_path_factory.mktemp("fresh"))
    project.home.mkdir()
    (project.home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    project.say("create-dagster", "project", "fresh", "--no-uv-sync")
    components = project.root / "src" / "fresh" / "components"
    components.mkdir(exist_ok=True)
    (components / "__init__.py").touch()
    (components / "our_sync.py").write_text(OWN)
    (project.defs / "executor.py").write_text(
        "import dagster as dg\n\ndefs = dg.Definitions(executor=dg.in_process_executor)\n"
    )
    project.say("dg", "scaffold", "defs", "elt_dagster.SyncComponent", "shop")
    project.say("dg", "scaffold", "defs", "fresh.components.our_sync.OurSync", "ours")
    return project


@pytest.mark.slow
@pytest.mark.again("a project made by create-dagster; test_dagster_commands has one made by hand")
def test_both_components_are_listed(fresh: Fresh) -> None:
    said = fresh.say("dg", "list", "components")
    assert "elt_dagster.SyncComponent" in said
    assert "fresh.components.our_sync.OurSync" in said


@pytest.mark.slow
@pytest.mark.again("a project made by create-dagster; test_dagster_commands has one made by hand")
def test_what_was_scaffolded_passes_every_check_and_is_loaded(fresh: Fresh) -> None:
    assert "All component YAML validated successfully" in fresh.say("dg", "check", "yaml")
    said = fresh.say("dg", "launch", "--assets", "raw_shop/orders,lake/raw_ours/orders")
    assert "RUN_SUCCESS" in said
    with duckdb.connect(str(fresh.root / "warehouse.duckdb")) as warehouse:
        for schema in ("raw_shop", "raw_ours"):
            assert warehouse.sql(f"SELECT sum(amount)::DOUBLE FROM {schema}.orders").fetchall() == [(19.5,)]


TRAP = """
import socket
import traceback

def refuse(self, address):
    if self.family != socket.AF_UNIX:
        with open({!r}, "a") as file:
            file.write("".join(traceback.format_stack()))
        raise OSError("no network here")

socket.socket.connect = refuse
"""


@pytest.mark.slow
@pytest.mark.again("a project made by create-dagster; test_dagster_commands has one made by hand")
def test_definitions_are_listed_without_a_network(fresh: Fresh) -> None:
    asked, trap = fresh.root / "asked.txt", fresh.root / "src" / "sitecustomize.py"
    trap.write_text(TRAP.format(str(asked)))
    said = fresh.say("dg", "list", "defs", "--json")
    assert '"raw_shop/orders"' in said
    assert '"lake/raw_ours/orders"' in said
    trap.unlink()
    assert not asked.exists(), asked.read_text()


@contextmanager
def documents(folder: Path, **texts: str) -> Iterator[dg.Definitions]:
    """Definitions of a project whose ``defs`` has these documents, loaded here; ``a__b`` is the folder ``a/b``."""
    package = f"docs_{folder.name.replace('-', '_')}"
    root = folder / "src" / package
    for name, text in texts.items():
        path = root / "defs" / name.replace("__", "/")
        path.mkdir(parents=True)
        (path / "defs.yaml").write_text(text)
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "{package}"\nversion = "0"\n[tool.dg]\ndirectory_type = "project"\n'
        f'[tool.dg.project]\nroot_module = "{package}"\n'
    )
    for place in (root, root / "defs"):
        (place / "__init__.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "src"))
        yield dg.load_from_defs_folder(path_within_project=root)
    for name in [n for n in sys.modules if n.startswith(package)]:
        del sys.modules[name]


def document(slug: str, more: str = "", connections: str = "", stream: str = "orders") -> str:
    """A SyncComponent that loads one stream into a schema of its own."""
    return (
        "type: elt_dagster.SyncComponent\nattributes:\n"
        + (f"  connections:\n{connections}" if connections else "")
        + more
        + f"  sync: {{slug: {slug}, connection: files, destination: warehouse, schema: raw_{slug}, streams: [{{name: {stream}}}]}}\n"
    )


def connections(folder: Path, warehouse: str = "w.duckdb", indent: str = "    ") -> str:
    """A folder of files and a DuckDB file."""
    return (
        f"{indent}- {{name: files, connector: files, config: {{url: '{folder}'}}}}\n"
        f"{indent}- {{name: warehouse, connector: duckdb, config: {{path: '{folder}/{warehouse}'}}}}\n"
    )


SHARED = "  connections_file: ../connections.yaml\n"


def test_documents_share_connections_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text("id\n1\n2\n")
    nested = document("b", SHARED.replace("../", "../../"))
    package = tmp_path / "src" / f"docs_{tmp_path.name}"
    (package / "defs").mkdir(parents=True)
    written = connections(tmp_path, indent="  ").replace(f"'{tmp_path}'", "'{{ context.project_root }}'")
    (package / "defs" / "connections.yaml").write_text(f"connections:\n{written}")
    with documents(tmp_path, a=document("a", SHARED), deeper__b=nested) as defs:
        job = defs.resolve_implicit_global_asset_job_def()
        assert job.execute_in_process().success
    with duckdb.connect(str(tmp_path / "w.duckdb")) as warehouse:
        assert warehouse.sql(
            "SELECT count(*) FROM raw_a.orders UNION ALL SELECT count(*) FROM raw_b.orders"
        ).fetchall() == [
            (2,),
            (2,),
        ]


def test_one_name_for_two_warehouses_is_answered_with_both_documents(tmp_path: Path) -> None:
    first = document("a", connections=connections(tmp_path))
    second = document("b", connections=connections(tmp_path, "other.duckdb"))
    with pytest.raises(ComponentTreeException) as error, documents(tmp_path, a=first, b=second) as defs:
        defs.resolve_all_job_defs()
    found = causes(error.value)
    assert "The connection 'warehouse'" in found
    assert "connections_file" in found


def test_one_slug_for_two_syncs_is_answered_with_both_documents(tmp_path: Path) -> None:
    first = document("a", connections=connections(tmp_path))
    second = document("a", connections=connections(tmp_path), stream="customers")
    with pytest.raises(ComponentTreeException) as error, documents(tmp_path, a=first, b=second) as defs:
        defs.resolve_all_job_defs()
    assert "The sync 'a'" in causes(error.value)


def test_a_missing_connections_file_is_said_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ComponentTreeException) as error, documents(tmp_path, a=document("a", SHARED)) as defs:
        defs.resolve_all_job_defs()
    assert "connections.yaml. Make it, or correct the path." in causes(error.value)


def causes(error: BaseException | None) -> str:
    """The messages of an error and of those behind it."""
    said: list[str] = []
    while error is not None:
        said.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(said)


def test_post_processing_sets_owners_and_tags(tmp_path: Path) -> None:
    after = 'post_processing:\n  assets:\n    - target: "*"\n      attributes: {owners: ["team:shop"], tags: {tier: gold}}\n'
    with documents(tmp_path, a=document("a", connections=connections(tmp_path)) + after) as defs:
        spec = defs.resolve_asset_graph().get(dg.AssetKey(["raw_a", "orders"]))
        assert list(spec.owners) == ["team:shop"]
        assert spec.tags["tier"] == "gold"
        assert spec.tags["elt/sync"] == "a"


def test_definitions_of_a_user_are_merged_with_ours(project: ShopProject) -> None:
    project.put(shop())

    @dg.asset(deps=[ORDERS])
    def report(mail: dg.ResourceParam[str]) -> str:
        return f"sent by {mail}"

    theirs = dg.Definitions(
        assets=[report],
        resources={"mail": dg.ResourceDefinition.hardcoded_resource("post")},
        jobs=[dg.define_asset_job("nightly", selection=dg.AssetSelection.assets(ORDERS, "report"))],
        executor=dg.in_process_executor,
    )
    defs = dg.Definitions.merge(build_definitions(project.url, executor=None), theirs)
    result = defs.resolve_job_def("nightly").execute_in_process()
    assert result.success
    assert result.asset_value("report") == "sent by post"
    assert project.rows("SELECT count(*) FROM raw_shop.orders") == [(3,)]
    assert defs.resolve_job_def("sync_shop").execute_in_process().success


def test_a_definitions_function_may_call_ours(project: ShopProject) -> None:
    project.put(shop())

    @dg.definitions
    def syncs() -> dg.Definitions:
        return build_definitions(project.url)

    assert ORDERS in syncs().resolve_asset_graph().get_all_asset_keys()


class Everything(SyncTranslator):
    """Changes all that may be changed, and differently for one connection."""

    def get_asset_spec(self, props: Any) -> dg.AssetSpec:
        spec = super().get_asset_spec(props)
        if props.sync.spec.connection != "shop-db":
            return spec
        deps = [dg.AssetDep(dep.asset_key.with_prefix("lake")) for dep in spec.deps]
        return spec.replace_attributes(
            key=spec.key.with_prefix("lake"),
            deps=deps,
            group_name="raw",
            owners=["team:data"],
            tags={**spec.tags, "tier": "1"},
        )


def test_a_translator_changes_keys_groups_owners_and_tags_of_one_connection(project: ShopProject) -> None:
    project.put(shop())
    seen: list[int] = []
    orders = ORDERS.with_prefix("lake")

    @dg.asset(ins={"orders": dg.AssetIn(key=orders)})
    def report(orders: Any) -> None:
        seen.append(orders.num_rows)

    ours = project.defs(translator=Everything())
    defs = dg.Definitions.merge(ours, dg.Definitions(assets=[report]))
    node = defs.resolve_asset_graph().get(orders)
    assert (node.group_name, list(node.owners), node.tags["tier"]) == ("raw", ["team:data"], "1")
    assert node.child_keys == {dg.AssetKey("report"), *children(project, "lake")}
    job = defs.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process().success
    assert seen == [3]
    assert project.rows("SELECT count(*) FROM raw_shop.orders") == [(3,)]


def children(project: ShopProject, prefix: str) -> set[dg.AssetKey]:
    """What hangs on orders without a translator, under the prefix: lineage must not depend on names."""
    plain = project.defs().resolve_asset_graph().get(ORDERS).child_keys
    assert CUSTOMERS not in plain
    return {key.with_prefix(prefix) for key in plain}


def test_a_component_with_its_own_translator_needs_one_method(tmp_path: Path) -> None:
    class Ours(SyncComponent):
        def translator(self) -> SyncTranslator:
            return Everything()

    assert isinstance(Ours(sync=None, syncs=[]).translator(), Everything)
    shutil.rmtree(tmp_path)
