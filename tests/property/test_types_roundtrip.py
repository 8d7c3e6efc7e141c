"""Properties of types: every value comes back from a warehouse, and widening loses none."""

import json
import uuid
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elt_dagster.destinations._duckdb_types import DIALECT, converted, folded
from elt_dagster.destinations.drift import widen
from elt_dagster.destinations.duckdb import DuckDB
from elt_dagster.destinations.files import IN_MEMORY_BYTES, Staging
from elt_dagster.errors import DestinationError
from elt_dagster.model import Checkpoint, LoadMode
from elt_dagster.model.types import JSON, TIMESTAMP, TIMESTAMP_UTC, UUID, type_name
from elt_dagster.testing.destination import Bench, Capabilities, array_of

# DuckDB keeps the two ends of a timestamp's range for infinity, and its nanoseconds begin in 1677.
NS = st.integers(-(2**63) + 10**9, 2**63 - 10**9)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
DOCUMENT = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
VALUES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.bool_(), st.booleans()),
    *((kind, st.integers(-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1))
      for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())),
    *((kind, st.integers(0, 2**kind.bit_width - 1)) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())),
    (pa.float32(), st.floats(width=32, allow_nan=False)),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.decimal128(12, 2), st.integers(-(10**12) + 1, 10**12 - 1).map(lambda n: Decimal(n).scaleb(-2))),
    (pa.decimal128(38, 0), st.integers(-(10**37), 10**37).map(Decimal)),
    (pa.string(), TEXT),
    (JSON, DOCUMENT.map(json.dumps)),
    (UUID, st.uuids(allow_nil=True)),
    (pa.binary(), st.binary(max_size=20)),
    (pa.date32(), st.dates()),
    (pa.time64("us"), st.times()),
    (TIMESTAMP, st.datetimes()),
    (TIMESTAMP_UTC, st.datetimes(timezones=st.just(UTC))),
    (pa.timestamp("ns"), NS),
    (pa.timestamp("ns", "UTC"), NS),
    (pa.month_day_nano_interval(), st.tuples(
        st.integers(-1000, 1000), st.integers(-10_000, 10_000), st.integers(-(10**12), 10**12).map(lambda n: n * 1_000))),
]  # fmt: skip
SAMPLES: dict[pa.DataType, list[Any]] = {
    pa.bool_(): [True, False], pa.int8(): [-128, 127], pa.int32(): [-(2**31), 2**31 - 1], pa.int64(): [-(2**63), 2**63 - 1],
    pa.uint8(): [255], pa.uint32(): [2**32 - 1], pa.uint64(): [2**64 - 1], pa.float32(): [0.5, float("nan")],
    pa.float64(): [1e300, -0.25, float("inf"), float("nan")], pa.decimal128(10, 4): [Decimal("-123456.7891")],
    pa.decimal128(38, 20): [Decimal("123456789012345678.12345678901234567890")], pa.string(): ['a"b\\', "", "{}"],
    JSON: ['{"a":[1]}', "null"], UUID: [uuid.UUID(int=7)], pa.binary(): [b"\x00\xff"], pa.date32(): [date(1, 1, 1), date(2026, 2, 28)],
    pa.time64("us"): [1], TIMESTAMP: [datetime(2026, 1, 1, 1, 2, 3, 4)], TIMESTAMP_UTC: [datetime(2026, 1, 1, tzinfo=UTC)],
    pa.timestamp("ns"): [123456789], pa.timestamp("ns", "UTC"): [1], pa.month_day_nano_interval(): [(1, -2, 3_000)],
}  # fmt: skip


