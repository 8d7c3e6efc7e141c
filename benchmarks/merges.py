"""Merges and single rows, ours beside dlt: the same Arrow rows, the same keys, the same machine.

The table is loaded before the clock starts, in a process of its own. Then a tenth of its rows, spread over all of it, comes again with one column
changed. dlt runs as its documentation advises for Arrow: Parquet files, its default strategy (delete-insert), no telemetry.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.cases import ROWS, Case, Connections
from elt_dagster.control.configured import ConfiguredSync
from elt_dagster.model import Batch, LoadMode, ReadRequest, Stream, SyncSpec
from elt_dagster.testing.fakes import MemorySource

KEY = "l_orderkey"
CHANGED_ROWS = ROWS // 10
BATCH_ROWS = 65_536


def rows_of(folder: Path, name: str) -> Path:
    """One of the files that every case reads, in batches: all rows, those that changed, or a single one."""
    return folder.parent / f"{name}.parquet"


def make_files(folder: Path) -> None:
    """Write the changed rows and the single row beside ``lineitem.parquet``."""
    every = f"FROM '{folder / 'lineitem.parquet'}'"
    with duckdb.connect() as maker:
        maker.execute(
            f"COPY (SELECT * REPLACE ('changed' AS l_comment) {every} WHERE {KEY} % 10 = 3) TO '{folder / 'changed.parquet'}'"
        )
        maker.execute(f"COPY (SELECT * {every} WHERE {KEY} = 3) TO '{folder / 'single.parquet'}'")


# -- ours -----------------------------------------------------------------------------------------


class _ParquetSource(MemorySource):
    """Rows of a file, batch by batch and ``times`` over: nothing of it is kept."""

    path: Path
    times = 1

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        for _ in range(self.times):
            for batch in pq.ParquetFile(self.path).iter_batches(BATCH_ROWS):
                yield Batch(batch)


def load_ours(folder: Path, name: str, warehouse: str, mode: LoadMode = LoadMode.MERGE, times: int = 1) -> int:
    """Load a file into ``bench.t`` through the engine, as a sync would."""
    path = rows_of(folder, name)
    schema = pq.read_schema(path).remove_metadata()
    stream = Stream(name="t", schema=schema, primary_key=(KEY,) if mode is LoadMode.MERGE else ())
    source = _ParquetSource({"t": (stream, schema.empty_table())})
    source.path, source.times = path, times
    spec = SyncSpec.model_validate(
        {"slug": "bench", "connection": "source", "destination": "warehouse", "schema": "bench",
         "add_metadata_columns": False, "streams": [{"name": "t", "load_mode": mode}]}
    )  # fmt: skip
    connections = Connections({"warehouse": warehouse}, {"warehouse": _settings(warehouse, folder)})
    bench = ConfiguredSync(id="b", spec=spec, streams={"t": stream}, binding_ids={"t": "b"}, connections=connections)
    read = bench.read("t", run_id="bench")
    object.__setattr__(read, "open_source", lambda: source)
    return read.load().rows_read


def _settings(warehouse: str, folder: Path) -> dict[str, Any]:
    env = os.environ
    if warehouse == "duckdb":
        return {"path": str(folder / "warehouse.duckdb")}
    return {
        "host": env["PGHOST"], "port": int(env["PGPORT"]), "database": env["PGDATABASE"], "user": env["PGUSER"],
        "password": env["PGPASSWORD"], "sslmode": "disable",
    }  # fmt: skip


# -- dlt ------------------------------------------------------------------------------------------


def load_dlt(folder: Path, name: str, warehouse: str, disposition: str = "merge", times: int = 1) -> int:
    """Load a file into ``bench.t`` with dlt alone."""
    os.environ.update(
        RUNTIME__DLTHUB_TELEMETRY="false", DLT_DATA_DIR=str(folder / "dlt"), RUNTIME__LOG_LEVEL="CRITICAL"
    )
    import dlt

    library: Any = dlt
    path = rows_of(folder, name)

    def tables() -> Iterator[pa.Table]:
        for _ in range(times):
            for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS):
                yield pa.Table.from_batches([batch])

    env = os.environ
    where = {
        "duckdb": lambda: library.destinations.duckdb(str(folder / "warehouse.duckdb")),
        "postgres": lambda: library.destinations.postgres(
            f"postgresql://{env['PGUSER']}:{env['PGPASSWORD']}@{env['PGHOST']}:{env['PGPORT']}/{env['PGDATABASE']}"
        ),
    }[warehouse]()
    pipeline = library.pipeline(
        "bench", destination=where, dataset_name="bench", pipelines_dir=str(folder / "pipelines")
    )
    key = KEY if disposition == "merge" else None
    resource = library.resource(tables, name="t", write_disposition=disposition, primary_key=key)
    pipeline.run(resource, loader_file_format="parquet")
    rows: int = pq.read_metadata(path).num_rows
    return rows * times


# -- the cases ------------------------------------------------------------------------------------


def duckdb_table_ours(folder: Path) -> int:
    """The table that is merged into, as we make it."""
    return load_ours(folder, "lineitem", "duckdb")


def duckdb_table_dlt(folder: Path) -> int:
    """The same as dlt makes it."""
    return load_dlt(folder, "lineitem", "duckdb")


def duckdb_merge_ours(folder: Path) -> int:
    """A tenth of the rows, changed."""
    return load_ours(folder, "changed", "duckdb")


def duckdb_merge_dlt(folder: Path) -> int:
    """A tenth of the rows, changed."""
    return load_dlt(folder, "changed", "duckdb")


def postgres_table_ours(folder: Path) -> int:
    """The table that is merged into, in an empty schema."""
    _empty_schema()
    return load_ours(folder, "lineitem", "postgres")


def postgres_table_dlt(folder: Path) -> int:
    """The same as dlt makes it."""
    _empty_schema()
    return load_dlt(folder, "lineitem", "postgres")


def postgres_merge_ours(folder: Path) -> int:
    """A tenth of the rows, changed."""
    return load_ours(folder, "changed", "postgres")


def postgres_merge_dlt(folder: Path) -> int:
    """A tenth of the rows, changed."""
    return load_dlt(folder, "changed", "postgres")


def single_first_ours(folder: Path) -> int:
    """One row, into a warehouse that is not there yet: what importing costs is left to this."""
    return load_ours(folder, "single", "duckdb")


def single_first_dlt(folder: Path) -> int:
    """One row, into a warehouse that is not there yet."""
    return load_dlt(folder, "single", "duckdb")


def single_again_ours(folder: Path) -> int:
    """One row once more, when everything is imported."""
    return load_ours(folder, "single", "duckdb")


def single_again_dlt(folder: Path) -> int:
    """One row once more, when everything is imported."""
    return load_dlt(folder, "single", "duckdb")


def stream_ours(folder: Path) -> int:
    """All rows in batches: how much memory that takes."""
    return load_ours(folder, "lineitem", "duckdb", LoadMode.REPLACE)


def stream_ours_ten_times(folder: Path) -> int:
    """Ten times the rows: memory must not grow with them."""
    return load_ours(folder, "lineitem", "duckdb", LoadMode.REPLACE, times=10)


def stream_dlt(folder: Path) -> int:
    """All rows in batches."""
    return load_dlt(folder, "lineitem", "duckdb", "replace")


def stream_dlt_ten_times(folder: Path) -> int:
    """Ten times the rows."""
    return load_dlt(folder, "lineitem", "duckdb", "replace", times=10)


def _empty_schema() -> None:
    for schema in ("bench", "bench_staging"):
        subprocess.run(
            ["psql", "-qc", f"DROP SCHEMA IF EXISTS {schema} CASCADE"], check=True, stderr=subprocess.DEVNULL
        )


# -- what came of it ------------------------------------------------------------------------------


def check(case: Case, folder: Path) -> None:
    """Raise AssertionError unless the table holds what this case should have left."""
    total = {"single": 1, "stream": ROWS * (10 if "ten_times" in case.__name__ else 1)}.get(
        case.__name__.partition("_")[0], ROWS
    )
    changed = CHANGED_ROWS if "_merge_" in case.__name__ else 0
    query = f"SELECT count(*), count(DISTINCT {KEY}), count(CASE WHEN l_comment = 'changed' THEN 1 END) FROM bench.t"
    expected = (total, min(total, ROWS), changed)
    found = _asked_postgres(query) if case.__name__.startswith("postgres") else _asked_duckdb(folder, query)
    assert found == expected, (case.__name__, found, expected)


def _asked_duckdb(folder: Path, query: str) -> tuple[int, ...]:
    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as warehouse:
        return tuple(warehouse.sql(query).fetchall()[0])


def _asked_postgres(query: str) -> tuple[int, ...]:
    asked = subprocess.run(["psql", "-qtAc", query], check=True, stdout=subprocess.PIPE, text=True)
    return tuple(int(value) for value in asked.stdout.strip().split("|"))


ROUNDS: dict[str, tuple[Case, ...]] = {
    "merge of 10 % in DuckDB": (duckdb_merge_ours, duckdb_merge_dlt),
    "merge of 10 % in PostgreSQL": (postgres_merge_ours, postgres_merge_dlt),
    "one row, start included": (single_first_ours, single_first_dlt),
    "one row after import": (single_again_ours, single_again_dlt),
    "memory at 1 x and 10 x the rows": (stream_ours, stream_ours_ten_times, stream_dlt, stream_dlt_ten_times),
}
TABLES: dict[str, Case] = {
    "duckdb_merge_ours": duckdb_table_ours,
    "duckdb_merge_dlt": duckdb_table_dlt,
    "postgres_merge_ours": postgres_table_ours,
    "postgres_merge_dlt": postgres_table_dlt,
}
"""Case -> what is done first in the same folder, in a process of its own."""
WARM_UP: dict[str, Callable[[Path], int]] = {
    "single_again_ours": single_first_ours,
    "single_again_dlt": single_first_dlt,
}
"""Case -> what is done first in the same process."""
