"""The destination contract, first half: what a load does to rows and state."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from elt_dagster.destinations.base import HISTORY_LENGTH, State, StateMove
from elt_dagster.errors import ConfigError, ContractError, DestinationError, NotFoundError, TransientError
from elt_dagster.model import Checkpoint, LoadMode
from elt_dagster.testing._destination_bench import APPEND, KEYED, MERGE, REPLACE, ROWS, Bench, batch_of


class LoadTests:
    """Modes, resuming, state, all or nothing."""

    # --- nothing there yet

    def test_a_reachable_warehouse_checks_well(self, bench: Bench) -> None:
        answer = bench.destination.check()
        assert answer.ok, answer.message

    def test_before_the_first_load_there_is_nothing(self, bench: Bench) -> None:
        assert bench.destination.state(bench.schema, "binding-orders") is None
        assert bench.destination.states(bench.schema) == []
        assert bench.destination.history(bench.schema, "binding-orders") == []
        assert bench.destination.columns(bench.table()) is None

    def test_a_missing_table_is_not_found(self, bench: Bench) -> None:
        for ask in (bench.destination.count, bench.destination.read):
            with pytest.raises(NotFoundError):
                ask(bench.table("nothing"))
        bench.load(APPEND, [(1, "a", 1)])
        for ask in (bench.destination.count, bench.destination.read):
            with pytest.raises(NotFoundError, match="orders"):
                ask(bench.table("order"))

    # --- the three modes

    @pytest.mark.parametrize("mode", list(LoadMode))
    def test_a_load_of_nothing_makes_an_empty_table_with_a_state(self, bench: Bench, mode: LoadMode) -> None:
        done = bench.load(mode, primary_key=("id",), checkpoint=Checkpoint(5))
        assert (done.inserted, done.updated, done.table_rows) == (0, 0, 0)
        assert bench.destination.count(bench.table()) == 0
        assert bench.destination.columns(bench.table()) == ROWS
        assert bench.cursor() == 5

    def test_append_adds_to_what_is_there(self, bench: Bench) -> None:
        bench.load(APPEND, [(1, "a", 1)], [(2, "b", 2)])
        done = bench.load(APPEND, [(1, "a", 1), (3, None, None)])
        assert (done.inserted, done.updated, done.table_rows) == (2, 0, 4)
        assert Counter(bench.rows()) == Counter([(1, "a", 1), (1, "a", 1), (2, "b", 2), (3, None, None)])

    def test_merge_counts_inserted_updated_and_leaves_the_unchanged(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, "a", 1), (2, "b", 2), (3, "c", 3)], **KEYED)
        done = bench.load(MERGE, [(2, "b", 2), (3, "C", 4), (4, "d", 5)], **KEYED)
        assert (done.inserted, done.updated, done.table_rows) == (1, 1, 4)
        assert bench.rows() == [(1, "a", 1), (2, "b", 2), (3, "C", 4), (4, "d", 5)]

    def test_merge_sees_a_value_come_and_go(self, bench: Bench) -> None:
        bench.load(MERGE, [(1, None, 1), (2, "b", 1)], **KEYED)
        assert bench.load(MERGE, [(1, "a", 1), (2, None, 1)], **KEYED).updated == 2
        assert bench.rows() == [(1, "a", 1), (2, None, 1)]

    def test_merge_keeps_the_highest_cursor_then_the_last_to_arrive(self, bench: Bench) -> None:
        batches: list[list[tuple[Any, ...]]] = [
            [(1, "old", 1), (1, "newest", 9), (2, "first", 5)],
            [(1, "late", 3), (2, "last", 5), (2, "null", None)],
        ]
        done = bench.load(MERGE, *batches, **KEYED)
        assert done.inserted == 2
        assert bench.rows() == [(1, "newest", 9), (2, "last", 5)]

    def test_merge_by_several_columns(self, bench: Bench) -> None:
        key: dict[str, Any] = {"primary_key": ("id", "name")}
        bench.load(MERGE, [(1, "a", 1), (1, "b", 1)], **key)
        done = bench.load(MERGE, [(1, "b", 2), (2, "b", 2)], **key)
        assert (done.inserted, done.updated) == (1, 1)
        assert bench.rows() == [(1, "a", 1), (1, "b", 2), (2, "b", 2)]

    def test_merge_loses_no_row_without_a_key(self, bench: Bench) -> None:
        done = bench.load(MERGE, [(None, "x", 1), (None, "x", 1), (1, "a", 1)], **KEYED)
        assert done.inserted == 3
        assert Counter(bench.rows()) == Counter([(None, "x", 1), (None, "x", 1), (1, "a", 1)])

    def test_merge_after_append_leaves_one_row_per_key(self, bench: Bench) -> None:
        bench.load(APPEND, [(1, "a", 1), (1, "b", 2), (2, "x", 1)])
        done = bench.load(MERGE, [(1, "b", 2)], **KEYED)
        assert (done.inserted, done.updated, done.table_rows) == (0, 1, 2)
        assert bench.rows() == [(1, "b", 2), (2, "x", 1)]

    def test_merge_needs_a_key_that_exists(self, bench: Bench) -> None:
        with pytest.raises(ConfigError, match="primary key"):
            bench.destination.begin(bench.plan(MERGE))
        with pytest.raises(ConfigError, match="nope"):
            bench.destination.begin(bench.plan(MERGE, primary_key=("nope",)))

    def test_replace_leaves_only_the_new_rows(self, bench: Bench) -> None:
        bench.load(REPLACE, [(1, "a", 1), (2, "b", 2)])
        done = bench.load(REPLACE, [(3, "c", 3)])
        assert (done.inserted, done.deleted, done.table_rows) == (1, 2, 1)
        assert bench.rows() == [(3, "c", 3)]
        bench.load(REPLACE)
        assert bench.rows() == []

    def test_replace_is_committed_once(self, bench: Bench) -> None:
        with bench.destination.begin(bench.plan(REPLACE)) as load:
            load.commit(None)
            with pytest.raises(ContractError):
                load.commit(None)

    @pytest.mark.parametrize("mode", [APPEND, REPLACE])
    def test_deduplicate_keeps_one_row_per_key(self, bench: Bench, mode: LoadMode) -> None:
        done = bench.load(mode, [(1, "b", 2), (1, "a", 1), (None, "x", 1)], [(None, "x", 1)], deduplicate=True, **KEYED)
        assert done.inserted == 3
        assert Counter(bench.rows()) == Counter([(1, "b", 2), (None, "x", 1), (None, "x", 1)])

    def test_a_view_over_a_replaced_table_shows_the_new_rows(self, bench: Bench) -> None:
        bench.load(REPLACE, [(1, "a", 1)])
        bench.run_sql(f'CREATE VIEW "{bench.schema}"."seen" AS SELECT "id" FROM "{bench.schema}"."orders"')
        bench.load(REPLACE, [(2, "b", 2), (3, "c", 3)])
        assert bench.rows("seen") == [(2,), (3,)]

    # --- resuming an append

    def test_resuming_by_key_doubles_nothing_and_keeps_new_versions(self, bench: Bench) -> None:
        bench.load(APPEND, [(1, "a", 1), (2, "b", 2)], checkpoint=Checkpoint(2), **KEYED)
        done = bench.load(APPEND, [(2, "b", 2), (3, "c", 2), (1, "A", 3)], boundary=Checkpoint(2), **KEYED)
        assert done.inserted == 2
        assert bench.rows() == [(1, "A", 3), (1, "a", 1), (2, "b", 2), (3, "c", 2)]

    def test_resuming_without_a_key_respects_equal_rows(self, bench: Bench) -> None:
        bench.load(APPEND, [(1, "a", 1), (2, "b", 2), (2, "b", 2)], cursor_field="at")
        again = [(2, "b", 2), (2, "b", 2), (2, "b", 2), (2, None, 2), (3, "c", 3), (3, "c", 3)]
        done = bench.load(APPEND, again, cursor_field="at", boundary=Checkpoint(2))
        assert done.inserted == 4
        assert Counter(bench.rows()) == Counter([(1, "a", 1), *again])

    def test_resuming_counts_across_the_commits_of_a_load(self, bench: Bench) -> None:
        bench.load(APPEND, [(2, "b", 2), (2, "b", 2)], cursor_field="at")
        with bench.destination.begin(bench.plan(APPEND, cursor_field="at", boundary=Checkpoint(2))) as load:
            inserted = []
            for batch in ([(2, "b", 2)], [(2, "b", 2), (2, "b", 2)], [(2, "b", 2), (3, "c", 3)]):
                load.stage(batch_of(batch))
                inserted.append(load.commit(Checkpoint(2)).inserted)
        assert inserted == [0, 1, 2]

    def test_a_lookback_doubles_nothing(self, bench: Bench) -> None:
        rows = [(i, "x", i) for i in range(10)]
        bench.load(APPEND, rows, cursor_field="at", checkpoint=Checkpoint(9))
        bench.load(APPEND, [*rows[4:], (4, "late", 4), (10, "x", 10)], cursor_field="at", boundary=Checkpoint(9))
        assert Counter(bench.rows()) == Counter([*rows, (4, "late", 4), (10, "x", 10)])

    # --- state

    def test_the_state_tells_where_committed_data_ends(self, bench: Bench) -> None:
        saved = Checkpoint(datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), {"files": ["a'b", "ü"]})
        bench.load(APPEND, [(1, "a", 1)], checkpoint=saved, fence=3)
        state = bench.destination.state(bench.schema, "binding-orders")
        assert state is not None
        assert (state.checkpoint, state.run_id, state.fence, state.table) == (saved, "run-1", 3, bench.table())
        assert state.committed_at.utcoffset() == timedelta(0)
        assert [s.table.name for s in bench.destination.states(bench.schema)] == ["orders"]

    def test_a_commit_without_checkpoint_keeps_the_old_one_but_not_after_a_replace(self, bench: Bench) -> None:
        bench.load(APPEND, [(1, "a", 1)], checkpoint=Checkpoint(7))
        bench.load(APPEND, [(2, "b", 1)])
        assert bench.cursor() == 7
        bench.load(REPLACE, [(2, "b", 1)])
        assert bench.cursor() is None
        assert bench.destination.state(bench.schema, "binding-orders") is not None

    def test_history_keeps_the_last_twenty_newest_first(self, bench: Bench) -> None:
        with bench.destination.begin(bench.plan(APPEND)) as load:
            for position in range(HISTORY_LENGTH + 3):
                load.commit(Checkpoint(position))
        bench.load(APPEND, table="other", checkpoint=Checkpoint(1))
        found = [s.checkpoint.cursor for s in bench.destination.history(bench.schema, "binding-orders")]
        assert found == list(range(HISTORY_LENGTH + 2, 2, -1))
        assert len(bench.destination.history(bench.schema, "binding-other")) == 1

    def test_a_run_that_was_overtaken_cannot_commit(self, bench: Bench) -> None:
        late = bench.destination.begin(bench.plan(APPEND, fence=1))
        late.stage(batch_of([(1, "zombie", 1)]))
        bench.load(APPEND, [(2, "b", 2)], fence=2, checkpoint=Checkpoint(2))
        with late, pytest.raises(DestinationError, match="newer run"):
            late.commit(Checkpoint(1))
        assert bench.rows() == [(2, "b", 2)]
        assert bench.cursor() == 2

    def test_a_load_goes_on_after_its_own_commit(self, bench: Bench) -> None:
        with bench.destination.begin(bench.plan(APPEND)) as load:
            for number in (1, 2, 3):
                load.stage(batch_of([(number, "x", number)]))
                load.commit(Checkpoint(number))
        assert [r[0] for r in bench.rows()] == [1, 2, 3]

    def test_two_runs_from_one_state_commit_once(self, bench: Bench) -> None:
        bench.load(APPEND, [(1, "a", 1)], checkpoint=Checkpoint(1))
        slow = bench.destination.begin(bench.plan(APPEND))
        slow.stage(batch_of([(2, "b", 2)]))
        bench.load(APPEND, [(2, "b", 2)], checkpoint=Checkpoint(2))
        with slow, pytest.raises(TransientError, match="changed by"):
            slow.commit(Checkpoint(2))
        assert bench.rows() == [(1, "a", 1), (2, "b", 2)]
        with pytest.raises(TransientError, match="changed by"):
            bench.load(APPEND, [(3, "c", 3)], after_load=None)

    # --- state set by hand

    def test_a_moved_state_is_where_the_next_load_goes_on(self, bench: Bench) -> None:
        bench.load(APPEND, [(1, "a", 1)], checkpoint=Checkpoint(1))
        bench.load(APPEND, [(2, "b", 2)], checkpoint=Checkpoint(2))
        bench.destination.move_states([bench.move(Checkpoint(1))])
        state = bench.destination.state(bench.schema, "binding-orders")
        assert state is not None
        assert (state.checkpoint, state.run_id, state.table) == (Checkpoint(1), "by hand", bench.table())
        history = bench.destination.history(bench.schema, "binding-orders")
        assert [s.checkpoint.cursor for s in history] == [1, 2, 1]
        assert bench.rows() == [(1, "a", 1), (2, "b", 2)], "the table stays"
        bench.load(APPEND, [(3, "c", 3)], checkpoint=Checkpoint(3))
        assert bench.cursor() == 3

    def test_a_load_under_way_cannot_commit_after_the_state_was_moved(self, bench: Bench) -> None:
        bench.load(APPEND, [(1, "a", 1)], checkpoint=Checkpoint(1))
        late = bench.destination.begin(bench.plan(APPEND))
        late.stage(batch_of([(2, "b", 2)]))
        bench.destination.move_states([bench.move(Checkpoint())])
        with late, pytest.raises(TransientError, match="by hand"):
            late.commit(Checkpoint(2))
        assert bench.rows() == [(1, "a", 1)]
        assert bench.cursor() is None

    def test_states_are_moved_together_or_not_at_all(self, bench: Bench) -> None:
        for table in ("orders", "other"):
            bench.load(APPEND, [(1, "a", 1)], table=table, checkpoint=Checkpoint(1), fence=5)
        moves = [bench.move(Checkpoint(), table) for table in ("orders", "other")]
        gone = replace(moves[1].state, binding_id="nobody")
        for wrong in (
            replace(moves[1], after_load="another"),
            replace(moves[1], state=replace(moves[1].state, fence=4)),
            replace(moves[1], state=gone),
        ):
            with pytest.raises(DestinationError, match="nothing was changed"):
                bench.destination.move_states([moves[0], wrong])
            assert bench.cursor() == 1
        bench.destination.move_states(moves)
        assert (bench.cursor(), bench.cursor("other")) == (None, None)

    def test_where_nothing_was_loaded_no_state_can_be_moved(self, bench: Bench) -> None:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        state = State("binding-orders", bench.table(), Checkpoint(), "l", "r", 0, now)
        with pytest.raises(DestinationError, match="nothing was changed"):
            bench.destination.move_states([StateMove(state, "l")])
        assert bench.destination.states(bench.schema) == []

    # --- all or nothing

    def test_what_is_staged_is_seen_by_nobody_and_an_abort_leaves_nothing(self, bench: Bench) -> None:
        bench.load(APPEND, [(1, "a", 1)], checkpoint=Checkpoint(1))
        with bench.destination.begin(bench.plan(APPEND)) as load:
            load.stage(batch_of([(2, "b", 2)]))
            assert bench.destination.count(bench.table()) == 1
            load.abort()
            load.abort()
            assert load.commit(Checkpoint(2)).inserted == 0
        assert bench.rows() == [(1, "a", 1)]

    def test_an_error_on_the_way_leaves_neither_rows_nor_state(self, bench: Bench) -> None:
        with pytest.raises(ZeroDivisionError), bench.destination.begin(bench.plan(REPLACE)) as load:
            load.stage(batch_of([(1, "a", 1)]))
            raise ZeroDivisionError
        assert bench.destination.columns(bench.table()) is None
        assert bench.destination.states(bench.schema) == []

    def test_a_large_load_arrives_whole(self, bench: Bench) -> None:
        schema = pa.schema([("id", pa.int64()), ("payload", pa.string())])
        rows, size = 40, 5_000
        with bench.destination.begin(bench.plan(MERGE, schema, primary_key=("id",))) as load:
            for n in range(rows):
                ids = pa.array(range(n * size, (n + 1) * size), pa.int64())
                load.stage(pa.RecordBatch.from_arrays([ids, pa.array([f"{n:064d}"] * size)], schema=schema))
            done = load.commit(None)
        assert (done.inserted, done.table_rows) == (rows * size, rows * size)
        found = bench.destination.read(bench.table(), ["payload"]).read_all()["payload"].value_counts().to_pylist()
        assert {f["values"]: f["counts"] for f in found} == {f"{n:064d}": size for n in range(rows)}
