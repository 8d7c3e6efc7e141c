"""PostgreSQL signs the destination contract, and keeps some promises of its own."""

import gc
import json
import logging
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elt_dagster.destinations._postgres_encode import encoded
from elt_dagster.destinations._postgres_session import JOIN_MEMORY, Session, roomy
from elt_dagster.destinations._postgres_settings import PostgresConfig
from elt_dagster.destinations.base import DELETED_AT, VALID_FROM, VALID_TO, RowRange
from elt_dagster.destinations.history import history_table
from elt_dagster.destinations.postgres import Postgres
from elt_dagster.destinations.rejected import REASON, ROW, rejected_table
from elt_dagster.errors import AuthError, ConfigError, ContractError, DestinationError, EltError, TransientError
from elt_dagster.model import Checkpoint, DeleteMode, LoadMode, SchemaDrift
from elt_dagster.model.types import JSON, TIMESTAMP_UTC
from elt_dagster.sdk.connector import Runtime
from elt_dagster.testing._destination_bench import ROWS
from elt_dagster.testing._processes import preload
from elt_dagster.testing.destination import Bench, Capabilities, DestinationContract, batch_of, rows_of

preload("elt_dagster.destinations.postgres", "asyncpg")
_WIDER = "PostgreSQL has no such type; the column is the next wider one, and the values are the same"
_MICROSECONDS = "PostgreSQL counts microseconds"


def config_of(url: str, **more: Any) -> dict[str, Any]:
    """A database's URL as settings."""
    parts = urlsplit(url)
    return {
        "host": parts.hostname, "port": parts.port, "database": parts.path[1:], "user": parts.username,
        "password": parts.password, "sslmode": "disable", **more,
    }  # fmt: skip


def execute(config: Mapping[str, Any], statement: str, *, fetch: bool = False) -> Any:
    """Run a statement as a stranger would."""
    connection = psycopg2.connect(
        host=config["host"],
        port=config["port"],
        dbname=config["database"],
        user=config["user"],
        password=config["password"],
    )
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if fetch else None
    finally:
        connection.close()


class TestPostgres(DestinationContract):
    warehouse = Postgres
    can = Capabilities(
        missing_types={
            **dict.fromkeys(("int8", "uint8", "uint16", "uint32", "uint64"), _WIDER),
            **dict.fromkeys(("timestamp_ns", "timestamp_ns_utc"), _MICROSECONDS),
        }
    )

    @pytest.fixture
    def config(self, postgres_database: str) -> dict[str, Any]:
        return config_of(postgres_database)

    def run_sql(self, config: Mapping[str, Any], statement: str) -> None:
        execute(config, statement)


def bench_of(config: Mapping[str, Any], schema: str = "s") -> Bench:
    """A bench on any settings."""
    return Bench(
        destination=Postgres.configured(config), config=config, schema=schema, can=Capabilities(),
        run_sql=lambda statement: execute(config, statement),
    )  # fmt: skip


@pytest.fixture
def config(postgres_database: str) -> dict[str, Any]:
    return config_of(postgres_database)


@pytest.fixture
def bench(config: dict[str, Any]) -> Bench:
    return bench_of(config)


