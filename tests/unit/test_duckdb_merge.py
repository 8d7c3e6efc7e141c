"""Merges into a DuckDB table that are large, or whose columns have awkward names."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from elt_dagster.control.configured import ConfiguredSync
from elt_dagster.model import Batch, ReadRequest, Stream, StreamResult, SyncSpec
from elt_dagster.testing.fakes import MemorySource
from tests.integration.hand_made import HandMadeConnections


class InParts(MemorySource):
    """The table in batches, for a load of one batch is never written to disk."""

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        for batch in self.tables["t"][1].to_batches(max_chunksize=2_000):
            yield Batch(batch)


def merge(folder: Path, table: pa.Table, *primary_key: str, memory_limit: str | None = None) -> StreamResult:
    stream = Stream(name="t", schema=table.schema, primary_key=primary_key)
    source = InParts({"t": (stream, table)})
    spec = SyncSpec.model_validate(
        {"slug": "merges", "connection": "source", "destination": "warehouse", "schema": "raw",
         "streams": [{"name": "t", "load_mode": "merge", "primary_key": primary_key}]}
    )  # fmt: skip
    config = {"path": str(folder / "warehouse.duckdb"), "memory_limit": memory_limit}
    sync = ConfiguredSync(
        id="merges",
        spec=spec,
        streams={"t": stream},
        binding_ids={"t": "t"},
        connections=HandMadeConnections({"warehouse": "duckdb"}, {"warehouse": config}),
    )
    read = sync.read("t", run_id="run")
    object.__setattr__(read, "open_source", lambda: source)
    return read.load()


def fetch(folder: Path, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as warehouse:
        return warehouse.sql(sql).fetchall()


def wide(rows: int, columns: int, changed: str) -> pa.Table:
    """``rows`` of text, all different; in every thousandth row the text begins with ``changed``."""
    texts = ", ".join(f"x || md5((i * {n + 1})::VARCHAR) || md5((i + {n})::VARCHAR) AS t{n}" for n in range(columns))
    with duckdb.connect() as maker:
        found = maker.sql(
            f"SELECT i AS id, {texts} FROM (SELECT i, CASE WHEN i % 1000 = 0 THEN '{changed}' ELSE '' END AS x "
            f"FROM range({rows}) AS r(i))"
        ).to_arrow_table()
    return found.cast(pa.schema([(f.name, f.type) for f in found.schema]))


def test_a_wide_merge_needs_memory_for_keys_and_not_for_rows(tmp_path: Path) -> None:
    merge(tmp_path, wide(40_000, 40, ""), "id", memory_limit="100MB")
    again = merge(tmp_path, wide(40_000, 40, "new"), "id", memory_limit="100MB")
    assert (again.rows_inserted, again.rows_updated, again.table_rows) == (0, 40, 40_000)
    assert fetch(tmp_path, "SELECT count(*) FROM raw.t WHERE starts_with(t0, 'new') AND id % 1000 = 0") == [(40,)]


@pytest.mark.parametrize("name", ["arrival", "row", "content", "same", "rowid", "i", "s", "t"])
def test_a_column_may_be_called_as_we_call_ours(tmp_path: Path, name: str) -> None:
    for key in (name, "id"):
        folder = tmp_path / key
        folder.mkdir()
        other = "id" if key == name else name
        merge(folder, pa.table({key: [1, 2, 3], other: [7, 7, 7]}), key)
        result = merge(folder, pa.table({key: [2, 3, 4], other: [8, 7, 8]}), key)
        assert (result.rows_inserted, result.rows_updated) == (1, 1)
        assert fetch(folder, f'SELECT "{key}", "{other}" FROM raw.t ORDER BY 1') == [(1, 7), (2, 8), (3, 7), (4, 8)]
