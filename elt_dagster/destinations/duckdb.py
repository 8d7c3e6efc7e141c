"""DuckDB: a warehouse in one file, the default for a single machine.

Loads are staged beside the file and committed one after another; see `_duckdb_file` for who waits for whom, `_duckdb_load` for a load.
https://duckdb.org/docs/current/connect/concurrency
"""

import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field, field_validator

from elt_dagster.destinations._duckdb_file import DatabaseFile, Session, explaining
from elt_dagster.destinations._duckdb_history import find_history
from elt_dagster.destinations._duckdb_load import DuckDBLoad
from elt_dagster.destinations._duckdb_table import (
    Entry,
    columns_of,
    drop,
    duckdb_columns,
    entries,
    find,
    planned_evolution,
    read_history,
    read_states,
    save_state,
)
from elt_dagster.destinations._duckdb_types import canonical_type, folded, readable
from elt_dagster.destinations.base import Destination, Load, LoadPlan, State, StateMove, TableRef
from elt_dagster.destinations.files import Staging, sweep
from elt_dagster.destinations.plans import check_plan, needs_arrival
from elt_dagster.destinations.sql import quote
from elt_dagster.destinations.state import check_moves
from elt_dagster.errors import ConfigError, EltError, NotFoundError, TransientError, nearest
from elt_dagster.model import CheckResult
from elt_dagster.sdk.connector import Config
from elt_dagster.sdk.places import LOCAL

_READ_IN_MEMORY_BYTES = 32 * 1024 * 1024
_READ_CELLS = 1_000_000  # per batch handed to the reader


class DuckDBConfig(Config):
    """Where the file is and how much of the machine loading may take."""

    path: str = Field(min_length=1, json_schema_extra=LOCAL)
    """The DuckDB file. It is made on the first load; its folder must exist."""
    memory_limit: str | None = Field(None, pattern=r"^\d+(\.\d+)?\s*([KMGT]i?B)$")
    """How much memory DuckDB may take while loading, such as `1GB`; what does not fit goes to the staging folder. By default 256 MB, and
    more for tables of more than 100 columns. A process that loads needs about 150 MB more than this."""
    threads: int | None = Field(2, ge=1)
    """How many threads DuckDB may use; null for all of the machine's."""
    lock_timeout_seconds: float = Field(60, ge=0)
    """How long to wait while somebody else holds the file."""
    staging: str | None = Field(default=None, json_schema_extra=LOCAL)
    """A folder on a local disk for rows that are not committed yet; by default `<path>.staging` beside the file."""

    @field_validator("path")
    @classmethod
    def _is_a_file(cls, value: str) -> str:
        if value.startswith((":memory:", "md:", "motherduck:")) or "://" in value:
            raise ValueError("must be the path of a local file")
        return value