@pytest.fixture
def guest(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Settings of a role that may log in and nothing else."""
    role = f"guest_{uuid.uuid4().hex[:8]}"
    execute(config, f"CREATE ROLE {role} LOGIN PASSWORD 'guest'")
    execute(config, f"REVOKE ALL ON DATABASE {config['database']} FROM PUBLIC")
    execute(config, f"GRANT CONNECT ON DATABASE {config['database']} TO {role}")
    yield {**config, "user": role, "password": "guest"}
    execute(config, f"DROP OWNED BY {role} CASCADE")
    execute(config, f"DROP ROLE {role}")


def connections(config: Mapping[str, Any], state: str = "%") -> int:
    """How many connections of ours the server has, waiting a little for those that are just going."""
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        f"AND application_name = 'elt_dagster destination' AND state LIKE '{state}'"
    )
    for _ in range(50):
        if not (found := execute(config, sql, fetch=True)[0][0]):
            break
        time.sleep(0.02)
    return int(found)


# --- values


DECIMALS = (
    (1, 0),
    (4, 4),
    (9, 0),
    (15, 2),
    (17, 17),
    (18, 0),
    (18, 18),
    (18, 1),
    (19, 4),
    (20, 0),
    (38, 0),
    (38, 9),
    (38, 38),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_decimals_of_any_size_are_exact(bench: Bench, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 6))
    arrays, fields = [pa.array(range(rows), pa.int64())], [pa.field("n", pa.int64())]
    for precision, scale in DECIMALS:
        kind = pa.decimal128(precision, scale)
        unscaled = st.integers(-(10**precision) + 1, 10**precision - 1) | st.none()
        values = data.draw(st.lists(unscaled, min_size=rows, max_size=rows))
        exact = [None if v is None else Decimal((int(v < 0), tuple(map(int, str(abs(v)))), -scale)) for v in values]
        arrays.append(pa.array(exact, kind))
        fields.append(pa.field(f"d_{precision}_{scale}", kind))
    sent = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
    load_batch(bench, sent, LoadMode.REPLACE)
    found = bench.destination.read(bench.table()).read_all().sort_by("n")
    assert found.combine_chunks().to_batches()[0].equals(sent)


def load_batch(bench: Bench, batch: pa.RecordBatch, mode: LoadMode = LoadMode.APPEND) -> None:
    """One load of one batch."""
    with bench.destination.begin(bench.plan(mode, batch.schema)) as load:
        load.stage(batch)
        load.commit(None)


def test_every_type_survives_a_slice_with_and_without_nulls() -> None:
    """The encoder reads buffers, and so must mind where a slice begins and what lies under a NULL."""
    columns: dict[str, pa.Array] = {
        "bool": pa.array([True, False, None, True]), "int": pa.array([1, 2, None, 4], pa.int16()),
        "dec": pa.array([Decimal("1.50"), Decimal("-2.25"), None, Decimal("3.75")], pa.decimal128(9, 2)),
        "wide": pa.array([Decimal(1), Decimal(-2), None, Decimal(3)], pa.decimal128(30, 0)),
        "span": pa.array([(1, 2, 3000), (4, -5, -6000), None, (7, 8, 9000)], pa.month_day_nano_interval()),
        "text": pa.array(["a", "", None, "d"]), "at": pa.array([1, 2, None, 4], pa.timestamp("us")),
    }  # fmt: skip
    whole = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    for start, length in ((0, 4), (1, 3), (1, 1), (3, 1), (2, 1)):
        piece = whole.slice(start, length)
        rows = [bytes(encoded(whole.slice(start + i, 1).take(pa.array([0])))) for i in range(length)]
        assert bytes(encoded(piece)) == b"".join(rows)


def test_unsigned_integers_get_the_next_wider_column(bench: Bench) -> None:
    columns = pa.schema([("a", pa.uint8()), ("b", pa.uint16()), ("c", pa.uint32()), ("d", pa.uint64())])
    rows = [(255, 2**16 - 1, 2**32 - 1, 2**64 - 1)]
    for _ in range(2):  # the second load finds nothing to widen
        done = bench.load(LoadMode.MERGE, rows, columns=columns, primary_key=("d",), cursor_field="a")
        assert done.schema_changes == ()
    assert bench.rows() == [(255, 2**16 - 1, 2**32 - 1, Decimal(2**64 - 1))]
    assert bench.type_of("d") == pa.decimal128(20, 0)


def test_nanoseconds_are_cut_to_microseconds(bench: Bench) -> None:
    columns = pa.schema([("at", pa.timestamp("ns", "UTC"))])
    bench.load(LoadMode.APPEND, [(1_999,)], columns=columns)
    assert bench.rows() == [(datetime(1970, 1, 1, 0, 0, 0, 1, UTC),)]
    assert bench.load(LoadMode.APPEND, [(3_000,)], columns=columns).schema_changes == ()


TEXTS = pa.schema([("id", pa.int64()), ("note", pa.string()), ("doc", JSON)])


def rejected(bench: Bench) -> list[tuple[Any, str]]:
    """Rejected rows as plain data, with the reason, by their text."""
    found = bench.destination.read(rejected_table(bench.table()), [ROW, REASON]).read_all()
    return [(json.loads(row), reason) for row, reason in rows_of(found)]


@pytest.mark.parametrize("row", [(1, "SECRET\0", "{}"), (1, "", '{"SECRET": "\\u0000"}')])
def test_a_row_with_a_nul_character_is_set_aside(bench: Bench, row: tuple[Any, ...]) -> None:
    done = bench.load(LoadMode.APPEND, [row, (2, "b", "[]")], columns=TEXTS)
    assert (done.inserted, done.rejected) == (1, 1)
    assert bench.rows() == [(2, "b", "[]")]
    ((kept, reason),) = rejected(bench)
    assert reason == f"{'note' if row[1] else 'doc'} does not fit {'string' if row[1] else 'json'}"
    assert kept == {"id": 1, "note": row[1].replace("\0", "\\u0000"), "doc": {} if row[1] else row[2]}
    assert connections(bench.config) == 0


def test_nul_characters_are_removed_and_counted(config: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    bench = bench_of({**config, "nul_characters": "remove"})
    rows = [(1, "a\0b\0", '["\\u0000\\u0000x", "\\\\u0000"]'), (2, None, '{"k": "\\u0000"}'), (3, "c", None)]
    with caplog.at_level(logging.WARNING, "elt_dagster"):
        assert bench.load(LoadMode.APPEND, rows, columns=TEXTS).inserted == 3
    assert bench.rows() == [(1, "ab", '["x", "\\\\u0000"]'), (2, None, '{"k": ""}'), (3, "c", None)]
    assert "3 values" in caplog.text


@pytest.mark.parametrize(
    ("kind", "values"),
    [(pa.date32(), (2**31 - 1, -(2**31), -3_000_000)), (pa.timestamp("us"), (-(2**63), -3 * 10**17))],
)
def test_a_row_with_a_date_beyond_the_range_is_set_aside(
    bench: Bench, kind: pa.DataType, values: tuple[int, ...]
) -> None:
    """Whether it overflows here or is refused by the server, and whatever else is in its batch."""
    storage = pa.int32() if kind == pa.date32() else pa.int64()
    born = pa.array([*values, 0, None], storage).view(kind)
    with bench.destination.begin(bench.plan(LoadMode.APPEND, pa.schema([("born", kind)]))) as load:
        load.stage(pa.RecordBatch.from_arrays([born], names=["born"]))
        done = load.commit(None)
    assert (done.inserted, done.rejected) == (2, len(values))
    assert [reason.partition(" ")[0] for _, reason in rejected(bench)] == ["born"] * len(values)
    assert all(row["born"] for row, _ in rejected(bench))


def test_a_refusal_that_nobody_foresaw_costs_one_row(bench: Bench) -> None:
    """Python takes half a surrogate pair for JSON, and PostgreSQL does not; it takes a number that Python cannot hold."""
    docs = pa.schema([("id", pa.int64()), ("doc", JSON)])
    rows = [(n, '"\\ud800"' if n == 700 else "1e400") for n in range(1_000)]
    done = bench.load(LoadMode.APPEND, rows, columns=docs)
    assert (done.inserted, done.rejected) == (999, 1)
    assert rejected(bench) == [({"id": 700, "doc": '"\\ud800"'}, "doc does not fit json")]


def test_refused_rows_leave_the_order_of_the_others_alone(bench: Bench) -> None:
    batches = [[(1, "first", "{}"), (2, "\0", "{}")], [(1, "second", "{}"), (3, "", "{")], [(1, "last", "{}")]]
    with bench.destination.begin(bench.plan(LoadMode.MERGE, TEXTS, primary_key=("id",))) as load:
        for batch in batches:
            load.stage(batch_of(batch, TEXTS))
        done = load.commit(None)
        assert (done.inserted, done.rejected) == (1, 2)
        load.stage(batch_of([(4, "next", "{}")], TEXTS))
        assert load.commit(None).rejected == 0, "what one commit rejected is no concern of the next"
    assert bench.rows(columns=["id", "note"]) == [(1, "last"), (4, "next")]
    assert [row["id"] for row, _ in rejected(bench)] == [2, 3]


def test_text_too_long_for_an_adopted_column_is_set_aside(bench: Bench) -> None:
    execute(bench.config, "CREATE SCHEMA s; CREATE TABLE s.orders (id bigint, name varchar(3), at bigint)")
    done = bench.load(LoadMode.APPEND, [(1, "abc", 1), (2, "abcd", 2)])
    assert (done.inserted, done.rejected) == (1, 1)
    assert rejected(bench) == [({"id": 2, "name": "abcd", "at": 2}, "name does not fit character varying(3)")]


def test_a_rejected_row_keeps_what_json_has_no_words_for(bench: Bench) -> None:
    columns = [("id", pa.int64()), ("f", pa.float64()), ("b", pa.binary()), ("d", pa.decimal128(38, 2)),
               ("at", pa.timestamp("us", "UTC")), ("odd '$1 \"x\"", pa.string())]  # fmt: skip
    narrow = pa.schema([("id", pa.int16()), *columns[1:]])
    bench.load(LoadMode.APPEND, columns=narrow)
    big = Decimal("123456789012345678901234567890.12")
    row = (70_000, float("-inf"), b"\0\xff", big, datetime(2026, 1, 1, tzinfo=UTC), "\\ 'q'")
    done = bench.load(LoadMode.APPEND, [row, (1, *row[1:])], columns=pa.schema(columns), drift=SchemaDrift.DISCARD)
    assert (done.inserted, done.rejected) == (1, 1)
    ((kept, reason),) = rejected(bench)
    assert reason == "id does not fit int16"
    assert kept == {
        "id": 70_000, "f": "-Infinity", "b": "\\x00ff", "d": float(big), "at": "2026-01-01T00:00:00+00:00",
        "odd '$1 \"x\"": "\\ 'q'",
    }  # fmt: skip


def test_a_constraint_is_no_misfit(bench: Bench) -> None:
    execute(bench.config, "CREATE SCHEMA s; CREATE TABLE s.orders (id bigint, name text NOT NULL, at bigint)")
    with pytest.raises(DestinationError, match="name"):
        bench.load(LoadMode.APPEND, [(1, "a", 1), (2, None, 2)])
    assert bench.rows() == []
    assert bench.destination.columns(rejected_table(bench.table())) is None


def test_a_strangers_table_takes_no_rejected_rows(bench: Bench) -> None:
    bench.load(LoadMode.APPEND, [(1, "a", "{}")], columns=TEXTS)
    execute(bench.config, "CREATE TABLE s.orders__rejected (id bigint)")
    with pytest.raises(DestinationError, match="orders__rejected"):
        bench.load(LoadMode.APPEND, [(2, "\0", "{}"), (3, "c", "{}")], columns=TEXTS)
    assert bench.rows(columns=["id"]) == [(1,)]


def test_a_name_that_would_be_cut_is_refused(bench: Bench) -> None:
    with pytest.raises(DestinationError, match="63 bytes"):
        bench.destination.begin(bench.plan(LoadMode.APPEND, pa.schema([("ü" * 32, pa.int64())])))
    with pytest.raises(DestinationError, match="63 bytes"):
        bench.load(LoadMode.APPEND, [(1,)], columns=ROWS, arriving=pa.schema([("y" * 64, pa.int64())]))


# --- replacing


@pytest.mark.parametrize("how", ["delete", "truncate", "swap"])
def test_every_way_to_replace_keeps_grants_and_the_key_index(
    config: dict[str, Any], guest: dict[str, Any], how: str
) -> None:
    bench = bench_of({**config, "replace": how})
    key: dict[str, Any] = {"primary_key": ("id",), "deduplicate": True}
    bench.load(LoadMode.REPLACE, [(1, "a", 1), (2, "b", 2)], **key)
    execute(config, f"GRANT SELECT ON s.orders TO {guest['user']}; GRANT USAGE ON SCHEMA s TO {guest['user']}")
    done = bench.load(LoadMode.REPLACE, [(3, "c", 3)], **key)
    assert (done.inserted, done.deleted, done.table_rows) == (1, 2, 1)
    assert execute(guest, "SELECT id FROM s.orders", fetch=True) == [(3,)]
    assert execute(config, "SELECT count(*) FROM pg_indexes WHERE tablename = 'orders'", fetch=True) == [(1,)]


def test_replacing_by_delete_waits_for_no_reader_and_no_reader_for_it(config: dict[str, Any]) -> None:
    bench = bench_of({**config, "lock_timeout_seconds": 0.2})
    bench.load(LoadMode.REPLACE, [(1, "a", 1)])
    reader = psycopg2.connect(host=config["host"], port=config["port"], dbname=config["database"], user=config["user"],
                              password=config["password"])  # fmt: skip
    try:
        with reader.cursor() as cursor:
            cursor.execute("SELECT id FROM s.orders")  # its lock lasts until the transaction ends
            bench.load(LoadMode.REPLACE, [(2, "b", 2)])
            cursor.execute("SELECT id FROM s.orders")
            assert cursor.fetchall() == [(2,)]
            truncating = bench_of({**config, "lock_timeout_seconds": 0.2, "replace": "truncate"})
            with pytest.raises(TransientError, match="lock"):
                truncating.load(LoadMode.REPLACE, [(3, "c", 3)])
    finally:
        reader.close()
    assert bench.rows() == [(2, "b", 2)]


def test_a_swap_is_refused_under_a_view_that_it_names(config: dict[str, Any]) -> None:
    bench = bench_of({**config, "replace": "swap"})
    bench.load(LoadMode.REPLACE, [(1, "a", 1)])
    execute(config, "CREATE VIEW s.seen AS SELECT id FROM s.orders")
    with pytest.raises(DestinationError, match=r"s\.seen"):
        bench.load(LoadMode.REPLACE, [(2, "b", 2)])
    assert bench.rows() == [(1, "a", 1)]


@pytest.mark.parametrize("mode", [LoadMode.APPEND, LoadMode.REPLACE])
def test_a_type_change_under_a_view_names_the_view(bench: Bench, mode: LoadMode) -> None:
    bench.load(mode, [(1, "a", 1)])
    execute(bench.config, "CREATE VIEW s.seen AS SELECT at FROM s.orders")
    wider = pa.schema([("id", pa.int64()), ("name", pa.string()), ("at", pa.float64())])
    with pytest.raises(DestinationError, match=r"view s\.seen"):
        bench.load(mode, [(2, "b", 0.5)], columns=wider)
    assert bench.rows() == [(1, "a", 1)]


# --- rows that are gone


MARKED = pa.schema([*ROWS, pa.field(DELETED_AT, TIMESTAMP_UTC)])
STAMPED = pa.schema([*ROWS, ("_elt_loaded_at", TIMESTAMP_UTC), ("_elt_run_id", pa.string()), MARKED.field(DELETED_AT)])
KEY: dict[str, Any] = {"primary_key": ("id",)}
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_a_deleted_row_goes_as_often_as_it_is_there(bench: Bench) -> None:
    bench.load(LoadMode.APPEND, [(1, "a", 1), (1, "b", 1), (2, "x", 1), (2, "y", 1), (3, "c", 1)])
    rows = [(1, None, 2, NOON), (2, "z", 2, None), (8, None, 2, NOON), (9, None, 2, NOON)]
    done = bench.load(LoadMode.MERGE, rows, arriving=MARKED, **KEY)
    assert (done.inserted, done.updated, done.deleted) == (0, 1, 2)
    assert bench.rows() == [(2, "z", 2), (3, "c", 1)]


def test_a_mark_changes_nothing_but_our_own_columns(bench: Bench) -> None:
    soft: dict[str, Any] = {"columns": STAMPED, "deletes": DeleteMode.SOFT, **KEY}
    bench.load(LoadMode.MERGE, [(1, "a", 1, NOON, "first", None), (2, "b", 1, NOON, "first", None)], **soft)
    later = NOON + timedelta(hours=1)
    bench.load(LoadMode.MERGE, [(1, None, 9, later, "second", later)], **soft)
    assert bench.rows()[0] == (1, "a", 1, later, "second", later)
    bench.load(LoadMode.REPLACE, [(1, "a", 1, later, "third", None)], **soft, run_id="third")
    missed = bench.rows()[1]
    assert missed[:3] == (2, "b", 1)
    assert missed[3] == missed[5] > NOON, "the time of the commit"
    assert missed[4] == "third"


@pytest.mark.parametrize("drift", [SchemaDrift.DISCARD, SchemaDrift.FREEZE])
def test_our_own_column_comes_whatever_the_policy(bench: Bench, drift: SchemaDrift) -> None:
    bench.load(LoadMode.MERGE, [(1, "a", 1)], **KEY)
    done = bench.load(LoadMode.MERGE, [(1, None, 1, NOON)], columns=MARKED, deletes=DeleteMode.SOFT, drift=drift, **KEY)
    assert done.deleted == 1
    assert bench.rows() == [(1, "a", 1, NOON)]


@pytest.mark.parametrize("how", ["delete", "truncate", "swap"])
def test_a_refresh_that_keeps_rows_keeps_views_however_tables_are_replaced(config: dict[str, Any], how: str) -> None:
    bench = bench_of({**config, "replace": how})
    soft: dict[str, Any] = {"columns": MARKED, "deletes": DeleteMode.SOFT, **KEY}
    bench.load(LoadMode.REPLACE, [(1, "a", 1, None), (2, "b", 1, None)], **soft)
    execute(config, f"CREATE VIEW s.living AS SELECT id FROM s.orders WHERE {DELETED_AT} IS NULL")
    done = bench.load(LoadMode.REPLACE, [(2, "b", 1, None), (3, "c", 1, None)], **soft)
    assert (done.inserted, done.updated, done.deleted, done.table_rows) == (1, 0, 1, 3)
    assert execute(config, "SELECT id FROM s.living ORDER BY 1", fetch=True) == [(2,), (3,)]


def test_a_row_that_came_and_did_not_fit_is_not_missing(bench: Bench) -> None:
    narrow = MARKED.set(2, pa.field("at", pa.int16()))
    soft: dict[str, Any] = {"deletes": DeleteMode.SOFT, "drift": SchemaDrift.DISCARD, **KEY}
    bench.load(LoadMode.REPLACE, [(n, "a", 1, None) for n in (1, 2, 3)], columns=narrow, **soft)
    done = bench.load(LoadMode.REPLACE, [(1, "a", 1, None), (2, "a", 70_000, None)], columns=MARKED, **soft)
    assert (done.rejected, done.deleted) == (1, 1)
    found = bench.rows(columns=["id", "at", DELETED_AT])
    assert [(key, at, mark is None) for key, at, mark in found] == [(1, 1, True), (2, 1, True), (3, 1, False)]


def test_a_row_that_deletes_another_needs_to_fit_in_its_key_only(bench: Bench) -> None:
    bench.load(LoadMode.MERGE, [(1, "a", 1), (2, "b", 2)], columns=ROWS.set(2, pa.field("at", pa.int16())), **KEY)
    rows = [(1, "gone", 70_000, NOON), (2, "b", 70_000, None)]
    done = bench.load(LoadMode.MERGE, rows, arriving=MARKED, drift=SchemaDrift.DISCARD, cursor_field="at", **KEY)
    assert (done.deleted, done.rejected) == (1, 1)
    assert bench.rows() == [(2, "b", 2)]


def test_a_row_that_deletes_another_may_hold_what_no_column_takes(bench: Bench) -> None:
    bench.load(LoadMode.MERGE, [(n, "a", "{}") for n in (1, 2, 3)], columns=TEXTS, **KEY)
    marked = pa.schema([*TEXTS, MARKED.field(DELETED_AT)])
    rows = [(1, "\0", "{}", NOON), (2, "\0", "{", NOON), (3, "\0", "{}", None)]
    done = bench.load(LoadMode.MERGE, rows, columns=TEXTS, arriving=marked, **KEY)
    assert (done.deleted, done.rejected) == (2, 1)
    assert bench.rows(columns=["id"]) == [(3,)]


def test_rows_without_a_key_are_replaced_by_a_refresh_that_keeps_rows(bench: Bench) -> None:
    for _ in range(2):
        bench.load(LoadMode.REPLACE, [(None, "x", 1), (1, "a", 1)], deletes=DeleteMode.IGNORE, **KEY)
    assert bench.rows() == [(1, "a", 1), (None, "x", 1)]


def test_deletes_reach_every_partition(bench: Bench) -> None:
    """Rows of two partitions may have the same address."""
    execute(
        bench.config, "CREATE SCHEMA s; CREATE TABLE s.orders (id bigint, name text, at bigint) PARTITION BY LIST (id)"
    )
    for key in (1, 2):
        execute(bench.config, f"CREATE TABLE s.orders_{key} PARTITION OF s.orders FOR VALUES IN ({key})")
    bench.load(LoadMode.MERGE, [(1, "a", 1), (2, "b", 1)], **KEY)
    assert bench.load(LoadMode.MERGE, [(2, None, 1, NOON)], arriving=MARKED, **KEY).deleted == 1
    assert bench.rows() == [(1, "a", 1)]


# --- windows


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("us"), pa.timestamp("us", "UTC")])
def test_a_window_is_of_any_kind_of_time(bench: Bench, kind: pa.DataType) -> None:
    columns = pa.schema([("id", pa.int64()), ("day", kind)])
    days: list[Any] = [datetime(2026, 1, day, tzinfo=UTC if getattr(kind, "tz", None) else None) for day in (1, 2, 3)]
    bench.load(LoadMode.APPEND, list(enumerate(d.date() if kind == pa.date32() else d for d in days)), columns=columns)
    window = RowRange("day", datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC))
    done = bench.load(LoadMode.APPEND, columns=columns, replaces=window)
    assert (done.deleted, done.table_rows) == (1, 2)
    assert [row[0] for row in bench.rows()] == [0, 2]


def test_a_window_of_times_that_are_text_takes_what_is_a_time(bench: Bench) -> None:
    columns = pa.schema([("id", pa.int64()), ("day", pa.string())])
    days = ["2026-01-02T00:00:00Z", "2026-01-03 00:30:00+01:00", "2026-01-03", "soon", None, "2026-13-77", "2026-01-02"]
    bench.load(LoadMode.APPEND, list(enumerate(days)), columns=columns)
    window = RowRange("day", datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC))
    assert bench.load(LoadMode.APPEND, columns=columns, replaces=window).deleted == 3
    assert [row[0] for row in bench.rows()] == [2, 3, 4, 5]


@pytest.mark.parametrize(("column", "what"), [("id", "no times"), ("never", "no column")])
def test_a_window_of_what_is_no_time_is_refused(bench: Bench, column: str, what: str) -> None:
    bench.load(LoadMode.APPEND, [(1, "a", 1)])
    with pytest.raises(ConfigError, match=what):
        bench.load(LoadMode.APPEND, replaces=RowRange(column, NOON, NOON))
    assert bench.rows() == [(1, "a", 1)]


def test_a_window_is_committed_once(bench: Bench) -> None:
    columns = pa.schema([("id", pa.int64()), ("day", pa.date32())])
    plan = bench.plan(LoadMode.APPEND, columns, replaces=RowRange("day", NOON, NOON + timedelta(days=1)))
    with bench.destination.begin(plan) as load:
        load.commit(None)
        with pytest.raises(ContractError, match="window"):
            load.commit(None)


# --- history


def test_a_history_has_one_index_on_its_current_rows(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        bench.load(LoadMode.MERGE, [(1, name, 1)], history=True, **KEY)
    sql = "SELECT indexdef FROM pg_indexes WHERE tablename = 'orders__history'"
    ((found,),) = execute(bench.config, sql, fetch=True)
    assert found.endswith("(id) WHERE _is_current")


def test_of_rows_with_one_key_a_history_begins_with_the_newest(bench: Bench) -> None:
    bench.load(LoadMode.APPEND, [(1, "old", 1), (1, "new", 2), (None, "x", 1), (2, "b", 1)])
    bench.load(LoadMode.MERGE, [(2, "B", 2)], history=True, cursor_field="at", **KEY)
    assert bench.rows("orders__history", ["id", "name", "_is_current"]) == [(1, "new", True), (2, "B", True)]


def test_a_clock_that_was_set_back_makes_no_versions_overlap(config: dict[str, Any]) -> None:
    hours = iter([3, 1, 2, 4])
    runtime = Runtime(now=lambda: NOON + timedelta(hours=next(hours)))
    bench = replace(bench_of(config), destination=Postgres.configured(config, runtime))
    for name in ("a", "b", "c", "d"):
        bench.load(LoadMode.MERGE, [(1, name, 1)], history=True, **KEY)
    third, fourth = NOON + timedelta(hours=3), NOON + timedelta(hours=4)
    found = bench.rows("orders__history", ["name", VALID_FROM, VALID_TO])
    assert found == [("a", third, third), ("b", third, third), ("c", third, fourth), ("d", fourth, None)]


def test_a_full_refresh_mends_what_was_missed_without_a_history(bench: Bench) -> None:
    bench.load(LoadMode.MERGE, [(1, "a", 1), (2, "b", 1)], history=True, **KEY)
    bench.load(LoadMode.MERGE, [(1, "A", 2)], **KEY)
    bench.load(LoadMode.REPLACE, [(1, "A", 2), (2, "b", 1)], history=True, **KEY)
    found = bench.rows("orders__history", ["id", "name", "_is_current"])
    assert found == [(1, "A", True), (1, "a", False), (2, "b", True)]


@pytest.mark.parametrize("deletes", list(DeleteMode))
def test_a_history_sees_what_a_window_takes_and_nothing_else(bench: Bench, deletes: DeleteMode) -> None:
    dated = pa.schema([("id", pa.int64()), ("name", pa.string()), ("day", TIMESTAMP_UTC)])
    columns = dated.append(MARKED.field(DELETED_AT)) if deletes is DeleteMode.SOFT else dated
    more: dict[str, Any] = {"columns": columns, "arriving": dated, "deletes": deletes, "history": True, **KEY}
    later = NOON + timedelta(days=1)
    bench.load(LoadMode.MERGE, [(1, "a", NOON), (2, "b", NOON), (3, "c", later)], **more)
    bench.load(LoadMode.MERGE, [(2, "B", NOON), (3, "C", NOON)], replaces=RowRange("day", NOON, later), **more)
    found = bench.rows("orders__history", ["id", "name", "_is_current"])
    kept = deletes is DeleteMode.IGNORE
    assert found == [(1, "a", kept), (2, "B", True), (2, "b", False), (3, "C", True), (3, "c", False)]


def test_values_of_every_kind_are_no_new_version_when_they_come_again(bench: Bench) -> None:
    columns = pa.schema([
        ("id", pa.int64()), ("f", pa.float64()), ("doc", JSON), ("span", pa.month_day_nano_interval()), ("b", pa.binary()),
        ("d", pa.decimal128(20, 2)), ("at", TIMESTAMP_UTC), ("nothing", pa.null()), ("_elt_loaded_at", TIMESTAMP_UTC),
    ])  # fmt: skip
    later = NOON + timedelta(hours=1)

    def load(span: tuple[int, int, int], at: datetime) -> int:
        row = (1, float("nan"), '{"a": [1, null]}', span, b"\0", Decimal("1.10"), NOON, None, at)
        bench.load(LoadMode.MERGE, [row], columns=columns, history=True, **KEY)
        return bench.destination.count(history_table(bench.table()))

    assert load((1, 0, 0), NOON) == 1
    assert load((1, 0, 0), later) == 1, "when it was loaded is no content"
    assert load((0, 30, 0), later) == 2, "a month is not thirty days"


def test_a_new_beginning_keeps_what_others_hang_on_a_history(bench: Bench, guest: dict[str, Any]) -> None:
    bench.load(LoadMode.REPLACE, [(1, "a", 1)], history=True, **KEY)
    execute(
        bench.config,
        f"GRANT USAGE ON SCHEMA s TO {guest['user']}; GRANT SELECT ON s.orders__history TO {guest['user']}",
    )
    execute(bench.config, "CREATE VIEW s.versions AS SELECT id, name FROM s.orders__history")
    bench.load(LoadMode.REPLACE, [(1, "b", 1)], history=True, reset_history=True, **KEY)
    assert execute(guest, "SELECT name FROM s.orders__history", fetch=True) == [("b",)]
    assert execute(bench.config, "SELECT name FROM s.versions", fetch=True) == [("b",)]


def test_a_merge_that_fails_leaves_table_and_history(bench: Bench) -> None:
    bench.load(LoadMode.MERGE, [(1, "a", 1)], history=True, **KEY)
    execute(bench.config, "ALTER TABLE s.orders__history ADD CHECK (name <> 'no')")
    with pytest.raises(DestinationError):
        bench.load(LoadMode.MERGE, [(1, "no", 1), (2, "b", 1)], history=True, **KEY)
    assert bench.rows() == [(1, "a", 1)]
    assert bench.destination.count(history_table(bench.table())) == 1


@pytest.mark.parametrize("made", ["VIEW s.orders__history AS SELECT 1 AS id", "TABLE s.orders__history (id bigint)"])
def test_what_is_no_history_is_told_before_anything_is_read(bench: Bench, made: str) -> None:
    execute(bench.config, f"CREATE SCHEMA s; CREATE {made}")
    with pytest.raises(DestinationError, match="orders__history"):
        bench.destination.begin(bench.plan(LoadMode.MERGE, history=True, **KEY))


def test_a_role_that_may_not_make_the_history_is_told_so(bench: Bench, guest: dict[str, Any]) -> None:
    bench.load(LoadMode.MERGE, [(1, "a", 1)], **KEY)
    role = guest["user"]
    execute(
        bench.config,
        f"GRANT TEMPORARY ON DATABASE {bench.config['database']} TO {role}; GRANT USAGE ON SCHEMA s TO {role}",
    )
    execute(bench.config, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA s TO {role}")
    refused = Postgres.configured(guest)
    refused.begin(bench.plan(LoadMode.MERGE, **KEY)).abort()
    plan = bench.plan(LoadMode.MERGE, history=True, **KEY)
    with pytest.raises(DestinationError, match=r"tables in the schema s.*GRANT USAGE, CREATE"):
        refused.begin(plan)
    bench.load(LoadMode.MERGE, [(1, "b", 1)], history=True, **KEY)
    with pytest.raises(DestinationError, match=r"orders__history.*GRANT SELECT"):
        refused.begin(bench.plan(LoadMode.MERGE, history=True, **KEY))


# --- merging and appending


def test_a_merge_has_one_index_on_its_key(bench: Bench) -> None:
    for _ in range(2):
        bench.load(LoadMode.MERGE, [(1, "a", 1)], primary_key=("name", "id"))
    sql = "SELECT indexdef FROM pg_indexes WHERE tablename = 'orders'"
    found = execute(bench.config, sql, fetch=True)
    assert len(found) == 1
    assert found[0][0].endswith("(name, id)")


def test_a_merge_into_an_adopted_table_uses_its_primary_key(bench: Bench) -> None:
    execute(bench.config, "CREATE SCHEMA s; CREATE TABLE s.orders (id bigint PRIMARY KEY, name text, at bigint)")
    bench.load(LoadMode.MERGE, [(1, "a", 1)], primary_key=("id",))
    assert execute(bench.config, "SELECT count(*) FROM pg_indexes WHERE tablename = 'orders'", fetch=True) == [(1,)]


def test_a_merge_reaches_every_partition(bench: Bench) -> None:
    """Rows of two partitions may have the same address."""
    execute(
        bench.config, "CREATE SCHEMA s; CREATE TABLE s.orders (id bigint, name text, at bigint) PARTITION BY LIST (id)"
    )
    for key in (1, 2):
        execute(bench.config, f"CREATE TABLE s.orders_{key} PARTITION OF s.orders FOR VALUES IN ({key})")
    bench.load(LoadMode.MERGE, [(1, "a", 1), (2, "b", 1)], primary_key=("id",))
    done = bench.load(LoadMode.MERGE, [(1, "a", 1), (2, "B", 2)], primary_key=("id",))
    assert (done.inserted, done.updated) == (0, 1)
    assert bench.rows() == [(1, "a", 1), (2, "B", 2)]


def test_unchanged_rows_are_not_written(bench: Bench) -> None:
    rows = [(n, "x", n) for n in range(3_000)]
    bench.load(LoadMode.MERGE, rows, primary_key=("id",))
    before = execute(bench.config, "SELECT ctid::text, xmin::text FROM s.orders ORDER BY id", fetch=True)
    assert bench.load(LoadMode.MERGE, rows, primary_key=("id",)).updated == 0
    assert execute(bench.config, "SELECT ctid::text, xmin::text FROM s.orders ORDER BY id", fetch=True) == before


def changes_of_all_kinds() -> list[tuple[Any, ...]]:
    """Thousands of changed rows, and beside them unchanged, marked, new and keyless ones."""
    changed = [(n, "changed", 2, None) for n in range(2_500)]
    same = [(n, "old", 1, None) for n in range(2_500, 2_700)]
    marked = [(n, "old", 2, NOON) for n in range(2_700, 2_800)]
    new = [(n, "new", 2, None) for n in range(3_000, 3_500)]
    return [*changed, *same, *marked, *new, (9_000, "never here", 2, NOON), (None, "keyless", 2, None)]


@pytest.mark.parametrize("deletes", [DeleteMode.HARD, DeleteMode.SOFT])
@pytest.mark.parametrize("guarded", [False, True], ids=["replaced", "updated"])
def test_many_changes_are_counted_and_brought_in_exactly(bench: Bench, guarded: bool, deletes: DeleteMode) -> None:
    twins = [(n, "old", 1, None) for n in (1, 2, 2, 2_600)]
    columns = MARKED if deletes is DeleteMode.SOFT else ROWS
    old = [(n, "old", 1, None)[: len(columns)] for n in range(3_000)]
    bench.load(LoadMode.APPEND, [*old, *(row[: len(columns)] for row in twins)], columns=columns)
    if guarded:
        watch(bench, "UPDATE")
    done = bench.load(
        LoadMode.MERGE, changes_of_all_kinds(), columns=columns, arriving=MARKED, deletes=deletes, primary_key=("id",)
    )
    living = (
        {n: "old" for n in range(3_000)}
        | dict.fromkeys(range(2_500), "changed")
        | dict.fromkeys(range(3_000, 3_500), "new")
    )
    gone = [*range(2_700, 2_800)] if deletes is DeleteMode.HARD else []
    found = [row[:2] for row in bench.rows() if row[0] is not None and row[0] < 9_000]
    assert sorted(found) == sorted((n, name) for n, name in living.items() if n not in gone)
    never_here = 1 if deletes is DeleteMode.SOFT else 0
    assert (done.inserted, done.updated, done.deleted) == (501 + never_here, 2_501, 100)
    assert done.table_rows == len(found) + 1 + never_here


def watch(bench: Bench, event: str) -> None:
    """Note every row of s.orders to which ``event`` happens in s.noted."""
    execute(
        bench.config,
        f"CREATE TABLE s.noted (id bigint); "
        f"CREATE FUNCTION s.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO s.noted VALUES (OLD.id); RETURN NULL; END'; "
        f"CREATE TRIGGER noting AFTER {event} ON s.orders FOR EACH ROW EXECUTE FUNCTION s.note()",
    )


def test_a_trigger_sees_an_update_however_many_rows_change(bench: Bench) -> None:
    bench.load(LoadMode.MERGE, [(n, "a", 1) for n in range(2_500)], primary_key=("id",))
    watch(bench, "UPDATE")
    bench.load(LoadMode.MERGE, [(n, "b", 1) for n in range(2_500)], primary_key=("id",))
    assert execute(bench.config, "SELECT count(*) FROM s.noted", fetch=True) == [(2_500,)]


def test_many_changes_take_nothing_with_them_that_refers_to_the_rows(bench: Bench) -> None:
    execute(bench.config, "CREATE SCHEMA s; CREATE TABLE s.orders (id bigint PRIMARY KEY, name text, at bigint)")
    bench.load(LoadMode.MERGE, [(n, "a", 1) for n in range(2_500)], primary_key=("id",))
    execute(bench.config, "CREATE TABLE s.lines (id bigint REFERENCES s.orders ON DELETE CASCADE)")
    execute(bench.config, "INSERT INTO s.lines SELECT id FROM s.orders")
    assert bench.load(LoadMode.MERGE, [(n, "b", 1) for n in range(2_500)], primary_key=("id",)).updated == 2_500
    assert execute(bench.config, "SELECT count(*) FROM s.lines", fetch=True) == [(2_500,)]


def test_many_changes_keep_to_a_unique_key(bench: Bench) -> None:
    """What was there must be gone before what comes in its place arrives."""
    execute(bench.config, "CREATE SCHEMA s; CREATE TABLE s.orders (id bigint PRIMARY KEY, name text, at bigint)")
    bench.load(LoadMode.MERGE, [(n, "a", 1) for n in range(2_500)], primary_key=("id",))
    done = bench.load(LoadMode.MERGE, [(n, "b", 1) for n in range(3_000)], primary_key=("id",))
    assert (done.inserted, done.updated) == (500, 2_500)
    assert {name for _, name, _ in bench.rows()} == {"b"}


def test_a_large_join_has_room_where_the_rows_lie_in_no_order(bench: Bench) -> None:
    table, config = bench.table(), PostgresConfig.model_validate(bench.config)
    execute(
        bench.config,
        "CREATE SCHEMA s; CREATE TABLE s.orders AS SELECT n AS id, n * 7919 % 1000 AS mixed FROM generate_series(1, 1000) n",
    )
    execute(bench.config, "ANALYZE s.orders")

    def room(key: str, given: str = "4MB") -> str:
        execute(bench.config, f"ALTER DATABASE {config.database} SET work_mem = '{given}'")
        with Session(config, {}) as session, session.transaction():
            with roomy(session, table, key):
                found: str = session.value("SHOW work_mem")
            assert session.value("SHOW work_mem") == given
            return found

    assert room("mixed") == JOIN_MEMORY
    assert room("id") == "4MB", "rows that lie in order are walked along"
    assert room("mixed", "1GB") == "1GB", "what the server gives is not taken away"


def test_many_changes_reach_every_partition(bench: Bench) -> None:
    execute(
        bench.config, "CREATE SCHEMA s; CREATE TABLE s.orders (id bigint, name text, at bigint) PARTITION BY HASH (id)"
    )
    for part in (0, 1):
        execute(
            bench.config,
            f"CREATE TABLE s.part_{part} PARTITION OF s.orders FOR VALUES WITH (MODULUS 2, REMAINDER {part})",
        )
    bench.load(LoadMode.MERGE, [(n, "a", 1) for n in range(2_500)], primary_key=("id",))
    done = bench.load(LoadMode.MERGE, [(n, "b", 1) for n in range(2_500)], primary_key=("id",))
    assert (done.inserted, done.updated, done.table_rows) == (0, 2_500, 2_500)


# --- rights


def test_what_is_not_granted_is_told_with_the_grant_to_run(bench: Bench, guest: dict[str, Any]) -> None:
    role, plan = guest["user"], bench.plan(LoadMode.APPEND)
    refused = Postgres.configured(guest)

    def told(*words: str) -> None:
        with pytest.raises(EltError) as error:
            refused.begin(plan)
        assert not isinstance(error.value, TransientError)
        for word in (*words, "GRANT", role):
            assert word in str(error.value)

    assert "GRANT" in refused.check().message
    told("schema s", "CREATE ON DATABASE")
    execute(bench.config, "CREATE SCHEMA s")
    told("tables in the schema s", "ON SCHEMA")
    execute(bench.config, f"GRANT USAGE, CREATE ON SCHEMA s TO {role}")
    told("temporary tables", "TEMPORARY ON DATABASE")
    execute(bench.config, f"GRANT TEMPORARY ON DATABASE {bench.config['database']} TO {role}")
    assert refused.check().ok
    with refused.begin(plan) as load:
        load.stage(batch_of([(1, "a", 1)]))
        assert load.commit(None).inserted == 1
    execute(bench.config, "CREATE TABLE s.foreign_made (id bigint, name text, at bigint)")
    plan = bench.plan(LoadMode.APPEND, table="foreign_made")
    told("s.foreign_made", "INSERT")


def test_unlogged_staging_needs_no_temporary_and_leaves_nothing(config: dict[str, Any], guest: dict[str, Any]) -> None:
    execute(config, f"CREATE SCHEMA s; GRANT USAGE, CREATE ON SCHEMA s TO {guest['user']}")
    bench = bench_of({**guest, "staging": "unlogged"})
    bench.load(LoadMode.APPEND, [(1, "a", 1)])
    with bench.destination.begin(bench.plan(LoadMode.APPEND)) as load:
        load.stage(batch_of([(2, "b", 2)]))
        assert len(staging_tables(config)) == 1
    assert bench.rows() == [(1, "a", 1)]
    assert staging_tables(config) == []


def test_what_unlogged_staging_refuses_is_cleared_away_as_well(config: dict[str, Any]) -> None:
    bench = bench_of({**config, "staging": "unlogged"})
    rows = batch_of([(1, "\0", 1), (2, "b", 2)])
    with bench.destination.begin(bench.plan(LoadMode.APPEND)) as load:
        load.stage(rows)
        assert load.commit(None).rejected == 1
    assert staging_tables(config) == []
    with bench.destination.begin(bench.plan(LoadMode.APPEND)) as load:
        load.stage(rows)
        load.stage(batch_of([(3, "c", 3, 0)], pa.schema([*ROWS, pa.field("more", pa.int64())])))
        assert len(staging_tables(config)) > 2, "one for each shape, and one for what was refused"
    assert staging_tables(config) == []
    assert bench.rows() == [(2, "b", 2)]


def staging_tables(config: Mapping[str, Any]) -> list[Any]:
    sql = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE '\\_elt\\_stage\\_%' AND relpersistence = 'u'"
    found: list[Any] = execute(config, sql, fetch=True)
    return found


def test_a_sweep_takes_what_the_dead_left_and_nothing_else(config: dict[str, Any]) -> None:
    bench = bench_of({**config, "staging": "unlogged"})
    with bench.destination.begin(bench.plan(LoadMode.APPEND)) as alive:
        alive.stage(batch_of([(1, "a", 1)]))
        (mine,) = staging_tables(config)
        execute(config, "CREATE UNLOGGED TABLE s._elt_stage_0123456789ab_0 (id bigint)")
        bench.load(LoadMode.APPEND, [(2, "b", 2)], table="other")
        assert staging_tables(config) == [mine]
        assert alive.commit(None).inserted == 1


# --- connections


def test_while_rows_are_staged_no_transaction_is_open(bench: Bench) -> None:
    with bench.destination.begin(bench.plan(LoadMode.APPEND)) as load:
        for n in range(4):
            load.stage(batch_of([(n, "x" * 3_000_000, n)] * 3))
        assert connections(bench.config, "idle in transaction%") == 0
        load.commit(None)
    assert connections(bench.config) == 0


def test_of_two_loads_that_commit_at_once_one_is_refused(bench: Bench) -> None:
    bench.load(LoadMode.APPEND, [(1, "a", 1)])
    config = bench.config
    loads = [bench.destination.begin(bench.plan(LoadMode.APPEND)) for _ in range(2)]
    holder = psycopg2.connect(host=config["host"], port=config["port"], dbname=config["database"], user=config["user"],
                              password=config["password"])  # fmt: skip
    try:
        holder.cursor().execute(
            "LOCK TABLE s._elt_state IN EXCLUSIVE MODE"
        )  # stops both where they have looked and not yet written
        with ThreadPoolExecutor(2) as pool:
            for load in loads:
                load.stage(batch_of([(2, "b", 2)]))
            commits = [pool.submit(load.commit, None) for load in loads]
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            while execute(config, waiting, fetch=True)[0][0] < 2:
                time.sleep(0.02)
            holder.rollback()
            errors = [commit.exception() for commit in commits]
    finally:
        holder.close()
        for load in loads:
            load.abort()
    assert [type(e) for e in errors if e] == [TransientError]
    assert bench.rows() == [(1, "a", 1), (2, "b", 2)]


def test_a_lost_connection_is_transient_and_leaves_nothing(bench: Bench) -> None:
    bench.load(LoadMode.APPEND, [(1, "a", 1)], checkpoint=Checkpoint(1))
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'elt_dagster destination'"
    with bench.destination.begin(bench.plan(LoadMode.APPEND)) as load:
        load.stage(batch_of([(2, "b", 2)]))
        execute(bench.config, kill)
        with pytest.raises(TransientError):
            load.commit(Checkpoint(2))
    assert bench.rows() == [(1, "a", 1)]
    assert bench.cursor() == 1
    assert connections(bench.config) == 0


def test_a_commit_can_be_tried_again_after_somebody_let_go(config: dict[str, Any]) -> None:
    bench = bench_of({**config, "lock_timeout_seconds": 0.1})
    bench.load(LoadMode.APPEND, [(1, "a", 1)])
    wider = pa.schema([*ROWS, pa.field("extra", pa.int64())])
    reader = psycopg2.connect(host=config["host"], port=config["port"], dbname=config["database"], user=config["user"],
                              password=config["password"])  # fmt: skip
    try:
        with bench.destination.begin(bench.plan(LoadMode.APPEND, wider)) as load:
            load.stage(batch_of([(2, "b", 2, 3)], wider))
            reader.cursor().execute("SELECT id FROM s.orders")
            with pytest.raises(TransientError, match="lock_timeout"):
                load.commit(None)
            reader.rollback()
            assert load.commit(None).inserted == 1
    finally:
        reader.close()
    assert bench.rows() == [(1, "a", 1, None), (2, "b", 2, 3)]


def test_a_long_result_is_streamed_and_given_up_in_the_middle(bench: Bench) -> None:
    with bench.destination.begin(bench.plan(LoadMode.APPEND)) as load:
        for n in range(30):
            load.stage(batch_of([(n, "x" * 1_000_000, n)] * 3))
        load.commit(None)
    reader = bench.destination.read(bench.table())
    assert reader.read_next_batch().num_rows > 0
    assert connections(bench.config, "active") == 1
    del reader
    gc.collect()
    assert connections(bench.config) == 0
    assert bench.destination.read(bench.table(), ["id"]).read_all().num_rows == 90


@pytest.mark.parametrize(
    ("change", "kind", "word"),
    [
        ({"password": "wrong"}, AuthError, "password"),
        ({"database": "nowhere"}, ConfigError, "database"),
        ({"port": 1}, TransientError, "reached"),
        ({"sslmode": "verify-full", "sslrootcert": "/nowhere.pem"}, ConfigError, "sslrootcert"),
    ],
)
def test_a_connection_that_fails_says_who_has_to_act(
    config: dict[str, Any], change: dict[str, Any], kind: type[EltError], word: str
) -> None:
    destination = Postgres.configured({**config, **change})
    with pytest.raises(kind, match=word) as error:
        destination.states("s")
    answer = destination.check()
    assert not answer.ok
    assert config["password"] not in f"{error.value}{answer.message}"


def test_importing_the_module_imports_no_driver() -> None:
    code = (
        "import sys, elt_dagster.destinations.postgres; print([m for m in ('asyncpg', 'duckdb') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
