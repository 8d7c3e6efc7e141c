"""dlt as a warehouse: whatever its library can load and we have no loader of our own for (BigQuery, Redshift, ClickHouse, SQL Server, ...).

For DuckDB, PostgreSQL, Databricks and Snowflake use the warehouse of that name: it is faster, and its rows and state are committed together.

At least once: dlt commits rows first, the state (`_elt_state`) is written right after. Where a process is killed between the two, the next load brings the
same rows again: a merge or replace ends the same, an append with a cursor leaves out what is there, and an append without a cursor then
holds these rows twice. Packages that a killed load left behind are dropped, never finished.

What dlt cannot do is refused before the source is asked: history tables, deletes `soft` and `ignore`, windows that are replaced. A column keeps the type
it was made with, also in a full refresh, and its columns are never removed. A merge rewrites rows that did not change, so they count as updated; dlt counts
nothing itself, so inserts and deletes of one merge are the difference in the table's size.

Where the warehouse has transactions, a merge or replace is one; where it has none (BigQuery, ClickHouse, Athena), one that fails half-way may have
removed rows already, which the next attempt brings again.

Rows that the source deleted are removed through dlt's `hard_delete`; for that the table has a column `_elt_deleted_at`, always NULL, once there was one. dlt's own
tables (`_dlt_loads`, `_dlt_version`) and a schema `<schema>_staging` appear in the warehouse. Nothing is sent to dlt's maker, nothing is written to the
home directory, and no file or environment variable is read for settings.
"""

import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, SecretStr

from elt_dagster.destinations._dlt_errors import explaining
from elt_dagster.destinations._dlt_factory import build
from elt_dagster.destinations._dlt_load import AT_LEAST_ONCE, DltLoad, exactly, formats, planned
from elt_dagster.destinations._dlt_rows import canonical, open_duckdb
from elt_dagster.destinations._dlt_runtime import ours
from elt_dagster.destinations._dlt_session import Session, open_session
from elt_dagster.destinations._dlt_types import check_names, storable
from elt_dagster.destinations.base import (
    DELETED_AT,
    HISTORY_LENGTH,
    Destination,
    Load,
    LoadPlan,
    State,
    StateMove,
    TableRef,
)
from elt_dagster.destinations.files import Staging, sweep
from elt_dagster.destinations.plans import check_adoption, check_owner, check_plan, keeps_rows, needs_arrival
from elt_dagster.destinations.state import check_moves
from elt_dagster.errors import ConfigError, DestinationError, EltError, NotFoundError, nearest
from elt_dagster.model import CheckResult, LoadMode
from elt_dagster.sdk.connector import Config
from elt_dagster.sdk.places import ADDRESS, LOCAL

_OWN = {"duckdb", "postgres", "databricks", "snowflake"}
_SERVERS = {
    "athena", "bigquery", "clickhouse", "databricks", "dremio", "fabric", "mssql", "postgres", "redshift", "snowflake", "synapse",
}  # fmt: skip
"""Those of dlt's destinations that cannot be a file on this machine."""


class DltConfig(Config):
    """Which of dlt's destinations, and how to reach it."""

    destination: str = Field(pattern=r"^[a-z][a-z0-9_]*$", examples=["bigquery"], json_schema_extra=ADDRESS)
    """dlt's name of the destination, such as `bigquery`, `redshift`, `clickhouse`, `mssql`, `athena` or `sqlalchemy`."""
    credentials: SecretStr | dict[str, SecretStr | int | bool] | None = None
    """What dlt's page on the destination lists as credentials: fields, or one connection string."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of dlt's destination, such as `location` of BigQuery or `engine_args` of sqlalchemy."""
    loader_file_format: Literal["parquet", "jsonl", "insert_values", "typed-jsonl"] | None = None
    """How rows travel; by default Parquet where the destination takes it, else what dlt prefers there. (Not CSV: in it an empty text and none at all are the same.)"""
    merge_strategy: Literal["delete-insert", "upsert"] = "delete-insert"
    """How dlt merges; `upsert` is one MERGE statement, where the destination has it."""
    replace_strategy: Literal["insert-from-staging", "staging-optimized"] = "insert-from-staging"
    """How a full refresh replaces rows. `insert-from-staging` keeps views and grants and is one transaction where the warehouse has them; `staging-optimized`
    puts the new table in the place of the old one where dlt can."""
    working_directory: str | None = Field(default=None, json_schema_extra=LOCAL)
    """A folder on a local disk for rows that are not loaded yet, and for dlt; by default one in the system's folder for temporary files."""

    @classmethod
    def local_settings(cls, settings: Mapping[str, Any]) -> Iterator[str]:
        """See `Config.local_settings`: many of dlt's destinations are, or may be, files."""
        yield from super().local_settings(settings)
        if settings.get("destination") not in _SERVERS:
            yield "destination"


