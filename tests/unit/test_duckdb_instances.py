"""A DuckDB instance that is used again brings nothing along: no file, no lock, no rows, no settings."""

import gc
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from elt_dagster.destinations import _duckdb_instances as instances
from elt_dagster.destinations._duckdb_file import DatabaseFile
from elt_dagster.destinations._duckdb_instances import Settings, take
from elt_dagster.errors import DestinationError

HERE = Settings("64MB", 1)


@pytest.fixture(autouse=True)
def only_ours() -> None:
    """No instance is idle that another test made."""
    while instances._idle:
        instances._idle.pop()[1].close()


def idle() -> int:
    return len(instances._idle)


def file_at(path: Path, **more: Any) -> DatabaseFile:
    return DatabaseFile(path=path, **{"memory_limit": None, "threads": 1, "timeout": 0.0, **more})


def open_files(folder: Path) -> list[str]:
    """What this process holds open below a folder."""
    found = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return [name for name in found if name.startswith(str(folder))]


def test_the_second_use_is_of_the_same_instance(tmp_path: Path) -> None:
    file = file_at(tmp_path / "w.duckdb")
    with file.open(write=True) as session:
        session.run("CREATE TABLE w.t AS SELECT 1 AS a")
        assert session.instance is not None
        first = session.instance.root
    with file.open(write=False) as session:
        assert session.instance is not None
        assert session.instance.root is first
        assert idle() == 0
    assert idle() == 1


def test_an_idle_instance_holds_neither_the_file_nor_rows(tmp_path: Path) -> None:
    with file_at(tmp_path / "w.duckdb").open(write=True, temporary=tmp_path) as session:
        session.run("CREATE TABLE w.t AS SELECT range AS a FROM range(200000)")
        session.run("CREATE TEMP TABLE much AS SELECT range AS a, random() AS b FROM range(200000)")
        assert open_files(tmp_path)
    assert idle() == 1
    assert open_files(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".wal"] == []
    root = instances._idle[0][1]
    used = root.execute("SELECT sum(memory_usage_bytes) FROM duckdb_memory()").fetchone()
    assert used is not None
    assert used[0] < 100_000


def test_nothing_of_a_session_is_there_in_the_next(tmp_path: Path) -> None:
    file = file_at(tmp_path / "w.duckdb")
    rows = pa.table({"a": [1]})
    with file.open(write=True, temporary=tmp_path) as session:
        session.connection.register("arrived", rows)
        session.run("CREATE TEMP TABLE kept AS SELECT 1 AS a")
        session.run("SET TimeZone = 'Asia/Tokyo'")
        session.run("BEGIN TRANSACTION")
        session.run("CREATE TABLE w.never_committed (a INTEGER)")
    with file.open(write=True) as session:
        assert session.rows("SELECT name FROM (SHOW ALL TABLES)") == []
        asked = "SELECT current_setting('TimeZone'), current_setting('temp_directory'), current_setting('arrow_lossless_conversion')"
        assert session.rows(asked) == [("UTC", "", True)]


def test_what_arrow_tables_were_registered_is_let_go(tmp_path: Path) -> None:
    with file_at(tmp_path / "w.duckdb").open(write=True) as session:
        before = pa.total_allocated_bytes()
        session.connection.register("arrived", pa.table({"a": pa.array(range(1_000_000), pa.int64())}))
        assert pa.total_allocated_bytes() > before
    del session
    gc.collect()
    assert pa.total_allocated_bytes() <= before


def test_a_result_that_was_read_and_is_kept_does_not_keep_the_file(tmp_path: Path) -> None:
    file = file_at(tmp_path / "w.duckdb")
    with file.open(write=True) as session:
        session.run("CREATE TABLE w.t AS SELECT range AS a FROM range(10000)")
    with file.open(write=False) as session:
        result = session.connection.sql("SELECT a FROM w.t")
        reader = result.to_arrow_reader(1_000)
        assert sum(batch.num_rows for batch in reader) == 10_000
    assert open_files(tmp_path) == []
    with file.open(write=True) as session:
        assert session.value("SELECT count(*) FROM w.t") == 10_000
    del result, reader


def test_one_that_met_an_error_is_not_used_again(tmp_path: Path) -> None:
    file = file_at(tmp_path / "w.duckdb")
    with pytest.raises(duckdb.CatalogException), file.open(write=True) as session:
        session.run("SELECT * FROM missing")
    assert idle() == 0
    assert open_files(tmp_path) == []


def test_one_that_was_suited_to_a_wide_table_is_not_used_again(tmp_path: Path) -> None:
    file = file_at(tmp_path / "w.duckdb", threads=2)
    with file.open(write=True) as session:
        file.suit(session, 500)
    assert idle() == 0
    with file.open(write=False) as session:
        assert session.value("SELECT current_setting('threads')") == 2


def test_one_that_wrote_beside_its_memory_is_not_used_again(tmp_path: Path) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    file = file_at(tmp_path / "w.duckdb", memory_limit="20MB")
    with file.open(write=True, temporary=beside) as session:
        session.run("CREATE TEMP TABLE big AS SELECT random() AS a, random() AS b, random() AS c FROM range(1500000)")
        assert list(beside.iterdir())
    assert idle() == 0
    assert list(beside.iterdir()) == []


def test_other_settings_need_another_instance(tmp_path: Path) -> None:
    take(HERE, None).leave(clean=True)
    with file_at(tmp_path / "w.duckdb", memory_limit="32MB").open(write=True) as session:
        assert session.value("SELECT current_setting('memory_limit')") == "30.5 MiB"
        assert idle() == 1
    assert idle() == 2


def test_no_more_than_two_are_kept() -> None:
    taken = [take(HERE, None) for _ in range(4)]
    assert len({id(one.root) for one in taken}) == 4
    for one in taken:
        one.leave(clean=True)
    assert idle() == 2


def test_settings_that_duckdb_refuses_are_explained(tmp_path: Path) -> None:
    with (
        pytest.raises(DestinationError, match="applying memory_limit and threads"),
        file_at(tmp_path / "w.duckdb", threads=0).open(write=True),
    ):
        pass
    assert idle() == 0


def _load_in_child(path: Path, answer: Any) -> None:
    with file_at(path, timeout=30.0).open(write=True) as session:
        session.run("INSERT INTO w.t VALUES (2)")
    answer.put(idle())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_makes_its_own(tmp_path: Path) -> None:
    file = file_at(tmp_path / "w.duckdb", timeout=30.0)
    with file.open(write=True) as session:
        session.run("CREATE TABLE w.t AS SELECT 1 AS a")
    forking = multiprocessing.get_context("fork")
    answer = forking.Queue()
    child = forking.Process(target=_load_in_child, args=(file.path, answer))
    child.start()
    assert answer.get(timeout=60) == 1
    child.join(60)
    assert child.exitcode == 0
    with file.open(write=True) as session:
        assert session.value("SELECT sum(a) FROM w.t") == 3


FORKED = """
import os, sys
from elt_dagster.destinations._duckdb_instances import Settings, take
take(Settings("64MB", 2), None).leave(clean=True)
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
take(Settings("64MB", 2), None).leave(clean=True)
sys.exit(17)
"""


def test_an_interpreter_that_was_forked_comes_to_its_end() -> None:
    """It tidies up, as a child of multiprocessing does not, and the threads of the parent's instance are not there to be joined."""
    assert subprocess.run([sys.executable, "-c", FORKED], check=False, timeout=60).returncode == 17
