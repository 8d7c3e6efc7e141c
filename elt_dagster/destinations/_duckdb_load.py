"""One load into a DuckDB table: staged without a lock, committed in one short transaction.

The transaction checks owner and fence, makes or alters the table from our own DDL, brings the rows in, and writes the state row. Values never
enter Python: all of it is SQL over the staged Arrow tables or files.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from elt_dagster.destinations._duckdb_deletes import apply_marks, clear_window, living, mark_missing
from elt_dagster.destinations._duckdb_file import DatabaseFile, Session, explained, explaining
from elt_dagster.destinations._duckdb_history import keep_history
from elt_dagster.destinations._duckdb_rejected import set_aside
from elt_dagster.destinations._duckdb_rows import insert, insert_new, keep_last, merge
from elt_dagster.destinations._duckdb_staged import STAGED, count_misfits, is_marked, misfits, view_staged
from elt_dagster.destinations._duckdb_table import Found, alter, create, find, planned_evolution, save_state, swap
from elt_dagster.destinations._duckdb_types import folded
from elt_dagster.destinations.base import Committed, Load, LoadPlan, TableRef
from elt_dagster.destinations.drift import Evolution
from elt_dagster.destinations.files import Part, Staging
from elt_dagster.destinations.plans import keeps_rows, needs_arrival, row_identity
from elt_dagster.destinations.rejected import check_something_fits
from elt_dagster.destinations.sql import quote
from elt_dagster.destinations.state import check_state, next_state
from elt_dagster.errors import ContractError
from elt_dagster.model import Checkpoint, DeleteMode, LoadMode
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
        """Keep ``batch`` in memory, or in files once the load has grown."""
        if batch.num_rows:
            self._staging.add(batch)

    def commit(self, checkpoint: Checkpoint | None) -> Committed:
        """See `Load.commit`. Only when a value does not fit is everything done once more, with the rows that do not fit set aside."""
        if self._plan.mode is LoadMode.REPLACE and self._commits:
            raise ContractError(f"A replace of {self._plan.table} was committed twice.")
        parts = self._staging.parts()
        with self._file.open(write=True, temporary=self._staging.work_folder()) as session:
            committed, seen = self._transact_fitting(session, parts, checkpoint)
        self._seen = seen
        self._commits += 1
        self._staging.clear()
        return committed

    def abort(self) -> None:
        """Throw away what was staged since the last commit."""
        self._staging.clear()

    def _transact_fitting(
        self, session: Session, parts: list[Part], checkpoint: Checkpoint | None
    ) -> tuple[Committed, pa.Table | None]:
        try:
            return self._transact(session, parts, checkpoint)
        except duckdb.Error as error:
            wrong = self._misfits(session, parts, error)
        # Outside of the handler, for what is raised now must not drag DuckDB's text along: it quotes the value.
        with explaining(f"loading {self._plan.table}"):
            return self._transact(session, parts, checkpoint, misfits=wrong)

    def _transact(
        self, session: Session, parts: list[Part], checkpoint: Checkpoint | None, misfits: Sequence[str] = ()
    ) -> tuple[Committed, pa.Table | None]:
        session.run("BEGIN TRANSACTION")
        done = self._write(session, parts, checkpoint, misfits)
        session.run("COMMIT")
        return done

    def _write(
        self, session: Session, parts: list[Part], checkpoint: Checkpoint | None, misfits: Sequence[str]
    ) -> tuple[Committed, pa.Table | None]:
        plan = self._plan
        session.run(f"CREATE SCHEMA IF NOT EXISTS {quote(session.catalog)}.{quote(plan.table.schema)}")
        before = find(session, plan)
        check_state(plan, before.state, first=not self._commits)
        now = self._now(before)
        evolution = planned_evolution(plan, before.columns, [part.schema for part in parts])
        columns = self._columns = evolution.columns
        self._file.suit(session, len(columns))
        view_staged(session, plan, parts, columns, numbered=needs_arrival(plan), lenient=bool(misfits))
        rejected = self._set_aside(session, parts, misfits, now) if misfits else 0
        marked = is_marked(parts)
        if plan.mode is LoadMode.REPLACE and not keeps_rows(plan):
            committed, seen = self._replace(session, before, evolution, marked=marked), None
        else:
            committed, seen = self._add(session, before, evolution, now, marked=marked)
        if plan.history:
            keep_history(session, plan, columns, now, first=not self._commits, is_new=before.columns is None)
        save_state(session, next_state(plan, before.state, checkpoint, now))
        return replace(committed, rejected=rejected, columns=columns, schema_changes=evolution.changes), seen

    def _now(self, before: Found) -> datetime:
        """The commit's time, never before that of the last one: a clock that was set back would make versions overlap."""
        return max(self._runtime.now(), before.loaded_at or datetime.min.replace(tzinfo=UTC))

    def _set_aside(self, session: Session, parts: list[Part], misfits: Sequence[str], now: datetime) -> int:
        rejected = count_misfits(session)
        check_something_fits(self._plan, staged=self._staging.rows, rejected=rejected, columns=misfits)
        set_aside(session, self._plan, parts, self._columns, now)
        return rejected

    def _replace(self, session: Session, before: Found, evolution: Evolution, *, marked: bool) -> Committed:
        plan = self._plan
        beside = TableRef(plan.table.schema, f"{plan.table.name}__elt_{plan.load_id}")
        rows = living(self._rows(session)) if marked else self._rows(session)
        create(session, session.table(beside), evolution.columns, plan.description)
        inserted = insert(session, session.table(beside), rows, evolution.columns)
        deleted = _count(session, plan.table) if before.columns is not None else 0
        swap(session, beside, plan.table)
        return Committed(inserted=inserted, deleted=deleted, table_rows=inserted)

    def _add(
        self, session: Session, before: Found, evolution: Evolution, now: datetime, *, marked: bool
    ) -> tuple[Committed, pa.Table | None]:
        plan, columns, table = self._plan, evolution.columns, session.table(self._plan.table)
        seen = self._seen
        if before.columns is None:
            create(session, table, columns, plan.description)
            rows = self._rows(session)
            comes = marked and plan.mode is not LoadMode.APPEND and plan.deletes is not DeleteMode.SOFT
            committed = Committed(inserted=insert(session, table, living(rows) if comes else rows, columns))
        else:
            alter(session, table, before, evolution, plan.description)
            cleared = self._clear(session, table, columns)
            if plan.mode is LoadMode.APPEND:
                committed, seen = self._append(session, before.columns, columns)
            else:
                committed = self._merge(session, columns, now, marked=marked)
            committed = replace(committed, deleted=committed.deleted + cleared)
        return replace(committed, table_rows=_count(session, plan.table)), seen

    def _clear(self, session: Session, table: str, columns: pa.Schema) -> int:
        return clear_window(session, self._plan, table, columns) if self._reads_all else 0

    def _append(self, session: Session, before: pa.Schema, columns: pa.Schema) -> tuple[Committed, pa.Table | None]:
        plan, table, rows = self._plan, session.table(self._plan.table), self._rows(session)
        if plan.boundary is None or not plan.cursor_field or not self._staging.rows:
            return Committed(inserted=insert(session, table, rows, columns)), self._seen
        identity = row_identity(plan, before, columns, folded)
        inserted, seen = insert_new(
            session, table, rows, columns, identity=identity, cursor=plan.cursor_field, seen=self._seen
        )
        return Committed(inserted=inserted), seen

    def _merge(self, session: Session, columns: pa.Schema, now: datetime, *, marked: bool) -> Committed:
        plan, table, rows = self._plan, session.table(self._plan.table), self._rows(session)
        rows, deleted = apply_marks(session, plan, table, rows, columns) if marked else (rows, 0)
        inserted, updated = merge(session, table, rows, plan.primary_key, columns)
        if self._reads_all and plan.deletes is DeleteMode.SOFT:
            deleted += mark_missing(session, plan, table, columns, now)
        return Committed(inserted=inserted, updated=updated, deleted=deleted)

    @property
    def _reads_all(self) -> bool:
        """Whether what does not arrive is gone, in the table or in a window of it. A load's later commits only add to its first."""
        return not self._commits and (self._plan.mode is LoadMode.REPLACE or self._plan.replaces is not None)

    def _rows(self, session: Session) -> str:
        plan = self._plan
        return keep_last(session, plan.primary_key, plan.cursor_field) if needs_arrival(plan) else STAGED

    def _misfits(self, session: Session, parts: list[Part], error: duckdb.Error) -> list[str]:
        """The columns whose values made the load fail. Raises what ``error`` says when that was not the reason."""
        if isinstance(error, _MISFIT):
            session.run("ROLLBACK")
            with explaining(f"loading {self._plan.table}"):
                if wrong := misfits(session, self._plan, parts, self._columns):
                    return wrong
        raise explained(error, f"loading {self._plan.table}") from None


def _count(session: Session, table: TableRef) -> int:
    return int(session.value(f"SELECT count(*) FROM {session.table(table)}"))
