"""Snowflake signs the destination contract, against a stand-in, and keeps some promises of its own."""

import contextlib
import json
import logging
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
import sqlglot
from sqlglot import exp

from elt_dagster.destinations._snowflake_session import Session
from elt_dagster.destinations._snowflake_settings import SnowflakeConfig
from elt_dagster.destinations.base import DELETED_AT, TableRef
from elt_dagster.destinations.rejected import REASON, ROW, rejected_table
from elt_dagster.destinations.snowflake import Snowflake
from elt_dagster.errors import DestinationError, TransientError
from elt_dagster.model import Checkpoint, DeleteMode, LoadMode, SchemaDrift
from elt_dagster.model.types import JSON, TIMESTAMP_UTC, UUID
from elt_dagster.testing.destination import Bench, Capabilities, DestinationContract, batch_of, rows_of
from tests import snowflake_server


@pytest.fixture(scope="session")
def port() -> Iterator[int]:
    """Port of the stand-in."""
    with snowflake_server.running() as port:
        yield port


@pytest.fixture
def config(port: int) -> Iterator[dict[str, Any]]:
    """Settings of a database that no other test uses."""
    settings: dict[str, Any] = {
        "account": "standin", "user": "loader", "password": "SECRET", "warehouse": snowflake_server.WAREHOUSE,
        "database": f"db_{uuid.uuid4().hex[:8]}", "host": "127.0.0.1", "port": port, "protocol": "http",
        "login_timeout_seconds": 10, "network_timeout_seconds": 5,
    }  # fmt: skip
    yield settings
    execute({**settings, "database": "home"}, f"DROP DATABASE IF EXISTS {settings['database']}")


def execute(config: Mapping[str, Any], statement: str) -> None:
    with Session(SnowflakeConfig.model_validate(dict(config))) as session:
        session.run(statement)


