"""`state rewind` and `state reset`: what they set, what they refuse, and that the next run goes on from there without doubling a row."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from elt_dagster.control.positions import _like
from elt_dagster.control.workspace import Workspace
from elt_dagster.destinations.base import TableRef
from elt_dagster.errors import ConfigError
from elt_dagster.model import Batch, Catalog, Checkpoint, CursorValue, ReadRequest, RunMode, Stream
from elt_dagster.sdk.arrow import highest
from elt_dagster.store import open_store
from tests.unit.cli_shelf import Shelf, shelf_fixture
from tests.unit.test_cli import Elt, elt

__all__ = ["elt", "shelf_fixture"]

LOG = """\
connections:
  - {name: shelf, connector: shelf, config: {}}
  - {name: warehouse, connector: duckdb, config: {path: w.duckdb}}
syncs:
  - slug: log
    connection: shelf
    destination: warehouse
    schema: raw
    streams:
      - {name: lines, load_mode: append, cursor_field: id}
      - {name: people, load_mode: merge, primary_key: [id], cursor_field: id}
      - {name: colours, load_mode: replace}
"""
SCHEMA = pa.schema([("id", pa.int64())])
STREAMS = ("lines", "people", "colours")


@pytest.fixture(scope="module")
def loaded_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test leaves its store and warehouse for the others: nine loads are more than most of them do."""
    return tmp_path_factory.mktemp("loaded")


@pytest.fixture
def log(elt: Elt, monkeypatch: pytest.MonkeyPatch, loaded_once: Path) -> Elt:
    """A sync with one stream of each load mode, loaded three times while its source grew to 10, 20 and 30 rows."""
    grown = [30]

    def discover(self: Shelf, settings: Any = None) -> Catalog:
        return Catalog(tuple(Stream(name=n, schema=SCHEMA, cursor_fields=("id",), ordered=True) for n in STREAMS))

    def read(self: Shelf, request: ReadRequest) -> Iterator[Batch]:
        first = request.since.cursor if request.since is not None else 0
        rows = pa.record_batch([pa.array(range(first, grown[0]), pa.int64())], schema=SCHEMA)  # type: ignore[arg-type]
        yield Batch(rows, Checkpoint(highest(rows, "id")) if request.cursor_field else None)

    monkeypatch.setattr(Shelf, "discover", discover)
    monkeypatch.setattr(Shelf, "read", read)
    Path("log.yaml").write_text(LOG)
    if (loaded_once / "w.duckdb").exists():
        copy_store(loaded_once / "store.sqlite", Path("store.sqlite"))
        shutil.copy(loaded_once / "w.duckdb", "w.duckdb")
        return elt
    assert elt("apply", "-f", "log.yaml").code == 0
    for number in (1, 2, 3):
        grown[0] = 10 * number
        run(f"run-{number}")
    copy_store(Path("store.sqlite"), loaded_once / "store.sqlite")
    shutil.copy("w.duckdb", loaded_once / "w.duckdb")
    return elt


