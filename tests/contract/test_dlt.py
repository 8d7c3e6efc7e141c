"""dlt as a warehouse signs the destination contract on DuckDB; what it cannot do is declared, and fails as declared."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import pyarrow as pa
import pytest

from elt_dagster.destinations._dlt_runtime import _run_context, ours
from elt_dagster.destinations._dlt_session import Session
from elt_dagster.destinations.base import DELETED_AT, RowRange
from elt_dagster.destinations.dlt import Dlt
from elt_dagster.errors import ConfigError, DestinationError, EltError, NotFoundError, TransientError
from elt_dagster.model import Checkpoint, DeleteMode
from elt_dagster.model.types import TIMESTAMP_UTC
from elt_dagster.testing._destination_bench import APPEND, KEYED, MERGE, REPLACE, ROWS
from elt_dagster.testing._destination_tables import EXTREMES
from elt_dagster.testing.destination import Bench, Capabilities, DestinationContract

_NO_HISTORY = "dlt knows no history tables that are kept in the commit of the table; refused at the start."
_NO_MARKS = "dlt removes deleted rows (hard_delete) and keeps no marked ones; refused at the start."
_NO_WINDOWS = "dlt merges by key and cannot replace the rows of a span of time; refused at the start."
_ALL_OR_NOTHING = (
    "A value that does not fit fails the load, and nothing is committed: dlt has no place for rejected rows."
)
_TYPES_STAY = "dlt changes no column's type and removes no column."
_REWRITES = "dlt's merge rewrites rows that did not change, so they count as updated."
_NAMES = "Names with quotes, per cent signs and the like are changed by dlt or taken for parameters by its drivers; refused at the start."
_TEXT, _MICROSECONDS = "dlt has no such type; the column is text", "dlt's own timestamps count microseconds"
_WIDER = "dlt has no such type; the column is the next wider one, and the values are the same"
UNSUPPORTED = {
    **dict.fromkeys(
        (
            "test_history_has_every_version_once",
            "test_history_begins_with_the_table_as_it_is",
            "test_history_sees_a_value_come_and_go",
            "test_a_full_refresh_goes_on_with_the_history",
            "test_a_history_can_begin_anew",
            "test_a_deleted_row_has_no_current_version",
            "test_a_history_follows_the_columns",
            "test_a_history_commits_with_its_table_or_not_at_all",
            "test_a_strangers_table_is_no_history",
            "test_a_history_goes_with_its_table",
            "test_a_history_sees_what_a_window_changes",
        ),
        _NO_HISTORY,
    ),
    **dict.fromkeys(
        (
            "test_a_marked_row_keeps_its_values",
            "test_a_marked_row_comes_back_to_life",
            "test_a_full_refresh_marks_what_is_gone_once",
            "test_a_full_refresh_that_ignores_deletes_keeps_what_is_gone",
            "test_a_refresh_that_keeps_rows_keeps_their_columns",
        ),
        _NO_MARKS,
    ),
    **dict.fromkeys(
        (
            "test_a_window_is_replaced_and_the_rest_stays",
            "test_a_window_of_a_table_that_is_not_there_makes_it",
            "test_a_row_that_moved_into_a_window_is_there_once",
            "test_a_window_that_keeps_deleted_rows_marks_them",
        ),
        _NO_WINDOWS,
    ),
    **dict.fromkeys(
        (
            "test_a_value_out_of_range_is_set_aside_and_the_rest_is_loaded",
            "test_text_that_is_no_json_is_set_aside",
            "test_a_row_that_is_rejected_again_is_listed_once",
        ),
        _ALL_OR_NOTHING,
    ),
    "test_a_replace_of_which_nothing_fits_fails": "dlt's loader fails, and does not say in which column",
    **dict.fromkeys(
        ("test_evolve_widens_step_by_step_and_keeps_every_value", "test_a_replace_takes_the_columns_as_they_are_now"),
        _TYPES_STAY,
    ),
    **dict.fromkeys(
        (
            "test_merge_counts_inserted_updated_and_leaves_the_unchanged",
            "test_a_value_that_did_not_change_is_no_update",
            "test_many_columns_that_did_not_change_are_no_update",
        ),
        _REWRITES,
    ),
    **dict.fromkeys(("test_any_name_will_do", "test_a_schema_of_any_name_will_do"), _NAMES),
}


def settings(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {
        "destination": "duckdb",
        "credentials": str(tmp_path / "x.duckdb"),
        "working_directory": str(tmp_path / "work"),
        **more,
    }


@pytest.mark.again(reason="another library loads; every load of its takes two seconds of processor time")
class TestDltOnDuckDB(DestinationContract):
    warehouse = Dlt
    variant = "with DuckDB"
    can = Capabilities(
        unsupported=UNSUPPORTED,
        missing_types={
            **dict.fromkeys(("uint8", "uint16", "uint32", "uint64", "float"), _WIDER),
            **dict.fromkeys(("uuid", "interval"), _TEXT),
            **dict.fromkeys(("timestamp_ns", "timestamp_ns_utc"), _MICROSECONDS),
        },
        comments=False,
        processes=False,  # not of this DuckDB file; a warehouse with a server has no such limit
    )

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        return settings(tmp_path)

    def run_sql(self, config: Mapping[str, Any], statement: str) -> None:
        with duckdb.connect(config["credentials"]) as connection:
            connection.execute(statement)


# --- other warehouses that dlt reaches


def bench_of(config: Mapping[str, Any]) -> Bench:
    """A bench on any settings, in the schema ``raw``."""
    return Bench(
        destination=Dlt.configured(config), config=config, schema="raw", can=Capabilities(), run_sql=lambda _: None
    )


_SLOWLY = pytest.mark.again("another way for dlt to do what it does with PostgreSQL by default")


@pytest.fixture(
    params=[
        "postgres",
        pytest.param("postgres-inserts", marks=_SLOWLY),
        pytest.param("postgres-upsert", marks=_SLOWLY),
        "sqlite",
    ]
)
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Settings of a warehouse with another driver and other formats."""
    work = {"working_directory": str(tmp_path / "work")}
    if request.param == "sqlite":
        return {"destination": "sqlalchemy", "credentials": f"sqlite:///{tmp_path / 'x.sqlite'}", **work}
    url = urlsplit(request.getfixturevalue("postgres_database"))
    credentials = {
        "host": url.hostname,
        "port": url.port,
        "database": url.path[1:],
        "username": url.username,
        "password": url.password,
    }
    more = {
        "postgres-inserts": {"loader_file_format": "insert_values"},
        "postgres-upsert": {"merge_strategy": "upsert"},
    }.get(request.param, {})
    return {"destination": "postgres", "credentials": credentials, **more, **work}


