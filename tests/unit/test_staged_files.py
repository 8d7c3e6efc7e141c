"""Staged rows in files: which form they take, that they can be read more than once, and what they leave behind."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from elt_dagster.destinations import files
from elt_dagster.destinations.files import IN_MEMORY_BYTES, ArrowFiles, Part, Staging

ROWS = 1_000


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path / "stage", "load", number_rows=False, read_once=True)


def batch(first: int, rows: int = ROWS, width: int = 10_000) -> pa.RecordBatch:
    """``rows`` numbers from ``first`` on, each beside a text of ``width`` characters: ten megabytes."""
    numbers = pa.array(range(first, first + rows), pa.int64())
    return pa.RecordBatch.from_arrays([numbers, pa.array(["x" * width] * rows)], names=["n", "text"])


def staged_files(part: Part) -> ArrowFiles:
    assert isinstance(part.data, ArrowFiles)
    return part.data


def test_many_files_are_one_part_in_the_order_the_rows_came(staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_FILE_BYTES", IN_MEMORY_BYTES)
    for first in range(0, 5 * ROWS, ROWS):
        staging.add(batch(first))
    (part,) = staging.parts()
    data = staged_files(part)
    assert len(data.paths) == 5
    assert pa.table(data)["n"].to_pylist() == list(range(5 * ROWS))
    with duckdb.connect() as connection:
        connection.register("rows", data)
        for _ in range(2):  # as after a value that does not fit
            assert connection.sql("SELECT count(*), sum(n), min(length(text)) FROM rows").fetchall() == [
                (5 * ROWS, 5 * ROWS * (5 * ROWS - 1) // 2, 10_000)
            ]


def test_what_goes_beyond_a_limit_is_compressed(staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_FILE_BYTES", IN_MEMORY_BYTES)
    monkeypatch.setattr(files, "_PLAIN_BYTES", 2 * IN_MEMORY_BYTES)
    for first in range(0, 4 * ROWS, ROWS):
        staging.add(batch(first))
    (part,) = staging.parts()
    sizes = [path.stat().st_size for path in staged_files(part).paths]
    assert [size > IN_MEMORY_BYTES for size in sizes] == [True, True, False, False]
    assert pa.table(part.data)["n"].to_pylist() == list(range(4 * ROWS))


def test_small_batches_are_put_together(staging: Staging) -> None:
    for first in range(0, 10 * ROWS, 10):
        staging.add(batch(first, rows=10, width=1_000))
    (part,) = staging.parts()
    found = list(staged_files(part).batches())
    assert len(found) < 5
    assert pa.Table.from_batches(found)["n"].to_pylist() == list(range(10 * ROWS))


def test_a_new_shape_begins_a_new_part_and_clearing_leaves_nothing(staging: Staging, tmp_path: Path) -> None:
    staging.add(batch(0))
    staging.add(pa.RecordBatch.from_pydict({"n": [1]}))
    staging.add(batch(ROWS))
    assert [type(part.data) for part in staging.parts()] == [ArrowFiles, pa.Table, ArrowFiles]
    staging.clear()
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_read_several_times_are_parquet(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "stage", "load", number_rows=True)
    staging.add(batch(0))
    (part,) = staging.parts()
    assert isinstance(part.data, Path)
    assert part.data.suffix == ".parquet"
    staging.clear()
