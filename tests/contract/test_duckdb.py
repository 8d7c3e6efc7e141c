"""DuckDB signs the destination contract, and keeps some promises of its own."""

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from elt_dagster.destinations import _duckdb_deletes as deletes_sql
from elt_dagster.destinations import _duckdb_history as history_sql
from elt_dagster.destinations import _duckdb_load as loading
from elt_dagster.destinations import _duckdb_rejected as rejected_sql
from elt_dagster.destinations import _duckdb_rows as row_sql
from elt_dagster.destinations import _duckdb_table as table_sql
from elt_dagster.destinations import duckdb as module
from elt_dagster.destinations import state as state_sql
from elt_dagster.destinations.base import State
from elt_dagster.destinations.duckdb import DuckDB
from elt_dagster.destinations.files import Staging
from elt_dagster.destinations.history import update_statements
from elt_dagster.errors import ConfigError, DestinationError, TransientError
from elt_dagster.model import LoadMode
from elt_dagster.testing._processes import preload
from elt_dagster.testing.destination import Bench, DestinationContract, batch_of

preload("elt_dagster.destinations.duckdb")
APPEND, MERGE, REPLACE = LoadMode.APPEND, LoadMode.MERGE, LoadMode.REPLACE


class TestDuckDB(DestinationContract):
    warehouse = DuckDB

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        return {"path": str(tmp_path / "warehouse.duckdb")}

    def run_sql(self, config: Mapping[str, Any], statement: str) -> None:
        with duckdb.connect(config["path"]) as connection:
            connection.execute(statement)


def bench_at(path: Path, schema: str = "raw", **settings: Any) -> Bench:
    config = {"path": str(path), "lock_timeout_seconds": 0.1, **settings}
    contract = TestDuckDB()
    return Bench(
        destination=DuckDB.configured(config), config=config, schema=schema, can=contract.can,
        run_sql=lambda statement: contract.run_sql(config, statement),
    )  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return bench_at(tmp_path / "warehouse.duckdb")


# --- where the file is


@pytest.mark.parametrize("name", ["warehouse.duckdb", "memory.duckdb", "main.db", "no ending", "it's [a] 'ü' *.duckdb"])
def test_a_file_and_a_schema_may_be_called_alike(tmp_path: Path, name: str) -> None:
    bench = bench_at(tmp_path / name, schema=Path(name).stem)
    for mode in (REPLACE, MERGE):
        bench.load(mode, [(1, "a", 1)], primary_key=("id",))
    assert bench.rows() == [(1, "a", 1)]
    assert bench.destination.uri(bench.table()).startswith("duckdb:///")


def test_a_large_load_stages_in_a_folder_of_any_name(tmp_path: Path) -> None:
    bench = bench_at(tmp_path / "w.duckdb", staging=str(tmp_path / "a=b" / "it's [x] *?"))
    big = "x" * 1_000_000
    with bench.destination.begin(bench.plan(MERGE, primary_key=("id",))) as load:
        for number in range(20):
            load.stage(batch_of([(number, big, number)]))
        assert [p.suffix for p in tmp_path.rglob("*.parquet")] == [".parquet"]
        load.commit(None)
        load.stage(batch_of([(0, "small", 1)]))
        load.commit(None)
    assert bench.rows(columns=["id"]) == sorted([(n,) for n in range(20)], key=repr)
    assert not list(tmp_path.rglob("*.parquet"))


def test_checking_and_asking_make_no_file(bench: Bench, tmp_path: Path) -> None:
    assert "first load" in bench.destination.check().message
    bench.destination.states("raw")
    bench.destination.columns(bench.table())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "word"), [("missing/w.duckdb", "does not exist"), ("", "folder"), ("text.duckdb", "valid DuckDB")]
)
def test_what_cannot_be_a_warehouse_is_explained(tmp_path: Path, path: str, word: str) -> None:
    (tmp_path / "text.duckdb").write_text("id,name\n" * 10_000)
    bench = bench_at(tmp_path / path)
    answer = bench.destination.check()
    assert not answer.ok
    assert word in answer.message
    with pytest.raises((ConfigError, DestinationError), match=word):
        bench.destination.begin(bench.plan(APPEND, after_load=None))


def test_a_check_does_not_wait_for_whoever_holds_the_file(bench: Bench, tmp_path: Path) -> None:
    with duckdb.connect(str(bench.destination.config.path)):
        answer = bench.destination.check()
    assert answer.ok
    assert "is held by somebody at this moment; loads wait up to" in answer.message


