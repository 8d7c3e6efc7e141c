"""One load into a Databricks table: staged as Parquet files in a volume, made ready in a table of its own, committed at once.

Tables are made and columns added or widened before the commit, for no DDL can be part of a transaction. A commit that fails leaves them: dropping a
table again could take the rows of another load that found it.
"""

from dataclasses import dataclass, field, replace

import pyarrow as pa

from elt_dagster.destinations import _databricks_rows as rows
from elt_dagster.destinations._databricks_commit import (
    StateMovedError,
    commit_by_claim,
    commit_in_transaction,
    drop_staged,
    settle,
)
from elt_dagster.destinations._databricks_errors import StatementFailedError, explaining
from elt_dagster.destinations._databricks_session import Session
from elt_dagster.destinations._databricks_settings import JsonColumns, Transactions
from elt_dagster.destinations._databricks_sql import check_names, folded, instant, quote
from elt_dagster.destinations._databricks_stage import Shape, Staging, Volume, label_of
from elt_dagster.destinations._databricks_state import create_statement, position_of
from elt_dagster.destinations._databricks_table import (
    Described,
    Found,
    alter,
    create,
    describe,
    describe_columns,
    find,
    ours,
    planned_evolution,
    wanted_properties,
)
from elt_dagster.destinations._databricks_types import representable_schema
from elt_dagster.destinations._databricks_work import Names, Work
from elt_dagster.destinations.base import DELETED_AT, Committed, Load, LoadPlan, TableRef
from elt_dagster.destinations.drift import Evolution
from elt_dagster.destinations.history import VALIDITY, history_columns, history_table, is_complete_comparison
from elt_dagster.destinations.plans import keeps_rows, needs_arrival, row_identity
from elt_dagster.destinations.rejected import REJECTED, ROW, check_something_fits, rejected_table
from elt_dagster.destinations.state import check_state, next_state
from elt_dagster.errors import ContractError, TransientError
from elt_dagster.model import Checkpoint, LoadMode
from elt_dagster.model.types import JSON


class DatabricksLoad(Load):
    """A load into one table; see `Load` for the promises. After a TransientError, `commit` may be called again."""

    def __init__(self, plan: LoadPlan, session: Session) -> None:
        self._plan, self._session = plan, session
        self._staging = Staging(
            session, Volume.of(session, plan.table.schema), label_of(plan.load_id, session.runtime.now())
        )
        self._names = Names(session.config.catalog, plan.table.schema, plan.table.name, plan.load_id)
        self._commits = 0
        self._seen = Seen()
        self._doing = f"loading {plan.table}"
        self._is_unfinished = False

    def stage(self, batch: pa.RecordBatch) -> None:
        """Keep ``batch``, or upload what has come together."""
        if batch.num_rows:
            check_names(self._plan, batch.schema.names)
            with explaining(self._doing, self._session.config):
                self._staging.add(batch)

    def commit(self, checkpoint: Checkpoint | None) -> Committed:
        """See `Load.commit`."""
        if self._plan.mode is LoadMode.REPLACE and self._commits:
            raise ContractError(f"A replace of {self._plan.table} was committed twice.")
        with explaining(self._doing, self._session.config):
            shapes, was_idempotent = self._staging.shapes(), self._session.is_idempotent
            try:
                committed = self._commit(shapes, checkpoint)
            except StatementFailedError as error:
                if was_idempotent or not _falls_back(self._session, error):
                    raise
                committed = self._commit(shapes, checkpoint)
            self._commits += 1
            self._staging.clear()
        return committed

    def abort(self) -> None:
        """Remove what was staged; a commit that was interrupted half way keeps it, for it is finished later."""
        if self._staging.is_empty or self._is_unfinished:
            return
        with explaining(self._doing, self._session.config):
            drop_staged(self._session, self._names, seen=self._seen.work is not None)
            self._staging.remove()

    def _commit(self, shapes: list[Shape], checkpoint: Checkpoint | None) -> Committed:
        commit = _Commit(session=self._session, plan=self._plan, names=self._names, shapes=shapes, seen=self._seen)
        try:
            return commit.run(checkpoint, first=not self._commits)
        finally:
            self._is_unfinished = commit.is_claimed


