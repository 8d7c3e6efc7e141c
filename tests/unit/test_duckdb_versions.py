"""Deletes, histories, windows and rejected rows in DuckDB, beyond the contract: against a model in Python, and at the edges."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elt_dagster.destinations.base import DELETED_AT, IS_CURRENT, VALID_FROM, VALID_TO, Committed, RowRange
from elt_dagster.destinations.duckdb import DuckDB
from elt_dagster.destinations.history import history_table
from elt_dagster.destinations.rejected import REASON, ROW, rejected_table
from elt_dagster.errors import ConfigError, DestinationError
from elt_dagster.model import DeleteMode, LoadMode, SchemaDrift
from elt_dagster.model.types import JSON, TIMESTAMP_UTC
from elt_dagster.sdk.connector import Runtime
from elt_dagster.testing.destination import Bench, Capabilities, batch_of, rows_of

APPEND, MERGE, REPLACE = LoadMode.APPEND, LoadMode.MERGE, LoadMode.REPLACE
HARD, SOFT, IGNORE = DeleteMode.HARD, DeleteMode.SOFT, DeleteMode.IGNORE
START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = [START + timedelta(days=n) for n in range(5)]
PLAIN = pa.schema([("id", pa.int64()), ("name", pa.string()), ("day", TIMESTAMP_UTC)])
MARKED = PLAIN.append(pa.field(DELETED_AT, TIMESTAMP_UTC))
KEYED: dict[str, Any] = {"primary_key": ("id",), "cursor_field": "day"}
NARROW = pa.schema([("id", pa.int64()), ("small", pa.int16())])
WIDE = pa.schema([("id", pa.int64()), ("small", pa.int64())])


def bench_in(folder: Path, runtime: Runtime | None = None) -> Bench:
    config = {"path": str(folder / "w.duckdb")}

    def run_sql(statement: str) -> None:
        with duckdb.connect(config["path"]) as connection:
            connection.execute(statement)

    return Bench(
        destination=DuckDB.configured(config, runtime), config=config, schema="raw", can=Capabilities(), run_sql=run_sql
    )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return bench_in(tmp_path)


def feed(bench: Bench, deletes: DeleteMode, *rows: tuple[Any, ...], mode: LoadMode = MERGE, **more: Any) -> Committed:
    columns = MARKED if deletes is SOFT else PLAIN
    return bench.load(mode, rows, columns=columns, arriving=MARKED, deletes=deletes, **{**KEYED, **more})


def versions(bench: Bench) -> list[tuple[Any, ...]]:
    columns = ["id", "name", "day", VALID_FROM, VALID_TO, IS_CURRENT]
    return rows_of(bench.destination.read(history_table(bench.table()), columns).read_all())


def rejected(bench: Bench) -> list[tuple[Any, str]]:
    found = bench.destination.read(rejected_table(bench.table()), [ROW, REASON]).read_all()
    return [(json.loads(row), reason) for row, reason in rows_of(found)]


# --- against a model

Content = tuple[Any, Any]
"""What a row says beside its key: name and day."""


class Model:
    """The table as {id: (content, whether it is marked)}, and each id's versions, the living one last."""

    def __init__(self, deletes: DeleteMode) -> None:
        self.deletes = deletes
        self.table: dict[int, tuple[Content, bool]] = {}
        self.ended: list[tuple[int, Content]] = []

    def load(self, mode: LoadMode, rows: list[tuple[Any, ...]], window: RowRange | None) -> None:
        before = self.alive()
        last: dict[int, tuple[Any, ...]] = {}
        for row in rows:
            if row[0] not in last or row[2] >= last[row[0]][2]:
                last[row[0]] = row
        everything = mode is REPLACE
        missed = [
            key for key, ((_, day), _) in self.table.items()
            if everything or (window is not None and window.start <= day < window.end)
        ]  # fmt: skip
        if self.deletes is HARD:
            for key in missed:
                del self.table[key]
        for key, (_, name, day, mark) in last.items():
            self._take(key, (name, day), marked=mark is not None)
        if self.deletes is SOFT:
            for key in missed:
                if key not in last:
                    self.table[key] = (self.table[key][0], True)
        after = self.alive()
        self.ended += [(key, content) for key, content in before.items() if after.get(key) != content]

    def _take(self, key: int, content: Content, *, marked: bool) -> None:
        if not marked:
            self.table[key] = (content, False)
        elif self.deletes is HARD:
            self.table.pop(key, None)
        else:
            self.table[key] = (self.table[key][0] if key in self.table else content, True)

    def alive(self) -> dict[int, Content]:
        return {key: content for key, (content, marked) in self.table.items() if not marked}