def test_a_folder_without_the_right_to_write_is_explained(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    answer = bench.destination.check()
    assert (answer.ok, str(tmp_path) in answer.message) == (False, True)


@pytest.mark.parametrize(
    "settings", [{"path": ":memory:"}, {"path": "md:x"}, {"path": "s3://b/x"}, {"path": "x", "memory_limit": "lots"}]
)
def test_settings_are_checked_before_anything_runs(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"path|memory_limit"):
        DuckDB.configured(settings)


# --- others hold the file

HOLD = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"


def test_a_foreign_process_is_waited_for_and_then_named(bench: Bench) -> None:
    bench.load(APPEND, [(1, "a", 1)])
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, bench.config["path"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(TransientError, match=f"PID {holder.pid}.*warehouse|warehouse.*PID {holder.pid}"):
            bench.destination.count(bench.table())
        holder.stdin.close()
        patient = bench_at(Path(bench.config["path"]), lock_timeout_seconds=30)
        assert patient.load(APPEND, [(2, "b", 2)]).table_rows == 2


def test_a_connection_of_this_process_is_named(bench: Bench) -> None:
    bench.load(APPEND, [(1, "a", 1)])
    with duckdb.connect(bench.config["path"]), pytest.raises(TransientError, match="this process"):
        bench.load(APPEND, [(2, "b", 2)], after_load=None)
    assert bench.rows() == [(1, "a", 1)]


def test_a_busy_commit_can_be_tried_again(bench: Bench) -> None:
    bench.load(APPEND, [(1, "a", 1)])
    with bench.destination.begin(bench.plan(APPEND)) as load:
        load.stage(batch_of([(2, "b", 2)]))
        with duckdb.connect(bench.config["path"]), pytest.raises(TransientError):
            load.commit(None)
        assert load.commit(None).inserted == 1
    assert bench.destination.count(bench.table()) == 2


def _live_until(end: Any) -> None:
    end.wait(60)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_not_prolong_its_parents_lock(bench: Bench) -> None:
    bench.load(APPEND, [(1, "a", 1)])
    forking = multiprocessing.get_context("fork")
    inside, leave, end = threading.Event(), threading.Event(), forking.Event()

    def hold() -> None:
        with bench.destination._file.open(write=True):  # type: ignore[attr-defined]
            inside.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(30)
    child = forking.Process(target=_live_until, args=(end,))
    child.start()
    leave.set()
    holder.join()
    try:
        assert bench.load(APPEND, [(2, "b", 2)]).table_rows == 2
    finally:
        end.set()
        child.join()
    assert child.exitcode == 0


# --- the table


def test_an_index_that_hinders_widening_is_named_and_nothing_changes(bench: Bench) -> None:
    bench.load(APPEND, [(1, "a", 1)])
    bench.run_sql("CREATE INDEX by_id ON raw.orders (id)")
    floats = pa.schema([("id", pa.float64()), ("name", pa.string()), ("at", pa.int64())])
    with pytest.raises(DestinationError, match="index"):
        bench.load(APPEND, [(0.5, "a", 1)], columns=floats)
    assert bench.rows() == [(1, "a", 1)]


def test_types_of_strangers_are_read_as_canonical_ones(bench: Bench) -> None:
    bench.run_sql(
        "CREATE TABLE strange AS SELECT 1::HUGEINT AS h, [1, NULL] AS l, {'a': 1} AS s, MAP {'k': 1} AS m, '101'::BIT AS b, "
        "'x'::ENUM('x') AS e, TIMESTAMP_S '2026-01-01' AS t, '12:00:00+02'::TIMETZ AS z"
    )
    table = bench_at(Path(bench.config["path"]), schema="main").table("strange")
    found = bench.destination.read(table).read_all()
    assert found.schema.equals(bench.destination.columns(table))
    plain = [str(v) for v in found.to_pylist()[0].values()]
    assert plain == ["1", "[1,null]", '{"a":1}', '{"k":1}', "101", "x", "2026-01-01 00:00:00", "12:00:00+02"]


def test_a_large_result_is_spooled_whole_and_leaves_no_file(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_READ_IN_MEMORY_BYTES", 10_000)
    monkeypatch.setattr(module, "_READ_CELLS", 6_000)
    rows = [(n, f"n{n}", n) for n in range(20_000)]
    bench.load(APPEND, rows)
    before = set(tmp_path.iterdir())
    reader = bench.destination.read(bench.table())
    assert set(tmp_path.iterdir()) == before
    assert sorted(reader.read_all()["id"].to_pylist()) == list(range(20_000))
    assert set(tmp_path.iterdir()) == before


def test_reading_takes_no_lock_file_where_none_can_be_made(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.load(APPEND, [(1, "a", 1)])
    real = os.open

    def refuse(path: Any, *arguments: Any) -> int:
        if str(path).endswith(".lock"):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", refuse)
    assert bench.destination.count(bench.table()) == 1
    with pytest.raises(DestinationError, match="lock"):
        bench.load(APPEND, [(2, "b", 2)])


# --- mutants: each breaks one promise, and the contract notices


def forget_boundary(session: Any, table: str, source: str, columns: pa.Schema, **_: Any) -> tuple[int, pa.Table]:
    return row_sql.insert(session, table, source, columns), pa.table({"row": [b""], "times": [0]})


def keep_any(session: Any, primary_key: Any, cursor: Any, keep: Any = row_sql.keep_last) -> Any:
    return keep(session, primary_key, None)


def half_read(*arguments: Any, held: Any = module._held) -> Any:
    return iter([batch.slice(1) for batch in held(*arguments)])


def no_condition(*_: Any) -> tuple[str, list[Any]]:
    return "", []


def forget_commit(self: Any, _: Any) -> None:
    self.rows = 0


def nothing(*_: Any, **__: Any) -> None:
    return None


def history_without_end(state: str, history: str, row: State, save: Any = state_sql.save_statements) -> Any:
    return save(state, history, row)[:-1]


def identity(source: str) -> str:
    return source


def spare_marked(session: Any, plan: Any, table: str, source: str, columns: pa.Schema) -> tuple[str, int]:
    return deletes_sql.living(source), 0


def nothing_done(*_: Any, **__: Any) -> int:
    return 0


def never_closed(*arguments: Any, build: Any = update_statements, **more: Any) -> list[str]:
    return ["SELECT 1", *build(*arguments, **more)[1:]]


def never_opened(*arguments: Any, build: Any = update_statements, **more: Any) -> list[str]:
    first = "SELECT 1 FROM (SELECT 1 LIMIT 0)"
    return [*build(*arguments, **more)[:1], first]


MUTANTS: list[tuple[str, Any, str, Callable[..., Any]]] = [
    ("test_resuming_by_key_doubles_nothing_and_keeps_new_versions", loading, "insert_new", forget_boundary),
    ("test_resuming_without_a_key_respects_equal_rows", loading, "insert_new", forget_boundary),
    ("test_a_lookback_doubles_nothing", loading, "insert_new", forget_boundary),
    ("test_merge_keeps_the_highest_cursor_then_the_last_to_arrive", loading, "keep_last", keep_any),
    ("test_merge_sees_a_value_come_and_go", row_sql, "content_hash", lambda *_: "1"),
    ("test_merge_counts_inserted_updated_and_leaves_the_unchanged", row_sql, "content_hash", lambda *_: "random()"),
    ("test_a_run_that_was_overtaken_cannot_commit", loading, "check_state", nothing),
    ("test_two_runs_from_one_state_commit_once", loading, "check_state", nothing),
    ("test_the_state_tells_where_committed_data_ends", loading, "save_state", nothing),
    ("test_history_keeps_the_last_twenty_newest_first", state_sql, "save_statements", history_without_end),
    ("test_what_is_staged_is_seen_by_nobody_and_an_abort_leaves_nothing", Staging, "clear", nothing),
    ("test_append_adds_to_what_is_there", module, "_held", half_read),
    ("test_reading_takes_columns_and_half_open_ranges", module, "_condition", no_condition),
    ("test_a_table_of_another_stream_is_refused_at_once", module, "find", lambda *_: table_sql.Found(None, "", None)),
    ("test_descriptions_become_comments", table_sql, "_describe", nothing),
    ("test_a_killed_load_leaves_nothing_and_is_cleaned_up", module, "sweep", nothing),
    ("test_a_row_that_the_source_deleted_goes", loading, "apply_marks", spare_marked),
    ("test_the_last_word_on_a_key_counts", loading, "apply_marks", spare_marked),
    ("test_a_marked_row_keeps_its_values", loading, "apply_marks", spare_marked),
    ("test_a_full_refresh_removes_what_is_gone", loading, "living", identity),
    ("test_a_full_refresh_marks_what_is_gone_once", loading, "mark_missing", nothing_done),
    ("test_a_window_that_keeps_deleted_rows_marks_them", loading, "mark_missing", nothing_done),
    ("test_a_window_that_keeps_deleted_rows_marks_them", deletes_sql, "_in_window", lambda *_: "true"),
    (
        "test_a_row_that_is_rejected_again_is_listed_once",
        rejected_sql,
        "row_as_json",
        lambda _: "json_object('id', random())",
    ),
    ("test_a_replace_of_which_nothing_fits_fails", loading, "check_something_fits", nothing),
    ("test_text_that_is_no_json_is_set_aside", loading, "count_misfits", nothing_done),
    ("test_history_has_every_version_once", history_sql, "update_statements", never_closed),
    ("test_history_has_every_version_once", history_sql, "update_statements", never_opened),
    ("test_history_has_every_version_once", history_sql, "content_hash", lambda *_: "random()"),
    ("test_history_sees_a_value_come_and_go", history_sql, "content_hash", lambda *_: "1"),
    ("test_history_begins_with_the_table_as_it_is", history_sql, "is_complete_comparison", lambda *_, **__: False),
    ("test_a_full_refresh_goes_on_with_the_history", history_sql, "is_complete_comparison", lambda *_, **__: False),
]


@pytest.mark.parametrize(("test", "where", "name", "mutant"), MUTANTS, ids=lambda v: v if isinstance(v, str) else "")
def test_the_contract_notices(
    *, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, test: str, where: Any, name: str, mutant: Callable[..., Any]
) -> None:
    monkeypatch.setattr(where, name, mutant)
    bench = bench_at(tmp_path / "warehouse.duckdb", lock_timeout_seconds=30)
    more = [tmp_path] if "killed" in test else []
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(TestDuckDB(), test)(bench, *more)
