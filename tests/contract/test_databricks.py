"""Databricks signs the destination contract against the stand-in of `tests.databricks_standin`, with transactions and without, and keeps some promises of its own."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from elt_dagster.destinations.databricks import Databricks
from elt_dagster.testing._destination_bench import NASTY
from elt_dagster.testing.destination import Capabilities, DestinationContract
from tests.databricks_standin import Workspace, running

_WIDER = "Databricks has no such type; the column is the next wider one, and the values are the same"
_TEXT = "Databricks has no such type; the column is text, with the same values"
_MICROSECONDS = "Databricks counts microseconds"
pytestmark = pytest.mark.timeout(90)
CAN = Capabilities(
    stand_in="LakeSail behind a small REST workspace",
    missing_types={
        **dict.fromkeys(("uint8", "uint16", "uint32", "uint64"), _WIDER),
        **dict.fromkeys(("uuid", "time", "interval"), _TEXT),
        **dict.fromkeys(("timestamp_ns", "timestamp_ns_utc"), _MICROSECONDS),
        "json": "VARIANT keeps the value and spells it in its own way, without spaces",
    },
    unsupported={"test_a_schema_of_any_name_will_do": "Unity Catalog takes no spaces in the names of schemas"},
    many_columns=60,  # Sail plans a MERGE in quadratic time; Databricks takes thousands
    names=tuple(name for name in NASTY if not set(name) & set("./ ")),
)


@pytest.fixture(scope="session")
def workspace() -> Iterator[Workspace]:
    """One stand-in for all tests of a process."""
    with running() as found:
        yield found


def as_databricks(statement: str, catalog: str = "main") -> str:
    """A statement of the contract in Databricks's spelling, in ``catalog``."""
    name = r'"(?:[^"]|"")*"'
    placed = re.sub(rf"({name}\.{name})", rf'"{catalog}".\1', statement)
    placed = re.sub(rf"(CREATE SCHEMA )({name})", rf'\1"{catalog}".\2', placed)
    return re.sub(name, lambda m: "`" + m[0][1:-1].replace('""', '"') + "`", placed).replace("VARCHAR", "STRING")


class OnTheStandIn(DestinationContract):
    """The contract against the stand-in."""

    warehouse = Databricks
    can = CAN
    settings: Mapping[str, Any] = {}

    @pytest.fixture
    def config(self, workspace: Workspace) -> dict[str, Any]:
        return workspace.config(**self.settings)

    def run_sql(self, config: Mapping[str, Any], statement: str) -> None:
        Workspace(config["host"]).sql(as_databricks(statement, config["catalog"]))


@pytest.mark.emulated(
    reason="Sail has no transactions: the stand-in runs the statements of a block in order and cuts the logs back when one fails"
)
@pytest.mark.again(reason="what a stand-in says of the rest has to be asked before a release, not before each commit")
class TestDatabricks(OnTheStandIn):
    settings = {"transactions": "auto"}


@pytest.mark.again(reason="only commits differ")
class TestDatabricksWithoutTransactions(OnTheStandIn):
    variant = "without transactions"
    settings = {"catalog": "legacy"}
