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
reason, and nowhere else: no test is overridden or skipped.
"""

import uuid
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from elt_dagster.destinations.base import Destination
from elt_dagster.errors import EltError
from elt_dagster.testing._destination_bench import Bench, Capabilities, array_of, batch_of, rows_of
from elt_dagster.testing._destination_loads import LoadTests
from elt_dagster.testing._destination_tables import TableTests
from elt_dagster.testing._destination_versions import VersionTests

__all__ = ["Bench", "Capabilities", "DestinationContract", "array_of", "batch_of", "rows_of"]


REFUSALS = (EltError, AssertionError, pytest.fail.Exception, NotImplementedError)
"""How a test may fail that is declared as unsupported; anything else is a bug."""
TESTS = frozenset(
    name for part in (LoadTests, TableTests, VersionTests) for name in vars(part) if name.startswith("test_")
)
"""The names of the contract's tests."""


class DestinationContract(LoadTests, TableTests, VersionTests):
    """What `elt_dagster.destinations.base` promises, as tests."""

    warehouse: ClassVar[type[Destination[Any]]]
    can: ClassVar[Capabilities] = Capabilities()
    variant: ClassVar[str] = ""
    """What this is beside the warehouse's title, where one warehouse signs several times."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if overridden := sorted(name for name in vars(cls) if name in TESTS):
            raise TypeError(f"{cls.__name__} overrides {', '.join(overridden)}: declare it as unsupported instead.")
        if unknown := sorted({name.partition("[")[0] for name in cls.can.unsupported} - TESTS):
            raise TypeError(f"{cls.__name__} declares tests that the contract does not have: {', '.join(unknown)}.")

    @pytest.fixture(autouse=True)
    def _expect_what_is_declared(self, request: pytest.FixtureRequest) -> None:
        """A test whose failure is declared has to fail, for the declared kind of reason."""
        test, _, parameter = request.node.name.partition("[")
        if test in TESTS and (reason := self.can.refusal(test, parameter.removesuffix("]"))) is not None:
            request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True, raises=REFUSALS))

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
