"""The notebook that we show is run, cell by cell, where notebooks run their cells: inside an event loop, without an instance or a store."""

import ast
import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

import elt_dagster
from elt_dagster.errors import ConfigError
from tests.integration.dagster_project import CONNECTORS, REPOSITORY

NOTEBOOK = REPOSITORY / "examples" / "notebook.ipynb"


def cells() -> list[dict[str, Any]]:
    """The code of the notebook and what it showed when it was written."""
    found = json.loads(NOTEBOOK.read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def run_cells() -> list[pd.DataFrame]:
    """What each cell shows: the value of its last line, if that is an expression."""
    names: dict[str, Any] = {"__name__": "__main__"}
    shown: list[pd.DataFrame] = []

    async def kernel() -> None:
        for cell in cells():
            body = ast.parse("".join(cell["source"])).body
            last = body[-1] if isinstance(body[-1], ast.Expr) else None
            exec(compile(ast.Module(body[:-1] if last else body, []), "cell", "exec"), names)  # noqa: S102 - our own notebook
            if last is not None:
                shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))  # noqa: S307

    asyncio.run(kernel())
    return shown


def test_the_notebook_runs_and_shows_what_it_showed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY / "examples")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.delenv("ELT_DAGSTER_STORE", raising=False)
    shown = run_cells()
    kept = ["".join(o["data"]["text/plain"]) for c in cells() for o in c["outputs"] if "data" in o]
    assert kept == [str(frame) for frame in shown]
    revenue = next(f for f in shown if list(f.columns) == ["country", "amount"])
    assert dict(zip(revenue["country"], revenue["amount"].astype(float), strict=True)) == {"DK": 17.75, "SE": 27.0}


def inline(**config: Any) -> dict[str, Any]:
    """A project as a dict, with the scripted source."""
    return {
        "connections": [
            {"name": "shop-db", "connector": "scripted", "config": config},
            {"name": "warehouse", "connector": "duckdb", "config": {"path": f"{config['folder']}/w.duckdb"}},
        ],
        "syncs": [
            {
                "slug": "shop",
                "connection": "shop-db",
                "destination": "warehouse",
                "schema": "raw_shop",
                "streams": [{"name": "public.orders"}],
            }
        ],
    }


def test_a_dict_may_hold_a_secret_that_python_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELT_DAGSTER_CONNECTORS", str(CONNECTORS))
    written = inline(folder=str(tmp_path), password="canary-1")
    with dg.instance_for_test() as instance:
        result = dg.materialize(elt_dagster.sync_assets(written), instance=instance)
        assert result.success
        logged = "".join(str(entry) for entry in instance.all_logs(result.run_id))
    assert "canary-1" not in logged
    defs = elt_dagster.sync_definitions(written)
    table: Any = defs.load_asset_value(["raw_shop", "orders"], python_type=pd.DataFrame)
    assert len(table) == 3


def test_a_file_may_not_hold_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELT_DAGSTER_CONNECTORS", str(CONNECTORS))
    path = tmp_path / "shop.yaml"
    path.write_text(json.dumps(inline(folder=str(tmp_path), password="canary-1")))
    with pytest.raises(ConfigError, match=r"`password: \{env: SHOP_DB_PASSWORD\}`") as error:
        elt_dagster.sync_assets(path)
    assert "canary" not in str(error.value)


def test_what_cannot_be_understood_is_said_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the YAML:2:5: "):
        elt_dagster.sync_assets("syncs:\n  - slgu: shop\n")
    with pytest.raises(ConfigError, match=r"syncs\[0\]"):
        elt_dagster.sync_definitions({"syncs": [{"slug": "shop"}]})


IN_JUPYTER = """
import sys, types
from pathlib import Path
kernel = types.SimpleNamespace(config={"IPKernelApp": {}})
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: kernel)
from elt_dagster.destinations._duckdb_file import DatabaseFile
with DatabaseFile(path=Path(sys.argv[1]), memory_limit=None, threads=1, timeout=1).open(write=True) as session:
    print(session.value("SELECT 42"))
"""


def test_duckdb_opens_in_jupyter_without_its_widgets(tmp_path: Path) -> None:
    command = [sys.executable, "-c", IN_JUPYTER, str(tmp_path / "w.duckdb")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "42", done.stderr
