"""One load into a DuckDB table: staged without a lock, committed in one short transaction.

The transaction checks owner and fence, makes or alters the table from our own DDL, brings the rows in, and writes the state row. Values never
enter Python: all of it is SQL over the staged Arrow tables or Parquet files.
"""

import duckdb
import pyarrow as pa

from elt_dagster.destinations._duckdb_file import DatabaseFile, Session, explained
from elt_dagster.destinations._duckdb_rows import STAGED, insert, insert_new, keep_last, merge, misfits, view_staged
from elt_dagster.destinations._duckdb_table import Found, alter, create, find, planned_evolution, save_state, swap
from elt_dagster.destinations._duckdb_types import folded
from elt_dagster.destinations.base import Committed, Load, LoadPlan, TableRef
from elt_dagster.destinations.drift import Evolution
from elt_dagster.destinations.files import Part, Staging
from elt_dagster.destinations.plans import needs_arrival, row_identity
from elt_dagster.destinations.sql import quote
from elt_dagster.destinations.state import check_state, next_state
from elt_dagster.errors import ContractError, DestinationError
from elt_dagster.model import Checkpoint, LoadMode
from elt_dagster.sdk.connector import Runtime

_MISFIT = (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException)


class DuckDBLoad(Load):
    """A load into one table of one file; see `Load` for the promises. After a TransientError, `commit` may be called again."""

    def __init__(self, file: DatabaseFile, plan: LoadPlan, staging: Staging, runtime: Runtime) -> None:
        self._file = file
        self._plan = plan
        self._staging = staging
        self._runtime = runtime
        self._commits = 0
        self._seen: pa.Table | None = None
        self._columns = plan.columns

    def stage(self, batch: pa.RecordBatch) -> None:
        """Keep ``batch`` in memory, or in Parquet files once the load has grown."""
        if batch.num_rows:
            self._staging.add(batch)

    def commit(self, checkpoint: Checkpoint | None) -> Committed:
        """See `Load.commit`."""
        if self._plan.mode is LoadMode.REPLACE and self._commits:
            raise ContractError(f"A replace of {self._plan.table} was committed twice.")
        parts = self._staging.parts()
        with self._file.open(write=True, temporary=self._staging.work_folder()) as session:
            session.run("BEGIN TRANSACTION")
            try:
                committed, seen = self._write(session, parts, checkpoint)
                session.run("COMMIT")
            except duckdb.Error as error:
                raise self._explained(session, parts, error) from None
        self._seen = seen
        self._commits += 1
        self._staging.clear()
        return committed

    def abort(self) -> None:
        """Throw away what was staged since the last commit."""
        self._staging.clear()

    def _write(
        self, session: Session, parts: list[Part], checkpoint: Checkpoint | None
    ) -> tuple[Committed, pa.Table | None]:
        plan = self._plan
        session.run(f"CREATE SCHEMA IF NOT EXISTS {quote(session.catalog)}.{quote(plan.table.schema)}")
        before = find(session, plan)
        check_state(plan, before.state, first=not self._commits)
        evolution = planned_evolution(plan, before.columns, [part.schema for part in parts])
        self._columns = evolution.columns
        self._file.suit(session, len(evolution.columns))
        view_staged(session, parts, evolution.columns, numbered=needs_arrival(plan))
        if plan.mode is LoadMode.REPLACE:
            committed, seen = self._replace(session, before, evolution), None
        else:
            committed, seen = self._add(session, before, evolution)
        save_state(session, next_state(plan, before.state, checkpoint, self._runtime.now()))
        return committed, seen

    def _replace(self, session: Session, before: Found, evolution: Evolution) -> Committed:
        plan = self._plan
        beside = TableRef(plan.table.schema, f"{plan.table.name}__elt_{plan.load_id}")
        create(session, session.table(beside), evolution.columns, plan.description)
        inserted = insert(session, session.table(beside), self._rows(session), evolution.columns)
        deleted = _count(session, plan.table) if before.columns is not None else 0
        swap(session, beside, plan.table)
        return Committed(
            inserted=inserted, deleted=deleted, table_rows=inserted,
            columns=evolution.columns, schema_changes=evolution.changes,
        )  # fmt: skip

    def _add(self, session: Session, before: Found, evolution: Evolution) -> tuple[Committed, pa.Table | None]:
        plan, columns, table = self._plan, evolution.columns, session.table(self._plan.table)
        updated, seen = 0, self._seen
        if before.columns is None:
            create(session, table, columns, plan.description)
        else:
            alter(session, table, before, evolution, plan.description)
        if before.columns is not None and plan.mode is LoadMode.MERGE:
            inserted, updated = merge(session, table, self._rows(session), plan.primary_key, columns)
        elif before.columns is not None and plan.boundary is not None and plan.cursor_field and self._staging.rows:
            identity = row_identity(plan, before.columns, columns, folded)
            inserted, seen = insert_new(
                session, table, self._rows(session), columns, identity=identity, cursor=plan.cursor_field, seen=seen
            )
        else:
            inserted = insert(session, table, self._rows(session), columns)
        committed = Committed(
            inserted=inserted, updated=updated, table_rows=_count(session, plan.table),
            columns=columns, schema_changes=evolution.changes,
        )  # fmt: skip
        return committed, seen

    def _rows(self, session: Session) -> str:
        plan = self._plan
        return keep_last(session, plan.primary_key, plan.cursor_field) if needs_arrival(plan) else STAGED

    def _explained(self, session: Session, parts: list[Part], error: duckdb.Error) -> Exception:
        doing = f"loading {self._plan.table}"
        if not isinstance(error, _MISFIT):
            return explained(error, doing)
        session.run("ROLLBACK")
        wrong = misfits(session, parts, self._columns)
        if not wrong:
            return explained(error, doing)
        return DestinationError(
            f"{self._plan.table}: values of {', '.join(wrong)} do not fit the column's type. Nothing was committed.",
            fix="Set schema_drift to evolve, or exclude the column.",
        )


def _count(session: Session, table: TableRef) -> int:
    return int(session.value(f"SELECT count(*) FROM {session.table(table)}"))