def loads(deletes: DeleteMode) -> st.SearchStrategy[Any]:
    marks = st.none() if deletes is IGNORE else st.sampled_from([None, None, START])
    row = st.tuples(st.integers(1, 4), st.sampled_from(["a", "b", None]), st.sampled_from(DAYS), marks)
    window = st.sampled_from([RowRange("day", DAYS[0], DAYS[2]), RowRange("day", DAYS[2], DAYS[4])])
    kind = st.one_of(st.just((MERGE, None)), st.just((REPLACE, None)), st.tuples(st.just(MERGE), window))
    return st.lists(st.tuples(kind, st.lists(row, max_size=5)), min_size=2, max_size=3)


@pytest.mark.parametrize("deletes", list(DeleteMode))
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_table_and_history_are_what_a_model_says(deletes: DeleteMode, data: st.DataObject) -> None:
    model = Model(deletes)
    with TemporaryDirectory() as folder:
        bench = bench_in(Path(folder))
        for (mode, window), rows in data.draw(loads(deletes)):
            done = feed(bench, deletes, *rows, mode=mode, replaces=window, history=True, deduplicate=True)
            model.load(mode, rows, window)
            assert done.table_rows == len(model.table)
            found = bench.rows(columns=["id", "name", "day", *([DELETED_AT] if deletes is SOFT else [])])
            assert {r[0]: (r[1:3], deletes is SOFT and r[3] is not None) for r in found} == model.table
            assert len(found) == len(model.table)
        seen = versions(bench)
        current = [(v[0], v[1:3]) for v in seen if v[-1]]
        assert sorted(current, key=repr) == sorted(model.alive().items(), key=repr)
        assert sorted(((v[0], v[1:3]) for v in seen if not v[-1]), key=repr) == sorted(model.ended, key=repr)


# --- deletes


def test_marks_are_added_to_a_table_whose_columns_are_frozen(bench: Bench) -> None:
    feed(bench, HARD, (1, "a", START, None))
    for drift in (SchemaDrift.FREEZE, SchemaDrift.DISCARD):
        done = feed(bench, SOFT, (1, "a", START, START), drift=drift)
        assert done.table_rows == 1
    assert bench.rows(columns=["id", DELETED_AT]) == [(1, START)]


def test_a_mark_from_another_time_does_not_hide_a_row_that_is_back(bench: Bench) -> None:
    feed(bench, SOFT, (1, "a", START, START))
    assert feed(bench, HARD, (1, "a", START, None)).updated == 1
    assert bench.rows(columns=["id", DELETED_AT]) == [(1, None)]


def test_marking_says_which_run_did_it(bench: Bench) -> None:
    stamped = pa.schema([*MARKED, pa.field("_elt_loaded_at", TIMESTAMP_UTC), pa.field("_elt_run_id", pa.string())])
    more: dict[str, Any] = {"columns": stamped, "deletes": SOFT, **KEYED}
    bench.load(MERGE, [(n, "a", START, None, START, "first") for n in (1, 2, 3)], **more)
    bench.load(MERGE, [(1, None, START, DAYS[1], DAYS[1], "second")], **more)
    bench.load(REPLACE, [(3, "a", START, None, DAYS[2], "third")], run_id="third", **more)
    assert bench.rows(columns=["id", "name", "_elt_run_id"]) == [
        (1, "a", "second"),
        (2, "a", "third"),
        (3, "a", "first"),
    ]


def test_rows_without_a_key_do_not_pile_up_where_rows_are_kept(bench: Bench) -> None:
    for _ in range(3):
        feed(bench, IGNORE, (None, "x", START, None), (1, "a", START, None), mode=REPLACE)
    assert bench.destination.count(bench.table()) == 2


# --- histories


def test_a_clock_that_was_set_back_makes_no_versions_overlap(tmp_path: Path) -> None:
    now = [DAYS[3]]
    bench = bench_in(tmp_path, Runtime(now=lambda: now[0]))
    for name, at in (("a", DAYS[3]), ("b", DAYS[0]), ("c", DAYS[1])):
        now[0] = at
        feed(bench, HARD, (1, name, START, None), history=True)
    for _, _, _, start, end, _ in versions(bench):
        assert start == DAYS[3]
        assert end in (DAYS[3], None)