def copy_store(source: Path, target: Path) -> None:
    """Through SQLite, for part of it may be in the write-ahead log."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def run(run_id: str, *streams: str) -> None:
    sync = Workspace(store=open_store()).configured("log")
    for stream in streams or STREAMS:
        sync.read(stream, run_id=run_id).load()


def position(elt: Elt, stream: str) -> str | None:
    rows = {row["stream"]: row for row in elt("state", "show", "log", "--json").json}
    cursor = rows[stream]["checkpoint"].get("cursor")
    return cursor["value"] if cursor else None


def rows(stream: str) -> int:
    return Workspace(store=open_store()).configured("log").open_destination().count(TableRef("raw", stream))


@pytest.mark.parametrize("how", [("--steps", "1"), ("--cursor", "19"), ("--to-load", "")])
@pytest.mark.parametrize("stream", ["lines", "people"])
def test_a_rewound_stream_reads_again_and_doubles_nothing(log: Elt, how: tuple[str, str], stream: str) -> None:
    history = log("state", "history", "log", stream, "--json").json
    option = (how[0], how[1] or history[1]["load_id"][:12])
    moved = log("state", "rewind", "log", stream, *option, "--yes", "--json").json
    assert [m["after"]["cursor"]["value"] for m in moved] == ["19"]
    assert position(log, stream) == "19"
    assert log("state", "history", "log", stream, "--json").json[0]["run_id"] == "rewind"
    run("run-4", stream)
    assert (position(log, stream), rows(stream)) == ("29", 30)


def test_a_reset_merge_starts_again_and_ends_the_same(log: Elt) -> None:
    assert log("state", "reset", "log", "people", "--yes").code == 0
    assert (position(log, "people"), rows("people")) == (None, 30)
    run("run-4", "people")
    assert (position(log, "people"), rows("people")) == ("29", 30)


def test_after_a_reset_everything_is_read_again_and_nothing_doubled(log: Elt) -> None:
    done = log("state", "reset", "log", "--yes", "--json")
    assert [m["stream"] for m in done.json] == ["lines", "people"]
    assert (position(log, "lines"), position(log, "people")) == (None, None)
    run("run-4")
    assert (rows("lines"), rows("people")) == (30, 30)
    assert position(log, "lines") == "29"


def test_nothing_to_forget_is_said(log: Elt) -> None:
    result = log("state", "reset", "log", "colours", "--json")
    assert (result.code, result.json) == (0, [])
    assert "Nothing to do" in result.err


def test_it_asks_first(log: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(text: str, **_: Any) -> bool:
        asked.append(text)
        return True

    monkeypatch.setattr("sys.stdin", StringIO())  # nobody is there to answer
    refused = log("state", "rewind", "log", "people", "--steps", "1")
    assert refused.code == 130
    assert position(log, "people") == "29"
    monkeypatch.setattr("click.confirm", answer)
    assert "goes on from there" in log("state", "rewind", "log", "people", "--steps", "1").out
    assert (len(asked), position(log, "people")) == (1, "19")


def test_while_a_run_is_active_its_id_is_named_and_nothing_moves(log: Elt) -> None:
    store, sync = open_store(), Workspace(store=open_store()).configured("log")
    lease = store.acquire_lease(sync.binding_ids["people"], "somebody", "run-77")
    for command in (("rewind", "log", "people", "--steps", "1"), ("reset", "log")):
        result = log("state", *command, "--yes", "--json")
        assert result.code == 2
        assert "run-77" in result.json["error"]["message"]
    assert position(log, "people") == position(log, "lines") == "29"
    store.release_lease(lease)
    assert log("state", "reset", "log", "--yes").code == 0


def test_a_load_between_the_question_and_the_answer_is_not_undone(log: Elt, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(text: str, **_: Any) -> None:
        sync = Workspace(store=open_store()).configured("log")
        sync.read("people", run_id="run-9", run_mode=RunMode.FULL_REFRESH).load()

    monkeypatch.setattr("click.confirm", answer)
    result = log("state", "rewind", "log", "people", "--steps", "1")
    assert result.code == 6
    assert "run-9" in result.err
    assert position(log, "people") == "29"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("people",), "exactly one of"),
        (("people", "--steps", "1", "--cursor", "3"), "exactly one of"),
        (("people", "--steps", "0"), "x>=1"),
        (("people", "--steps", "3"), "holds 2 before the last one"),
        (("people", "--cursor", "30"), "is at 29, and 30 is ahead"),
        (("people", "--cursor", "monday"), "of type int. Write it like 29."),
        (("people", "--to-load", "nothing"), "has no load 'nothing'"),
        (("people", "--to-load", ""), "has no load ''"),
        (("peple", "--steps", "1"), "Did you mean 'people'?"),
        (("colours", "--steps", "1"), "read from the beginning by every run"),
    ],
)
def test_what_makes_no_sense_is_refused(log: Elt, arguments: tuple[str, ...], words: str) -> None:
    result = log("state", "rewind", "log", *arguments, "--yes")
    assert result.code == 2
    assert words in result.err
    assert position(log, "people") == "29"


@pytest.mark.parametrize(
    ("example", "text", "value"),
    [
        (1, "12", 12), (1.5, "2.5", 2.5), (Decimal("1.00"), "0.10", Decimal("0.10")), ("b", "a", "a"), (date(2026, 1, 2), "2026-01-01", date(2026, 1, 1)),
        (datetime(2026, 1, 2), "2026-01-01T10:00", datetime(2026, 1, 1, 10)),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-01", datetime(2026, 1, 1, tzinfo=UTC)),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-01T10:00+02:00", datetime(2026, 1, 1, 8, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_a_cursor_value_has_the_type_of_its_cursor(example: CursorValue, text: str, value: CursorValue) -> None:
    assert _like(example, text, "s") == value
    assert type(_like(example, text, "s")) is type(value)


@pytest.mark.parametrize(
    ("example", "text"),
    [(1, "1.5"), (1.5, "nan"), (Decimal(1), "x"), (Decimal(1), "NaN"), (date(2026, 1, 1), "1"), (datetime(2026, 1, 1), "2026-01-01T00:00Z")],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(example: CursorValue, text: str) -> None:
    with pytest.raises(ConfigError, match="Write it like"):
        _like(example, text, "s")
