"""One load into a Snowflake table: staged over a connection of its own, committed in one transaction.

DDL commits implicitly in Snowflake, so a commit has two halves. Before BEGIN: rows are uploaded and copied into temporary tables, sorted and
compared there, and the table is made or altered so that a crash afterwards harms nothing (`_snowflake_table`). Then one transaction: rows,
history, rejected rows, state; COMMIT.

Of two loads that go on from the same state only one can commit. The state is checked twice: at the start, so that a load that has no
chance does not work in vain, and as the last thing before COMMIT, under a lock (`lock_state`). The lock comes last, although a
compare-and-swap could come first, because all states of a schema live in one micro-partition, and Snowflake locks micro-partitions: taken first, it
would make the loads of a schema wait for each other's merges. Nothing is lost by it: a load that finds its state moved is rolled back with all its rows. And two loads never
wait for each other in a circle, for each locks its own table first and the states last.

A full refresh replaces rows with INSERT OVERWRITE, which is part of the transaction. Only where columns are taken away or get
another type, which no transaction of Snowflake can hold, the table is replaced as a whole (CREATE OR REPLACE TABLE ... AS, atomic for readers) just before
the state is written. A crash between the two leaves new rows with the old state: the next run reads on from there, and finds rows that it knows already.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

import pyarrow as pa

from elt_dagster.destinations._snowflake_errors import explaining
from elt_dagster.destinations._snowflake_rows import (
    COMING,
    GONE,
    Merged,
    Misfits,
    Source,
    gather,
    insert,
    keep_new,
    mark_missing,
    merge,
    remove_window,
    same_version,
    save_rejected,
)
from elt_dagster.destinations._snowflake_session import Session, qualified
from elt_dagster.destinations._snowflake_settings import SnowflakeConfig
from elt_dagster.destinations._snowflake_stage import Part, Staging, use_schema
from elt_dagster.destinations._snowflake_table import (
    Found,
    alter,
    claim,
    create,
    describe,
    find,
    lock_state,
    make_schema,
    needs_rebuild,
    planned_evolution,
    rebuild,
    save_state,
)
from elt_dagster.destinations._snowflake_types import NAME_LENGTH, folded
from elt_dagster.destinations.base import DELETED_AT, Committed, Load, LoadPlan
from elt_dagster.destinations.drift import Evolution
from elt_dagster.destinations.history import (
    history_columns,
    history_table,
    is_complete_comparison,
    update_statements,
)
from elt_dagster.destinations.plans import check_owner, keeps_rows, needs_arrival, row_identity
from elt_dagster.destinations.rejected import REJECTED, check_something_fits, rejected_table
from elt_dagster.destinations.sql import quote, quoted
from elt_dagster.destinations.state import check_state, next_state
from elt_dagster.errors import ContractError, DestinationError
from elt_dagster.model import Checkpoint, DeleteMode, LoadMode
from elt_dagster.sdk.connector import Runtime


@dataclass(frozen=True, slots=True)
class Warehouse:
    """What a load needs of its destination; ``open`` makes a connection."""

    config: SnowflakeConfig
    runtime: Runtime
    open: Callable[[], Session]


class SnowflakeLoad(Load):
    """A load into one table; see `Load` for the promises. After a TransientError, `commit` may be called again while the connection lives."""

    def __init__(self, plan: LoadPlan, session: Session, warehouse: Warehouse) -> None:
        self._plan = plan
        self._warehouse = warehouse
        self._session: Session | None = session
        self._staging: Staging | None = None
        self._has_schema = False
        self._commits = 0
        self._seen: str | None = None
        self._doing = f"loading {plan.table}"

    def stage(self, batch: pa.RecordBatch) -> None:
        """Keep ``batch`` as Parquet, and upload it as soon as there is enough for a file. An error may be told by a later call."""
        if batch.num_rows:
            check_names(self._plan, batch.schema.names)
            with explaining(self._doing, self._warehouse.config):
                self._stage().add(batch)

    def commit(self, checkpoint: Checkpoint | None) -> Committed:
        """See `Load.commit`."""
        if self._plan.mode is LoadMode.REPLACE and self._commits:
            raise ContractError(f"A replace of {self._plan.table} was committed twice.")
        with explaining(self._doing, self._warehouse.config):
            session = self._connected()
            self._prepare_schema(session)
            parts = self._staging.parts() if self._staging else []
            work = Commit(
                plan=self._plan, session=session, parts=parts, rows=self._staging.rows if self._staging else 0,
                now=self._warehouse.runtime.now(), seen=self._seen, first=not self._commits,
            )  # fmt: skip
            committed = work.run(checkpoint)
            self._seen = work.seen
            self._commits += 1
            if self._staging is not None:
                self._staging.clear()
        return committed

    def abort(self) -> None:
        """Throw away what was staged since the last commit, and disconnect: temporary tables and stages go with the session."""
        staging, self._staging = self._staging, None
        session, self._session = self._session, None
        if staging is not None:
            staging.close()
        if session is not None:
            session.close()

    def _connected(self) -> Session:
        if self._session is None:
            self._session, self._has_schema = self._warehouse.open(), False
        return self._session

    def _stage(self) -> Staging:
        if self._staging is None:
            session = self._connected()
            self._prepare_schema(session)
            self._staging = Staging(session)
        return self._staging

    def _prepare_schema(self, session: Session) -> None:
        """Temporary things need a schema to be in, so it is made before the first row is staged."""
        if not self._has_schema:
            make_schema(session, self._plan.table.schema)
            use_schema(session, self._plan.table)
            self._has_schema = True


@dataclass(slots=True, kw_only=True)
class Commit:
    """One `SnowflakeLoad.commit`, from the first look to COMMIT."""

    plan: LoadPlan
    session: Session
    parts: list[Part]
    rows: int
    now: datetime
    seen: str | None
    """Temporary table with what is left of the table's own rows after the load's earlier commits (`keep_new`)."""
    first: bool
    columns: pa.Schema = field(default_factory=lambda: pa.schema([]))
    misfits: Misfits = field(default_factory=Misfits)
    deleted: int = 0

    @property
    def table(self) -> str:
        return qualified(self.plan.table)

    @property
    def moment(self) -> str:
        return self.now.isoformat()

    def run(self, checkpoint: Checkpoint | None) -> Committed:
        plan = self.plan
        history, rejected = history_table(plan.table), rejected_table(plan.table)
        companions = [t.name for t, wanted in ((history, plan.history), (rejected, self.rows)) if wanted]
        before = find(self.session, plan, companions)
        check_state(plan, before.state, first=self.first)
        evolution = planned_evolution(plan, before.columns, [part.schema for part in self.parts])
        self.columns = evolution.columns
        versions = self._history_columns(before)
        source = Source(self.parts, self.columns, None if self._widens_limits else before.table)
        self._gather(source)
        claim(self.session, plan, before, self.moment)
        self._arrange(before)
        if versions is not None:
            self._arrange_history(before, versions)
        if self.misfits.rows:
            create(self.session, rejected, REJECTED, f"Rows that {plan.table} could not take.")
        with self.session.transaction():
            merged = self._write(before)
            if versions is not None:
                self._write_history(before, versions)
            if self.misfits.rows:
                save_rejected(self.session, rejected, source, plan, self.moment)
            size = int(self.session.value(f"SELECT COUNT(*) FROM {self.table}"))
            self._save(checkpoint)
        return self._committed(evolution, merged, size)

    @property
    def _widens_limits(self) -> bool:
        return self.plan.drift.value == "evolve"

    # --- before the transaction

    def _gather(self, source: Source) -> None:
        """Rows that fit go into `COMING`."""
        self.misfits = source.misfits(self.session)
        check_something_fits(self.plan, staged=self.rows, rejected=self.misfits.rows, columns=self.misfits.columns)
        unique = needs_arrival(self.plan) or keeps_rows(self.plan) or self.plan.history
        gather(self.session, self.plan, source.select(fitting=bool(self.misfits.rows)), unique=unique)

    def _arrange(self, before: Found) -> None:
        """Bring the table to its columns, as far as that can be done without touching what it shows."""
        plan = self.plan
        if before.table is None:
            create(self.session, plan.table, self.columns, plan.description)
        elif self._takes_another_shape(before):
            self.deleted = int(self.session.value(f"SELECT COUNT(*) FROM {self.table}"))
            select = f"SELECT {quoted(self.columns.names)} FROM {COMING} AS s WHERE NOT s.{quote(GONE)}"
            rebuild(self.session, plan.table, self.columns, select, plan.description or before.table.comment)
            describe(self.session, plan.table, self.columns)
        else:
            alter(self.session, before.table, self.columns, plan.description)
        self._keep_new(before)

    def _takes_another_shape(self, before: Found) -> bool:
        """Whether a full refresh takes columns away or changes types as ALTER cannot."""
        if before.table is None or self.plan.mode is not LoadMode.REPLACE or keeps_rows(self.plan):
            return False
        removed = set(before.table.types) - set(self.columns.names)
        return bool(removed) or needs_rebuild(before.table, self.columns)

    def _keep_new(self, before: Found) -> None:
        plan = self.plan
        resumes = plan.mode is LoadMode.APPEND and plan.boundary is not None and plan.replaces is None
        if resumes and plan.cursor_field and before.columns is not None and self.rows:
            identity = row_identity(plan, before.columns, self.columns, folded)
            self.seen = keep_new(
                self.session, self.table, self.columns, identity=identity, cursor=plan.cursor_field, seen=self.seen
            )

    def _history_columns(self, before: Found) -> pa.Schema | None:
        if not self.plan.history:
            return None
        where = history_table(self.plan.table)
        known = before.companions.get(where.name)
        return history_columns(self.columns, known.columns if known else None, folded, where)

    def _arrange_history(self, before: Found, versions: pa.Schema) -> None:
        where = history_table(self.plan.table)
        known = before.companions.get(where.name)
        if known is None:
            create(self.session, where, versions, f"Versions of the rows of {self.plan.table}.")
        else:
            alter(self.session, known, versions, "")

    # --- in the transaction

    def _write(self, before: Found) -> Merged:
        plan, living = self.plan, f"NOT s.{quote(GONE)}"
        if plan.mode is LoadMode.REPLACE and not keeps_rows(plan):
            return self._overwrite(before, living)
        if plan.mode is LoadMode.APPEND:
            removed = remove_window(self.session, self.table, plan, self.columns) if plan.replaces is not None else 0
            return Merged(inserted=insert(self.session, self.table, self.columns), deleted=removed)
        removed = 0
        if before.columns is not None:
            removed = self._miss(before)
        merged = merge(self.session, self.table, plan, self.columns)
        return replace(merged, deleted=merged.deleted + removed)

    def _overwrite(self, before: Found, living: str) -> Merged:
        if self._takes_another_shape(before):
            inserted = int(self.session.value(f"SELECT COUNT(*) FROM {self.table}"))
            return Merged(inserted=inserted, deleted=self.deleted)
        had = int(self.session.value(f"SELECT COUNT(*) FROM {self.table}")) if before.columns is not None else 0
        inserted = insert(self.session, self.table, self.columns, living, overwrite=True)
        return Merged(inserted=inserted, deleted=had)

    def _miss(self, before: Found) -> int:
        """Remove or mark what did not come again: everything in a full refresh, what is in the window otherwise."""
        plan = self.plan
        if plan.mode is not LoadMode.REPLACE and plan.replaces is None:
            return 0
        if plan.deletes is DeleteMode.SOFT:
            return mark_missing(self.session, self.table, plan, self.columns, self.moment)
        if plan.deletes is DeleteMode.HARD and plan.replaces is not None:
            return remove_window(self.session, self.table, plan, self.columns)
        return 0

    def _write_history(self, before: Found, versions: pa.Schema) -> None:
        plan, where = self.plan, history_table(self.plan.table)
        if plan.reset_history:
            self.session.run(f"DELETE FROM {qualified(where)}")
        had = where.name in before.companions and not plan.reset_history
        touched = None if is_complete_comparison(plan, had_history=had) else COMING
        columns = pa.schema([f for f in self.columns if f.name != DELETED_AT])
        for statement in update_statements(
            plan, self.table, qualified(where), columns.names, touched=touched,
            same=same_version(columns, versions, plan.primary_key), now=f"CAST('{self.moment}' AS TIMESTAMP_TZ(6))",
        ):  # fmt: skip
            self.session.run(statement)

    def _save(self, checkpoint: Checkpoint | None) -> None:
        """Write the state, if it still is what this load goes on from; see the module's first page."""
        states = lock_state(self.session, self.plan)
        check_owner(self.plan, states, folded)
        mine = next((s for s in states if s.binding_id == self.plan.binding_id), None)
        check_state(self.plan, mine, first=self.first)
        save_state(self.session, next_state(self.plan, mine, checkpoint, self.now))

    def _committed(self, evolution: Evolution, merged: Merged, size: int) -> Committed:
        return Committed(
            inserted=merged.inserted, updated=merged.updated, deleted=merged.deleted, rejected=self.misfits.rows,
            table_rows=size, columns=evolution.columns, schema_changes=evolution.changes,
        )  # fmt: skip


def check_names(plan: LoadPlan, names: list[str]) -> None:
    """Raise DestinationError for a name that Snowflake cannot hold."""
    for name in (plan.table.schema, plan.table.name, *names):
        if len(name) > NAME_LENGTH:
            raise DestinationError(
                f"{plan.table}: the name {name[:60]!r}... is longer than Snowflake's {NAME_LENGTH} characters.",
                fix="Give the table another name, or exclude the column.",
            )