def test_a_key_that_was_appended_twice_has_one_current_version(bench: Bench) -> None:
    bench.load(APPEND, [(1, "old", START), (1, "new", DAYS[1]), (2, "b", START)], columns=PLAIN)
    feed(bench, HARD, (2, "B", START, None), history=True)
    assert [(v[0], v[1]) for v in versions(bench) if v[-1]] == [(1, "new"), (2, "B")]


def test_where_the_table_was_dropped_no_version_stays_current(bench: Bench) -> None:
    feed(bench, HARD, (1, "a", START, None), (2, "b", START, None), history=True)
    bench.run_sql("DROP TABLE raw.orders")
    feed(bench, HARD, (1, "a", START, None), history=True)
    assert [(v[0], v[-1]) for v in versions(bench)] == [(1, True), (2, False)]


def test_a_history_holds_what_its_table_held_under_other_types(bench: Bench) -> None:
    number, text = (pa.schema([("id", pa.int64()), ("v", kind)]) for kind in (pa.int64(), pa.string()))
    more: dict[str, Any] = {"primary_key": ("id",), "history": True}
    bench.load(REPLACE, [(1, 7)], columns=number, **more)
    bench.load(REPLACE, [(1, "7")], columns=text, **more)
    bench.load(REPLACE, [(1, 8)], columns=number, **more)
    bench.load(REPLACE, [(1, '{"a":1}')], columns=pa.schema([("id", pa.int64()), ("v", JSON)]), **more)
    bench.load(REPLACE, [("1", "seven")], columns=pa.schema([("id", pa.string()), ("v", pa.string())]), **more)
    bench.load(MERGE, [("x", "eight")], columns=pa.schema([("id", pa.string()), ("v", pa.string())]), **more)
    found = bench.destination.read(history_table(bench.table()), ["id", "v", IS_CURRENT]).read_all()
    assert rows_of(found) == [
        ("1", '"7"', False), ("1", '"8"', False), ("1", '"seven"', True), ("1", '{"a":1}', False), ("x", '"eight"', True)
    ]  # fmt: skip


def test_the_commits_of_one_load_begin_a_history_anew_only_once(bench: Bench) -> None:
    feed(bench, HARD, (9, "z", START, None), history=True)
    plan = bench.plan(MERGE, PLAIN, history=True, reset_history=True, **KEYED)
    with bench.destination.begin(plan) as load:
        for name in ("a", "b"):
            load.stage(batch_of([(1, name, START)], PLAIN))
            load.commit(None)
    assert [(v[0], v[1], v[-1]) for v in versions(bench)] == [(1, "a", False), (1, "b", True), (9, "z", True)]


# --- windows


def test_the_commits_of_one_load_replace_their_window_once(bench: Bench) -> None:
    feed(bench, HARD, (1, "a", START, None))
    window = RowRange("day", START, DAYS[1])
    with bench.destination.begin(bench.plan(APPEND, PLAIN, replaces=window)) as load:
        deleted = []
        for key in (2, 3):
            load.stage(batch_of([(key, "b", START)], PLAIN))
            deleted.append(load.commit(None).deleted)
    assert deleted == [1, 0]
    assert bench.rows(columns=["id"]) == [(2,), (3,)]


@pytest.mark.parametrize(
    ("kind", "values", "bounds"),
    [
        (pa.date32(), [d.date() for d in DAYS], (DAYS[1].date(), DAYS[3].date())),
        (pa.timestamp("us"), [d.replace(tzinfo=None) for d in DAYS], (DAYS[1], DAYS[3])),
        (
            pa.timestamp("us"),
            [d.replace(tzinfo=None) for d in DAYS],
            tuple(d.replace(tzinfo=None) for d in DAYS[1:4:2]),
        ),
        (pa.timestamp("ns", "UTC"), DAYS, (DAYS[1], DAYS[3])),
        (pa.string(), [d.isoformat() for d in DAYS[:4]] + ["no time"], (DAYS[1], DAYS[3])),
    ],
    ids=["date", "naive", "naive bounds", "nanoseconds", "text"],
)
def test_a_window_is_half_open_whatever_the_column(bench: Bench, kind: pa.DataType, values: Any, bounds: Any) -> None:
    columns = pa.schema([("id", pa.int64()), ("day", kind)])
    bench.load(APPEND, enumerate([*values, None]), columns=columns)
    done = bench.load(APPEND, columns=columns, replaces=RowRange("day", *bounds))
    assert done.deleted == 2
    assert bench.rows(columns=["id"]) == [(0,), (3,), (4,), (5,)]


