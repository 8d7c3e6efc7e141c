"""What is imported when: names are there for whoever asks, and a code server does not wait for what it has no need of."""

import ast
import subprocess
import sys
from pathlib import Path

import elt_dagster
from elt_dagster import sdk

HEAVY = ("httpx", "duckdb", "pyarrow.compute", "asyncpg", "rich", "pandas", "fastapi", "simdjson", "cryptography")


def told_to_type_checkers(module: Path) -> dict[str, str]:
    """Name by name, the module that a file imports it from for type checkers alone."""
    blocks = [n for n in ast.parse(module.read_text()).body if isinstance(n, ast.If)]
    (block,) = [b for b in blocks if isinstance(b.test, ast.Name) and b.test.id == "TYPE_CHECKING"]
    imports = [n for n in block.body if isinstance(n, ast.ImportFrom)]
    return {alias.name: str(n.module) for n in imports for alias in n.names}


def test_what_a_connector_imports_is_what_type_checkers_are_told() -> None:
    told = told_to_type_checkers(Path(str(sdk.__file__)))
    assert told == sdk._LAZY
    assert told.keys() <= set(sdk.__all__)
    for name in sdk.__all__:
        assert getattr(sdk, name) is not None
    assert {name: getattr(sdk, name).__module__ for name in ("Http", "RestConnector", "Vault")} == {
        "Http": "elt_dagster.sdk.http",
        "RestConnector": "elt_dagster.sdk.rest",
        "Vault": "elt_dagster.sdk.vault",
    }


def test_what_a_project_imports_is_what_type_checkers_are_told() -> None:
    told = told_to_type_checkers(Path(str(elt_dagster.__file__)))
    assert told == elt_dagster._LAZY
    for name in elt_dagster.__all__:
        assert getattr(elt_dagster, name) is not None


def test_a_code_server_imports_no_client_and_no_engine() -> None:
    code = (
        f"import sys, elt_dagster.orchestration.definitions; print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
