"""The files connector on real folders: what is found, what is read again, what is never read twice."""

import gzip
import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import MagicMock

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elt_dagster.errors import AuthError, ConfigError, NotFoundError, SourceError, TransientError
from elt_dagster.model import Batch, Checkpoint, ReadRequest, Stream, SyncMode, Window
from elt_dagster.model.batch import MAX_EXTRA_BYTES
from elt_dagster.model.types import JSON, TIMESTAMP_UTC, is_orderable
from elt_dagster.registry import load_connector
from elt_dagster.sdk import Connector, Runtime
from elt_dagster.sdk import lines as text_lines
from elt_dagster.sdk.listing import MANIFEST_BYTES, Found, Manifest, New, group_of, matcher
from elt_dagster.testing.contract import ConnectorContract, Truth

FILES = load_connector("files")
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
CURSOR = "_file_modified"


def source(folder: Path | str, *, now: datetime = NOW, **config: Any) -> Connector[Any]:
    return FILES.configured({"url": str(folder), **config}, Runtime(now=lambda: now))


def write(path: Path, content: str | bytes, *, at: datetime = NOW, plus_ns: int = 0) -> Path:
    """A file with a modification time of ``at`` and ``plus_ns`` nanoseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    moment = int(at.timestamp()) * 10**9 + at.microsecond * 1000 + plus_ns
    os.utime(path, ns=(moment, moment))
    return path


def request(stream: Stream, since: Checkpoint | None = None, **more: Any) -> ReadRequest:
    return ReadRequest(stream=stream, mode=SyncMode.INCREMENTAL, cursor_field=CURSOR, since=since, **more)


def through_json(checkpoint: Checkpoint | None) -> Checkpoint:
    assert checkpoint is not None
    return Checkpoint.from_json(json.loads(json.dumps(checkpoint.to_json())))


def read(connector: Connector[Any], name: str, since: Checkpoint | None = None, **more: Any) -> list[Batch]:
    return list(connector.read(request(connector.discover()[name], since, **more)))


def records(batches: list[Batch]) -> list[dict[str, Any]]:
    return [row for b in batches for row in b.data.to_pylist()]


def where(batches: list[Batch]) -> list[tuple[str, int]]:
    return [(r["_file"], r["_row"]) for r in records(batches)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of orders, one packed, with columns in another order and one more; weather in a folder; things to leave alone."""
    write(tmp_path / "orders_2024-01.csv", "id,city\n1,Aarhus\n2,Odense\n", at=NOW - timedelta(hours=3))
    later = gzip.compress(b"city,id,note\nVejle,3,\n")
    write(tmp_path / "orders_2024-02.csv.gz", later, at=NOW - timedelta(hours=2))
    write(tmp_path / "weather/a.jsonl", '{"t":1.5,"n":{"x":1}}\n', at=NOW - timedelta(hours=1))
    for left_alone in (".hidden.csv", "_SUCCESS", "_temporary/0.csv", "README.md", "weather/.part.jsonl"):
        write(tmp_path / left_alone, "x\n1\n")
    return tmp_path


class TestCheck:
    def test_counts_the_files_in_words(self, folder: Path) -> None:
        assert source(folder).check().message == "3 files match: orders 2, weather 1."

    def test_one_file_is_one_file(self, folder: Path) -> None:
        answer = source(folder, streams=[{"name": "w", "glob": "weather/*"}]).check()
        assert (answer.ok, answer.message) == (True, "1 file matches: w 1.")

    def test_an_empty_folder_is_reachable(self, tmp_path: Path) -> None:
        assert source(tmp_path).check().ok

    def test_a_missing_folder_is_an_answer(self, tmp_path: Path) -> None:
        answer = source(tmp_path / "gone").check()
        assert not answer.ok
        assert "does not exist. Correct the url" in answer.message

    def test_a_file_is_no_folder(self, folder: Path) -> None:
        assert "is a file, not a folder" in source(folder / "orders_2024-01.csv").check().message

    @pytest.mark.parametrize(
        ("name", "error"),
        [("NoCredentialsError", AuthError), ("EndpointConnectionError", TransientError), ("SomeOddity", SourceError)],
    )
    def test_what_a_storage_driver_raises_is_sorted_and_never_repeated(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception]
    ) -> None:
        refusing = MagicMock(**{"isdir.side_effect": type(name, (Exception,), {})("key=canary")})
        monkeypatch.setattr(FILES, "open_folder", lambda self: (refusing, "bucket/x"))
        with pytest.raises(error, match=rf"bucket/x could not be listed \({name}\)") as raised:
            source(folder).discover()
        assert "canary" not in str(raised.value)


