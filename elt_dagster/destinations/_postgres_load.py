"""One load into a PostgreSQL table: staged over a connection of its own, committed in one transaction.

The transaction holds an advisory lock on the table (ours only; readers and other tables do not notice), checks owner, fence and state, makes or
alters the table from our own DDL, brings the rows in, and writes the state row. As the lock keeps a second merge out, two of them can never
deadlock over rows, in whatever order they come.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pyarrow as pa

from elt_dagster.destinations._postgres_errors import explained, explaining, is_about_values
from elt_dagster.destinations._postgres_history import keep_history
from elt_dagster.destinations._postgres_read import bound
from elt_dagster.destinations._postgres_rejected import (
    columns_at_fault,
    list_rejected,
    set_misfits_aside,
    table_types,
)
from elt_dagster.destinations._postgres_session import Session, lock
from elt_dagster.destinations._postgres_settings import PostgresConfig, StagingKind
from elt_dagster.destinations._postgres_stage import Part, Staging
from elt_dagster.destinations._postgres_table import (
    Found,
    find,
    planned_evolution,
    prepare_schema,
    save_state,
)
from elt_dagster.destinations._postgres_types import NAME_BYTES
from elt_dagster.destinations._postgres_write import Write
from elt_dagster.destinations.base import Committed, Load, LoadPlan
from elt_dagster.destinations.drift import Evolution
from elt_dagster.destinations.plans import needs_arrival
from elt_dagster.destinations.rejected import check_something_fits
from elt_dagster.destinations.state import check_state, next_state
from elt_dagster.errors import ContractError, DestinationError
from elt_dagster.model import Checkpoint, DeleteMode, LoadMode
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
        if self._commits and (self._plan.mode is LoadMode.REPLACE or self._plan.replaces is not None):
            what = "window" if self._plan.mode is not LoadMode.REPLACE else "replace"
            raise ContractError(f"A {what} of {self._plan.table} was committed twice.")
        with explaining(self._doing, self._config):
            session = self._connected()
            parts = self._staging.parts() if self._staging else []
            prepare_schema(session, self._plan.table.schema)
        work = _Commit(
            config=self._config, runtime=self._runtime, plan=self._plan, session=session, staging=self._staging,
            parts=parts, seen=self._seen,
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
            removes = self._plan.deletes is DeleteMode.HARD and self._plan.mode is LoadMode.MERGE
            self._staging = Staging(
                session, schema, number_rows=needs_arrival(self._plan), remove_nul=self._config.nul_characters == "remove",
                keys_that_delete=self._plan.primary_key if removes else None,
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
    staging: Staging | None
    parts: list[Part]
    seen: bool
    """Whether an earlier commit of this load noted what is left of the table's own rows (`insert_new`)."""

    def run(self, checkpoint: Checkpoint | None, *, first: bool) -> Committed:
        """Commit; when a value does not fit its column, once more without the rows that have one."""
        doing = f"loading {self.plan.table}"
        try:
            return self._attempt(checkpoint, first=first, sift=False)
        except Exception as error:
            if not (is_about_values(error) and self.session.is_open and self.parts):
                raise explained(error, doing, self.config) from None
        with explaining(doing, self.config):
            return self._attempt(checkpoint, first=first, sift=True)

    def _attempt(self, checkpoint: Checkpoint | None, *, first: bool, sift: bool) -> Committed:
        plan, session = self.plan, self.session
        with session.transaction():
            lock(session, f"table {plan.table}")
            before = find(session, plan)
            check_state(plan, before.state, first=first)
            evolution = planned_evolution(plan, before.columns, [part.schema for part in self.parts])
            # Never before the last commit: a clock that was set back would make versions overlap.
            time = max(self.runtime.now(), before.loaded_at or datetime.min.replace(tzinfo=UTC))
            now = bound(time, "")
            refused, rejected = self._set_aside(before, evolution, sift=sift)
            if refused is not None:
                list_rejected(session, plan, refused, now=now)
            write = Write(
                session=session, plan=plan, how=self.config.replace, parts=self.parts,
                rows=self._staged() - rejected, seen=self.seen, now=now, rejected=refused,
            )  # fmt: skip
            committed = write.run(before, evolution)
            if plan.history:
                keep_history(session, plan, evolution.columns, now=now, touched=write.touched(), first=first)
            save_state(session, next_state(plan, before.state, checkpoint, time))
        self.seen = write.seen
        return replace(committed, rejected=rejected)

    def _staged(self) -> int:
        return self.staging.rows + self.staging.refused if self.staging is not None else 0

    def _set_aside(self, before: Found, evolution: Evolution, *, sift: bool) -> tuple[str | None, int]:
        """The table of staged rows that this commit leaves out, and how many they are; with ``sift`` it looks for them."""
        if self.staging is None or not (self.staging.refused or sift):
            return None, 0
        refused, rejected = self.staging.refused_table(), self.staging.refused
        if sift:
            types = table_types(self.session, self.plan.table, before.columns, evolution.columns)
            rejected += set_misfits_aside(
                self.session, self.plan, self.parts, evolution.columns, types=types, refused=refused
            )
        at_fault = columns_at_fault(self.session, evolution.columns.names, refused)
        check_something_fits(self.plan, staged=self._staged(), rejected=rejected, columns=at_fault)
        return (refused, rejected) if rejected else (None, 0)


def check_names(plan: LoadPlan, names: list[str]) -> None:
    """Raise DestinationError for a name that PostgreSQL would cut without a word."""
    for name in (plan.table.schema, plan.table.name, *names):
        if len(name.encode()) > NAME_BYTES:
            raise DestinationError(
                f"{plan.table}: the name {name!r} is longer than PostgreSQL's {NAME_BYTES} bytes.",
                fix="Give the table another name, or exclude the column.",
            )
