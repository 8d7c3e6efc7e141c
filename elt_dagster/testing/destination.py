"""The contract every warehouse signs: one class of tests, inherited.

```python
class TestDuckDB(DestinationContract):
    warehouse = DuckDB

    @pytest.fixture
    def config(self, tmp_path):
        return {"path": str(tmp_path / "warehouse.duckdb")}

    def run_sql(self, bench, statement): ...
```
Each test takes a `Bench`: a configured warehouse with a schema of its own. What a warehouse cannot do is declared in its `Capabilities`, with the
reason, and nowhere else.
"""

import uuid
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from elt_dagster.destinations.base import Destination
from elt_dagster.testing._destination_bench import Bench, Capabilities, array_of, batch_of, rows_of
from elt_dagster.testing._destination_loads import LoadTests
from elt_dagster.testing._destination_tables import TableTests
from elt_dagster.testing._destination_versions import VersionTests

__all__ = ["Bench", "Capabilities", "DestinationContract", "array_of", "batch_of", "rows_of"]


class DestinationContract(LoadTests, TableTests, VersionTests):
    """What `elt_dagster.destinations.base` promises, as tests."""

    warehouse: ClassVar[type[Destination[Any]]]
    can: ClassVar[Capabilities] = Capabilities()

    @pytest.fixture
    def config(self) -> Mapping[str, Any]:
        """The warehouse's settings; each test gets what no other test sees."""
        raise NotImplementedError

    def run_sql(self, config: Mapping[str, Any], statement: str) -> None:
        """Execute ``statement`` in the warehouse without our code."""
        raise NotImplementedError

    @pytest.fixture
    def bench(self, config: Mapping[str, Any]) -> Bench:
        """The warehouse under test."""
        return Bench(
            destination=self.warehouse.configured(config),
            config=config,
            schema=f"s_{uuid.uuid4().hex[:8]}",
            can=self.can,
            run_sql=lambda statement: self.run_sql(config, statement),
        )