@pytest.mark.parametrize("unit", ["us", "ns"])
def test_reading_a_window_takes_bounds_of_any_precision(bench: Bench, unit: str) -> None:
    columns = pa.schema([("id", pa.int64()), ("day", pa.timestamp(unit, "UTC"))])
    bench.load(APPEND, enumerate(DAYS), columns=columns)
    found = bench.destination.read(bench.table(), ["id"], {"day": (DAYS[1], DAYS[3])})
    assert rows_of(found.read_all()) == [(1,), (2,)]


@pytest.mark.parametrize(("column", "word"), [("nope", "no column"), ("id", "no times")])
def test_a_window_needs_a_column_of_times(bench: Bench, column: str, word: str) -> None:
    feed(bench, HARD, (1, "a", START, None))
    with pytest.raises(ConfigError, match=word):
        bench.load(APPEND, columns=PLAIN, replaces=RowRange(column, START, DAYS[1]))


# --- rejected rows


def narrowed(bench: Bench, mode: LoadMode, *rows: tuple[Any, ...], **more: Any) -> Committed:
    more = {"columns": WIDE, "drift": SchemaDrift.DISCARD, "primary_key": ("id",), **more}
    return bench.load(mode, rows, **more)


def test_a_rejected_row_keeps_every_value_it_came_with(bench: Bench) -> None:
    values: Mapping[str, tuple[pa.DataType, Any, Any]] = {
        "id": (pa.int64(), 1, 1),
        "doc": (JSON, "{", "{"),
        "fine": (JSON, '{"a": [1]}', {"a": [1]}),
        "gone": (JSON, None, None),
        "inf": (pa.float64(), float("inf"), "inf"),
        "exact": (pa.decimal128(38, 2), 12, 12.0),
        "blob": (pa.binary(), b"\x00a", "\\x00a"),
        "span": (pa.month_day_nano_interval(), (1, 2, 3_000), "1 month 2 days 00:00:00.000003"),
        "at": (TIMESTAMP_UTC, START, "2026-01-01 00:00:00+00"),
        "qu'o\"te": (pa.string(), "it's", "it's"),
        "nothing": (pa.null(), None, None),
    }
    columns = pa.schema([(name, kind) for name, (kind, _, _) in values.items()])
    done = bench.load(APPEND, [tuple(v for _, v, _ in values.values())], columns=columns)
    assert (done.inserted, done.rejected) == (0, 1)
    assert rejected(bench) == [({name: shown for name, (_, _, shown) in values.items()}, "doc does not fit json")]


def test_every_column_that_does_not_fit_is_named_and_the_columns_of_ours_stay_out(bench: Bench) -> None:
    columns = pa.schema([("a", JSON), ("b", JSON), ("c", JSON), ("_elt_run_id", pa.string())])
    bench.load(APPEND, [("{", "{}", "[", "r")], [("{}", "{}", None, "r")], columns=columns)
    assert rejected(bench) == [({"a": "{", "b": {}, "c": "["}, "a does not fit json; c does not fit json")]


def test_text_in_a_json_column_fits_when_another_value_does_not(bench: Bench) -> None:
    before, now = (pa.schema([("id", pa.int64()), ("a", kind), ("b", JSON)]) for kind in (JSON, pa.string()))
    bench.load(APPEND, [(1, "{}", "{}")], columns=before)
    done = bench.load(APPEND, [(2, "plain", "{}"), (3, "plain", "{")], columns=now)
    assert (done.inserted, done.rejected) == (1, 1)
    assert bench.rows(columns=["id", "a"]) == [(1, "{}"), (2, '"plain"')]