class DuckDB(Destination[DuckDBConfig]):
    """Tables in a DuckDB file on this machine."""

    name = "duckdb"
    title = "DuckDB"
    docs_url = "https://duckdb.org/docs/current/"
    requires = ("duckdb",)
    config_type = DuckDBConfig

    def check(self) -> CheckResult:
        """Whether the file can be loaded into; makes nothing, and does not wait for those who hold it, as loads will."""
        path = self._file.path
        try:
            self._require_folder()
            for needed in (path, path.parent):
                if needed.exists() and not os.access(needed, os.W_OK):
                    return CheckResult(ok=False, message=f"This user may not write to {needed}.")
            if not self._file.exists():
                return CheckResult(ok=True, message=f"{path} does not exist yet; the first load will make it.")
            with replace(self._file, timeout=0.0).open(write=False) as session:
                version = session.value("SELECT version()")
        except TransientError:
            wait = f"loads wait up to {self._file.timeout:g} seconds for it"
            return CheckResult(ok=True, message=f"{path} is held by somebody at this moment; {wait}.")
        except EltError as error:
            return CheckResult(ok=False, message=str(error))
        return CheckResult(ok=True, message=f"{path} can be read with DuckDB {version}.")

    def begin(self, plan: LoadPlan) -> Load:
        """See `Destination.begin`. Also removes what loads of dead processes left in the staging folder."""
        check_plan(plan, folded)
        self._require_folder()
        sweep(self._staging_root)
        columns = None
        if self._file.exists():
            with self._file.open(write=False) as session, explaining(f"looking at {plan.table}"):
                columns = find(session, plan).columns
                if plan.history:
                    find_history(session, plan)
        planned_evolution(plan, columns, [])
        staging = Staging(
            self._staging_root, plan.load_id, number_rows=needs_arrival(plan), read_once=_only_inserts(plan)
        )
        return DuckDBLoad(self._file, plan, staging, self.runtime)

    def state(self, schema: str, binding_id: str) -> State | None:
        """See `Destination.state`."""
        return next((s for s in self.states(schema) if s.binding_id == binding_id), None)

    def states(self, schema: str) -> list[State]:
        """See `Destination.states`."""
        if not self._file.exists():
            return []
        with self._file.open(write=False) as session, explaining(f"reading the state of {schema}"):
            return read_states(session, schema, entries(session, schema))

    def history(self, schema: str, binding_id: str) -> list[State]:
        """See `Destination.history`."""
        if not self._file.exists():
            return []
        with self._file.open(write=False) as session, explaining(f"reading the history of {schema}"):
            return read_history(session, schema, binding_id)

    def move_states(self, moves: Sequence[StateMove]) -> None:
        """See `Destination.move_states`."""
        if not moves:
            return
        if not self._file.exists():
            check_moves(moves, [])
        schema = moves[0].state.table.schema
        with self._file.open(write=True) as session, explaining(f"setting the state of {schema}"):
            session.run("BEGIN TRANSACTION")
            check_moves(moves, read_states(session, schema, entries(session, schema)))
            for move in moves:
                save_state(session, move.state)
            session.run("COMMIT")

    def drop(self, schema: str, binding_ids: Collection[str]) -> tuple[TableRef, ...]:
        """See `Destination.drop`."""
        if not self._file.exists():
            return ()
        with self._file.open(write=True) as session, explaining(f"removing tables of {schema}"):
            session.run("BEGIN TRANSACTION")
            dropped = drop(session, schema, binding_ids)
            session.run("COMMIT")
        return dropped

    def columns(self, table: TableRef) -> pa.Schema | None:
        """See `Destination.columns`. A view has columns too."""
        if not self._file.exists():
            return None
        with self._file.open(write=False) as session, explaining(f"looking at {table}"):
            entry = entries(session, table.schema).get(folded(table.name))
            return columns_of(session, entry, comments=True) if entry is not None else None

    def count(self, table: TableRef) -> int:
        """The number of rows in ``table``. Raises NotFoundError for a missing table."""
        self._require_file(table)
        with self._file.open(write=False) as session, explaining(f"counting {table}"):
            entry = _require_entry(session, table)
            return int(session.value(f"SELECT count(*) FROM {session.table(entry.table)}"))

    def read(
        self, table: TableRef, columns: list[str] | None = None, where: Mapping[str, tuple[Any, Any]] | None = None
    ) -> pa.RecordBatchReader:
        """See `Destination.read`; a bound of None is open.

        The file is held only until this returns, for while it is open nobody can load: up to 32 MiB of the result stay in memory, the rest
        goes to an unlinked temporary file that the reader streams from and that vanishes with it.
        """
        self._require_file(table)
        with self._file.open(write=False) as session, explaining(f"reading {table}"):
            entry = _require_entry(session, table)
            found = {folded(name): (name, kind) for name, kind in duckdb_columns(session, entry)}
            chosen = (
                [_require_column(found, name, table) for name in columns] if columns is not None else [*found.values()]
            )
            schema = pa.schema([(name, canonical_type(kind)) for name, kind in chosen])
            terms = [readable(name, kind) for name, kind in chosen]
            condition, bounds = _condition(found, where or {}, table)
            query = f"SELECT {', '.join(terms) or 'NULL'} FROM {session.table(table)}{condition}"
            result = session.connection.sql(query, params=bounds)
            batches = result.to_arrow_reader(max(1_024, _READ_CELLS // max(1, len(chosen))))
            return pa.RecordBatchReader.from_batches(schema, _held(batches, schema, self._spool_folder()))

    def uri(self, table: TableRef) -> str:
        """``duckdb://<absolute path>/<schema>/<table>``."""
        return f"duckdb://{self._file.path.resolve()}/{table.schema}/{table.name}"

    @property
    def _file(self) -> DatabaseFile:
        config = self.config
        return DatabaseFile(
            path=Path(config.path).expanduser().absolute(),
            memory_limit=config.memory_limit,
            threads=config.threads,
            timeout=config.lock_timeout_seconds,
            sleep=self.runtime.sleep,
        )

    @property
    def _staging_root(self) -> Path:
        if self.config.staging:
            return Path(self.config.staging).expanduser().absolute()
        path = self._file.path
        return path.with_name(f"{path.name}.staging")

    def _spool_folder(self) -> Path | None:
        folder = self._file.path.parent
        return folder if os.access(folder, os.W_OK) else None

    def _require_folder(self) -> None:
        path = self._file.path
        if not path.parent.is_dir():
            raise ConfigError(
                f"The folder {path.parent} of the DuckDB file does not exist.", fix="Make it, or correct `path`."
            )
        if path.is_dir():
            raise ConfigError(f"{path} is a folder, not a DuckDB file.", fix="Add a file name to `path`.")

    def _require_file(self, table: TableRef) -> None:
        if not self._file.exists():
            raise NotFoundError(
                f"There is no table {table}: {self._file.path} does not exist yet.", fix="Load it first."
            )


destination = DuckDB


def _only_inserts(plan: LoadPlan) -> bool:
    """Whether staged rows go into the table as they come and are compared with nothing."""
    return not (needs_arrival(plan) or plan.history or plan.boundary is not None or plan.replaces is not None)


def _require_entry(session: Session, table: TableRef) -> Entry:
    known = entries(session, table.schema)
    if folded(table.name) not in known:
        names = [entry.table.name for entry in known.values()]
        raise NotFoundError(f"There is no table {table}.", fix=nearest(table.name, names))
    return known[folded(table.name)]


def _require_column(found: Mapping[str, tuple[str, str]], name: str, table: TableRef) -> tuple[str, str]:
    if folded(name) not in found:
        raise NotFoundError(f"{table} has no column {name!r}.", fix=nearest(name, [n for n, _ in found.values()]))
    return found[folded(name)]


def _condition(
    found: Mapping[str, tuple[str, str]], where: Mapping[str, tuple[Any, Any]], table: TableRef
) -> tuple[str, list[Any]]:
    terms: list[str] = []
    bounds: list[Any] = []
    for name, (low, high) in where.items():
        column, kind = _require_column(found, name, table)
        # TIMESTAMPTZ_NS is compared with nothing else.
        value = f"CAST({quote(column)} AS TIMESTAMPTZ)" if kind == "TIMESTAMPTZ_NS" else quote(column)
        for bound, compare in ((low, ">="), (high, "<")):
            if bound is not None:
                terms.append(f"{value} {compare} ?")
                bounds.append(bound)
    return (f" WHERE {' AND '.join(terms)}" if terms else ""), bounds


def _held(batches: pa.RecordBatchReader, schema: pa.Schema, folder: Path | None) -> Iterator[pa.RecordBatch]:
    """All of ``batches``, taken now: the first in memory, the rest in a file without a name, handed out one by one."""
    first: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        first.append(_as(batch, schema))
        size += batch.nbytes
        if size > _READ_IN_MEMORY_BYTES:
            return _chained(first, _spooled(batches, schema, folder))
    return iter(first)


def _spooled(batches: pa.RecordBatchReader, schema: pa.Schema, folder: Path | None) -> Iterator[pa.RecordBatch]:
    spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed when the reader is done with it
    with pa.ipc.new_stream(spool, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        for batch in batches:
            writer.write_batch(_as(batch, schema))
    spool.seek(0)
    return _from_spool(spool)


def _from_spool(spool: Any) -> Iterator[pa.RecordBatch]:
    with spool:
        yield from pa.ipc.open_stream(spool)


def _chained(first: list[pa.RecordBatch], rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    while first:
        yield first.pop(0)
    yield from rest


def _as(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """``batch`` under exactly the canonical ``schema``: DuckDB has several names for UTC, and zones do not change values."""
    columns = [c if c.type == f.type else c.cast(f.type) for c, f in zip(batch.columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