def bench_in(folder: str) -> Bench:
    config = {"path": f"{folder}/w.duckdb"}
    return Bench(
        destination=DuckDB.configured(config), config=config, schema="s", can=Capabilities(), run_sql=lambda _: None
    )


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_any_table_comes_back(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=8))
    rows = data.draw(st.integers(0, 5))
    arrays = [
        array_of(data.draw(st.lists(st.none() | values, min_size=rows, max_size=rows)), kind) for kind, values in chosen
    ]
    schema = pa.schema([("n", pa.int64()), *((f"c{i}", kind) for i, (kind, _) in enumerate(chosen))])
    sent = pa.RecordBatch.from_arrays([pa.array(range(rows), pa.int64()), *arrays], schema=schema)
    with TemporaryDirectory() as folder:
        bench = bench_in(folder)
        with bench.destination.begin(bench.plan(LoadMode.REPLACE, schema)) as load:
            load.stage(sent.slice(0, rows // 2))
            load.stage(sent.slice(rows // 2))
            load.commit(None)
        found = bench.destination.read(bench.table()).read_all()
    assert found.schema.equals(schema)
    assert found.sort_by("n").equals(pa.Table.from_batches([sent]))


@pytest.mark.parametrize("in_files", [False, True])
def test_a_staged_file_and_a_staged_table_are_the_same(tmp_path: Path, *, in_files: bool) -> None:
    ready = [(kind, values) for kind, values in SAMPLES.items() if kind not in (pa.float32(), pa.float64())]
    schema = pa.schema([(f"c{i}", kind) for i, (kind, _) in enumerate(ready)])
    sent = pa.RecordBatch.from_arrays([array_of([*v, None, None][:2], k) for k, v in ready], schema=schema)
    bench = bench_in(str(tmp_path))
    filler = pa.RecordBatch.from_arrays([pa.array(["x" * IN_MEMORY_BYTES])], names=["filler"])
    with bench.destination.begin(bench.plan(LoadMode.APPEND, schema)) as load:
        for batch in (sent, *([filler] if in_files else []), sent):
            load.stage(batch)
        load.commit(None)
    found = bench.destination.read(bench.table(), schema.names).read_all().cast(schema)
    texts = Counter(repr(row) for row in found.to_pylist())
    wanted = Counter(repr(row) for row in sent.to_pylist() * 2)
    if in_files:
        wanted[repr(dict.fromkeys(schema.names))] += 1
    assert texts == wanted


def test_staged_rows_keep_their_number_across_files_and_memory(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "stage", "load", number_rows=True)
    big = pa.RecordBatch.from_arrays([pa.array(["x" * 3_000_000] * 7)], names=["a"])
    for batch in (big, big.slice(0, 2), pa.RecordBatch.from_arrays([pa.array([1, 2])], names=["a"])):
        staging.add(batch)
    numbers = [n for part in staging.parts() for n in table_of(part.data)["_elt_arrival"].to_pylist()]
    assert numbers == list(range(11))
    staging.clear()
    assert list(tmp_path.iterdir()) == []


def table_of(data: Any) -> pa.Table:
    from pyarrow import parquet

    return data if isinstance(data, pa.Table) else parquet.read_table(data)


# --- widening


def test_widening_is_symmetric_idempotent_and_settles() -> None:
    for first, second in product(SAMPLES, repeat=2):
        wide = widen(first, second)
        assert wide == widen(second, first)
        assert widen(first, first) == first
        if wide is not None:
            assert widen(wide, first) == widen(wide, second) == wide


def test_a_third_type_leads_to_the_same_place_by_either_way() -> None:
    chain = [pa.null(), pa.bool_(), pa.int16(), pa.int64(), pa.decimal128(20, 2), pa.float64(), pa.string(), JSON]
    for first, second, third in product(chain, repeat=3):
        left, right = widen(first, second), widen(second, third)
        assert left is not None
        assert right is not None
        assert widen(left, third) == widen(first, right)
        assert widen(first, second) == max(first, second, key=chain.index) or pa.types.is_decimal(left)


PAIRS = [(a, b) for a, b in product(SAMPLES, repeat=2) if a != b and widen(a, b) == b]


@pytest.mark.parametrize(("kind", "to"), PAIRS, ids=type_name)
def test_every_widening_has_a_cast_that_fails_on_nothing_and_keeps_rows_apart(
    kind: pa.DataType, to: pa.DataType
) -> None:
    # Nanoseconds begin in 1677; that an earlier date refuses to become one is a test of its own.
    values = [v for v in SAMPLES[kind] if not (type_name(to).startswith("timestamp_ns") and v == date(1, 1, 1))]
    rows = pa.table({"v": array_of(values, kind)})
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"CREATE TABLE narrow (v {DIALECT.column_type(kind)})")
        connection.execute("INSERT INTO narrow FROM rows")
        wide = converted("v", kind, to)
        found = connection.sql(
            f"SELECT count(w), count(DISTINCT w), any_value(typeof(w)) FROM (SELECT {wide} AS w FROM narrow)"
        )
        assert found.fetchall()[0][:2] == (rows.num_rows, rows.num_rows)
        connection.execute(f"ALTER TABLE narrow ALTER COLUMN v TYPE {DIALECT.column_type(to)} USING {wide}")


def test_a_value_that_does_not_fit_the_wider_type_refuses_the_load(tmp_path: Path) -> None:
    bench = bench_in(str(tmp_path))
    bench.load(LoadMode.APPEND, [(date(1, 1, 1),)], columns=pa.schema([("day", pa.date32())]))
    with pytest.raises(DestinationError, match="day"):
        bench.load(LoadMode.APPEND, [(1,)], columns=pa.schema([("day", pa.timestamp("ns"))]))
    assert bench.rows() == [(date(1, 1, 1),)]


@given(st.text(), st.text())
def test_names_that_fold_alike_are_one_name_to_duckdb(first: str, second: str) -> None:
    assert folded(folded(first)) == folded(first)
    if first.isascii() and second.isascii():
        assert (folded(first) == folded(second)) == (first.lower() == second.lower())


# --- resuming


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("ab")), max_size=12), st.data())
@settings(max_examples=10, deadline=None)
def test_resuming_inclusively_from_any_checkpoint_appends_every_row_once(
    events: list[tuple[int, str]], data: st.DataObject
) -> None:
    """A source in cursor order with ties and equal rows, read in any chunks, stopped anywhere, any number of times."""
    source = sorted(events)
    schema = pa.schema([("at", pa.int64()), ("what", pa.string())])
    with TemporaryDirectory() as folder:
        bench = bench_in(folder)
        for last in (False, False, True):
            at = bench.cursor()
            unread = [e for e in source if at is None or e[0] >= at]
            plan = bench.plan(
                LoadMode.APPEND, schema, cursor_field="at", boundary=Checkpoint(at) if at is not None else None
            )
            with bench.destination.begin(plan) as load:
                while unread:
                    size = data.draw(st.integers(1, 5))
                    chunk, unread = unread[:size], unread[size:]
                    load.stage(
                        pa.RecordBatch.from_arrays([pa.array(c) for c in zip(*chunk, strict=True)], schema=schema)
                    )
                    if not last and data.draw(st.booleans()):
                        break  # the process dies here: what is staged is lost
                    load.commit(Checkpoint(chunk[-1][0]))
        if not source:
            return
        assert bench.rows() == sorted(source, key=repr)