class Dlt(Destination[DltConfig]):
    """Tables in any SQL warehouse that the library dlt can load, at least once."""

    name = "dlt"
    title = "dlt (any other warehouse)"
    docs_url = "https://dlthub.com/docs/dlt-ecosystem/destinations"
    requires = ("dlt",)
    config_type = DltConfig

    def check(self) -> CheckResult:
        """Whether the warehouse can be reached; says that it is loaded at least once."""
        try:
            with self._open("elt_dagster_check", "checking the connection") as session:
                session.exists()
        except EltError as error:
            return CheckResult(ok=False, message=str(error))
        own = (
            f" There is also a warehouse {self.config.destination!r} of our own, which is faster and exact."
            if self.config.destination in _OWN
            else ""
        )
        return CheckResult(ok=True, message=f"dlt reaches {self.config.destination}. {AT_LEAST_ONCE}{own}")

    def begin(self, plan: LoadPlan) -> Load:
        """See `Destination.begin`. Also removes what loads of dead processes left in the working directory."""
        check_plan(plan, exactly)
        _refuse_what_dlt_cannot(plan)
        sweep(self._folder)
        with self._open(plan.table.schema, f"looking at {plan.table}") as session:
            check_names(plan, plan.columns, lambda name: str(session.client.schema.naming.normalize_identifier(name)))
            found = session.columns(plan.table)
            owner = check_owner(plan, session.states(), exactly)
            if found is not None and owner is None:
                if session.tables().get(plan.table.name):
                    raise DestinationError(
                        f"{plan.table} is a view and cannot be loaded.", fix="Give this stream another `table`."
                    )
                check_adoption(plan, found, storable(plan.columns, found), exactly)
            capabilities = session.client.capabilities
        planned(plan, found, [])
        if plan.mode is LoadMode.MERGE and self.config.merge_strategy not in (
            capabilities.supported_merge_strategies or ()
        ):
            able = ", ".join(capabilities.supported_merge_strategies or ()) or "none"
            raise ConfigError(
                f"dlt cannot merge with {self.config.merge_strategy} in {self.config.destination} (it can: {able}).",
                fix="Set another merge_strategy, or load_mode append or replace.",
            )
        return DltLoad(
            plan, Staging(self._folder, plan.load_id, number_rows=needs_arrival(plan)), self.runtime,
            factory=self._factory, session=lambda doing: self._open(plan.table.schema, doing), inside=lambda: ours(self._folder),
            merge_strategy=self.config.merge_strategy, formats=formats(self.config.loader_file_format, capabilities.supported_loader_file_formats or ()), destination=self.config.destination,
        )  # fmt: skip

    def state(self, schema: str, binding_id: str) -> State | None:
        """See `Destination.state`."""
        return next((s for s in self.states(schema) if s.binding_id == binding_id), None)

    def states(self, schema: str) -> list[State]:
        """See `Destination.states`."""
        with self._open(schema, f"reading the state of {schema}") as session:
            return session.states()

    def history(self, schema: str, binding_id: str) -> list[State]:
        """See `Destination.history`."""
        with self._open(schema, f"reading the history of {schema}") as session:
            return [s for s in session.states(last=HISTORY_LENGTH) if s.binding_id == binding_id]

    def move_states(self, moves: Sequence[StateMove]) -> None:
        """See `Destination.move_states`. Between looking and writing nothing is locked."""
        if not moves:
            return
        schema = moves[0].state.table.schema
        with self._open(schema, f"setting the state of {schema}") as session:
            check_moves(moves, session.states())
            session.save([move.state for move in moves])

    def drop(self, schema: str, binding_ids: Collection[str]) -> tuple[TableRef, ...]:
        """See `Destination.drop`. In a transaction where dlt's client of this warehouse has them."""
        with self._open(schema, f"removing tables of {schema}") as session:
            return session.drop(binding_ids)

    def columns(self, table: TableRef) -> pa.Schema | None:
        """See `Destination.columns`; without the column that dlt's hard deletes need."""
        with self._open(table.schema, f"looking at {table}") as session:
            return session.columns(table)

    def count(self, table: TableRef) -> int:
        """The number of rows in ``table``. Raises NotFoundError for a missing table."""
        with self._open(table.schema, f"counting {table}") as session:
            _require(session, table)
            return session.count(table)

    def read(
        self, table: TableRef, columns: list[str] | None = None, where: Mapping[str, tuple[Any, Any]] | None = None
    ) -> pa.RecordBatchReader:
        """See `Destination.read`; a bound of None is open.

        The result is fetched into an unlinked temporary file before this returns, for most drivers hold a whole result or a whole connection otherwise.
        """
        with self._open(table.schema, f"reading {table}") as session:
            known = _require(session, table)
            for name in (*(columns or ()), *(where or ())):
                if name not in known.names:
                    raise NotFoundError(f"{table} has no column {name!r}.", fix=nearest(name, known.names))
            schema = pa.schema(
                [known.field(name).remove_metadata() for name in (columns if columns is not None else known.names)]
            )
            return self._fetched(session.read(table, schema, where or {}), schema)

    def uri(self, table: TableRef) -> str:
        """``dlt+<destination>:///<schema>/<table>``: where the warehouse is, is part of its credentials."""
        return f"dlt+{self.config.destination}:///{table.schema}/{table.name}"

    @contextmanager
    def _open(self, schema: str, doing: str) -> Iterator[Session]:
        with (
            ours(self._folder),
            open_session(self._factory, schema, destination=self.config.destination, doing=doing) as session,
        ):
            yield session

    def _factory(self) -> Any:
        config = self.config
        with explaining("reading its settings", config.destination):
            return build(config.destination, config.credentials, config.replace_strategy, config.options)

    def _fetched(self, tables: Iterator[pa.Table], schema: pa.Schema) -> pa.RecordBatchReader:
        spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the reader is done with it
        with (
            open_duckdb(None) as converting,
            pa.ipc.new_stream(spool, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer,
        ):
            for table in tables:
                writer.write_table(canonical(converting, table, schema))
        spool.seek(0)
        return pa.RecordBatchReader.from_batches(schema, _from_spool(spool))

    @property
    def _folder(self) -> Path:
        if self.config.working_directory:
            return Path(self.config.working_directory).expanduser().absolute()
        return Path(tempfile.gettempdir(), f"elt-dagster-dlt-{os.getuid()}")


destination = Dlt


def _from_spool(spool: Any) -> Iterator[pa.RecordBatch]:
    with spool:
        yield from pa.ipc.open_stream(spool)


def _require(session: Session, table: TableRef) -> pa.Schema:
    found = session.columns(table)
    if found is None:
        raise NotFoundError(f"There is no table {table}.", fix=nearest(table.name, list(session.tables())))
    return found


def _refuse_what_dlt_cannot(plan: LoadPlan) -> None:
    if plan.history:
        what, fix = "keep a history table", "Set history to false, or take a warehouse that we load ourselves."
    elif keeps_rows(plan):
        what, fix = f"have deletes {plan.deletes.value}", "Set deletes to hard."
    elif plan.replaces is not None:
        what, fix = (
            "replace a window",
            "Load it with load_mode merge and without windows, or take a warehouse that we load ourselves.",
        )
    elif DELETED_AT in plan.columns.names:
        what, fix = f"have a column {DELETED_AT} of its own", "Rename or exclude it at the source."
    else:
        return
    raise ConfigError(f"{plan.table} is loaded through dlt and cannot {what}.", fix=fix)
