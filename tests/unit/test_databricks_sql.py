"""Every statement that loads send, before judges: sqlglot's Databricks dialect, and Spark's own parser where pyspark is installed."""

import re
import uuid
from typing import Any

import pyarrow as pa
import pytest
import sqlglot
from sqlglot import exp

from elt_dagster.destinations.base import RowRange
from elt_dagster.destinations.databricks import Databricks
from elt_dagster.model import Checkpoint, DeleteMode, LoadMode, SchemaDrift
from elt_dagster.model.types import JSON, TIMESTAMP_UTC, UUID, column
from elt_dagster.testing._destination_bench import ROWS
from elt_dagster.testing._destination_versions import AUGUST, DATED, JULY, MARKED, NOON, SEPTEMBER
from elt_dagster.testing.destination import Bench, Capabilities
from tests import databricks_standin as standin
from tests.contract.test_databricks import workspace  # noqa: F401 - a fixture
from tests.databricks_standin.engine import parts_of

APPEND, MERGE, REPLACE = LoadMode.APPEND, LoadMode.MERGE, LoadMode.REPLACE
KEYED: dict[str, Any] = {"primary_key": ("id",), "cursor_field": "at"}
pytestmark = [pytest.mark.timeout(120), pytest.mark.again("two other parsers read what the stand-in has run already")]
UNKNOWN_TO_SPARK = re.compile(r"CREATE VOLUME")
"""What Databricks has and Spark has not, beside the frame of a transaction."""


def load_all_ways(bench: Bench) -> None:
    """One load of each kind."""
    described = pa.schema([column("id", pa.int64(), description="it's"), *list(ROWS)[1:]])
    bench.load(APPEND, [(1, "a", 1)], cursor_field="at", description="orders", checkpoint=Checkpoint(1))
    bench.load(
        APPEND,
        [(1, "a", 1), (2, "b", 2)],
        columns=described,
        cursor_field="at",
        boundary=Checkpoint(1),
        description="new",
    )
    bench.load(MERGE, [(1, "A", 3), (3, "c", 3)], history=True, **KEYED)
    bench.load(MERGE, [(1, None, 4, NOON)], arriving=MARKED, history=True, **KEYED)
    bench.load(REPLACE, [(1, "a", 1)], history=True, reset_history=True, **KEYED)
    bench.load(REPLACE, [("x", 1.5)], columns=pa.schema([("id", pa.string()), ("new;column", pa.float64())]))
    odd = pa.schema(
        [("u", UUID), ("t", pa.time64("us")), ("i", pa.month_day_nano_interval()), ("at", TIMESTAMP_UTC), ("doc", JSON)]
    )
    bench.load(
        APPEND,
        [(uuid.UUID(int=1), None, (1, 2, 3000), JULY, "{}"), (None, None, None, None, "{")],
        columns=odd,
        table="odd",
    )
    bench.load(APPEND, [(None, None, None, "text", None)], columns=odd.set(3, pa.field("at", pa.string())), table="odd")
    soft: dict[str, Any] = {"columns": MARKED, "deletes": DeleteMode.SOFT, "table": "soft", **KEYED}
    bench.load(MERGE, [(1, "a", 1, None), (2, "b", 1, NOON)], **soft)
    bench.load(REPLACE, [(1, "A", 2, None)], **soft)
    dated: dict[str, Any] = {"columns": DATED, "primary_key": ("id",), "table": "dated"}
    bench.load(APPEND, [(1, "a", JULY), (1, "b", AUGUST)], **dated)
    bench.load(APPEND, [(2, "b", AUGUST)], replaces=RowRange("day", AUGUST, SEPTEMBER), **dated)
    bench.load(MERGE, [(1, "b", AUGUST)], replaces=RowRange("day", AUGUST, SEPTEMBER), **dated)
    narrow = pa.schema([("id", pa.int16())])
    bench.load(APPEND, [(1,)], columns=narrow, table="narrow")
    bench.load(APPEND, [(70_000,)], columns=pa.schema([("id", pa.int32())]), drift=SchemaDrift.DISCARD, table="narrow")
    bench.load(APPEND, [(70_000,)], columns=pa.schema([("id", pa.int32())]), table="narrow")
    bench.load(APPEND, [(1, "new")], columns=pa.schema([("id", pa.int32()), ("more", pa.string())]), table="narrow")
    list(bench.destination.read(bench.table("dated"), ["id"], {"day": (JULY, AUGUST), "name": ("a", None)}))
    bench.destination.move_states([bench.move(Checkpoint(0))])
    bench.destination.history(bench.schema, "binding-orders")


@pytest.fixture(scope="module")
def statements(workspace: standin.Workspace) -> list[str]:  # noqa: F811
    """Each kind of statement once: names of loads and schemas made alike."""
    found: dict[str, str] = {}
    for settings in ({"transactions": "atomic"}, {"transactions": "idempotent"}):
        schema = f"j_{uuid.uuid4().hex[:8]}"
        config = workspace.config(**settings)
        bench = Bench(
            destination=Databricks.configured(config), config=config, schema=schema, can=Capabilities(), run_sql=lambda _: None
        )  # fmt: skip
        load_all_ways(bench)
        for statement in workspace.seen():
            if schema in statement:
                for part in singles(statement):
                    alike = re.sub(r"[0-9a-f]{32}|j_[0-9a-f]{8}|\d{8}T\d{6}|\d{4}-\d\d-\d\d [0-9:.+]+", "x", part)
                    found.setdefault(alike, part)
    return list(found.values())


def singles(statement: str) -> list[str]:
    """The statements of a transaction, each by itself; its conditions as queries."""
    block = re.fullmatch(r"BEGIN ATOMIC\n(.*)\nEND", statement, re.S)
    if not block:
        return [statement]
    found = []
    for part in parts_of(block[1]):
        condition = re.fullmatch(r"IF (.*) THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '[^']*'; END IF", part, re.S)
        found.append(f"SELECT {condition[1]}" if condition else part)
    return found


def test_there_is_something_to_judge(statements: list[str]) -> None:
    for word in (
        "MERGE INTO",
        "INSERT OVERWRITE",
        "CREATE OR REPLACE TABLE",
        "read_files",
        "NOT MATCHED BY SOURCE",
        "ALTER COLUMN",
        "ADD COLUMNS",
    ):
        assert any(word in s for s in statements), word


def test_sqlglot_reads_every_statement(statements: list[str]) -> None:
    for statement in statements:
        if UNKNOWN_TO_SPARK.match(statement):
            continue
        parsed = sqlglot.parse_one(re.sub(" AS JSON$", "", statement), read="databricks")
        assert not isinstance(parsed, exp.Command) or statement.startswith(("ALTER TABLE", "SHOW", "DESCRIBE")), (
            statement
        )


@pytest.mark.slow
def test_sparks_own_parser_reads_every_statement(statements: list[str]) -> None:
    pyspark = pytest.importorskip("pyspark.sql", reason="pyspark is not installed")
    spark = pyspark.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        parser = spark._jsparkSession.sessionState().sqlParser()
        wrong: list[str] = []
        for statement in statements:
            if not UNKNOWN_TO_SPARK.match(statement):
                try:
                    parser.parsePlan(statement)
                except Exception as error:
                    wrong.append(f"{statement}\n{str(error)[:500]}")
        assert wrong == []
    finally:
        spark.stop()