@pytest.fixture
def bench(config: dict[str, Any]) -> Bench:
    return Bench(
        destination=Snowflake.configured(config), config=config, schema="s", can=Capabilities(),
        run_sql=lambda statement: execute(config, statement),
    )  # fmt: skip


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that is sent, PUT excepted, which no parser knows."""
    sent: list[str] = []
    plain = Session._executed

    def noted(session: Session, sql: str, parameters: Any) -> contextlib.AbstractContextManager[Any]:
        sent.append(sql)
        return plain(session, sql, parameters)

    monkeypatch.setattr(Session, "_executed", noted)
    return sent


@pytest.mark.emulated(
    reason="fakesnow is DuckDB behind Snowflake's HTTP interface; see tests/snowflake_server.py for what is made up beyond it"
)
@pytest.mark.again(reason="what a stand-in says of the rest has to be asked before a release, not before each commit")
class TestContract(DestinationContract):
    warehouse = Snowflake
    can = Capabilities(
        stand_in="fakesnow 0.12.1",
        unsupported={
            "test_a_schema_of_any_name_will_do": "the stand-in cannot work in a schema with a quote in its name"
        },
        many_columns=100,  # the stand-in takes seconds to parse a statement with more
        missing_types={
            "uint8": "Snowflake has no unsigned types; it comes back as int16",
            "uint16": "Snowflake has no unsigned types; it comes back as int32",
            "uint32": "Snowflake has no unsigned types; it comes back as int64",
            "uint64": "Snowflake has no unsigned types; it comes back as decimal(20,0)",
            "float": "FLOAT has 64 bits",
            "uuid": "kept as text",
            "interval": "kept as text",
            "json": "VARIANT keeps the value, not the text",
            "timestamp_ns": "the stand-in has microseconds only",
            "timestamp_ns_utc": "the stand-in has microseconds only",
        },
    )

    @pytest.fixture
    def config(self, config: dict[str, Any]) -> dict[str, Any]:
        return config

    def run_sql(self, config: Mapping[str, Any], statement: str) -> None:
        execute(config, statement)


APPEND, MERGE, REPLACE = LoadMode.APPEND, LoadMode.MERGE, LoadMode.REPLACE
ROWS = pa.schema([("id", pa.int64()), ("name", pa.string()), ("at", pa.int64())])
KEYED: dict[str, Any] = {"primary_key": ("id",), "cursor_field": "at"}


class Crash(Exception):  # noqa: N818 - it stands for a kill
    """The process dies here."""


@contextlib.contextmanager
def crash_at(monkeypatch: pytest.MonkeyPatch, word: str) -> Iterator[None]:
    """Die before the first statement that begins with ``word``, and stay dead."""
    plain = Session._executed

    def executed(session: Session, sql: str, parameters: Any) -> contextlib.AbstractContextManager[Any]:
        if sql.startswith(word):
            session.close()
            raise Crash
        return plain(session, sql, parameters)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_executed", executed)
        with pytest.raises(Crash):
            yield


# --- what is sent


def test_every_statement_is_snowflakes_to_a_parser_that_is_not_ours(bench: Bench, statements: list[str]) -> None:
    columns = pa.schema([*ROWS, pa.field("doc", JSON), pa.field("u", UUID), pa.field("t", TIMESTAMP_UTC)])
    wider = pa.schema([("id", pa.int64()), ("name", pa.string()), ("at", pa.float64()), ("new", pa.time64("us"))])
    marked = pa.schema([*ROWS, pa.field(DELETED_AT, TIMESTAMP_UTC)])
    more: dict[str, Any] = {"history": True, "deletes": DeleteMode.SOFT, **KEYED}
    bench.load(
        APPEND,
        [(1, "a", 1, "{}", None, None), (2, "b", 1, "{", None, None)],
        columns=columns,
        description="it's \\ a table",
    )
    bench.load(APPEND, [(1, "a", 1)], cursor_field="at", boundary=Checkpoint(1))
    bench.load(APPEND, [(1, "a", 1.5, None)], columns=wider)
    bench.load(MERGE, [(1, "a", 1, None)], columns=marked, table="kept", **more)
    bench.load(REPLACE, [(2, "b", 1, None)], columns=marked, table="kept", **more)
    bench.load(REPLACE, [(1, "a")], columns=pa.schema([("id", pa.int64()), ("name", pa.string())]))
    bench.destination.move_states([bench.move(Checkpoint(0))])
    bench.destination.read(bench.table(), where={"id": (0, 9)}).read_all()
    bench.destination.check()
    assert len(set(statements)) > 60
    for statement in set(statements):
        (parsed,) = sqlglot.parse(statement, read="snowflake")
        unknown = isinstance(parsed, exp.Command) and not statement.startswith("SHOW GRANTS")
        assert not unknown, f"not a statement of Snowflake: {statement}"


def test_no_value_is_in_a_statement_or_in_the_drivers_log(
    bench: Bench, statements: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        bench.load(MERGE, [(1, "SECRETROW", 1)], checkpoint=Checkpoint("SECRETROW"), primary_key=("id",))
        bench.destination.read(bench.table(), where={"name": ("SECRETROW", None)}).read_all()
    assert "SECRETROW" not in caplog.text
    assert "SECRETROW" not in "".join(statements)


def test_what_commits_by_itself_comes_before_the_transaction(bench: Bench, statements: list[str]) -> None:
    """CREATE, ALTER, DROP and COMMENT commit what is open: inside, they would take the rows apart from their state."""
    bench.load(MERGE, [(1, "a", 1)], history=True, **KEYED)
    wider = pa.schema([*ROWS, pa.field("new", pa.string())])
    bench.load(MERGE, [(1, "b", 2, "!")], columns=wider, history=True, **KEYED)
    inside, seen = False, []
    for statement in statements:
        inside = (inside or statement == "BEGIN") and statement != "COMMIT"
        if inside:
            seen.append(statement.split()[0])
    assert "MERGE" in seen
    assert not {"CREATE", "ALTER", "DROP", "COMMENT", "USE", "COPY"} & set(seen)


def test_a_load_leaves_no_table_of_its_own_behind(bench: Bench) -> None:
    for _ in range(2):
        bench.load(MERGE, [(1, "a", 1)], **KEYED)
    with Session(SnowflakeConfig.model_validate(dict(bench.config))) as session:
        names = {row["name"] for row in session.named('SHOW OBJECTS IN SCHEMA "s"')}
    assert names == {"orders", "_elt_state", "_elt_state_history"}


# --- crashes


@pytest.mark.parametrize("mode", list(LoadMode))
def test_a_crash_after_the_ddl_harms_nothing(bench: Bench, mode: LoadMode, monkeypatch: pytest.MonkeyPatch) -> None:
    with crash_at(monkeypatch, "BEGIN"):
        bench.load(mode, [(1, "a", 1)], **KEYED)
    assert bench.destination.states("s") == [], "a claim is no state"
    assert bench.rows() == []
    other = pa.schema([("id", pa.int64()), ("total", pa.float64())])
    bench.load(mode, [(1, 0.5)], columns=other, primary_key=("id",))
    assert bench.rows(columns=["id", "total"]) == [(1, 0.5)], "the empty table is ours, whatever the source has become"


def test_a_crash_before_the_commit_leaves_a_new_column_and_no_row(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.load(MERGE, [(1, "a", 1)], checkpoint=Checkpoint(1), **KEYED)
    wider = pa.schema([*ROWS, pa.field("new", pa.string())])
    with crash_at(monkeypatch, "COMMIT"):
        bench.load(MERGE, [(1, "b", 2, "!")], columns=wider, checkpoint=Checkpoint(2), **KEYED)
    assert bench.rows() == [(1, "a", 1, None)]
    assert bench.cursor() == 1
    bench.load(MERGE, [(1, "b", 2, "!")], columns=wider, checkpoint=Checkpoint(2), **KEYED)
    assert bench.rows() == [(1, "b", 2, "!")]


def test_a_refresh_into_another_shape_that_dies_halfway_loses_and_doubles_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed: dict[str, Any] = {"cursor_field": "at", "boundary": Checkpoint(1)}
    bench.load(APPEND, [(1, "a", 1)], checkpoint=Checkpoint(1), cursor_field="at")
    shape = pa.schema([("id", pa.int64()), ("at", pa.int64())])
    late = bench.destination.begin(bench.plan(APPEND, cursor_field="at"))
    with crash_at(monkeypatch, 'SELECT COUNT(*) FROM "s"."orders"'):
        bench.load(REPLACE, [(1, 1), (2, 2)], columns=shape, checkpoint=Checkpoint(2))
    assert bench.cursor() == 1
    with late, pytest.raises(TransientError, match="changed by"):
        late.commit(Checkpoint(9))
    bench.load(REPLACE, [(1, 1), (2, 2)], columns=shape, checkpoint=Checkpoint(2))
    bench.load(APPEND, [(1, 1), (2, 2), (3, 3)], columns=shape, checkpoint=Checkpoint(3), **resumed)
    assert bench.rows() == [(1, 1), (2, 2), (3, 3)]


def test_a_history_table_that_a_crash_left_empty_still_gets_every_row(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.load(MERGE, [(1, "a", 1), (2, "b", 1)], **KEYED)
    with crash_at(monkeypatch, "BEGIN"):
        bench.load(MERGE, [(2, "B", 2)], history=True, **KEYED)
    bench.load(MERGE, [(2, "B", 2)], history=True, **KEYED)
    assert bench.rows("orders__history", ["id", "name"]) == [(1, "a"), (2, "B")]


# --- two at once


@pytest.mark.emulated(
    reason="the stand-in lets transactions wait for each other as a whole, Snowflake locks micro-partitions"
)
@pytest.mark.parametrize("loaded_before", [True, False])
def test_of_two_loads_that_commit_at_once_one_is_refused(bench: Bench, loaded_before: bool) -> None:
    if loaded_before:
        bench.load(APPEND, [(1, "a", 1)])
    loads = [bench.destination.begin(bench.plan(APPEND)) for _ in range(2)]
    for load in loads:
        load.stage(batch_of([(2, "b", 2)]))
    with ThreadPoolExecutor(2) as pool:
        errors = [commit.exception() for commit in [pool.submit(load.commit, None) for load in loads]]
    for load in loads:
        load.abort()
    assert [type(e) for e in errors if e] == [TransientError]
    assert bench.rows() == ([(1, "a", 1)] if loaded_before else []) + [(2, "b", 2)]


def test_the_state_is_locked_and_then_read_by_a_statement_of_its_own(bench: Bench, statements: list[str]) -> None:
    bench.load(APPEND, [(1, "a", 1)])
    first = [s.split()[0] for s in statements[statements.index("BEGIN") :]]
    assert first == ["BEGIN", "INSERT", "SELECT", "UPDATE", "SELECT", "DELETE", "INSERT", "INSERT", "DELETE", "COMMIT"]
    claim = next(n for n, s in enumerate(statements) if s.startswith("INSERT"))
    assert claim < statements.index("BEGIN"), "there must be a row to lock"


# --- values


def test_json_keeps_its_value(bench: Bench) -> None:
    columns = pa.schema([("id", pa.int64()), ("doc", JSON)])
    docs = ['{"b": [1, null, "x"], "a": 1.25}', "null", '"text"', "[]", "12345678901234567890", None]
    bench.load(APPEND, list(enumerate(docs)), columns=columns)
    found = dict(bench.rows())
    assert [json.loads(found[n]) if found[n] is not None else None for n in range(len(docs))] == [
        json.loads(d) if d is not None else None for d in docs
    ]
    assert found[1] is not None, "JSON's null is a value"


def test_uuids_and_intervals_are_kept_as_text(bench: Bench) -> None:
    interval = pa.month_day_nano_interval()
    columns = pa.schema([("u", UUID), ("i", interval)])
    bench.load(APPEND, [(uuid.UUID("31c163d7-daf0-42a8-bffc-9dc39f065f33"), (14, -3, 1_000))], columns=columns)
    assert bench.rows() == [("31c163d7-daf0-42a8-bffc-9dc39f065f33", "P14M-3DT0.000001S")]


def test_a_date_that_snowflake_cannot_hold_is_set_aside(bench: Bench) -> None:
    columns = pa.schema([("id", pa.int64()), ("born", pa.date32())])
    born = pa.array([0, 2_932_897], pa.int32()).view(pa.date32())
    batch = pa.RecordBatch.from_arrays([pa.array([1, 2], pa.int64()), born], schema=columns)
    with bench.destination.begin(bench.plan(APPEND, columns)) as load:
        load.stage(batch)
        done = load.commit(None)
    assert (done.inserted, done.rejected) == (1, 1)
    ((row, reason),) = rows_of(bench.destination.read(rejected_table(bench.table()), [ROW, REASON]).read_all())
    assert (json.loads(row)["id"], "born" in reason) == (2, True)


def test_a_strangers_short_text_grows_or_rejects(bench: Bench) -> None:
    columns = pa.schema([("id", pa.int64()), ("name", pa.string())])
    for table in ("grows", "rejects"):
        bench.run_sql('CREATE SCHEMA IF NOT EXISTS "s"')
        bench.run_sql(f'CREATE TABLE "s"."{table}" ("id" INTEGER, "name" VARCHAR(3))')
    assert bench.load(APPEND, [(1, "longer")], columns=columns, table="grows").rejected == 0
    done = bench.load(APPEND, [(1, "longer"), (2, "abc")], columns=columns, table="rejects", drift=SchemaDrift.DISCARD)
    assert (done.inserted, done.rejected) == (1, 1)


def test_a_rebuilt_table_keeps_its_comments(bench: Bench) -> None:
    described = pa.schema([pa.field("id", pa.int64(), metadata={"description": "the key"}), pa.field("v", pa.int64())])
    bench.load(APPEND, [(1, 1)], columns=described, description="numbers")
    texts = pa.schema([described.field("id"), pa.field("v", pa.string())])
    bench.load(APPEND, [(2, "two")], columns=texts, description="numbers")
    found = bench.destination.columns(bench.table())
    assert found is not None
    assert (found.field("id").metadata or {}).get(b"description") == b"the key"
    assert bench.rows() == [(1, "1"), (2, "two")]


# --- reading


def test_a_reader_needs_no_connection(bench: Bench) -> None:
    bench.load(APPEND, [(n, "x", n) for n in range(5)])
    reader = bench.destination.read(bench.table(), ["id"])
    execute(bench.config, 'DROP TABLE "s"."orders"')
    assert reader.read_all().num_rows == 5


def test_a_value_that_its_type_cannot_hold_is_told_by_column_alone(bench: Bench) -> None:
    bench.run_sql('CREATE SCHEMA "s"')
    bench.run_sql('CREATE TABLE "s"."small" ("n" NUMBER(3,0))')
    bench.run_sql('INSERT INTO "s"."small" VALUES (987)')
    with pytest.raises(DestinationError, match="'n'") as error:
        bench.destination.read(TableRef("s", "small")).read_all()
    assert "987" not in str(error.value)