class TestDiscover:
    def test_groups_files_by_folder_and_name(self, folder: Path) -> None:
        catalog = source(folder).discover()
        assert [s.name for s in catalog] == ["orders", "weather"]
        assert catalog["orders"].schema == pa.schema(
            [
                ("id", pa.int64()),
                ("city", pa.string()),
                ("note", pa.null()),
                pa.field("_file", pa.string(), False),
                pa.field(CURSOR, TIMESTAMP_UTC, False),
                pa.field("_row", pa.int64(), False),
            ]
        )
        weather = catalog["weather"].schema
        assert weather is not None
        assert weather.field("n").type == JSON

    def test_is_the_same_every_time_and_survives_the_store(self, folder: Path) -> None:
        once, again = source(folder).discover(), source(folder).discover()
        assert [s.to_json() for s in once] == [s.to_json() for s in again]
        assert [Stream.from_json(json.loads(json.dumps(s.to_json()))).to_json() for s in once] == [
            s.to_json() for s in once
        ]

    def test_keys_and_cursor_come_with_the_file(self, folder: Path) -> None:
        stream = source(folder).discover()["orders"]
        assert (stream.primary_key, stream.cursor_field, stream.ordered) == (("_file", "_row"), CURSOR, True)
        assert stream.schema is not None
        assert is_orderable(stream.schema.field(CURSOR).type)

    def test_a_stream_without_files_has_its_declared_columns_or_none(self, tmp_path: Path) -> None:
        declared = {"name": "a", "glob": "a/*.csv", "schema": {"id": "int64", "at": "timestamp_utc"}}
        catalog = source(tmp_path, streams=[declared, {"name": "b", "glob": "b/*.csv"}]).discover()
        assert catalog["a"].schema is not None
        assert catalog["a"].schema.names[:2] == ["id", "at"]
        assert catalog["b"].schema is None

    def test_types_meet_over_files(self, tmp_path: Path) -> None:
        write(tmp_path / "a1.csv", "zip,n,d\n0800,1,2024-01-01\n")
        write(tmp_path / "a2.csv", "zip,n,d\n8000,1.5,x\n")
        schema = source(tmp_path).discover()["a"].schema
        assert schema is not None
        assert schema.types[:3] == [pa.string(), pa.float64(), pa.string()]

    def test_a_primary_key_has_to_be_a_column(self, folder: Path) -> None:
        broken = source(folder, streams=[{"name": "o", "glob": "*.csv", "primary_key": ["idd"]}])
        with pytest.raises(ConfigError, match=r"'idd' is no column of stream 'o'\. Did you mean 'id'"):
            broken.discover()

    def test_our_own_column_names_are_reserved(self, tmp_path: Path) -> None:
        write(tmp_path / "a.csv", "_row\n1\n")
        with pytest.raises(SourceError, match="'_row', which is added"):
            source(tmp_path).discover()

    @pytest.mark.parametrize(
        ("path", "group"),
        [
            ("planes.csv.gz", "planes"), ("orders_2024-01-31.csv", "orders"), ("orders-20240131T1200.parquet", "orders"),
            ("a/b/c.csv", "a"), ("2024.csv", "2024"), ("notes.md", None), ("x.tar.gz", None),
        ],
    )  # fmt: skip
    def test_names_tell_the_group(self, path: str, group: str | None) -> None:
        assert group_of(path) == group

    @pytest.mark.parametrize(
        ("glob", "path", "matches"),
        [
            ("*.csv", "a.csv", True), ("*.csv", "x/a.csv", False), ("**/*.csv", "a.csv", True), ("**/*.csv", "x/y/a.csv", True),
            ("x/*/a?.csv", "x/1/a1.csv", True), ("*.{csv,jsonl}", "a.jsonl", True), ("a+b (1).csv", "a+b (1).csv", True), ("**", "x/y", True),
        ],
    )  # fmt: skip
    def test_globs(self, glob: str, path: str, matches: bool) -> None:
        assert bool(matcher(glob).match(path)) is matches


