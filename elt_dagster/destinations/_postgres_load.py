"""One load into a PostgreSQL table: staged over a connection of its own, committed in one transaction.

The transaction holds an advisory lock on the table (ours only; readers and other tables do not notice), checks owner, fence and state, makes or
alters the table from our own DDL, brings the rows in, and writes the state row. As the lock keeps a second merge out, two of them can never
deadlock over rows, in whatever order they come.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa

from elt_dagster.destinations._postgres_errors import explained, explaining
from elt_dagster.destinations._postgres_rows import analyze, insert, insert_new, keep_last, merge, misfits, staged
from elt_dagster.destinations._postgres_session import Session, lock, qualified
from elt_dagster.destinations._postgres_settings import PostgresConfig, Replace, StagingKind
from elt_dagster.destinations._postgres_stage import Part, Staging
from elt_dagster.destinations._postgres_swap import begin_swap, finish_swap
from elt_dagster.destinations._postgres_table import (
    Found,
    alter,
    create,
    ensure_index,
    find,
    planned_evolution,
    prepare_schema,
    save_state,
    table_size,
)
from elt_dagster.destinations._postgres_types import NAME_BYTES, folded
from elt_dagster.destinations.base import Committed, Load, LoadPlan
from elt_dagster.destinations.drift import Evolution
from elt_dagster.destinations.plans import needs_arrival, row_identity
from elt_dagster.destinations.state import check_state, next_state
from elt_dagster.errors import ContractError, DestinationError
from elt_dagster.model import Checkpoint, LoadMode
from elt_dagster.sdk.connector import Runtime


@dataclass(frozen=True, slots=True)
class Warehouse:
    """What a load needs of its destination; ``open`` makes a connection."""

    config: PostgresConfig
    runtime: Runtime
    open: Callable[[], Session]


class PostgresLoad(Load):
    """A load into one table; see `Load` for the promises.

    After a TransientError that left the connection alive, `commit` may be called again.
    """

    def __init__(self, plan: LoadPlan, session: Session, warehouse: Warehouse) -> None:
        self._config, self._runtime, self._open = warehouse.config, warehouse.runtime, warehouse.open
        self._plan = plan
        self._session: Session | None = session
        self._staging: Staging | None = None
        self._commits = 0
        self._seen = False
        self._doing = f"loading {plan.table}"

    def stage(self, batch: pa.RecordBatch) -> None:
        """Send ``batch`` on its way to the staging table. An error may be told by a later call."""
        if batch.num_rows:
            check_names(self._plan, batch.schema.names)
            with explaining(self._doing, self._config):
                self._stage().add(batch)

    def commit(self, checkpoint: Checkpoint | None) -> Committed:
        """See `Load.commit`."""
        if self._plan.mode is LoadMode.REPLACE and self._commits:
            raise ContractError(f"A replace of {self._plan.table} was committed twice.")
        with explaining(self._doing, self._config):
            session = self._connected()
            parts = self._staging.parts() if self._staging else []
            prepare_schema(session, self._plan.table.schema)
        rows = self._staging.rows if self._staging else 0
        work = _Commit(
            config=self._config, runtime=self._runtime, plan=self._plan, session=session, parts=parts, rows=rows, seen=self._seen
        )  # fmt: skip
        committed = work.run(checkpoint, first=not self._commits)
        self._seen = work.seen
        self._commits += 1
        self._forget_staged()
        return committed

    def abort(self) -> None:
        """Throw away what was staged since the last commit, and disconnect."""
        session, self._session = self._session, None
        staging, self._staging = self._staging, None
        if session is None:
            return
        try:
            # temporary tables go with the connection; what cannot be dropped now, a later load sweeps
            if staging is not None and session.is_open and self._config.staging is StagingKind.UNLOGGED:
                with explaining(self._doing, self._config):
                    staging.drop()
        finally:
            session.close()

    def _connected(self) -> Session:
        if self._session is None:
            self._session = self._open()
        return self._session

    def _stage(self) -> Staging:
        if self._staging is None:
            session, schema = self._connected(), None
            if self._config.staging is StagingKind.UNLOGGED:
                schema = self._plan.table.schema
                prepare_schema(session, schema)
            self._staging = Staging(
                session, schema, number_rows=needs_arrival(self._plan), remove_nul=self._config.nul_characters == "remove"
            )  # fmt: skip
        return self._staging

    def _forget_staged(self) -> None:
        if self._staging is None:
            return
        if self._staging.removed:
            self._runtime.log.warning(
                "%s: characters that PostgreSQL cannot hold were removed from %d values.", self._plan.table, self._staging.removed
            )  # fmt: skip
        with explaining(self._doing, self._config):
            self._staging.clear()


@dataclass(slots=True, kw_only=True)
class _Commit:
    """One `PostgresLoad.commit`, from BEGIN to COMMIT."""

    config: PostgresConfig
    runtime: Runtime
    plan: LoadPlan
    session: Session
    parts: list[Part]
    rows: int
    """How many rows are staged, and after `_source` how many are left of them."""
    seen: bool
    """Whether an earlier commit of this load noted what is left of the table's own rows (`insert_new`)."""
    columns: pa.Schema = field(default_factory=lambda: pa.schema([]))

    @property
    def table(self) -> str:
        return qualified(self.plan.table)

    def run(self, checkpoint: Checkpoint | None, *, first: bool) -> Committed:
        try:
            with self.session.transaction():
                lock(self.session, f"table {self.plan.table}")
                before = find(self.session, self.plan)
                check_state(self.plan, before.state, first=first)
                evolution = planned_evolution(self.plan, before.columns, [part.schema for part in self.parts])
                self.columns = evolution.columns
                committed = self._write(before, evolution)
                save_state(self.session, next_state(self.plan, before.state, checkpoint, self.runtime.now()))
        except Exception as error:
            raise self._explained(error) from None
        return committed

    def _write(self, before: Found, evolution: Evolution) -> Committed:
        if before.columns is None:
            return self._fill(evolution)
        if self.plan.mode is LoadMode.REPLACE:
            return self._replace(before, evolution)
        alter(self.session, self.table, before, evolution.columns, self.plan.description)
        updated = 0
        if self.plan.mode is LoadMode.MERGE:
            ensure_index(self.session, self.plan.table, self.plan.primary_key)
            source = self._source()
            inserted, updated = merge(
                self.session, self.plan.table, source, self.plan.primary_key, self.columns, rows=self.rows
            )
        elif self.plan.boundary is not None and self.plan.cursor_field and self.rows:
            inserted = self._insert_new(before.columns, self.plan.cursor_field)
        else:
            inserted = insert(self.session, self.table, self._source(), self.columns.names)
        return self._committed(evolution, inserted, updated, table_size(self.session, self.plan.table))

    def _fill(self, evolution: Evolution) -> Committed:
        """A new table; its index is made last, which is faster than keeping it up to date."""
        create(self.session, self.table, self.columns, self.plan.description)
        inserted = insert(self.session, self.table, self._source(), self.columns.names)
        self._index()
        return self._committed(evolution, inserted, 0, inserted)

    def _replace(self, before: Found, evolution: Evolution) -> Committed:
        if self.config.replace is Replace.SWAP:
            return self._swap(before, evolution)
        if self.config.replace is Replace.TRUNCATE:
            deleted = table_size(self.session, self.plan.table)
            self.session.run(f"TRUNCATE {self.table}")
        else:  # takes no lock that a reader meets: until the commit everybody sees the old rows, and then the new ones
            deleted = self.session.run(f"DELETE FROM {self.table}")
        alter(self.session, self.table, before, evolution.columns, self.plan.description)
        inserted = insert(self.session, self.table, self._source(), self.columns.names)
        self._index()
        return self._committed(evolution, inserted, 0, inserted, deleted)

    def _swap(self, before: Found, evolution: Evolution) -> Committed:
        beside = begin_swap(self.session, self.plan.table, self.plan.load_id)
        create(self.session, qualified(beside), self.columns, self.plan.description)
        inserted = insert(self.session, qualified(beside), self._source(), self.columns.names)
        deleted = table_size(self.session, self.plan.table)
        finish_swap(self.session, beside, self.plan.table)
        self._index()
        return self._committed(evolution, inserted, 0, inserted, deleted)

    def _insert_new(self, had: pa.Schema, cursor: str) -> int:
        """Resume an append. The index tells where the table's last rows are, and costs next to nothing while it grows."""
        ensure_index(self.session, self.plan.table, [cursor], "brin")
        identity = row_identity(self.plan, had, self.columns, folded)
        inserted = insert_new(
            self.session, self.table, self._source(), self.columns.names, identity=identity, cursor=cursor, resumed=self.seen
        )  # fmt: skip
        self.seen = True
        return inserted

    def _index(self) -> None:
        """A merge looks every staged key up: without an index it would read the whole table for one changed row."""
        if self.plan.primary_key:
            ensure_index(self.session, self.plan.table, self.plan.primary_key)

    def _source(self) -> str:
        """The staged rows as a relation, one per key where that is asked for."""
        plan, numbered = self.plan, needs_arrival(self.plan)
        source = staged(self.parts, self.columns, numbered=numbered)
        if not numbered:
            return source
        analyze(self.session, self.parts, self.rows, plan.primary_key)
        source, left_out = keep_last(self.session, source, plan.primary_key, plan.cursor_field)
        self.rows -= left_out
        return source

    def _committed(self, evolution: Evolution, inserted: int, updated: int, size: int, deleted: int = 0) -> Committed:
        return Committed(
            inserted=inserted, updated=updated, deleted=deleted, table_rows=size,
            columns=evolution.columns, schema_changes=evolution.changes,
        )  # fmt: skip

    def _explained(self, error: Exception) -> Exception:
        doing = f"loading {self.plan.table}"
        is_about_values = str(getattr(error, "sqlstate", None) or "").startswith("22") and self.session.is_open
        if is_about_values and (wrong := misfits(self.session, self.parts, self.columns)):
            return DestinationError(
                f"{self.plan.table}: values of {', '.join(wrong)} do not fit the column's type. Nothing was committed.",
                fix="Set schema_drift to evolve, or exclude the column.",
            )
        return explained(error, doing, self.config)


def check_names(plan: LoadPlan, names: list[str]) -> None:
    """Raise DestinationError for a name that PostgreSQL would cut without a word."""
    for name in (plan.table.schema, plan.table.name, *names):
        if len(name.encode()) > NAME_BYTES:
            raise DestinationError(
                f"{plan.table}: the name {name!r} is longer than PostgreSQL's {NAME_BYTES} bytes.",
                fix="Give the table another name, or exclude the column.",
            )
