"""PostgreSQL 12 and newer as a warehouse, for one machine or many: every load commits its rows and its state in one transaction.

Rows go out as binary COPY, encoded from Arrow without Python touching a value (`_postgres_encode`), into a table that only this load sees
(`_postgres_stage`); SQL on the server does the rest (`_postgres_rows`). One driver for all of it: asyncpg, imported when a connection is made.
"""

import contextlib
from collections.abc import Collection, Generator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from elt_dagster.destinations._postgres_errors import explaining
from elt_dagster.destinations._postgres_history import find_history
from elt_dagster.destinations._postgres_load import PostgresLoad, Warehouse, check_names
from elt_dagster.destinations._postgres_read import partly_fetched, planned_select, streamed
from elt_dagster.destinations._postgres_session import Session, lock, qualified
from elt_dagster.destinations._postgres_settings import PostgresConfig, StagingKind
from elt_dagster.destinations._postgres_stage import sweep
from elt_dagster.destinations._postgres_table import (
    Entry,
    check_rights,
    columns_of,
    drop,
    entries,
    find,
    planned_evolution,
    read_history,
    read_states,
    save_state,
)
from elt_dagster.destinations._postgres_types import folded
from elt_dagster.destinations.base import STATE_TABLE, Destination, Load, LoadPlan, State, StateMove, TableRef
from elt_dagster.destinations.plans import check_plan
from elt_dagster.destinations.state import HISTORY_TABLE, check_moves
from elt_dagster.errors import EltError, NotFoundError, nearest
from elt_dagster.model import CheckResult
from elt_dagster.sdk.csv import CsvDecoder

_OLDEST = 120_000
_CHECK = """
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS number, current_user::text AS role,
       has_database_privilege(current_database(), 'CREATE') AS may_make_schema,
       has_database_privilege(current_database(), 'TEMPORARY') AS may_stage,
       pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' AS read_only,
       EXISTS (SELECT FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)' AND has_schema_privilege(oid, 'CREATE')) AS may_make_table
"""


