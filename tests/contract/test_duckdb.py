"""DuckDB signs the destination contract, and keeps some promises of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

from elt_dagster.destinations.duckdb import DuckDB
from elt_dagster.testing.destination import DestinationContract


class TestDuckDB(DestinationContract):
    warehouse = DuckDB

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        return {"path": str(tmp_path / "warehouse.duckdb")}

    def run_sql(self, config: Mapping[str, Any], statement: str) -> None:
        with duckdb.connect(config["path"]) as connection:
            connection.execute(statement)