class TestRead:
    def test_every_row_carries_its_origin(self, folder: Path) -> None:
        batches = read(source(folder), "orders")
        assert where(batches) == [("orders_2024-01.csv", 1), ("orders_2024-01.csv", 2), ("orders_2024-02.csv.gz", 1)]
        assert records(batches)[2] == {
            "id": 3, "city": "Vejle", "note": None, "_file": "orders_2024-02.csv.gz", "_row": 1, CURSOR: NOW - timedelta(hours=2),
        }  # fmt: skip

    def test_columns_are_as_discovered(self, folder: Path) -> None:
        stream = source(folder).discover()["orders"]
        assert stream.schema is not None
        for batch in source(folder).read(request(stream)):
            assert batch.data.schema.names == stream.schema.names
            assert batch.data.schema.types == stream.schema.types

    def test_only_the_columns_asked_for_come_in_their_order(self, folder: Path) -> None:
        for batch in read(source(folder), "orders", columns=("_row", "note", "id")):
            assert batch.data.schema.names == ["_row", "note", "id"]

    def test_rows_are_numbered_even_without_the_files_own_columns(self, folder: Path) -> None:
        assert where(read(source(folder), "orders", columns=("_file", "_row")))[1] == ("orders_2024-01.csv", 2)

    def test_a_later_files_new_column_comes_along(self, folder: Path) -> None:
        stream = source(folder).discover()["orders"]
        write(folder / "orders_2024-03.csv", "id,city,extra\n4,Ribe,9\n")
        last = list(source(folder).read(request(stream)))[-1]
        assert last.data.to_pylist()[0]["extra"] == 9
        assert last.data.schema.names == [*(stream.schema or pa.schema([])).names, "extra"]

    def test_row_numbers_go_on_over_batches(self, tmp_path: Path) -> None:
        write(tmp_path / "a.csv", "n\n" + "".join(f"{i}\n" for i in range(5000)))
        batches = read(source(tmp_path), "a", batch_bytes=20_000)
        assert len(batches) > 5
        assert max(b.data.nbytes for b in batches) <= 30_000
        assert [r["_row"] for r in records(batches)] == [r["n"] + 1 for r in records(batches)] == list(range(1, 5001))

    def test_a_checkpoint_comes_with_the_last_batch_of_each_file_only(self, tmp_path: Path) -> None:
        for name in ("a1.csv", "a2.csv"):
            write(tmp_path / name, "n\n" + "1\n" * 5000)
        batches = read(source(tmp_path), "a", batch_bytes=50_000)
        ends = [i for i, b in enumerate(batches) if i + 1 == len(batches) or records([batches[i + 1]])[0]["_row"] == 1]
        assert [i for i, b in enumerate(batches) if b.checkpoint is not None] == ends
        assert len(ends) == 2

    def test_a_full_read_carries_no_checkpoint(self, folder: Path) -> None:
        stream = source(folder).discover()["orders"]
        assert {b.checkpoint for b in source(folder).read(ReadRequest(stream=stream))} == {None}

    def test_is_lazy(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = source(folder).discover()["orders"]
        monkeypatch.setattr(pa, "OSFile", None)
        batches = source(folder).read(request(stream))
        with pytest.raises(TypeError):
            next(batches)

    def test_an_empty_file_and_a_header_alone_give_no_rows(self, tmp_path: Path) -> None:
        write(tmp_path / "a1.csv", "")
        write(tmp_path / "a2.csv", "n\n")
        write(tmp_path / "a3.csv", "n\n5\n")
        assert where(read(source(tmp_path), "a")) == [("a3.csv", 1)]

    def test_rows_before_an_error_are_not_covered_by_a_checkpoint(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(text_lines, "BLOCK_BYTES", 1000)
        write(tmp_path / "a1.csv", "n\n1\n", at=NOW - timedelta(hours=1))
        stream = source(tmp_path).discover()["a"]
        write(tmp_path / "a2.csv", "n\n" + "1\n" * 2000 + "1,2\n")
        seen: list[Batch] = []
        with pytest.raises(SourceError, match=r"a2\.csv .* row 2002 has 2 columns"):
            _collect(source(tmp_path).read(request(stream)), seen)
        assert len(seen) > 2
        assert [b.checkpoint is not None for b in seen] == [True] + [False] * (len(seen) - 1)
        again = source(tmp_path).read(request(stream, through_json(seen[0].checkpoint)))
        assert next(again).data.column("_file")[0].as_py() == "a2.csv"

    def test_a_file_that_vanished_is_tried_again(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = source(folder).discover()["orders"]
        batches = source(folder).read(request(stream))
        next(batches)
        (folder / "orders_2024-02.csv.gz").unlink()
        with pytest.raises(TransientError, match=r"orders_2024-02\.csv\.gz vanished"):
            next(batches)

    def test_a_file_that_is_not_what_its_name_says_is_named(self, tmp_path: Path) -> None:
        write(tmp_path / "a.parquet", "id\n1\n")
        with pytest.raises(SourceError, match=r"a\.parquet is not a Parquet file"):
            source(tmp_path).discover()

    def test_another_cursor_is_refused(self, folder: Path) -> None:
        stream = source(folder).discover()["orders"]
        with pytest.raises(ConfigError, match="cannot be read on by 'id'"):
            list(source(folder).read(ReadRequest(stream=stream, mode=SyncMode.INCREMENTAL, cursor_field="id")))

    def test_an_unknown_stream_or_column_is_refused(self, folder: Path) -> None:
        stream = source(folder).discover()["orders"]
        configured = source(folder, streams=[{"name": "order", "glob": "*.csv"}])
        with pytest.raises(NotFoundError, match="Did you mean 'order'"):
            list(configured.read(request(stream)))
        with pytest.raises(NotFoundError, match="no column 'ids'"):
            list(source(folder).read(request(stream, columns=("ids",))))

    def test_parquet_and_csv_in_one_stream_agree(self, tmp_path: Path) -> None:
        write(tmp_path / "a1.csv", "id,v\n1,2.5\n")
        pq.write_table(pa.table({"v": pa.array([3], pa.int32()), "id": [2]}), tmp_path / "a2.parquet")
        found = records(read(source(tmp_path, now=datetime.now(UTC)), "a"))
        assert [(r["id"], r["v"]) for r in found] == [(1, 2.5), (2, 3.0)]


def _collect(batches: Iterator[Batch], into: list[Batch]) -> None:
    for batch in batches:
        into.append(batch)


class TestIncremental:
    def test_nothing_new_reads_nothing(self, folder: Path) -> None:
        end = through_json(read(source(folder), "orders")[-1].checkpoint)
        assert read(source(folder), "orders", end) == []

    def test_a_new_file_is_read_alone(self, folder: Path) -> None:
        end = through_json(read(source(folder), "orders")[-1].checkpoint)
        write(folder / "orders_2024-03.csv", "id,city\n4,Ribe\n")
        assert where(read(source(folder), "orders", end)) == [("orders_2024-03.csv", 1)]

    def test_a_file_of_the_very_same_time_is_not_missed(self, folder: Path) -> None:
        end = through_json(read(source(folder), "orders")[-1].checkpoint)
        write(folder / "orders_2023.csv", "id,city\n4,Ribe\n", at=NOW - timedelta(hours=2))
        assert where(read(source(folder), "orders", end)) == [("orders_2023.csv", 1)]

    @pytest.mark.parametrize("plus_ns", [1, 999])
    def test_a_change_of_a_nanosecond_is_seen(self, folder: Path, plus_ns: int) -> None:
        end = through_json(read(source(folder), "orders")[-1].checkpoint)
        write(
            folder / "orders_2024-02.csv.gz",
            gzip.compress(b"city,id,note\nVejle,4,\n"),
            at=NOW - timedelta(hours=2),
            plus_ns=plus_ns,
        )
        assert [r["id"] for r in records(read(source(folder), "orders", end))] == [4]

    def test_a_change_of_size_alone_is_seen(self, folder: Path) -> None:
        end = through_json(read(source(folder), "orders")[-1].checkpoint)
        write(folder / "orders_2024-02.csv.gz", b"city,id,note\nA,4,\nB,5,\n", at=NOW - timedelta(hours=2))
        with pytest.raises(SourceError, match="is not gzip"):
            read(source(folder), "orders", end)

    def test_a_late_file_within_the_overlap_is_found_and_others_not_read_twice(self, folder: Path) -> None:
        wide: dict[str, Any] = {"overlap_seconds": 7200}
        end = through_json(read(source(folder, **wide), "orders")[-1].checkpoint)
        write(folder / "orders_2023.csv", "id,city\n4,Ribe\n", at=NOW - timedelta(hours=3, minutes=30))
        assert where(read(source(folder, **wide), "orders", end)) == [("orders_2023.csv", 1)]
        assert where(read(source(folder), "orders", end)) == []

    def test_lookback_widens_the_overlap(self, folder: Path) -> None:
        end = through_json(read(source(folder), "orders", lookback_seconds=7200)[-1].checkpoint)
        write(folder / "orders_2023.csv", "id,city\n4,Ribe\n", at=NOW - timedelta(hours=3, minutes=30))
        assert where(read(source(folder), "orders", end, lookback_seconds=7200)) == [("orders_2023.csv", 1)]

    def test_stopping_after_any_file_loses_nothing(self, tmp_path: Path) -> None:
        for i in range(6):  # three pairs of equal times
            write(tmp_path / f"a{6 - i}.csv", f"n\n{i}\n", at=NOW - timedelta(hours=6 - i // 2))
        everything = read(source(tmp_path), "a")
        for stop, batch in enumerate(everything):
            rest = read(source(tmp_path), "a", through_json(batch.checkpoint))
            assert where(everything[: stop + 1]) + where(rest) == where(everything)

    def test_a_clock_that_runs_ahead_does_not_hide_later_files(self, tmp_path: Path) -> None:
        write(tmp_path / "a1.csv", "n\n1\n", at=NOW + timedelta(days=30))
        end = through_json(read(source(tmp_path), "a")[-1].checkpoint)
        write(tmp_path / "a2.csv", "n\n2\n", at=NOW + timedelta(minutes=5))
        tomorrow = NOW + timedelta(days=1)
        assert where(read(source(tmp_path, now=tomorrow), "a", end)) == [("a2.csv", 1)]

    def test_a_file_that_may_still_grow_waits(self, folder: Path) -> None:
        write(folder / "orders_2024-03.csv", "id,city\n4,Ribe\n", at=NOW - timedelta(seconds=5))
        batches = read(source(folder, settle_seconds=10), "orders")
        assert len(batches) == 2
        end = through_json(batches[-1].checkpoint)
        later = source(folder, settle_seconds=10, now=NOW + timedelta(seconds=6))
        assert where(read(later, "orders", end)) == [("orders_2024-03.csv", 1)]

    def test_a_window_is_half_open_and_leaves_the_checkpoint_alone(self, folder: Path) -> None:
        window = Window(NOW - timedelta(hours=3), NOW - timedelta(hours=2))
        batches = read(source(folder), "orders", window=window)
        assert where(batches) == [("orders_2024-01.csv", 1), ("orders_2024-01.csv", 2)]
        assert {b.checkpoint for b in batches} == {None}


class TestFilesContract(ConnectorContract):
    """What every connector promises, on a folder of the three formats."""

    connector = FILES
    settings: ClassVar[dict[str, Any]] = {}
    root: ClassVar[Path]
    TIMES = [NOW - timedelta(hours=3), NOW - timedelta(hours=2), NOW - timedelta(hours=2), NOW]
    """Two files share a time."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _folder(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.root = tmp_path_factory.mktemp("files")
        cls.settings = {"url": str(cls.root), "storage_options": {"secret": "OPTION-9f2c"}}
        for number, at in enumerate(cls.TIMES):
            rows = [r for r in cls.rows("orders") if r["_file"] == f"orders/{number}.csv.gz"]
            text = "id,note,amount,day\n" + "".join(
                f"{r['id']},{r['note'] or ''},{r['amount']},{r['day']}\n" for r in rows
            )
            write(cls.root / f"orders/{number}.csv.gz", gzip.compress(text.encode()), at=at)
        people = [{k: r[k] for k in ("id", "zip", "tags")} for r in cls.rows("people")]
        write(cls.root / "people.jsonl", "".join(json.dumps(p) + "\n" for p in people))
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"id": [r["id"] for r in cls.rows("steps")]}), sink)
        write(cls.root / "steps.parquet", sink.getvalue().to_pybytes())

    @classmethod
    def rows(cls, stream: str) -> Truth:
        """What the files hold."""
        if stream == "people":
            return [
                {"id": n, "zip": f"{n:04}", "tags": {"n": [n]}, "_file": "people.jsonl", "_row": n + 1}
                for n in range(60)
            ]
        if stream == "steps":
            return [{"id": n * n, "_file": "steps.parquet", "_row": n + 1} for n in range(500)]
        return [
            {
                "id": n, "note": None if n % 7 == 0 else f"né {n}", "amount": n / 8, "day": f"2024-01-{1 + n % 28:02}",
                "_file": f"orders/{n // 200}.csv.gz", "_row": 1 + n % 200,
            }
            for n in range(800)
        ]  # fmt: skip

    def fresh(self) -> Connector[Any]:
        connector = source(self.root, storage_options={"secret": "OPTION-9f2c"})
        self.opened, really_open = 0, connector.open_folder  # type: ignore[attr-defined]

        def counted() -> Any:
            self.opened += 1
            return really_open()

        connector.open_folder = counted  # type: ignore[attr-defined]
        return connector

    def unreachable(self) -> Connector[Any]:
        return source(self.root / "gone", storage_options={"secret": "OPTION-9f2c"})

    def truth(self, stream: str) -> Truth:
        return self.rows(stream)

    def known_streams(self) -> set[str]:
        return {"orders", "people", "steps"}

    def touched(self) -> int:
        return self.opened

    def test_ties_at_the_checkpoint_are_read_again(self) -> None:
        """Not the files that are known: the manifest tells them from another of the same time, so that append duplicates nothing."""
        stream = self.fresh().discover()["orders"]
        batches = self.read(stream)
        at_tie = next(
            b.checkpoint for b in batches if b.checkpoint is not None and b.checkpoint.cursor == self.TIMES[1]
        )
        rest = where(self.read(stream, through_json(at_tie)))
        assert {f for f, _ in rest} == {"orders/2.csv.gz", "orders/3.csv.gz"}
        assert where(self.read(stream, through_json(batches[-1].checkpoint))) == []

    def test_a_stream_whose_files_are_gone_has_nothing_new(self) -> None:
        """It is no typo: it was discovered before."""
        gone = Stream(name="steps_of_old", schema=self.fresh().discover()["steps"].schema)
        assert list(self.fresh().read(request(gone))) == []

    def test_a_full_refresh_of_files_that_are_gone_empties_no_table(self) -> None:
        gone = Stream(name="steps_of_old", schema=self.fresh().discover()["steps"].schema)
        with pytest.raises(SourceError, match="No file matches"):
            list(self.fresh().read(ReadRequest(stream=gone)))


TIMES = st.integers(0, 40)  # minutes; few, so that there are ties
LISTINGS = st.lists(
    st.tuples(TIMES, st.sampled_from("abcdefghij"), st.integers(0, 3)), max_size=20, unique_by=lambda f: f[1]
)


def found(minute: int, path: str, size: int = 0) -> Found:
    at = NOW - timedelta(minutes=60 - minute)
    return Found(int(at.timestamp()) * 10**9 + minute, path, size)


class TestPlanning:
    @given(LISTINGS, LISTINGS, st.integers(0, 20), st.integers(0, 10))
    @settings(max_examples=300, deadline=None)
    def test_over_two_runs_every_version_is_read_once(
        self, first: list[Any], second: list[Any], stop: int, minutes: int
    ) -> None:
        """What appears within the overlap, or later, is read; what was read is not read again; wherever the first run stopped."""
        overlap = timedelta(minutes=minutes)
        before = sorted(found(*f) for f in first)
        manifest, read_first = Manifest(None, overlap, NOW), before[:stop]
        for file in read_first:
            manifest.add(file)
        checkpoint = through_json(manifest.checkpoint())
        after = {f.path: f for f in before} | {p: found(m, p, s) for m, p, s in second}
        again = New(overlap=overlap, since=checkpoint)(after.values())
        assert again == sorted(again)
        assert not set(again) & set(read_first)
        reach = max((f.modified for f in read_first), default=None)
        due = {f for f in after.values() if f not in read_first and (reach is None or f.modified >= reach - overlap)}
        assert set(again) == due

    @given(st.lists(TIMES, min_size=1, max_size=12), st.integers(0, 12))
    @settings(max_examples=100, deadline=None)
    def test_a_manifest_that_overflows_still_misses_nothing_in_order(self, minutes: list[int], stop: int) -> None:
        files = sorted(found(m, f"{i:03}" + "x" * 40_000) for i, m in enumerate(minutes))
        manifest = Manifest(None, timedelta(hours=2), NOW)
        for file in files[:stop]:
            manifest.add(file)
        checkpoint = through_json(manifest.checkpoint())
        assert New(overlap=timedelta(hours=2), since=checkpoint)(files) == files[stop:]

    def test_a_manifest_is_bounded(self) -> None:
        manifest = Manifest(None, timedelta(hours=2), NOW)
        for i in range(5000):
            manifest.add(found(i % 40, f"some/rather/long/path/to/a/file/number-{i:05}.csv.gz"))
        size = len(json.dumps(manifest.checkpoint().to_json()))
        assert MANIFEST_BYTES // 2 < size < MAX_EXTRA_BYTES


class TestSettings:
    @pytest.mark.parametrize(
        ("config", "says"),
        [
            ({"url": ""}, "url"), ({"url": "x", "glob": "*"}, "glob: unknown setting"),
            ({"url": "x", "streams": [{"name": "a", "glob": "/etc/*"}]}, "stays inside it"),
            ({"url": "x", "streams": [{"name": "a", "glob": "../*"}]}, "stays inside it"),
            ({"url": "x", "streams": [{"name": "a", "glob": "*", "schema": {"n": "integer"}}]}, "no column type 'integer'"),
            ({"url": "x", "streams": [{"name": "a", "glob": "*", "schema": {"n": "uuid"}}]}, "use string"),
            ({"url": "x", "streams": [{"name": "a", "glob": "*", "schema": {"_row": "int64"}}]}, "cannot be declared"),
            ({"url": "x", "streams": [{"name": "a", "glob": "*", "csv": {"encoding": "utf-9"}}]}, "no such encoding"),
            ({"url": "x", "streams": [{"name": "a", "glob": "*"}, {"name": "a", "glob": "b"}]}, "two streams are called 'a'"),
            ({"url": "x", "streams": [{"name": "a", "glob": "*", "format": "xml"}]}, "csv"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_said_at_once(self, config: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match="The settings of connector files are wrong") as caught:
            FILES.configured(config)
        assert says in str(caught.value)

    def test_options_stay_secret(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        broken = FILES.configured({"url": "memory://x", "storage_options": {"no_such_option": {"key": "hunter2"}}})
        strange = FILES.configured({"url": "gopher://x", "storage_options": {"key": "hunter2"}})
        told = [repr(broken.config), str(broken.config), strange.check().message, broken.check().message, caplog.text]
        assert "hunter2" not in " ".join(told)
        assert FILES.spec()["properties"]["storage_options"]["writeOnly"] is True

    def test_an_unknown_kind_of_storage_is_a_setting_to_correct(self) -> None:
        answer = FILES.configured({"url": "gopher://x"}).check()
        assert not answer.ok
        assert "gopher" in answer.message

    def test_every_setting_is_described(self) -> None:
        spec = FILES.spec()
        parts = [spec, *(d for d in spec["$defs"].values() if "properties" in d)]
        assert [
            n for part in parts for n, p in part["properties"].items() if not p.get("description") and "$ref" not in p
        ] == []

    def test_making_one_touches_nothing(self) -> None:
        FILES.configured({"url": "/no/such/folder"})


class TestRemoteStorage:
    """fsspec's memory file system stands for object stores: no local path, times as datetimes."""

    @pytest.fixture
    def memory(self) -> Iterator[Any]:
        fs = fsspec.filesystem("memory")
        yield fs
        fs.store.clear()
        fs.pseudo_dirs[:] = [""]

    def test_is_listed_and_read_like_a_folder(self, memory: Any) -> None:
        memory.pipe("/lake/orders/1.csv.gz", gzip.compress(b"id\n1\n2\n"))
        memory.pipe("/lake/orders/2.jsonl", b'{"id":3}\n')
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"id": [4]}), sink)
        memory.pipe("/lake/orders/3.parquet", sink.getvalue().to_pybytes())
        lake = source("memory://lake", now=datetime.now(UTC))
        assert lake.check().message == "3 files match: orders 3."
        batches = read(lake, "orders")
        assert [r["id"] for r in records(batches)] == [1, 2, 3, 4]
        assert [r["_file"] for r in records(batches)][-1] == "orders/3.parquet"
        assert read(lake, "orders", through_json(batches[-1].checkpoint)) == []

    def test_a_late_upload_is_found_an_hour_back(self, memory: Any) -> None:
        memory.pipe("/lake/a1.csv", b"n\n1\n")
        lake = source("memory://lake", now=datetime.now(UTC))
        end = through_json(read(lake, "a")[-1].checkpoint)
        memory.pipe("/lake/a2.csv", b"n\n2\n")
        memory.store["/lake/a2.csv"].created = datetime.now(UTC) - timedelta(minutes=55)
        memory.store["/lake/a2.csv"].modified = datetime.now(UTC) - timedelta(minutes=55)
        assert where(read(lake, "a", end)) == [("a2.csv", 1)]