def test_every_mode_works_in_other_warehouses(elsewhere: dict[str, Any]) -> None:
    bench = bench_of(elsewhere)
    assert bench.destination.check().ok
    bench.load(APPEND, [(1, "a", 1), (2, "b", 2)], checkpoint=Checkpoint(2), **KEYED)
    assert bench.load(APPEND, [(2, "b", 2), (3, "c", 3)], boundary=Checkpoint(2), **KEYED).inserted == 1
    wider = pa.schema([*ROWS, pa.field("extra", pa.float64())])
    bench.load(MERGE, [(1, "A", 3, 0.5), (None, "x", 2, None)], columns=wider, checkpoint=Checkpoint(3), **KEYED)
    assert bench.rows() == [(1, "A", 3, 0.5), (2, "b", 2, None), (3, "c", 3, None), (None, "x", 2, None)]
    marked = pa.schema([*wider, pa.field(DELETED_AT, TIMESTAMP_UTC)])
    gone = [(2, None, 4, None, datetime(2026, 1, 1, tzinfo=UTC)), (3, "C", 4, 1.5, None)]
    bench.load(MERGE, gone, columns=wider, arriving=marked, **KEYED)
    assert bench.rows() == [(1, "A", 3, 0.5), (3, "C", 4, 1.5), (None, "x", 2, None)]
    assert bench.destination.columns(bench.table()) == wider
    assert bench.load(REPLACE, [(9, "z", 9, None)], columns=wider, checkpoint=Checkpoint(9)).table_rows == 1
    assert bench.load(REPLACE, columns=wider).table_rows == 0
    assert bench.cursor() is None
    assert len(bench.destination.history("raw", "binding-orders")) == 6
    with pytest.raises(NotFoundError, match="orders"):
        bench.destination.count(bench.table("order"))


