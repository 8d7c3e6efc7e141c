"""What is measured: each case is one function, run in a process of its own so that its peak memory is its own.

A case takes the folder to work in and returns the number of rows it moved. What it compares with runs in the same round, on the same data,
and every result is checked (rows, exact sum) before its time counts.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from elt_dagster.control.configured import ConfiguredSync
from elt_dagster.model import Batch, LoadMode, ReadRequest, Stream, SyncSpec
from elt_dagster.registry import load_connector
from elt_dagster.sdk.budget import LocalLedger
from elt_dagster.testing.fakes import MemorySource

ROWS = int(os.environ.get("BENCH_ROWS", "1000000"))
LARGE_ROWS = 5 * ROWS
COLUMNS = """
    i AS l_orderkey, (i * 7) % 200000 AS l_partkey, i % 1000 AS l_suppkey, (i % 7)::INTEGER AS l_linenumber,
    (i % 50)::DECIMAL(15,2) AS l_quantity, ((i * 13) % 10000000 / 100)::DECIMAL(15,2) AS l_extendedprice,
    ((i % 10) / 100)::DECIMAL(15,2) AS l_discount, ((i % 8) / 100)::DECIMAL(15,2) AS l_tax,
    chr((65 + i % 3)::INTEGER) AS l_returnflag, chr((70 + i % 2)::INTEGER) AS l_linestatus,
    DATE '1992-01-01' + (i % 2500)::INTEGER AS l_shipdate, DATE '1992-01-11' + (i % 2500)::INTEGER AS l_commitdate,
    DATE '1992-01-21' + (i % 2500)::INTEGER AS l_receiptdate, 'DELIVER IN PERSON' AS l_shipinstruct,
    'TRUCK' AS l_shipmode, md5(i::TEXT) AS l_comment
"""
POSTGRES_COLUMNS = COLUMNS.replace("DECIMAL", "NUMERIC").replace("/ 100)", "/ 100.0)")
LIMITS: dict[str, str | bool | int | float | list[str]] = {
    "threads": 2,
    "memory_limit": "1GB",
    "preserve_insertion_order": False,
}
Case = Callable[[Path], int]


def sync(folder: Path, connector: str, config: dict[str, Any], stream: str, **binding: Any) -> ConfiguredSync:
    """A sync of one stream into ``warehouse.duckdb`` in ``folder``."""
    spec = SyncSpec.model_validate(
        {
            "slug": "bench", "connection": "source", "destination": "warehouse", "schema": "bench",
            "streams": [{"name": stream, "table": "t", **binding}],
        }
    )  # fmt: skip
    configs = {"source": config, "warehouse": {"path": str(folder / "warehouse.duckdb")}}
    kinds = {"source": connector, "warehouse": "duckdb"}
    found: Stream = load_connector(connector).configured(config).discover()[stream]
    return ConfiguredSync(
        id="bench",
        spec=spec,
        streams={stream: found},
        binding_ids={stream: "bench"},
        connections=Connections(kinds, configs),
    )


class Connections:
    """Connections given by hand, without leases."""

    def __init__(self, kinds: dict[str, str], configs: dict[str, dict[str, Any]]) -> None:
        self.kinds, self.configs = kinds, configs

    def kind(self, name: str) -> str:
        return self.kinds[name]

    def config(self, name: str) -> dict[str, Any]:
        return self.configs[name]

    def identity(self, name: str) -> str:
        return name

    def salt(self) -> bytes:
        return b"bench"

    def ledger(self, name: str) -> LocalLedger:
        return LocalLedger()

    def vault(self, name: str) -> None:
        """None."""

    def full_refresh(self, binding_id: str) -> None:
        """None is marked."""

    def end_full_refresh(self, binding_id: str, mark_id: str) -> None:
        """Nothing to do."""

    def active_run(self, binding_id: str) -> str | None:
        return None

    def end_lease(self, binding_id: str, run_id: str) -> None:
        pass

    has_leases = False

    def lease(self, binding_id: str, run_id: str) -> nullcontext[int]:
        return nullcontext(0)


# -- PostgreSQL -> DuckDB -------------------------------------------------------------------------


def postgres_config() -> dict[str, Any]:
    """The server that `benchmarks.__main__` named in libpq's variables."""
    env = os.environ
    return {
        "host": env["PGHOST"], "port": int(env["PGPORT"]), "database": env["PGDATABASE"], "user": env["PGUSER"],
        "password": env["PGPASSWORD"], "sslmode": "disable",
    }  # fmt: skip


def postgres_elt(folder: Path) -> int:
    """Ours, end to end: discovery, read, stage, commit."""
    bench = sync(folder, "postgres", postgres_config(), "public.lineitem", load_mode="replace")
    return bench.read("public.lineitem", run_id="bench").load().rows_read


