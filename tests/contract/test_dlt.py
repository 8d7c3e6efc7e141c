"""dlt as a warehouse signs the destination contract on DuckDB; what it cannot do is declared, and fails as declared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

from elt_dagster.destinations.dlt import Dlt
from elt_dagster.testing.destination import Capabilities, DestinationContract


def settings(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {
        "destination": "duckdb",
        "credentials": str(tmp_path / "x.duckdb"),
        "working_directory": str(tmp_path / "work"),
        **more,
    }


class TestDltOnDuckDB(DestinationContract):
    warehouse = Dlt
    can = Capabilities()

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        return settings(tmp_path)

    def run_sql(self, config: Mapping[str, Any], statement: str) -> None:
        with duckdb.connect(config["credentials"]) as connection:
            connection.execute(statement)
