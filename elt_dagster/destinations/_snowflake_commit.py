"""One commit of a load into a Snowflake table, and why of two loads from the same state only one can win.

DDL commits implicitly in Snowflake, so a commit has two halves. Before BEGIN: rows are uploaded and copied into temporary tables, sorted and
compared there, and the table is made or altered so that a crash afterwards harms nothing (`_snowflake_table`). Then one transaction: rows,
history, rejected rows, state; COMMIT.

Of two loads that go on from the same state only one can commit: the state is checked as the last thing before COMMIT, under a lock (`lock_state`). The lock comes last, although a
compare-and-swap could come first, because all states of a schema live in one micro-partition, and Snowflake locks micro-partitions: taken first, it
would make the loads of a schema wait for each other's merges. Nothing is lost by it: a load that finds its state moved is rolled back with all its rows. And two loads never
wait for each other in a circle, for each locks its own table first and the states last.

A full refresh replaces rows with INSERT OVERWRITE, which is part of the transaction. Only where columns are taken away or get another
type in a way that ALTER cannot, which no transaction of Snowflake can hold, the table is replaced as a whole (CREATE OR REPLACE TABLE ... AS, atomic for
readers) before it. Then the load first makes the state its own, with the old checkpoint (`Commit.reserve`): from there on nobody else, who
could lose rows by it, can commit. A crash between the two leaves the table complete, new or converted, with the old checkpoint: the next
run reads on from there, and meets rows that it knows already.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime

import pyarrow as pa

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
from elt_dagster.destinations._snowflake_stage import Part
from elt_dagster.destinations._snowflake_table import (
    Found,
    Table,
    alter,
    claim,
    create,
    describe,
    find,
    lock_state,
    needs_rebuild,
    planned_evolution,
    rebuild,
    save_state,
)
from elt_dagster.destinations._snowflake_types import DIALECT, folded
from elt_dagster.destinations.base import DELETED_AT, Committed, LoadPlan, State, TableRef
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
from elt_dagster.model import Checkpoint, DeleteMode, LoadMode, SchemaDrift


@dataclass(slots=True, kw_only=True)
class Commit:
    """One `SnowflakeLoad.commit`, from the first look to COMMIT."""

    plan: LoadPlan
    session: Session
    parts: list[Part]
    now: datetime
    found: Found | None
    """What the load found when it began, or left at its last commit; None: look again. Afterwards what this commit leaves."""
    seen: str | None
    """Temporary table with what is left of the table's own rows after the load's earlier commits (`keep_new`)."""
    first: bool
    """Whether the state should be the one that the plan was made from, not yet one of this load."""
    columns: pa.Schema = field(default_factory=lambda: pa.schema([]))
    misfits: Misfits = field(default_factory=Misfits)
    source: str = COMING
    """The rows that fit, as a relation."""
    deleted: int = 0

    @property
    def rows(self) -> int:
        """How many rows are staged."""
        return sum(part.rows for part in self.parts)

    @property
    def table(self) -> str:
        return qualified(self.plan.table)

    @property
    def moment(self) -> str:
        return self.now.isoformat()

    def run(self, checkpoint: Checkpoint | None) -> Committed:
        """Bring the staged rows in. The driver's errors come out as they are."""
        plan = self.plan
        before = self._look()
        evolution = planned_evolution(plan, before.columns, [part.schema for part in self.parts])
        self.columns = evolution.columns
        versions = self._history_columns(before)
        source = Source(self.parts, self.columns, None if plan.drift is SchemaDrift.EVOLVE else before.table)
        self._gather(source)
        claim(self.session, plan, before, self.moment)
        self._arrange(before)
        complete = versions is not None and self._arrange_history(before, versions)
        if self.misfits.rows:
            create(self.session, rejected_table(plan.table), REJECTED, f"Rows that {plan.table} could not take.")
        with self.session.transaction():
            merged = self._write(before)
            if versions is not None and (complete or self.rows):
                self._write_history(versions, complete=complete)
            if self.misfits.rows:
                save_rejected(self.session, rejected_table(plan.table), source, plan, self.moment)
            size = int(self.session.value(f"SELECT COUNT(*) FROM {self.table}"))
            state = self._save(checkpoint)
        self.found = self._left(before, versions, state)
        self.first = False
        return Committed(
            inserted=merged.inserted, updated=merged.updated, deleted=merged.deleted, rejected=self.misfits.rows,
            table_rows=size, columns=evolution.columns, schema_changes=evolution.changes,
        )  # fmt: skip

    def reserve(self) -> None:
        """Make the state this load's own before a table is replaced as a whole; checkpoint and rows stay. Raises like `check_state`."""
        if not self.first:
            return
        with self.session.transaction():
            mine = self._locked_state()
            checkpoint = mine.checkpoint if mine is not None else Checkpoint()
            plan = self.plan
            save_state(
                self.session,
                State(plan.binding_id, plan.table, checkpoint, plan.load_id, plan.run_id, plan.fence, self.now),
            )
        self.first = False

    # --- before the transaction

    def _look(self) -> Found:
        """What is there. What the load knows already it does not ask again: should that be wrong, the end of the commit tells."""
        companions = [history_table(self.plan.table).name] if self.plan.history else []
        found = self.found or find(self.session, self.plan, companions)
        check_state(self.plan, found.state, first=self.first)
        return found

    def _gather(self, source: Source) -> None:
        """Sort out what fits; put it into `COMING` where it is needed more than once, or in a table of its own."""
        plan = self.plan
        self.misfits = source.misfits(self.session)
        check_something_fits(plan, staged=self.rows, rejected=self.misfits.rows, columns=self.misfits.columns)
        select = source.select(fitting=bool(self.misfits.rows))
        unique = needs_arrival(plan) or keeps_rows(plan) or plan.history
        if unique or plan.mode is LoadMode.REPLACE or self._resumes:
            gather(self.session, plan, select, unique=unique)
        else:
            self.source = f"({select})"

    @property
    def _resumes(self) -> bool:
        plan = self.plan
        asked = plan.mode is LoadMode.APPEND and plan.boundary is not None and plan.replaces is None
        return asked and plan.cursor_field is not None and self.rows > 0

    def _arrange(self, before: Found) -> None:
        """Bring the table to its columns, as far as that can be done without touching what it shows."""
        plan = self.plan
        if before.table is None:
            create(self.session, plan.table, self.columns, plan.description)
        elif self._takes_another_shape(before):
            self._rebuild(before.table)
        else:
            if needs_rebuild(before.table, self.columns):
                self.reserve()
            evolve = plan.drift is SchemaDrift.EVOLVE
            alter(self.session, before.table, self.columns, plan.description, unlimited=evolve)
        if self._resumes and before.columns is not None and plan.cursor_field:
            identity = row_identity(plan, before.columns, self.columns, folded)
            self.seen = keep_new(
                self.session, self.table, self.columns, identity=identity, cursor=plan.cursor_field, seen=self.seen
            )

    def _takes_another_shape(self, before: Found) -> bool:
        """Whether a full refresh takes columns away or changes types as ALTER cannot."""
        if before.table is None or self.plan.mode is not LoadMode.REPLACE or keeps_rows(self.plan):
            return False
        removed = set(before.table.types) - set(self.columns.names)
        return bool(removed) or needs_rebuild(before.table, self.columns)

    def _rebuild(self, before: Table) -> None:
        self.reserve()
        self.deleted = int(self.session.value(f"SELECT COUNT(*) FROM {self.table}"))
        select = f"SELECT {quoted(self.columns.names)} FROM {COMING} AS s WHERE NOT s.{quote(GONE)}"
        rebuild(self.session, self.plan.table, self.columns, select, self.plan.description or before.comment)
        describe(self.session, self.plan.table, self.columns)

    def _history_columns(self, before: Found) -> pa.Schema | None:
        if not self.plan.history:
            return None
        where = history_table(self.plan.table)
        known = before.companions.get(where.name)
        return history_columns(self.columns, known.columns if known else None, folded, where)

    def _arrange_history(self, before: Found, versions: pa.Schema) -> bool:
        """Make or alter the history table; returns whether the whole table is to be compared with it.

        An empty one tells nothing: it may be what a crash has left.
        """
        where = history_table(self.plan.table)
        known = before.companions.get(where.name)
        if known is None:
            create(self.session, where, versions, f"Versions of the rows of {self.plan.table}.")
            return True
        alter(self.session, known, versions, "", unlimited=True)
        has_rows = bool(self.session.value(f"SELECT COUNT(*) FROM {qualified(where)}"))
        return is_complete_comparison(self.plan, had_history=has_rows and not self.plan.reset_history)

    # --- in the transaction

    def _write(self, before: Found) -> Merged:
        plan = self.plan
        if plan.mode is LoadMode.REPLACE and not keeps_rows(plan):
            return self._overwrite(before)
        removed = self._miss() if before.columns is not None else 0
        if not self.rows:
            return Merged(deleted=removed)
        if plan.mode is LoadMode.APPEND:
            return Merged(inserted=insert(self.session, self.table, self.columns, self.source), deleted=removed)
        if before.columns is None:  # there is nothing to meet, and nothing to remove; a mark is a value like any other
            living = "" if plan.deletes is DeleteMode.SOFT else f"NOT s.{quote(GONE)}"
            return Merged(inserted=insert(self.session, self.table, self.columns, self.source, living))
        merged = merge(self.session, self.table, plan, self.columns)
        return replace(merged, deleted=merged.deleted + removed)

    def _overwrite(self, before: Found) -> Merged:
        if self._takes_another_shape(before):
            inserted = int(self.session.value(f"SELECT COUNT(*) FROM {self.table}"))
            return Merged(inserted=inserted, deleted=self.deleted)
        had = int(self.session.value(f"SELECT COUNT(*) FROM {self.table}")) if before.columns is not None else 0
        living = f"NOT s.{quote(GONE)}"
        inserted = insert(self.session, self.table, self.columns, self.source, living, overwrite=True)
        return Merged(inserted=inserted, deleted=had)

    def _miss(self) -> int:
        """Remove or mark what did not come again: everything in a full refresh, what is in the window otherwise."""
        plan = self.plan
        if plan.mode is not LoadMode.REPLACE and plan.replaces is None:
            return 0
        if plan.deletes is DeleteMode.SOFT:
            return mark_missing(self.session, self.table, plan, self.columns, self.moment)
        if plan.deletes is DeleteMode.HARD and plan.replaces is not None:
            return remove_window(self.session, self.table, plan, self.columns)
        return 0

    def _write_history(self, versions: pa.Schema, *, complete: bool) -> None:
        plan, where = self.plan, history_table(self.plan.table)
        if plan.reset_history:
            self.session.run(f"DELETE FROM {qualified(where)}")
        columns = pa.schema([f for f in self.columns if f.name != DELETED_AT])
        for statement in update_statements(
            plan, self.table, qualified(where), columns.names, touched=None if complete else COMING,
            same=same_version(columns, versions, plan.primary_key), now=f"CAST('{self.moment}' AS TIMESTAMP_TZ(6))",
        ):  # fmt: skip
            self.session.run(statement)

    def _locked_state(self) -> State | None:
        """The binding's state, which nobody changes until this transaction ends. Raises unless it is what this load goes on from."""
        states = lock_state(self.session, self.plan)
        check_owner(self.plan, states, folded)
        mine = next((s for s in states if s.binding_id == self.plan.binding_id), None)
        check_state(self.plan, mine, first=self.first)
        return mine

    def _save(self, checkpoint: Checkpoint | None) -> State:
        row = next_state(self.plan, self._locked_state(), checkpoint, self.now)
        save_state(self.session, row)
        return row

    def _left(self, before: Found, versions: pa.Schema | None, state: State) -> Found:
        """What the next commit of this load will find."""
        plan = self.plan
        comment = plan.description or (before.table.comment if before.table is not None else "")
        kept = dict(before.table.types) if before.table is not None and plan.drift is not SchemaDrift.EVOLVE else {}
        table = _made(plan.table, self.columns, comment, kept)
        where = history_table(plan.table)
        companions = {where.name: _made(where, versions, "", {})} if versions is not None else {}
        return Found(table, state, has_state_tables=True, is_claimed=True, companions=companions)


def _made(ref: TableRef, columns: pa.Schema, comment: str, kept: dict[str, str]) -> Table:
    types = {f.name: kept.get(f.name, DIALECT.column_type(f.type)) for f in columns}
    return Table(ref, columns, types, comment, is_view=False)