def postgres_nowhere(folder: Path) -> int:
    """The source's limit: binary COPY, thrown away."""
    subprocess.run(["psql", "-qc", "COPY lineitem TO STDOUT (FORMAT binary)"],
                   check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    return ROWS


def postgres_psql_pipe(folder: Path) -> int:
    """psql's CSV straight into a DuckDB table: no staging, no state, no types but the given ones."""
    with duckdb.connect() as types:
        described = types.sql(f"DESCRIBE SELECT {COLUMNS} FROM range(1) r(i)").fetchall()
    columns = "{" + ", ".join(f"'{row[0]}': '{row[1]}'" for row in described) + "}"
    copy = subprocess.Popen(
        ["psql", "-qc", "COPY lineitem TO STDOUT (FORMAT csv)"],
        stdout=subprocess.PIPE,
    )
    assert copy.stdout is not None
    with duckdb.connect(str(folder / "warehouse.duckdb"), config=LIMITS) as warehouse:
        warehouse.execute(
            f"CREATE SCHEMA bench; CREATE TABLE bench.t AS FROM read_csv('/dev/fd/{copy.stdout.fileno()}', header=false, "
            f"auto_detect=false, delim=',', quote='\"', escape='\"', columns={columns})"
        )
    copy.wait()
    return ROWS


def make_large() -> None:
    """Five times the rows, as ``lineitem_large``."""
    rows = f"SELECT {POSTGRES_COLUMNS} FROM generate_series(0::BIGINT, {LARGE_ROWS - 1}) i"
    subprocess.run(["psql", "-qc", f"CREATE TABLE IF NOT EXISTS lineitem_large AS {rows}"], check=True)


def postgres_elt_large(folder: Path) -> int:
    """Five times the rows: memory must not grow with them."""
    bench = sync(folder, "postgres", postgres_config(), "public.lineitem_large", load_mode="replace")
    return bench.read("public.lineitem_large", run_id="bench").load().rows_read


def postgres_elt_large_merge(folder: Path) -> int:
    """The same as the first load of a merge, which has to look for keys that come twice."""
    binding = {"load_mode": "merge", "primary_key": ["l_orderkey"]}
    bench = sync(folder, "postgres", postgres_config(), "public.lineitem_large", **binding)
    return bench.read("public.lineitem_large", run_id="bench").load().rows_read


# -- Arrow in memory -> DuckDB --------------------------------------------------------------------


def arrow_table(folder: Path) -> pa.Table:
    """The rows every Arrow case loads."""
    return pq.read_table(folder.parent / "lineitem.parquet")


class _Repeated(MemorySource):
    """The table once more for every ``times``, with growing keys left out: memory must not grow with it."""

    times = 1

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        for _ in range(self.times):
            for batch in self.tables["t"][1].to_batches(max_chunksize=65536):
                yield Batch(batch)


def load_arrow(folder: Path, table: pa.Table, mode: LoadMode, times: int = 1) -> int:
    """Load ``table`` through the engine, as a sync of a source in memory would."""
    key = ("l_orderkey",) if mode is LoadMode.MERGE else ()
    stream = Stream(name="t", schema=table.schema, primary_key=key)
    source = _Repeated({"t": (stream, table)})
    source.times = times
    spec = SyncSpec.model_validate(
        {"slug": "bench", "connection": "source", "destination": "warehouse", "schema": "bench",
         "add_metadata_columns": False, "streams": [{"name": "t", "load_mode": mode}]}
    )  # fmt: skip
    connections = Connections({"warehouse": "duckdb"}, {"warehouse": {"path": str(folder / "warehouse.duckdb")}})
    bench = ConfiguredSync(id="b", spec=spec, streams={"t": stream}, binding_ids={"t": "b"}, connections=connections)
    read = bench.read("t", run_id="bench")
    object.__setattr__(read, "open_source", lambda: source)
    return read.load().rows_read


def arrow_elt(folder: Path) -> int:
    """Ours: staged without a lock, then one transaction with the state row."""
    return load_arrow(folder, arrow_table(folder), LoadMode.REPLACE)


def arrow_bare(folder: Path) -> int:
    """`INSERT INTO t SELECT * FROM arrow`, holding the file all the while."""
    rows = arrow_table(folder)
    with duckdb.connect(str(folder / "warehouse.duckdb"), config=LIMITS) as warehouse:
        warehouse.register("arrow_rows", rows)
        warehouse.execute(
            "CREATE SCHEMA bench; CREATE TABLE bench.t AS FROM arrow_rows LIMIT 0; INSERT INTO bench.t FROM arrow_rows"
        )
    return int(rows.num_rows)


def arrow_elt_ten_times(folder: Path) -> int:
    """Ten times the rows in the same memory."""
    return load_arrow(folder, arrow_table(folder), LoadMode.REPLACE, times=10)


def merge_elt(folder: Path) -> int:
    """A tenth of the rows merged into all of them; the big load before it is part of both merge cases."""
    table = arrow_table(folder)
    load_arrow(folder, table, LoadMode.MERGE)
    return load_arrow(folder, table.slice(0, table.num_rows // 10), LoadMode.MERGE)


# -- files -> DuckDB ------------------------------------------------------------------------------


def file_elt(folder: Path, name: str) -> int:
    """Ours: a folder with one file of that name."""
    config = {"url": str(folder.parent), "streams": [{"name": "lineitem", "glob": name}]}
    bench = sync(folder, "files", config, "lineitem", load_mode="replace")
    return bench.read("lineitem", run_id="bench").load().rows_read


def file_duckdb(folder: Path, name: str) -> int:
    """DuckDB reading the file itself, sniffing what it must."""
    with duckdb.connect(str(folder / "warehouse.duckdb"), config=LIMITS) as warehouse:
        warehouse.execute(f"CREATE SCHEMA bench; CREATE TABLE bench.t AS FROM '{folder.parent / name}'")
    return ROWS


def parquet_elt(folder: Path) -> int:
    """Ours, from Parquet."""
    return file_elt(folder, "lineitem.parquet")


def parquet_duckdb(folder: Path) -> int:
    """DuckDB, from Parquet."""
    return file_duckdb(folder, "lineitem.parquet")


def csv_elt(folder: Path) -> int:
    """Ours, from CSV."""
    return file_elt(folder, "lineitem.csv")


def csv_duckdb(folder: Path) -> int:
    """DuckDB, from CSV."""
    return file_duckdb(folder, "lineitem.csv")


# -- JSON over HTTP -> DuckDB ---------------------------------------------------------------------

PAGES = 200


def rest_config() -> dict[str, Any]:
    """The API that `benchmarks.rest_server` serves, as `http_api` wants it described."""
    return {
        "base_url": f"http://127.0.0.1:{os.environ['REST_PORT']}",
        "pagination": {"type": "cursor", "at": "next_cursor", "param": "cursor"},
        "streams": [{"name": "invoices", "path": "invoices", "records_at": "data", "primary_key": ["id"]}],
    }


def rest_elt(folder: Path) -> int:
    """Ours: pages parsed without a Python object per record."""
    bench = sync(folder, "http_api", rest_config(), "invoices", load_mode="replace")
    return bench.read("invoices", run_id="bench").load().rows_read


def rest_download(folder: Path) -> int:
    """The limit: fetch every page one after another, look at its cursor, throw it away."""
    import httpx
    import simdjson

    parser, rows, cursor = simdjson.Parser(), 0, ""
    with httpx.Client(base_url=f"http://127.0.0.1:{os.environ['REST_PORT']}") as client:
        while True:
            page: Any = parser.parse(client.get("/invoices", params={"cursor": cursor} if cursor else {}).content)
            rows += len(page.at_pointer("/data"))
            found = page.at_pointer("/next_cursor")
            del page
            if found is None:
                return rows
            cursor = str(found)


def rest_from_pylist(folder: Path) -> int:
    """What most tools do: a Python dict per record, then Arrow, then DuckDB."""
    import httpx
    import orjson

    rows, cursor = 0, ""
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{os.environ['REST_PORT']}") as client,
        duckdb.connect(str(folder / "warehouse.duckdb"), config=LIMITS) as warehouse,
    ):
        warehouse.execute("CREATE SCHEMA bench")
        while True:
            body = orjson.loads(client.get("/invoices", params={"cursor": cursor} if cursor else {}).content)
            page = pa.Table.from_pylist(body["data"])
            warehouse.register("page", page)
            warehouse.execute("CREATE TABLE bench.t AS FROM page" if not rows else "INSERT INTO bench.t FROM page")
            rows += int(page.num_rows)
            if body["next_cursor"] is None:
                return rows
            cursor = body["next_cursor"]


ROUNDS: dict[str, tuple[Case, ...]] = {
    "PostgreSQL -> DuckDB": (postgres_elt, postgres_psql_pipe, postgres_nowhere),
    "PostgreSQL, 5 x the rows": (postgres_elt_large, postgres_elt_large_merge),
    "Arrow -> DuckDB": (arrow_elt, arrow_bare, arrow_elt_ten_times),
    "merge of 10 %": (merge_elt,),
    "Parquet file -> DuckDB": (parquet_elt, parquet_duckdb),
    "CSV file -> DuckDB": (csv_elt, csv_duckdb),
    "REST JSON -> DuckDB": (rest_elt, rest_from_pylist, rest_download),
}
WITHOUT_TABLE = {postgres_nowhere, rest_download}
BEFORE: dict[str, Callable[[], None]] = {"PostgreSQL, 5 x the rows": make_large}