def test_a_large_load_with_a_row_that_does_not_fit_arrives_but_for_that_row(bench: Bench) -> None:
    narrowed(bench, MERGE, (0, 1), columns=NARROW)
    with bench.destination.begin(bench.plan(MERGE, WIDE, primary_key=("id",), drift=SchemaDrift.DISCARD)) as load:
        for start in range(0, 400_000, 100_000):
            ids = pa.array(range(start, start + 100_000), pa.int64())
            load.stage(pa.RecordBatch.from_arrays([ids, pa.repeat(pa.scalar(7, pa.int64()), 100_000)], schema=WIDE))
        load.stage(batch_of([(5, 70_000), (-1, -70_000)], WIDE))
        done = load.commit(None)
    assert (done.inserted, done.updated, done.rejected, done.table_rows) == (399_999, 1, 2, 400_000)


def test_a_deleted_row_needs_nothing_but_its_key(bench: Bench) -> None:
    bench.load(MERGE, [(1, 1), (2, 2)], columns=NARROW, primary_key=("id",))
    marked = WIDE.append(pa.field(DELETED_AT, TIMESTAMP_UTC))
    done = narrowed(bench, MERGE, (1, 70_000, START), (3, 70_001, None), arriving=marked)
    assert (done.deleted, done.rejected) == (1, 1)
    assert bench.rows() == [(2, 2)]


def test_a_row_that_came_and_did_not_fit_is_not_missing(bench: Bench) -> None:
    kept = NARROW.append(pa.field(DELETED_AT, TIMESTAMP_UTC))
    bench.load(MERGE, [(1, 1, None), (2, 2, None), (3, 3, None)], columns=kept, primary_key=("id",), deletes=SOFT)
    wide = WIDE.append(pa.field(DELETED_AT, TIMESTAMP_UTC))
    done = narrowed(bench, REPLACE, (1, 1), (2, 70_000), columns=wide, arriving=WIDE, deletes=SOFT)
    assert (done.deleted, done.rejected) == (1, 1)
    assert [(r[0], r[2] is not None) for r in bench.rows()] == [(1, False), (2, False), (3, True)]


def test_a_history_holds_what_the_table_took(bench: Bench) -> None:
    narrowed(bench, MERGE, (1, 1), columns=NARROW, history=True)
    done = narrowed(bench, MERGE, (1, 2), (2, 70_000), history=True)
    assert (done.updated, done.rejected) == (1, 1)
    found = bench.destination.read(history_table(bench.table()), ["id", "small", IS_CURRENT]).read_all()
    assert rows_of(found) == [(1, 1, False), (1, 2, True)]


@pytest.mark.parametrize("kind", ["TABLE", "VIEW"])
def test_a_strangers_table_takes_no_rejected_rows(bench: Bench, kind: str) -> None:
    narrowed(bench, MERGE, (1, 1), columns=NARROW)
    bench.run_sql(f"CREATE {kind} raw.orders__rejected AS SELECT 1 AS id")
    with pytest.raises(DestinationError, match="orders__rejected"):
        narrowed(bench, MERGE, (2, 70_000))
    assert bench.rows() == [(1, 1)]


def test_no_trace_of_a_value_hangs_on_an_error(bench: Bench) -> None:
    narrowed(bench, REPLACE, (1, 1), columns=NARROW)
    with pytest.raises(DestinationError, match="small") as refused:
        narrowed(bench, REPLACE, (2, 987_654))
    assert refused.value.__context__ is None


def test_a_strangers_table_is_no_history_before_the_source_is_asked(bench: Bench) -> None:
    feed(bench, HARD, (1, "a", START, None))
    bench.run_sql("CREATE VIEW raw.orders__history AS SELECT 1 AS id")
    with pytest.raises(DestinationError, match="orders__history"):
        bench.destination.begin(bench.plan(MERGE, PLAIN, history=True, **KEYED))


def test_a_column_of_a_strangers_type_makes_no_versions_of_its_own(bench: Bench) -> None:
    bench.run_sql("CREATE SCHEMA raw; CREATE TABLE raw.orders (id BIGINT, day TIMESTAMP_S)")
    bench.run_sql("INSERT INTO raw.orders VALUES (1, '2026-01-01')")
    columns = pa.schema([("id", pa.int64()), ("day", pa.timestamp("us"))])
    for _ in range(2):
        rows = [(1, START.replace(tzinfo=None))]
        bench.load(MERGE, rows, columns=columns, primary_key=("id",), history=True)
    found = bench.destination.read(history_table(bench.table()), ["id", IS_CURRENT]).read_all()
    assert rows_of(found) == [(1, True)]