class Postgres(Destination[PostgresConfig]):
    """Tables in a PostgreSQL database."""

    name = "postgres"
    title = "PostgreSQL"
    docs_url = "https://www.postgresql.org/docs/current/"
    requires = ("asyncpg",)
    config_type = PostgresConfig

    def check(self) -> CheckResult:
        """Whether the database can be reached and loaded into; makes nothing."""
        config = self.config
        try:
            with explaining("checking the database", config), self._open() as session:
                (found,) = session.rows(_CHECK)
        except EltError as error:
            return CheckResult(ok=False, message=str(error))
        if found["number"] < _OLDEST:
            return CheckResult(ok=False, message=f"{config.where} is PostgreSQL {found['version']}; 12 is needed.")
        if found["read_only"]:
            return CheckResult(ok=False, message=f"{config.where} takes no writes: it is a standby or read-only.")
        if not (found["may_make_schema"] or found["may_make_table"]):
            grant = f'GRANT CREATE ON DATABASE "{config.database}" TO "{found["role"]}";'
            return CheckResult(ok=False, message=f"{found['role']} may make neither schemas nor tables. Run: {grant}")
        if config.staging is StagingKind.TEMP and not found["may_stage"]:
            grant = f'GRANT TEMPORARY ON DATABASE "{config.database}" TO "{found["role"]}";'
            return CheckResult(
                ok=False,
                message=f"{found['role']} may not make temporary tables. Run: {grant} or set staging to unlogged.",
            )
        where = f"{config.database} on {config.host} as {found['role']}"
        return CheckResult(ok=True, message=f"Connected to {where}: PostgreSQL {found['version']}.")

    def begin(self, plan: LoadPlan) -> Load:
        """See `Destination.begin`. With unlogged staging, also removes what loads of dead processes left in the schema."""
        check_plan(plan, folded)
        check_names(plan, plan.columns.names)
        doing = f"looking at {plan.table}"
        with explaining(doing, self.config):
            session = self._open()
        try:
            with explaining(doing, self.config):
                found = find(session, plan)
                planned_evolution(plan, found.columns, [])
                temporary = self.config.staging is StagingKind.TEMP
                companions = [find_history(session, plan)] if plan.history else []
                check_rights(session, plan, [found, *companions], temporary=temporary)
                if not temporary:
                    sweep(session, plan.table.schema)
        except BaseException:
            session.close()
            raise
        return PostgresLoad(plan, session, Warehouse(self.config, self.runtime, self._open))

    def state(self, schema: str, binding_id: str) -> State | None:
        """See `Destination.state`."""
        return next((s for s in self.states(schema) if s.binding_id == binding_id), None)

    def states(self, schema: str) -> list[State]:
        """See `Destination.states`."""
        with explaining(f"reading the state of {schema}", self.config), self._open() as session:
            return read_states(session, schema) if entries(session, schema, [STATE_TABLE]) else []

    def history(self, schema: str, binding_id: str) -> list[State]:
        """See `Destination.history`."""
        with explaining(f"reading the history of {schema}", self.config), self._open() as session:
            return read_history(session, schema, binding_id) if entries(session, schema, [HISTORY_TABLE]) else []

    def move_states(self, moves: Sequence[StateMove]) -> None:
        """See `Destination.move_states`. Waits for commits that are under way into the same tables."""
        if not moves:
            return
        schema = moves[0].state.table.schema
        with explaining(f"setting the state of {schema}", self.config), self._open() as session, session.transaction():
            for table in sorted(
                str(move.state.table) for move in moves
            ):  # in one order, so that two of these cannot deadlock
                lock(session, f"table {table}")
            check_moves(moves, read_states(session, schema) if entries(session, schema, [STATE_TABLE]) else [])
            for move in moves:
                save_state(session, move.state)

    def drop(self, schema: str, binding_ids: Collection[str]) -> tuple[TableRef, ...]:
        """See `Destination.drop`. Waits for commits that are under way into the same tables; a view on one of them keeps everything as it is."""
        doing = f"removing tables of {schema}"
        with explaining(doing, self.config), self._open() as session, session.transaction():
            return drop(session, schema, binding_ids)

    def columns(self, table: TableRef) -> pa.Schema | None:
        """See `Destination.columns`. A view has columns too."""
        with explaining(f"looking at {table}", self.config), self._open() as session:
            entry = entries(session, table.schema, [table.name]).get(table.name)
            return columns_of(session, entry) if entry is not None else None

    def count(self, table: TableRef) -> int:
        """The number of rows in ``table``. Raises NotFoundError for a missing table."""
        with explaining(f"counting {table}", self.config), self._open() as session:
            return int(session.value(f"SELECT count(*) FROM {qualified(require_entry(session, table).table)}"))

    def read(
        self, table: TableRef, columns: list[str] | None = None, where: Mapping[str, tuple[Any, Any]] | None = None
    ) -> pa.RecordBatchReader:
        """See `Destination.read`; a bound of None is open.

        Up to 32 MiB of the result are fetched at once, and the connection is given back when that was all; more is streamed while the reader is
        read, on a connection that closes with the reader.
        """
        with explaining(f"reading {table}", self.config):
            session = self._open()
            try:
                entry = require_entry(session, table)
                schema, select = planned_select(session, entry, columns, where or {})
                batches = streamed(session, select, CsvDecoder(schema, what=str(table)), self.runtime.log)
                return partly_fetched(schema, self._explained(batches, f"reading {table}"))
            except BaseException:
                session.close()
                raise

    def uri(self, table: TableRef) -> str:
        """``postgresql://<host>:<port>/<database>/<schema>/<table>``."""
        config = self.config
        return f"postgresql://{config.host}:{config.port}/{config.database}/{table.schema}/{table.name}"

    def _explained(self, batches: Generator[pa.RecordBatch], doing: str) -> Generator[pa.RecordBatch]:
        with explaining(doing, self.config), contextlib.closing(batches):
            yield from batches

    def _open(self) -> Session:
        return Session(self.config, self.config.session_settings)


destination = Postgres


def require_entry(session: Session, table: TableRef) -> Entry:
    """The table or view. Raises NotFoundError with the nearest name of the schema."""
    found = entries(session, table.schema, [table.name]).get(table.name)
    if found is None:
        raise NotFoundError(
            f"There is no table {table}.", fix=nearest(table.name, list(entries(session, table.schema)))
        )
    return found