def _falls_back(session: Session, error: StatementFailedError) -> bool:
    if not error.is_about_transactions or session.config.transactions is not Transactions.AUTO:
        return False
    if session.is_idempotent:  # another load of this destination was first to find out
        return True
    session.is_idempotent = True
    session.runtime.log.info(
        "Databricks refused a transaction of several statements (%s); loads are committed by claim instead.",
        error.condition,
    )
    return True


@dataclass(slots=True)
class Seen:
    """What an append that goes on where another ended remembers from one commit to the next: rows that the table had before the load."""

    work: Work | None = None
    is_due: bool = False
    """Whether the last commit's rows have to be taken from what is remembered, before its staged rows are gone."""
    is_void: bool = False
    """Whether the load made the table itself, so that there is nothing to remember."""


@dataclass(slots=True, kw_only=True)
class _Commit:
    """One `DatabricksLoad.commit`, from the look at the table to its new size."""

    session: Session
    plan: LoadPlan
    names: Names
    shapes: list[Shape]
    seen: Seen
    work: Work = field(init=False)
    is_claimed: bool = False
    """Whether the state is claimed for this commit and the claim has not ended."""

    def run(self, checkpoint: Checkpoint | None, *, first: bool) -> Committed:
        plan, session = self.plan, self.session
        before = self._settled()
        check_state(plan, before.state, first=first)
        evolution = planned_evolution(session, plan, before.columns, [s.schema for s in self.shapes])
        versions = self._versions(evolution)
        if before.rows is None:
            make_state_table(session, plan.table.schema)
        staged, rejected = self._make_ready(evolution)
        state = next_state(plan, before.state, checkpoint, session.runtime.now())
        try:
            committed = self._bring(
                before, evolution, instant(state.committed_at), fitting=staged, rejected=rejected, versions=versions
            )
            position = position_of(before.rows, plan.binding_id)
            self.is_claimed = session.is_idempotent or self.work.rebuild is not None
            (commit_by_claim if self.is_claimed else commit_in_transaction)(session, self.work, state, position)
        except (StatementFailedError, StateMovedError) as error:
            self.is_claimed = False
            if isinstance(error, StateMovedError):
                raise self._moved(first=first) from None
            raise
        self.is_claimed = False
        self._remember(before)
        if self.work.rebuild is not None:
            describe_columns(session, plan.table, pa.schema([]), evolution.columns)
        return replace(committed, table_rows=self._size())

    def _settled(self) -> Found:
        found = find(self.session, self.plan)
        if found.pending is None:
            return found
        settle(self.session, found.pending, self.plan, self.session.runtime.now().timestamp())
        return find(self.session, self.plan)

    def _moved(self, *, first: bool) -> Exception:
        try:
            check_state(self.plan, find(self.session, self.plan).state, first=first)
        except Exception as error:
            return error
        return TransientError(
            f"{self.plan.table} was changed by another run at the same moment.", fix="It is tried again."
        )

    # --- staged rows

    def _make_ready(self, evolution: Evolution) -> tuple[int, int]:
        """Make the table of staged rows; returns how many there are, and how many of them fit nowhere."""
        plan, session = self.plan, self.session
        if self.seen.work is not None and self.seen.is_due:
            session.run(rows.seen_again_statement(self.names, self.seen.work))
            self.seen.is_due = False
        session.run(
            rows.ready_statement(
                self.names, self.shapes, evolution.columns, marks=self._marks, transactional=not session.is_idempotent,
                key=plan.primary_key if needs_arrival(plan) or keeps_rows(plan) else (), cursor=plan.cursor_field,
            )
        )  # fmt: skip
        staged, rejected, gone = rows.summary(session.rows(rows.tally_staged(self.names, marks=self._marks))[0])
        if rejected and rejected >= staged:
            wrong = session.rows(f"SELECT DISTINCT {rows.MISFIT} FROM {self.names.staged} LIMIT 20")
            check_something_fits(plan, staged=staged, rejected=rejected, columns=sorted(r[0] for r in wrong))
        return staged - rejected - (gone if plan.deletes.value == "hard" else 0), rejected

    @property
    def _marks(self) -> bool:
        is_marked = any(DELETED_AT in (folded(n) for n in s.schema.names) for s in self.shapes)
        return self.plan.mode is not LoadMode.APPEND and is_marked

    # --- tables

    def _bring(
        self, before: Found, evolution: Evolution, at: str, *, fitting: int, rejected: int, versions: tuple[Described | None, pa.Schema] | None
    ) -> Committed:  # fmt: skip
        """Bring tables to their columns, decide the work, and count what it will do."""
        plan, session, columns = self.plan, self.session, evolution.columns
        values = wanted_properties(plan.binding_id, columns.names, transactional=not session.is_idempotent)
        is_replaced = plan.mode is LoadMode.REPLACE and not keeps_rows(plan)
        rebuilds = is_replaced and before.columns is not None and not _same_columns(before.columns, columns)
        self._make(before.table, plan.table, columns, plan.description, values, skip=rebuilds)
        if versions is not None:
            keyed = wanted_properties(plan.binding_id, versions[1].names, transactional=not session.is_idempotent)
            self._make(
                versions[0],
                history_table(plan.table),
                versions[1],
                f"Versions of the rows of {plan.table}.",
                keyed,
                tagged=False,
            )
        if rejected:
            self._make_rejected(values)
        self.work = self._work(before, evolution, at, rejected=rejected, versions=versions, rebuild=rebuilds)
        inserted, updated, deleted = self._tallied(before, fitting, is_replaced=is_replaced)
        return Committed(
            inserted=inserted, updated=updated, deleted=deleted, rejected=rejected, columns=columns, schema_changes=evolution.changes
        )  # fmt: skip

    def _make(
        self, before: Described | None, table: TableRef, columns: pa.Schema, description: str, values: dict[str, str], *,
        skip: bool = False, tagged: bool = True,
    ) -> None:  # fmt: skip
        commits = tagged and self.session.is_idempotent
        if before is None:
            create(self.session, table, columns, description, values, commits=commits)
        elif not skip:
            alter(self.session, before, columns, description, values, commits=commits)

    def _make_rejected(self, values: dict[str, str]) -> None:
        table = rejected_table(self.plan.table)
        if describe(self.session, table) is None:
            columns = representable_schema(REJECTED, json_text=self._json_text)
            self._make(None, table, columns, f"Rows that {self.plan.table} could not take.", values, tagged=False)

    def _versions(self, evolution: Evolution) -> tuple[Described | None, pa.Schema] | None:
        if not self.plan.history:
            return None
        where = history_table(self.plan.table)
        found = describe(self.session, where)
        return found, history_columns(evolution.columns, found.columns if found is not None else None, folded, where)

    @property
    def _json_text(self) -> bool:
        return self.session.config.json_columns is JsonColumns.STRING

    # --- work

    def _work(
        self, before: Found, evolution: Evolution, at: str, *, rejected: int, versions: tuple[Described | None, pa.Schema] | None, rebuild: bool
    ) -> Work:  # fmt: skip
        plan, columns = self.plan, evolution.columns
        table = before.table
        variants = [f.name for f in columns if f.type == JSON] + ([] if self._json_text else [ROW])
        whole = plan.mode is LoadMode.REPLACE and keeps_rows(plan)
        properties = {**(table.properties if table is not None else {}), **wanted_properties(
            plan.binding_id, columns.names, transactional=not self.session.is_idempotent)}  # fmt: skip
        return Work(
            schema=plan.table.schema, table=plan.table.name, run_id=plan.run_id, load_id=plan.load_id, at=at,
            commit=f"{plan.load_id}.{position_of(before.rows, plan.binding_id) + 1}", mode=plan.mode.value,
            columns=tuple(columns.names), variants=tuple(variants), key=plan.primary_key, marks=self._marks,
            deletes=plan.deletes.value, once=self._is_tagged(table), atomic=not (self.session.is_idempotent or rebuild), rejects=bool(rejected),
            gone=rows.gone_condition(plan, columns, whole=whole) if table is not None else "",
            resumed=self._resumed(before, columns), rebuild=ours(properties) if rebuild else None,
            comment=plan.description or (table.comment if table is not None else ""),
            versions=self._kind_of_versions(versions),
            versioned=_beyond(versions[1], columns) if versions is not None else (),
        )  # fmt: skip

    def _is_tagged(self, table: Described | None) -> bool:
        return self.session.is_idempotent or (table is not None and table.has_commit)

    def _kind_of_versions(self, versions: tuple[Described | None, pa.Schema] | None) -> str:
        if versions is None:
            return ""
        had = versions[0] is not None
        if self.plan.reset_history and had:
            return "anew"
        return "all" if is_complete_comparison(self.plan, had_history=had) else "touched"

    def _resumed(self, before: Found, columns: pa.Schema) -> tuple[str, ...]:
        plan = self.plan
        if before.columns is None or plan.mode is not LoadMode.APPEND or plan.boundary is None or not plan.cursor_field:
            return ()
        if not self.shapes or plan.replaces is not None or self.seen.is_void:
            return ()
        return tuple(row_identity(plan, before.columns, columns, folded))

    def _tallied(self, before: Found, fitting: int, *, is_replaced: bool) -> tuple[int, int, int]:
        """Rows that will be inserted, updated and deleted; also finds out whether a key is in the table several times."""
        work, session, names = self.work, self.session, self.names
        if is_replaced or before.columns is None:
            return fitting, 0, self._size() if before.columns is not None else 0
        gone = session.number(rows.tally_gone(names, work)) if work.gone else 0
        if work.mode == "append":
            return self._tallied_append(fitting), 0, gone
        inserted, updated, deleted, most = rows.summary(session.rows(rows.tally_merge(names, work))[0])
        if most > 1:
            self.work = replace(work, twins=True)
        return inserted, updated, deleted + gone

    def _tallied_append(self, fitting: int) -> int:
        work, session = self.work, self.session
        if not work.resumed or self.plan.cursor_field is None:
            return fitting
        if self.seen.work is None:
            session.run(rows.seen_statement(self.names, work, self.plan.cursor_field))
        return session.number(rows.tally_resumed(self.names, work))

    def _remember(self, before: Found) -> None:
        if self.work.resumed:
            self.seen.work, self.seen.is_due = self.work, True
        self.seen.is_void = self.seen.is_void or before.columns is None

    def _size(self) -> int:
        return self.session.number(f"SELECT count(*) FROM {self.names.target}")


def make_state_table(session: Session, schema: str) -> None:
    """Make the schema's state table, and the schema where it is missing. Raises StatementFailedError."""
    statement = create_statement(session.config.catalog, schema, transactional=not session.is_idempotent)
    try:
        session.run(statement)
    except StatementFailedError as error:
        if not error.is_missing:
            raise
        session.run(f"CREATE SCHEMA IF NOT EXISTS {quote(session.config.catalog)}.{quote(schema)}")
        session.run(statement)


def _beyond(history: pa.Schema, columns: pa.Schema) -> tuple[str, ...]:
    known = {folded(name) for name in (*columns.names, *VALIDITY.names)}
    return tuple(name for name in history.names if folded(name) not in known)


def _same_columns(one: pa.Schema, other: pa.Schema) -> bool:
    return [(folded(f.name), f.type) for f in one] == [(folded(f.name), f.type) for f in other]