@pytest.mark.again("types of other people's warehouses, by another library")
def test_values_come_back_from_other_warehouses(elsewhere: dict[str, Any]) -> None:
    if elsewhere["destination"] == "sqlalchemy":
        pytest.skip("sqlite has numbers and text")
    bench = bench_of(elsewhere)
    for name in (
        "bool",
        "int16",
        "int64",
        "double",
        "decimal",
        "string",
        "json",
        "binary",
        "date",
        "time",
        "timestamp",
        "timestamp_utc",
    ):
        kind, values = EXTREMES[name]
        values = [v for v in values if not (isinstance(v, (date, datetime)) and v.year in (1, 9999))] or [
            date(2026, 2, 3)
        ]
        if elsewhere.get("loader_file_format") == "insert_values":  # in which dlt has no word for infinity, and fails
            values = [v for v in values if v != float("inf")]
        if pa.types.is_timestamp(kind):
            values = [datetime(2026, 2, 3, 4, 5, 6, 789_012, UTC if kind.tz else None)]
        columns = pa.schema([("n", pa.int32()), ("v", kind)])
        bench.load(MERGE, list(enumerate([*values, None])), columns=columns, table=f"t_{name}", primary_key=("n",))
        found = bench.destination.read(bench.table(f"t_{name}")).read_all().sort_by("n")
        assert found.schema.equals(columns), name
        shown = [json.loads(v) if v is not None and name == "json" else v for v in found["v"].to_pylist()]
        assert shown == [json.loads(v) if v is not None and name == "json" else v for v in [*values, None]], name


# --- at least once, and never half


@pytest.mark.again("several loads of two seconds each")
def test_what_is_repeated_after_a_kill_is_there_once_where_that_is_promised(tmp_path: Path) -> None:
    config = settings(tmp_path)
    bench = bench_of(config)
    more = {"cursor_field": "at", "primary_key": ("id",)}
    plans: dict[str, dict[str, Any]] = {
        "merge": {"mode": MERGE, **more},
        "replace": {"mode": REPLACE},
        "append_by_cursor": {"mode": APPEND, "boundary": Checkpoint(1), **more},
    }
    for table, plan in plans.items():
        bench.load(
            plan["mode"], [(1, "a", 1)], table=table, checkpoint=Checkpoint(1), **_without_mode(plan, boundary=None)
        )
    killed = multiprocessing.get_context("spawn").Process(target=load_and_die, args=(config, plans))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    assert list((tmp_path / "work").iterdir()), "it died in the middle"
    for table, plan in plans.items():
        assert bench.cursor(table) == 1, "the state was not written"
        bench.load(
            plan["mode"], [(1, "a", 1), (2, "b", 2)], table=table, checkpoint=Checkpoint(2), **_without_mode(plan)
        )
        assert bench.rows(table) == [(1, "a", 1), (2, "b", 2)], table
        assert bench.cursor(table) == 2
    assert not (tmp_path / "work").exists(), "what the dead left is swept"


