"""The destination contract, third part: rows that are gone, versions of rows, windows, and values that fit no column."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest

from elt_dagster.destinations.base import DELETED_AT, IS_CURRENT, VALID_FROM, VALID_TO, Committed, RowRange
from elt_dagster.destinations.history import history_table
from elt_dagster.destinations.rejected import REASON, ROW, rejected_table
from elt_dagster.errors import ConfigError, DestinationError, TransientError
from elt_dagster.model import Checkpoint, DeleteMode, LoadMode, SchemaDrift
from elt_dagster.model.types import JSON, TIMESTAMP_UTC
from elt_dagster.testing._destination_bench import APPEND, KEYED, MERGE, REPLACE, ROWS, Bench, batch_of, rows_of

HARD, SOFT, IGNORE = DeleteMode.HARD, DeleteMode.SOFT, DeleteMode.IGNORE
MARKED = pa.schema([*ROWS, pa.field(DELETED_AT, TIMESTAMP_UTC)])
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NARROW = pa.schema([("id", pa.int64()), ("small", pa.int16())])
WIDE = pa.schema([("id", pa.int64()), ("small", pa.int64())])
NARROWED: dict[str, Any] = {"columns": WIDE, "drift": SchemaDrift.DISCARD}
JULY, AUGUST, SEPTEMBER = (datetime(2026, month, 1, tzinfo=UTC) for month in (7, 8, 9))
DATED = pa.schema([("id", pa.int64()), ("name", pa.string()), ("day", TIMESTAMP_UTC)])

Row = tuple[Any, ...]


def feed(bench: Bench, deletes: DeleteMode, rows: Iterable[Row], mode: LoadMode = MERGE, **more: Any) -> Committed:
    """Load rows of id, name, at and the time they were deleted."""
    columns = MARKED if deletes is SOFT else ROWS
    return bench.load(mode, rows, columns=columns, arriving=MARKED, deletes=deletes, **KEYED, **more)


def living(bench: Bench) -> list[Row]:
    """Rows without the mark, and whether they carry it."""
    return [(*row[:3], row[3] is not None) for row in bench.rows(columns=["id", "name", "at", DELETED_AT])]


def versions(bench: Bench, columns: tuple[str, ...] = ("id", "name")) -> list[Row]:
    """The history table: chosen columns, and whether the version is current; the spans of each key are checked on the way."""
    found = bench.destination.read(
        history_table(bench.table()), [*columns, VALID_FROM, VALID_TO, IS_CURRENT]
    ).read_all()
    by_key: dict[Any, list[tuple[Any, Any, bool]]] = {}
    for row in rows_of(found):
        by_key.setdefault(row[0], []).append(row[-3:])
    for spans in by_key.values():
        spans.sort()
        for (_, end, current), (start, _, _) in pairwise(spans):
            assert not current, "only the last version of a key is current"
            assert end is not None, "a version ends when it is no more"
            assert end <= start, "the spans of a key do not overlap"
        assert (spans[-1][1] is None) == spans[-1][2], "the current version has no end"
    return sorted([(*row[: len(columns)], row[-1]) for row in rows_of(found)], key=repr)


class VersionTests:
    """Deletes, history tables, windows, rejected rows."""

    # --- deletes

    def test_a_row_that_the_source_deleted_goes(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, "a", 1), (2, "b", 1), (3, "c", 1)], **KEYED)
        done = feed(bench, HARD, [(1, None, 2, NOON), (2, "B", 2, None), (9, None, 2, NOON)])
        assert (done.inserted, done.updated, done.deleted, done.table_rows) == (0, 1, 1, 2)
        assert bench.rows() == [(2, "B", 2), (3, "c", 1)]
        assert bench.destination.columns(bench.table()) == ROWS

    def test_the_last_word_on_a_key_counts(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, "a", 1), (2, "b", 1)], **KEYED)
        feed(bench, HARD, [(1, None, 2, NOON), (1, "again", 3, None), (2, "B", 2, None), (2, None, 3, NOON)])
        assert bench.rows() == [(1, "again", 3)]

    def test_a_marked_row_keeps_its_values(self, bench: Bench) -> None:
        feed(bench, SOFT, [(1, "a", 1, None), (2, "b", 1, None)])
        done = feed(bench, SOFT, [(1, None, 2, NOON), (9, "z", 2, NOON)])
        assert (done.inserted, done.updated, done.deleted, done.table_rows) == (1, 0, 1, 3)
        assert living(bench) == [(1, "a", 1, True), (2, "b", 1, False), (9, "z", 2, True)]
        assert bench.rows(columns=["id", DELETED_AT])[0] == (1, NOON)
        done = feed(bench, SOFT, [(1, None, 3, NOON)])
        assert (done.inserted, done.updated, done.deleted) == (0, 0, 0), "it was marked already"

    def test_a_marked_row_comes_back_to_life(self, bench: Bench) -> None:
        feed(bench, SOFT, [(1, "a", 1, None)])
        feed(bench, SOFT, [(1, None, 1, NOON)])
        assert feed(bench, SOFT, [(1, "a", 1, None)]).updated == 1
        assert living(bench) == [(1, "a", 1, False)]

    def test_a_full_refresh_removes_what_is_gone(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, "a", 1), (2, "b", 1)], **KEYED)
        feed(bench, HARD, [(2, "B", 2, None), (3, "c", 2, NOON)], REPLACE, deduplicate=True)
        assert bench.rows() == [(2, "B", 2)]

    def test_a_full_refresh_marks_what_is_gone_once(self, bench: Bench) -> None:
        feed(bench, SOFT, [(1, "a", 1, None), (2, "b", 1, None), (3, "c", 1, None)])
        done = feed(bench, SOFT, [(2, "B", 2, None), (4, "d", 2, None)], REPLACE)
        assert (done.deleted, done.table_rows) == (2, 4)
        assert living(bench) == [(1, "a", 1, True), (2, "B", 2, False), (3, "c", 1, True), (4, "d", 2, False)]
        before = bench.rows(columns=["id", DELETED_AT])
        done = feed(bench, SOFT, [(2, "B", 2, None), (3, "c", 3, None), (4, "d", 2, None)], REPLACE)
        assert done.deleted == 0
        assert living(bench) == [(1, "a", 1, True), (2, "B", 2, False), (3, "c", 3, False), (4, "d", 2, False)]
        assert bench.rows(columns=["id", DELETED_AT])[0] == before[0], "the first time it was missed counts"

    def test_a_full_refresh_that_ignores_deletes_keeps_what_is_gone(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, "a", 1), (2, "b", 1)], **KEYED)
        done = bench.load(REPLACE, [(2, "B", 2), (3, "c", 2)], deletes=IGNORE, **KEYED)
        assert (done.deleted, done.table_rows) == (0, 3)
        assert bench.rows() == [(1, "a", 1), (2, "B", 2), (3, "c", 2)]

    def test_a_refresh_that_keeps_rows_keeps_their_columns(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, "a", 1), (2, "b", 1)], **KEYED)
        now = pa.schema([("id", pa.int64()), ("at", pa.int64()), ("new", pa.string())])
        bench.load(REPLACE, [(2, 2, "!")], columns=now, deletes=IGNORE, **KEYED)
        assert bench.rows(columns=["id", "name", "at", "new"]) == [(1, "a", 1, None), (2, None, 2, "!")]

    @pytest.mark.parametrize("deletes", [SOFT, IGNORE])
    def test_keeping_rows_needs_a_key_and_no_append(self, bench: Bench, deletes: DeleteMode) -> None:
        with pytest.raises(ConfigError, match="primary key"):
            bench.destination.begin(bench.plan(REPLACE, deletes=deletes))
        with pytest.raises(ConfigError, match="append"):
            bench.destination.begin(bench.plan(APPEND, deletes=deletes, **KEYED))

    # --- history tables

    def test_history_has_every_version_once(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, "a", 1), (2, "b", 1)], history=True, **KEYED)
        bench.load(MERGE, [(1, "A", 2), (3, "c", 2)], history=True, **KEYED)
        expected = [(1, "A", True), (1, "a", False), (2, "b", True), (3, "c", True)]
        assert versions(bench) == expected
        bench.load(MERGE, [(1, "A", 2), (2, "b", 1), (3, "c", 2)], history=True, **KEYED)
        assert versions(bench) == expected, "what is read again is no new version"
        bench.load(MERGE, [(1, "a", 3)], history=True, **KEYED)
        assert [v for v in versions(bench) if v[0] == 1] == [(1, "A", False), (1, "a", False), (1, "a", True)]
        assert bench.rows() == [(1, "a", 3), (2, "b", 1), (3, "c", 2)]

    def test_history_begins_with_the_table_as_it_is(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, "a", 1), (2, "b", 1)], **KEYED)
        bench.load(MERGE, [(2, "B", 2)], history=True, **KEYED)
        assert versions(bench) == [(1, "a", True), (2, "B", True)]

    def test_history_sees_a_value_come_and_go(self, bench: Bench) -> None:
        for name in (None, "a", None):
            bench.load(MERGE, [(1, name, 1)], history=True, **KEYED)
        assert versions(bench) == [(1, "a", False), (1, None, False), (1, None, True)]

    def test_a_full_refresh_goes_on_with_the_history(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, "a", 1), (2, "b", 1), (3, "c", 1)], history=True, **KEYED)
        bench.load(REPLACE, [(2, "B", 2), (3, "c", 1), (4, "d", 2)], history=True, **KEYED)
        assert versions(bench) == [
            (1, "a", False), (2, "B", True), (2, "b", False), (3, "c", True), (4, "d", True)
        ]  # fmt: skip
        bench.load(REPLACE, history=True, **KEYED)
        assert {v[-1] for v in versions(bench)} == {False}
        bench.load(REPLACE, [(1, "a", 1)], history=True, **KEYED)
        assert [v for v in versions(bench) if v[0] == 1] == [(1, "a", False), (1, "a", True)]

    def test_a_history_can_begin_anew(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, "a", 1)], history=True, **KEYED)
        bench.load(MERGE, [(1, "A", 2)], history=True, **KEYED)
        bench.load(REPLACE, [(1, "A", 2), (2, "b", 1)], history=True, reset_history=True, **KEYED)
        assert versions(bench) == [(1, "A", True), (2, "b", True)]

    @pytest.mark.parametrize("deletes", [HARD, SOFT])
    def test_a_deleted_row_has_no_current_version(self, bench: Bench, deletes: DeleteMode) -> None:
        feed(bench, deletes, [(1, "a", 1, None), (2, "b", 1, None)], history=True)
        feed(bench, deletes, [(1, None, 2, NOON)], history=True)
        assert versions(bench) == [(1, "a", False), (2, "b", True)]
        feed(bench, deletes, [(1, "a", 3, None)], history=True)
        assert versions(bench) == [(1, "a", False), (1, "a", True), (2, "b", True)]

    def test_a_history_follows_the_columns(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, "a", 1)], history=True, **KEYED)
        wider = pa.schema([("id", pa.int64()), ("name", pa.string()), ("at", pa.float64()), ("new", pa.string())])
        bench.load(MERGE, [(1, "a", 1.5, "!")], columns=wider, history=True, **KEYED)
        assert versions(bench, ("id", "at", "new")) == [(1, 1.0, None, False), (1, 1.5, "!", True)]
        without = pa.schema([("id", pa.int64()), ("at", pa.float64())])
        bench.load(REPLACE, [(1, 1.5)], columns=without, history=True, **KEYED)
        assert versions(bench, ("id", "at", "new"))[-1] == (1, 1.5, None, True)

    def test_a_history_commits_with_its_table_or_not_at_all(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, "a", 1)], history=True, checkpoint=Checkpoint(1), **KEYED)
        late = bench.destination.begin(bench.plan(MERGE, history=True, **KEYED))
        bench.destination.move_states([bench.move(Checkpoint(0))])
        with late, pytest.raises(Exception, match="by hand"):
            late.commit(Checkpoint(2))
        assert versions(bench) == [(1, "a", True)]

    def test_a_history_needs_a_key_and_no_append(self, bench: Bench) -> None:
        with pytest.raises(ConfigError, match="primary key"):
            bench.destination.begin(bench.plan(REPLACE, history=True))
        with pytest.raises(ConfigError, match="append"):
            bench.destination.begin(bench.plan(APPEND, history=True, **KEYED))

    def test_a_history_keeps_its_own_names(self, bench: Bench) -> None:
        columns = pa.schema([pa.field("id", pa.int64()), pa.field(VALID_FROM, pa.string())])
        with pytest.raises(ConfigError, match=VALID_FROM):
            bench.destination.begin(bench.plan(MERGE, history=True, columns=columns, primary_key=("id",)))
        assert bench.destination.columns(bench.table()) is None

    def test_a_strangers_table_is_no_history(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, "a", 1)], **KEYED)
        bench.run_sql(f'CREATE TABLE "{bench.schema}"."orders__history" ("id" BIGINT)')
        with pytest.raises(DestinationError, match="orders__history"):
            bench.load(MERGE, [(1, "b", 2)], history=True, **KEYED)
        assert bench.rows() == [(1, "a", 1)]

    # --- removal

    def test_what_bindings_have_loaded_goes_with_their_states(self, bench: Bench) -> None:
        for table in ("orders", "others"):
            bench.load(MERGE, [(1, "a", 1)], table=table, checkpoint=Checkpoint(1), **KEYED)
        gone = bench.destination.drop(bench.schema, ["binding-orders", "binding-nothing"])
        assert [table.name for table in gone] == ["orders"]
        assert bench.destination.columns(bench.table()) is None
        assert [s.binding_id for s in bench.destination.states(bench.schema)] == ["binding-others"]
        assert bench.destination.history(bench.schema, "binding-orders") == []
        assert (bench.rows("others"), bench.cursor("others")) == ([(1, "a", 1)], 1)
        assert bench.destination.drop(bench.schema, ["binding-orders"]) == ()
        bench.load(MERGE, [(2, "b", 1)], **KEYED)
        assert bench.rows() == [(2, "b", 1)]

    def test_a_history_goes_with_its_table(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, "a", 1)], history=True, **KEYED)
        gone = bench.destination.drop(bench.schema, ["binding-orders"])
        assert {table.name for table in gone} == {"orders", "orders__history"}
        assert bench.destination.columns(bench.table("orders__history")) is None
        bench.load(MERGE, [(2, "b", 1)], history=True, **KEYED)
        assert versions(bench) == [(2, "b", True)]

    def test_a_strangers_table_stays_when_bindings_go(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, "a", 1)], **KEYED)
        bench.run_sql(f'CREATE TABLE "{bench.schema}"."orders__history" ("id" BIGINT)')
        bench.run_sql(f'CREATE TABLE "{bench.schema}"."unloaded" ("id" BIGINT)')
        gone = bench.destination.drop(bench.schema, ["binding-orders", "binding-unloaded"])
        assert [table.name for table in gone] == ["orders"]
        assert bench.destination.count(bench.table("orders__history")) == 0
        assert bench.destination.count(bench.table("unloaded")) == 0

    def test_a_load_that_is_under_way_brings_nothing_back(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, "a", 1)], **KEYED)
        with bench.destination.begin(bench.plan(MERGE, **KEYED)) as late:
            late.stage(batch_of([(2, "b", 1)]))
            bench.destination.drop(bench.schema, ["binding-orders"])
            with pytest.raises((TransientError, DestinationError)):
                late.commit(None)
        assert bench.destination.columns(bench.table()) is None

    def test_where_nothing_was_loaded_nothing_goes(self, bench: Bench) -> None:
        assert bench.destination.drop(bench.schema, ["binding-orders"]) == ()

    # --- windows

    @pytest.mark.parametrize("mode", [APPEND, MERGE])
    def test_a_window_is_replaced_and_the_rest_stays(self, bench: Bench, mode: LoadMode) -> None:
        key: dict[str, Any] = {"columns": DATED, "primary_key": ("id",)}
        bench.load(
            mode,
            [(1, "a", JULY), (2, "b", AUGUST), (3, "c", AUGUST), (4, "d", SEPTEMBER)],
            checkpoint=Checkpoint(4),
            **key,
        )
        august = RowRange("day", AUGUST, SEPTEMBER)
        done = bench.load(mode, [(2, "B", AUGUST), (5, "e", AUGUST)], replaces=august, **key)
        assert done.table_rows == 4
        assert bench.rows(columns=["id", "name"]) == [(1, "a"), (2, "B"), (4, "d"), (5, "e")]
        assert bench.cursor() == 4, "a window leaves the checkpoint alone"
        bench.load(mode, replaces=august, **key)
        assert bench.rows(columns=["id", "name"]) == [(1, "a"), (4, "d")]

    def test_a_window_of_a_table_that_is_not_there_makes_it(self, bench: Bench) -> None:
        july = RowRange("day", JULY, AUGUST)
        assert bench.load(APPEND, columns=DATED, replaces=july).table_rows == 0
        assert bench.load(APPEND, [(1, "a", JULY)], columns=DATED, replaces=july).inserted == 1

    def test_a_row_that_moved_into_a_window_is_there_once(self, bench: Bench) -> None:
        key: dict[str, Any] = {"columns": DATED, "primary_key": ("id",)}
        bench.load(MERGE, [(1, "a", JULY), (2, "b", AUGUST)], **key)
        bench.load(MERGE, [(1, "A", AUGUST)], replaces=RowRange("day", AUGUST, SEPTEMBER), **key)
        assert bench.rows() == [(1, "A", AUGUST)]

    def test_a_window_that_keeps_deleted_rows_marks_them(self, bench: Bench) -> None:
        columns = pa.schema([*DATED, pa.field(DELETED_AT, TIMESTAMP_UTC)])
        more: dict[str, Any] = {"columns": columns, "arriving": DATED, "primary_key": ("id",), "deletes": SOFT}
        bench.load(MERGE, [(1, "a", JULY), (2, "b", AUGUST), (3, "c", AUGUST)], **more)
        bench.load(MERGE, [(2, "B", AUGUST)], replaces=RowRange("day", AUGUST, SEPTEMBER), **more)
        found = [(r[0], r[1], r[2] is not None) for r in bench.rows(columns=["id", "name", DELETED_AT])]
        assert found == [(1, "a", False), (2, "B", False), (3, "c", True)]

    def test_a_history_sees_what_a_window_changes(self, bench: Bench) -> None:
        key: dict[str, Any] = {"columns": DATED, "primary_key": ("id",), "history": True}
        bench.load(MERGE, [(1, "a", JULY), (2, "b", AUGUST), (3, "c", AUGUST)], **key)
        bench.load(MERGE, [(2, "B", AUGUST)], replaces=RowRange("day", AUGUST, SEPTEMBER), **key)
        assert versions(bench) == [(1, "a", True), (2, "B", True), (2, "b", False), (3, "c", False)]

    # --- values that fit no column

    def rejected(self, bench: Bench) -> list[tuple[Any, str]]:
        """Each rejected row, as plain data, with the reason."""
        found = bench.destination.read(rejected_table(bench.table()), [ROW, REASON]).read_all()
        return [(json.loads(row), reason) for row, reason in rows_of(found)]

    @pytest.mark.parametrize("mode", list(LoadMode))
    def test_a_value_out_of_range_is_set_aside_and_the_rest_is_loaded(self, bench: Bench, mode: LoadMode) -> None:
        bench.load(mode, [(1, 1)], columns=NARROW, primary_key=("id",))
        done = bench.load(
            mode, [(2, 2), (3, 70_000), (4, None)], primary_key=("id",), checkpoint=Checkpoint(9), **NARROWED
        )
        assert (done.inserted, done.rejected) == (2, 1)
        assert bench.rows()[-2:] == [(2, 2), (4, None)]
        ((row, reason),) = self.rejected(bench)
        assert row == {"id": 3, "small": 70_000}
        assert "small" in reason
        assert bench.cursor() == 9

    def test_text_that_is_no_json_is_set_aside(self, bench: Bench) -> None:
        columns = pa.schema([("id", pa.int64()), ("doc", JSON)])
        done = bench.load(APPEND, [(1, "{}"), (2, '{"a": ')], columns=columns)
        assert (done.inserted, done.rejected) == (1, 1)
        assert bench.rows() == [(1, "{}")]
        assert [(row["id"], row["doc"]) for row, _ in self.rejected(bench)] == [(2, '{"a": ')]

    def test_a_row_that_is_rejected_again_is_listed_once(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, 1)], columns=NARROW, primary_key=("id",))
        for _ in range(2):
            done = bench.load(MERGE, [(1, 70_000), (2, 70_001)], primary_key=("id",), **NARROWED)
            assert done.rejected == 2
        assert [row["id"] for row, _ in self.rejected(bench)] == [1, 2]
        assert bench.rows() == [(1, 1)], "what was there stays"

    def test_a_replace_of_which_nothing_fits_fails(self, bench: Bench) -> None:
        bench.load(REPLACE, [(1, 1)], columns=NARROW, checkpoint=Checkpoint(1))
        with pytest.raises(DestinationError, match="small") as refused:
            bench.load(REPLACE, [(2, 987_654)], checkpoint=Checkpoint(2), **NARROWED)
        assert "987654" not in str(refused.value)
        assert refused.value.__cause__ is None
        assert bench.rows() == [(1, 1)]
        assert bench.cursor() == 1

    def test_where_everything_fits_there_is_no_table_of_rejected_rows(self, bench: Bench) -> None:
        bench.load(APPEND, [(1, 1)], columns=NARROW)
        assert bench.destination.columns(rejected_table(bench.table())) is None
