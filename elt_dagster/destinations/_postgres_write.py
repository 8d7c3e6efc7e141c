"""What one commit does to the rows of its PostgreSQL table, inside the transaction that `_postgres_load` holds."""

from dataclasses import dataclass, field

import pyarrow as pa

from elt_dagster.destinations._postgres_merge import Merge, Merged
from elt_dagster.destinations._postgres_read import in_range
from elt_dagster.destinations._postgres_rows import ANALYZED_ROWS, analyze, insert, insert_new, keep_last, make, staged
from elt_dagster.destinations._postgres_session import Session, qualified, whole_tables
from elt_dagster.destinations._postgres_settings import Replace
from elt_dagster.destinations._postgres_stage import Part
from elt_dagster.destinations._postgres_swap import begin_swap, finish_swap
from elt_dagster.destinations._postgres_table import Found, alter, create, ensure_index, table_size
from elt_dagster.destinations._postgres_types import folded
from elt_dagster.destinations.base import DELETED_AT, Committed, LoadPlan
from elt_dagster.destinations.drift import Evolution
from elt_dagster.destinations.plans import keeps_rows, needs_arrival, row_identity
from elt_dagster.destinations.sql import literal, no_key, quote, quoted, same_key
from elt_dagster.model import DeleteMode, LoadMode
from elt_dagster.model.types import TIMESTAMP_UTC

_NOTED = "_elt_noted"