def _without_mode(plan: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {**{k: v for k, v in plan.items() if k != "mode"}, **more}


def load_and_die(config: Mapping[str, Any], plans: Mapping[str, Mapping[str, Any]]) -> None:
    """Load into each table and never write a state; die in the last, between dlt's commit and ours. Runs in a process of its own."""
    bench = bench_of(config)
    left = len(plans)

    def never(*_: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        raise DestinationError("no state")

    Session.save = never  # type: ignore[method-assign,assignment] # in this process only
    for table, plan in plans.items():
        with contextlib.suppress(DestinationError):
            bench.load(
                plan["mode"], [(1, "a", 1), (2, "b", 2)], table=table, checkpoint=Checkpoint(2), **_without_mode(plan)
            )


def test_an_append_without_a_cursor_loses_nothing_after_a_kill_and_may_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(settings(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(Session, "save", _refuse)
        with pytest.raises(DestinationError):
            bench.load(APPEND, [(1, "a", 1)])
    bench.load(APPEND, [(1, "a", 1)])
    assert bench.rows() == [(1, "a", 1), (1, "a", 1)], "as the page in the docs says"


def _refuse(*_: object) -> None:
    raise DestinationError("no state")


def test_a_load_that_fails_in_the_warehouse_leaves_rows_and_state(tmp_path: Path) -> None:
    bench = bench_of(settings(tmp_path))
    bench.load(MERGE, [(1, "a", 1)], checkpoint=Checkpoint(1), **KEYED)
    with duckdb.connect(str(tmp_path / "x.duckdb")) as stranger:
        stranger.execute("ALTER TABLE raw.orders ALTER name SET NOT NULL")
    with pytest.raises(DestinationError) as refused:
        bench.load(MERGE, [(1, None, 2), (2, "secret-value", 2)], checkpoint=Checkpoint(2), **KEYED)
    assert "secret-value" not in str(refused.value)
    assert (bench.rows(), bench.cursor()) == ([(1, "a", 1)], 1)
    assert refused.value.__cause__ is None


@pytest.mark.again("several loads of two seconds each")
def test_dlts_own_tables_do_not_grow_with_every_load(tmp_path: Path) -> None:
    bench = bench_of(settings(tmp_path))
    for number in range(3):
        bench.load(MERGE, [(number, "a", 1)], **KEYED)
    with duckdb.connect(str(tmp_path / "x.duckdb")) as stranger:
        assert stranger.sql(
            "SELECT count(*) FROM raw._dlt_version WHERE schema_name LIKE 'elt_%' AND schema_name <> 'elt_state'"
        ).fetchall() == [(1,)]


def test_a_table_that_somebody_dropped_is_made_again(tmp_path: Path) -> None:
    bench = bench_of(settings(tmp_path))
    for number in (1, 2):
        bench.load(APPEND, [(number, "a", 1)])
        with duckdb.connect(str(tmp_path / "x.duckdb")) as stranger:
            stranger.execute("DROP TABLE raw.orders")
    bench.load(APPEND, [(3, "a", 1)])
    assert bench.rows() == [(3, "a", 1)]


# --- refused at the start


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"history": True}, "history"),
        ({"deletes": DeleteMode.SOFT}, "deletes soft"),
        ({"deletes": DeleteMode.IGNORE}, "deletes ignore"),
        ({"replaces": RowRange("at", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))}, "window"),
        ({"table": "per cent %s"}, "name of the table"),
        ({"table": 'quo"te'}, "name of the table"),
    ],
    ids=["history", "soft", "ignore", "window", "percent", "quote"],
)
def test_what_dlt_cannot_do_is_refused_before_the_source_is_asked(
    tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    bench = bench_of(settings(tmp_path))
    with pytest.raises(ConfigError, match=words) as refused:
        bench.destination.begin(bench.plan(MERGE, **KEYED, **more))
    assert refused.value.fix


def test_a_column_whose_type_would_have_to_change_is_refused(tmp_path: Path) -> None:
    bench = bench_of(settings(tmp_path))
    bench.load(APPEND, [(1, "a", 1)])
    texts = pa.schema([("id", pa.string()), ("name", pa.string()), ("at", pa.int64())])
    with pytest.raises(DestinationError, match="id is int64 and would have to be string"):
        bench.destination.begin(bench.plan(APPEND, texts))


def test_unusual_names_that_dlt_keeps_are_kept(tmp_path: Path) -> None:
    bench = bench_of(settings(tmp_path))
    columns = pa.schema([("select", pa.int64()), ("Mixed Case", pa.string()), ("uniçødé", pa.int64())])
    for _ in range(2):
        bench.load(MERGE, [(1, "a", 2)], columns=columns, table="$1 ümlaut", primary_key=("select",))
    assert bench.rows("$1 ümlaut", ["Mixed Case", "uniçødé"]) == [("a", 2)]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"destination": "duck"}, ConfigError, "destination duck does not exist"),
        ({"destination": "filesystem", "credentials": None}, ConfigError, "SQL"),
        ({"destination": "postgres", "credentials": None}, ConfigError, "lacks settings"),
        ({"options": {"create_indexs": True}}, ConfigError, "create_indexes"),
        (
            {"destination": "postgres", "credentials": "postgresql://u:hidden-password@127.0.0.1:1/d"},
            TransientError,
            "reached",
        ),
    ],
    ids=["unknown", "filesystem", "nothing", "option", "unreachable"],
)
def test_settings_that_do_not_work_say_who_has_to_act(
    tmp_path: Path, change: dict[str, Any], kind: type[EltError], words: str
) -> None:
    destination = Dlt.configured(settings(tmp_path, **change))
    with pytest.raises(kind, match=words) as error:
        destination.states("raw")
    answer = destination.check()
    assert not answer.ok
    assert "hidden-password" not in f"{error.value}{answer.message}"


