"""Imports point one way; importing the package is cheap."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_imports_point_downwards() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_importing_the_package_imports_no_driver_and_no_connector() -> None:
    code = (
        "import sys, elt_dagster, elt_dagster.registry as r; r.connector_names(); r.destination_names();"
        "heavy = {'dagster', 'duckdb', 'asyncpg', 'pandas', 'polars', 's3fs', 'sqlalchemy'} & set(sys.modules);"
        "loaded = [m for m in sys.modules if m.startswith('elt_dagster.connectors.')];"
        "assert not heavy, heavy; assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
