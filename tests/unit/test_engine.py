"""The engine between a source and a warehouse in memory: what it asks, what it writes, what it leaves alone."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from elt_dagster.destinations.base import TableRef
from elt_dagster.engine import StreamRead, resolve_binding
from elt_dagster.engine.prefetch import prefetched
from elt_dagster.errors import (
    CancelledError,
    ConfigError,
    ConflictError,
    ContractError,
    NotFoundError,
    SourceError,
    TransientError,
)
from elt_dagster.model import (
    Batch,
    Checkpoint,
    DeleteMode,
    LoadMode,
    RunMode,
    Stream,
    StreamResult,
    SyncSpec,
    TableBinding,
)
from elt_dagster.model.types import UUID
from elt_dagster.testing.fakes import MemorySource, MemoryWarehouse

SCHEMA = pa.schema(
    [("id", pa.int64()), ("Changed At", pa.timestamp("us", "UTC")), ("email", pa.string()), ("tag", UUID)]
)
ORDERS = Stream(name="public.orders", schema=SCHEMA, primary_key=("id",), cursor_field="Changed At", ordered=True)
TABLE = TableRef("raw", "orders")


def at(minute: int) -> datetime:
    return datetime(2026, 1, 1, 0, minute, tzinfo=UTC)


def rows(*minutes: int, first_id: int = 0) -> pa.Table:
    return pa.table(
        {
            "id": list(range(first_id, first_id + len(minutes))),
            "Changed At": pa.array([at(m) for m in minutes], SCHEMA.field(1).type),
            "email": [f"p{m}@example.com" for m in minutes],
            "tag": pa.nulls(len(minutes), UUID),
        },
        schema=SCHEMA,
    )


class Bench:
    """One sync of one stream, ready to be run again and again."""

    def __init__(self, table: pa.Table, stream: Stream = ORDERS, **binding: Any) -> None:
        self.source = MemorySource({stream.name: (stream, table)})
        self.warehouse = MemoryWarehouse()
        self.stream = stream
        self.binding = TableBinding.model_validate({"name": stream.name, **binding})
        self.sync = SyncSpec.model_validate(
            {"slug": "s", "connection": "c", "destination": "d", "schema": "raw", "streams": [self.binding]}
        )

    def read(self, **changes: Any) -> StreamRead:
        return StreamRead(
            **{
                "sync": self.sync, "binding": self.binding, "binding_id": "b1", "stream": self.stream, "run_id": "r1",
                "open_source": lambda: self.source, "open_destination": lambda: self.warehouse, "salt": lambda: b"salt",
                **changes,
            }
        )  # fmt: skip

    def run(self, **changes: Any) -> StreamResult:
        return self.read(**changes).load()

    def put(self, table: pa.Table) -> None:
        self.source.tables[self.stream.name] = (self.stream, table)

    @property
    def loaded(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.warehouse.tables[TABLE].to_pylist()
        return found


def test_a_first_run_loads_everything_and_remembers_where_it_was() -> None:
    bench = Bench(rows(1, 2, 3))
    result = bench.run()
    assert (result.rows_read, result.rows_inserted, result.table_rows) == (3, 3, 3)
    assert result.load_mode is LoadMode.MERGE
    assert result.after == Checkpoint(at(3))
    assert result.table == "raw.orders"
    assert list(bench.loaded[0]) == ["id", "changed_at", "email", "tag", "_elt_loaded_at", "_elt_run_id"]
    assert bench.loaded[0]["_elt_run_id"] == "r1"


def test_a_second_run_reads_on_inclusively_and_merges() -> None:
    bench = Bench(rows(1, 2, 3))
    bench.run()
    bench.put(pa.concat_tables([rows(1, 2, 3), rows(3, 4, first_id=3)]))
    result = bench.run()
    assert bench.source.requests[-1].since == Checkpoint(at(3))
    assert (result.rows_read, result.table_rows) == (3, 5)
    assert sorted(r["id"] for r in bench.loaded) == [0, 1, 2, 3, 4]


def test_a_run_without_news_does_not_write() -> None:
    bench = Bench(rows(1, 2), cursor_field="Changed At")
    bench.run()
    bench.put(rows())
    result = bench.run()
    assert (result.rows_read, result.commits, result.table_rows) == (0, 0, 2)
    assert len(bench.warehouse.saved["b1"]) == 1


def test_a_table_that_somebody_dropped_is_loaded_from_the_beginning() -> None:
    bench = Bench(rows(1, 2, 3))
    bench.run()
    del bench.warehouse.tables[TABLE]
    result = bench.run()
    assert (result.rows_read, result.table_rows) == (3, 3)


def test_replace_of_an_empty_source_leaves_an_empty_table() -> None:
    bench = Bench(rows(1), load_mode="replace")
    bench.run()
    bench.put(rows())
    assert bench.run().table_rows == 0
    assert bench.loaded == []


def test_a_full_refresh_replaces_and_moves_the_checkpoint() -> None:
    bench = Bench(rows(1, 2, 3))
    bench.run()
    bench.put(rows(7))
    result = bench.run(run_mode=RunMode.FULL_REFRESH)
    assert bench.source.requests[-1].since is None
    assert (result.load_mode, result.table_rows, result.after) == (LoadMode.REPLACE, 1, Checkpoint(at(7)))


def test_a_protected_stream_refuses_a_full_refresh_after_its_first_load() -> None:
    bench = Bench(rows(1), protected_from_full_sync=True)
    bench.run(run_mode=RunMode.FULL_REFRESH)
    with pytest.raises(ConfigError, match="protected"):
        bench.run(run_mode=RunMode.FULL_REFRESH)


@pytest.mark.parametrize("failure", [TransientError("busy"), SourceError("bad")])
def test_a_failure_keeps_its_class_and_leaves_state_and_table(failure: Exception) -> None:
    bench = Bench(rows(1, 2))
    bench.run()
    before, state = bench.loaded, bench.warehouse.saved["b1"][-1]
    bench.put(rows(5, 6, 7, 8))
    bench.source.fail_after, bench.source.failure = 1, failure
    with pytest.raises(type(failure)):
        bench.run()
    assert bench.loaded == before
    assert bench.warehouse.saved["b1"][-1] is state
    assert bench.source.closed == 2


def test_a_bug_in_a_connector_is_called_one() -> None:
    bench = Bench(rows(1, 2, 3))
    bench.source.fail_after, bench.source.failure = 0, KeyError("row with a secret")
    with pytest.raises(ContractError, match=r"memory failed while reading 'public.orders' with KeyError") as caught:
        bench.run()
    assert "secret" not in str(caught.value)


def test_long_ordered_reads_commit_on_the_way_and_resume_there() -> None:
    bench = Bench(rows(1, 2, 3, 4, 5, 6))
    bench.source.fail_after, bench.source.failure = 2, TransientError("cut")
    with pytest.raises(TransientError):
        bench.run(commit_bytes=1)
    assert len(bench.loaded) == 4
    bench.source.fail_after = None
    result = bench.run()
    assert bench.source.requests[-1].since == Checkpoint(at(4))
    assert (result.rows_read, result.table_rows) == (3, 6)


def test_two_runs_at_once_cannot_both_commit() -> None:
    bench = Bench(rows(1, 2))
    bench.run()
    bench.put(rows(3, 4, first_id=2))
    read = bench.source.read

    def overtaken(request: Any) -> Any:
        bench.source.read = read  # type: ignore[method-assign]
        bench.run(run_id="r2")
        yield from read(request)

    bench.source.read = overtaken  # type: ignore[method-assign]
    with pytest.raises(Exception, match="another run"):
        bench.run()
    assert len(bench.loaded) == 4


def test_a_null_in_the_primary_key_is_refused() -> None:
    table = rows(1, 2).set_column(0, SCHEMA.field(0), pa.array([1, None], pa.int64()))
    bench = Bench(table)
    with pytest.raises(SourceError, match=r"primary key column 'id' is NULL in 1 of 2 rows"):
        bench.run()
    assert not bench.warehouse.tables


def test_excluded_columns_are_not_asked_for_and_hashed_ones_are_hashed() -> None:
    bench = Bench(rows(1), excluded_columns=["tag"], hashed_columns=["email"])
    bench.run()
    assert "tag" not in (bench.source.requests[-1].columns or ())
    first = bench.loaded[0]["email"]
    assert len(first) == 64
    assert "tag" not in bench.loaded[0]
    bench.run(run_mode=RunMode.FULL_REFRESH)
    assert bench.loaded[0]["email"] == first
    bench.run(run_mode=RunMode.FULL_REFRESH, salt=lambda: b"other")
    assert bench.loaded[0]["email"] != first


def test_a_column_that_appears_later_is_taken_along_and_an_excluded_one_never() -> None:
    bench = Bench(
        rows(1), stream=Stream(name="public.orders", primary_key=("id",)), load_mode="replace", excluded_columns=["tag"]
    )
    bench.run()
    assert list(bench.loaded[0]) == ["id", "changed_at", "email", "_elt_loaded_at", "_elt_run_id"]


def test_a_cancelled_run_stops_between_batches_and_writes_nothing() -> None:
    bench = Bench(rows(1, 2, 3, 4))
    seen: list[int] = []
    with pytest.raises(CancelledError):
        bench.read().load(lambda p: seen.append(p.rows), lambda: bool(seen))
    assert seen == [2]
    assert not bench.warehouse.tables


@pytest.mark.parametrize(
    ("binding", "error", "message"),
    [
        ({"primary_key": ["idd"]}, NotFoundError, "primary_key names the column 'idd'.*Did you mean 'id'"),
        ({"cursor_field": "tag"}, ConfigError, "of type uuid, which has no order"),
        ({"excluded_columns": ["emial"]}, NotFoundError, "Did you mean 'email'"),
        ({"excluded_columns": ["id", "Changed At", "email", "tag"]}, ConfigError, "every column is excluded"),
        ({"load_mode": "merge", "excluded_columns": ["id"]}, ConfigError, "merge needs a primary key"),
        ({"deleted_field": "gone"}, NotFoundError, "deleted_field names the column 'gone'"),
        (
            {"load_mode": "replace", "primary_key": [], "deletes": "soft"},
            ConfigError,
            "deletes soft needs a primary key",
        ),
        (
            {"primary_key": [], "cursor_field": "id", "enabled_history_table": True},
            ConfigError,
            "does not go with load_mode append",
        ),
    ],
)
def test_a_binding_is_checked_against_its_stream(binding: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        resolve_binding(TableBinding.model_validate({"name": "public.orders", **binding}), ORDERS)


def test_the_source_works_while_the_warehouse_does() -> None:
    made: list[int] = []
    batch = Batch(rows(1).to_batches()[0])

    def read() -> Any:
        for n in range(10):
            made.append(n)
            yield batch

    with prefetched(read, ahead=2) as batches:
        next(batches)
        deadline = time.monotonic() + 5
        while len(made) < 3 and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        assert 3 <= len(made) <= 4
    assert len(made) <= 5
    assert not [t for t in threading.enumerate() if t.name == "elt-source"]


GONE = pa.schema([("id", pa.int64()), ("changed_at", pa.int64()), ("gone", pa.bool_())])
FEED = Stream(
    name="orders", schema=GONE, primary_key=("id",), cursor_field="changed_at", ordered=True, deleted_field="gone"
)


def feed(*rows: tuple[int, int, bool | None]) -> pa.Table:
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=GONE)


@pytest.mark.parametrize("deletes", [None, "hard", "soft"])
def test_what_the_source_reports_as_deleted_carries_the_time(deletes: str | None) -> None:
    bench = Bench(feed((1, 1, False), (2, 2, True), (3, 3, None)), FEED, deletes=deletes)
    bench.run()
    assert [row["_elt_deleted_at"] is not None for row in bench.loaded] == [False, True, False]
    (plan,) = bench.warehouse.plans
    assert plan.deletes is DeleteMode(deletes or "hard")
    assert ("_elt_deleted_at" in plan.columns.names) == (deletes == "soft"), "only a table that marks has the column"


def test_ignored_deletes_do_not_reach_the_warehouse() -> None:
    bench = Bench(feed((1, 1, False), (2, 2, True), (3, 3, None)), FEED, deletes="ignore")
    bench.run()
    assert [row["id"] for row in bench.loaded] == [1, 3]
    assert "_elt_deleted_at" not in bench.warehouse.tables[TABLE].column_names


def test_an_append_takes_reported_deletes_as_rows_like_any_other() -> None:
    bench = Bench(feed((1, 1, False), (2, 2, True)), FEED, load_mode="append")
    bench.run()
    assert [(row["id"], row["gone"]) for row in bench.loaded] == [(1, False), (2, True)]
    assert "_elt_deleted_at" not in bench.warehouse.tables[TABLE].column_names


def test_a_binding_may_name_the_column_that_tells_a_deleted_row() -> None:
    bench = Bench(rows(1, 2), deleted_field="email")
    bench.put(rows(1, 2).set_column(2, "email", pa.array([None, "left@example.com"])))
    bench.run()
    assert [row["_elt_deleted_at"] is not None for row in bench.loaded] == [False, True]


def test_only_a_full_refresh_begins_a_history_anew() -> None:
    bench = Bench(rows(1, 2), enabled_history_table=True)
    bench.run(reset_history=True)
    bench.run(reset_history=True, run_mode=RunMode.FULL_REFRESH)
    assert [(p.history, p.reset_history) for p in bench.warehouse.plans] == [(True, False), (True, True)]


def test_a_load_waits_for_its_turn_and_says_for_whom() -> None:
    bench, said, tries = Bench(rows(1)), list[str](), iter([False, False, True])

    @contextmanager
    def lease() -> Iterator[int]:
        if not next(tries):
            raise ConflictError("The binding is being loaded by run r0.", with_id="r0")
        yield 3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("elt_dagster.engine.load._LEASE_POLL_SECONDS", 0.0)
        result = bench.read(lease=lease, waits_for_lease=True).load(say=said.append)
    assert result.rows_inserted == 1
    assert bench.warehouse.plans[0].fence == 3
    assert said == ["public.orders: waiting for run r0, which is loading the same table."]


def test_who_waits_for_its_turn_can_be_cancelled() -> None:
    @contextmanager
    def lease() -> Iterator[int]:
        raise ConflictError("The binding is being loaded by run r0.", with_id="r0")
        yield 0

    bench = Bench(rows(1))
    with pytest.raises(CancelledError, match="waited for its turn"):
        bench.read(lease=lease, waits_for_lease=True).load(cancelled=lambda: True)
    with pytest.raises(ConflictError, match="run r0"):
        bench.read(lease=lease).load()
    assert not bench.source.requests