def test_check_says_what_is_promised(tmp_path: Path) -> None:
    message = Dlt.configured(settings(tmp_path)).check().message
    assert "at least once" in message
    assert "'duckdb' of our own" in message


# --- a quiet guest


QUIET = """
import logging, os, sys, threading
sys.path.insert(0, {root!r})
logging.basicConfig(level=logging.DEBUG)
from tests.contract.test_dlt import KEYED, MERGE, bench_of
assert "dlt" not in sys.modules, "the library is imported when it is needed"
bench = bench_of({config!r})
bench.load(MERGE, [(1, "a", 1)], **KEYED)
assert bench.rows() == [(1, "a", 1)]
from dlt.common import logger
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
from dlt.common.runtime.telemetry import is_telemetry_started
assert not is_telemetry_started()
assert PluggableRunContext not in Container() and logger.LOGGER is None, "dlt is as it was"
"""


def test_nothing_is_written_home_nothing_is_sent_and_nothing_secret_is_logged(
    postgres_database: str, tmp_path: Path
) -> None:
    root, home = Path(__file__).parents[2], tmp_path / "home"
    home.mkdir()
    config = {"destination": "postgres", "credentials": postgres_database, "working_directory": str(tmp_path / "work")}
    environment = {
        **os.environ,
        "HOME": str(home),
        "XDG_DATA_HOME": str(home),
        "DESTINATION__POSTGRES__CREDENTIALS": "postgresql://wrong@nowhere/x",
    }
    var = Path("/var/dlt").exists()
    code = QUIET.format(root=str(root), config=config)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(home.iterdir()) == []
    assert Path("/var/dlt").exists() == var
    assert "At least once".lower() in done.stderr.lower(), "each load says so"
    assert str(urlsplit(postgres_database).password) not in done.stderr
    assert "INSERT" not in done.stderr


def test_somebody_elses_dlt_finds_its_own_context_again(tmp_path: Path) -> None:
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

    container = Container()
    theirs = PluggableRunContext(_run_context(tmp_path / "theirs"))
    container[PluggableRunContext] = theirs
    try:
        with ours(tmp_path / "ours"), ours(tmp_path / "again"):
            assert container[PluggableRunContext] is not theirs
        assert container[PluggableRunContext] is theirs
    finally:
        del container[PluggableRunContext]