@dataclass(slots=True, kw_only=True)
class Write:
    """The rows of one commit on their way from ``parts`` into the table."""

    session: Session
    plan: LoadPlan
    how: Replace
    parts: list[Part]
    rows: int
    """How many rows are staged, and after `_source` how many are left of them."""
    seen: bool
    """Whether an earlier commit of this load noted what is left of the table's own rows (`insert_new`)."""
    now: str
    """The commit's time, as SQL."""
    rejected: str | None
    """The table of staged rows that were set aside, if there are any: what it holds was found at the source, all the same."""
    columns: pa.Schema = field(default_factory=lambda: pa.schema([]))
    merge: Merge | None = None
    noted: bool = False
    """Whether rows went or were marked whose keys `_noting` has noted."""

    @property
    def table(self) -> str:
        """The table's quoted name."""
        return qualified(self.plan.table)

    def run(self, before: Found, evolution: Evolution) -> Committed:
        """Bring table and rows to what the plan says; ``before`` is what was found."""
        self.columns = evolution.columns
        if before.columns is None:
            done, size = self._fill()
        elif self.plan.mode is LoadMode.REPLACE and not keeps_rows(self.plan):
            done, size = self._replace(before)
        else:
            alter(self.session, self.table, before, self.columns, self.plan.description)
            done = self._change(before.columns)
            size = table_size(self.session, self.plan.table)
        return Committed(
            inserted=done.inserted, updated=done.updated, deleted=done.deleted, table_rows=size,
            columns=self.columns, schema_changes=evolution.changes,
        )  # fmt: skip

    def touched(self) -> str | None:
        """A relation with the keys outside of which nothing changed; None when that is not known."""
        noted = f"pg_temp.{_NOTED}" if self.noted else None
        return self.merge.touched(noted) if self.merge is not None else None

    def _fill(self) -> tuple[Merged, int]:
        """A new table; its index is made last, which is faster than keeping it up to date."""
        create(self.session, self.table, self.columns, self.plan.description)
        inserted = insert(self.session, self.table, self._living(), self.columns.names)
        self._index()
        if self.plan.mode is LoadMode.MERGE and inserted > ANALYZED_ROWS:  # the next merge may come before autovacuum
            self.session.run(f"ANALYZE {self.table} ({quoted(self.plan.primary_key)})")
        return Merged(inserted, 0, 0), inserted

    def _replace(self, before: Found) -> tuple[Merged, int]:
        if self.how is Replace.SWAP:
            return self._swap()
        if self.how is Replace.TRUNCATE:
            deleted = table_size(self.session, self.plan.table)
            self.session.run(f"TRUNCATE {self.table}")
        else:  # takes no lock that a reader meets: until the commit everybody sees the old rows, and then the new ones
            deleted = self.session.run(f"DELETE FROM {self.table}")
        alter(self.session, self.table, before, self.columns, self.plan.description)
        inserted = insert(self.session, self.table, self._living(), self.columns.names)
        self._index()
        return Merged(inserted, 0, deleted), inserted

    def _swap(self) -> tuple[Merged, int]:
        beside = begin_swap(self.session, self.plan.table, self.plan.load_id)
        create(self.session, qualified(beside), self.columns, self.plan.description)
        inserted = insert(self.session, qualified(beside), self._living(), self.columns.names)
        deleted = table_size(self.session, self.plan.table)
        finish_swap(self.session, beside, self.plan.table)
        self._index()
        return Merged(inserted, 0, deleted), inserted

    def _change(self, had: pa.Schema) -> Merged:
        """Rows come to, or in the place of, those that are there."""
        plan = self.plan
        is_refresh = plan.mode is LoadMode.REPLACE or plan.replaces is not None
        removed = self._make_room() if is_refresh else 0
        if plan.mode is LoadMode.APPEND:
            resumes = plan.boundary is not None and plan.cursor_field and plan.replaces is None and self.rows
            inserted = (
                self._insert_new(had, plan.cursor_field or "") if resumes
                else insert(self.session, self.table, self._source(), self.columns.names)
            )  # fmt: skip
            return Merged(inserted, 0, removed)
        ensure_index(self.session, plan.table, plan.primary_key)
        source = self._source()
        self.merge = Merge(
            session=self.session, table=plan.table, source=source, primary_key=plan.primary_key,
            columns=self.columns, rows=self.rows, deletes=plan.deletes if self._has_marks() else None,
        )  # fmt: skip
        done = self.merge.run()
        if is_refresh and plan.deletes is DeleteMode.SOFT:
            removed = self._mark_missing(source)
        return Merged(done.inserted, done.updated, done.deleted + removed)

    def _make_room(self) -> int:
        """Empty the window, or where rows are kept, take those without a key, for nobody could tell whether they were found again."""
        plan, gone = self.plan, f"DELETE FROM {self.table} AS t WHERE {self._in_window()}"
        if plan.replaces is not None:
            # tells where the window's rows are, as long as they come about in order, and costs next to nothing
            ensure_index(self.session, plan.table, [plan.replaces.column], "brin")
        if keeps_rows(plan):
            self.session.run(f"{gone} AND ({no_key(plan.primary_key)})")
            return 0
        return self._noting(gone)

    def _in_window(self) -> str:
        window = self.plan.replaces
        return in_range(self.plan, window, self.columns) if window is not None else "true"

    def _noting(self, statement: str) -> int:
        """Run ``statement`` on t and note the keys of its rows where a history wants to know; returns how many they were."""
        if not self.plan.history:
            return self.session.run(statement)
        if not self.noted:
            make(self.session, _NOTED, f"SELECT {quoted(self.plan.primary_key)} FROM {self.table} WHERE false")
            self.noted = True
        keys = quoted(self.plan.primary_key, "t.")
        return self.session.run(
            f"WITH done AS ({statement} RETURNING {keys}) INSERT INTO pg_temp.{_NOTED} SELECT * FROM done"
        )

    def _mark_missing(self, source: str) -> int:
        """Mark what a refresh did not find again; a row that came and did not fit was found."""
        key = self.plan.primary_key
        stamps = {DELETED_AT: self.now, "_elt_loaded_at": self.now, "_elt_run_id": literal(self.plan.run_id)}
        changes = ", ".join(f"{quote(n)} = {value}" for n, value in stamps.items() if n in self.columns.names)
        missing = [f"NOT EXISTS (SELECT FROM {source} AS s WHERE {same_key(key)})"]
        if self.rejected is not None:
            same = " AND ".join(f"r.row -> {literal(n)} = to_jsonb(t.{quote(n)})" for n in key)
            missing.append(f"NOT EXISTS (SELECT FROM {self.rejected} AS r WHERE {same})")
        with whole_tables(self.session):
            return self._noting(
                f"UPDATE {self.table} AS t SET {changes} "
                f"WHERE t.{quote(DELETED_AT)} IS NULL AND {self._in_window()} AND {' AND '.join(missing)}"
            )

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

    def _has_marks(self) -> bool:
        """Whether staged rows may be marked as deleted, and the mark counts."""
        counts = self.plan.mode is not LoadMode.APPEND and self.plan.deletes is not DeleteMode.IGNORE
        return counts and any(DELETED_AT in part.schema.names for part in self.parts)

    def _living(self) -> str:
        """The staged rows that a new table gets."""
        source = self._source()
        if self.plan.deletes is DeleteMode.HARD and self._has_marks():
            return f"(SELECT s.* FROM {source} AS s WHERE s.{quote(DELETED_AT)} IS NULL)"
        return source

    def _source(self) -> str:
        """The staged rows as a relation, one per key where that is asked for."""
        plan, numbered = self.plan, needs_arrival(self.plan)
        columns = self.columns
        if self._has_marks() and DELETED_AT not in columns.names:
            columns = columns.append(pa.field(DELETED_AT, TIMESTAMP_UTC))
        source = staged(self.parts, columns, numbered=numbered)
        if not numbered:
            return source
        analyze(self.session, self.parts, self.rows, plan.primary_key)
        source, left_out = keep_last(self.session, source, plan.primary_key, plan.cursor_field)
        self.rows -= left_out
        return source
