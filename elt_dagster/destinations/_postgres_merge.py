"""Merging staged rows into a PostgreSQL table by primary key: what comes, what changes, what goes. Pure SQL, counted exactly.

Works on PostgreSQL 12: neither MERGE (new in 15) nor ON CONFLICT (needs a unique index, which a table that was appended to cannot have).
Source and table are joined once: what that found (which row, where, and what is to become of it) is what all statements go by.

Many changed rows are removed where they are and come in with the new ones: an UPDATE of a row that finds no room in its page costs about three times
as much. A few are updated, and so are those of a table where the difference could be noticed, see `takes_replacements`.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import pyarrow as pa

from elt_dagster.destinations._postgres_rows import ANALYZED_ROWS, analyze_temporary, insert, make
from elt_dagster.destinations._postgres_session import Session, by_place, qualified, roomy
from elt_dagster.destinations._postgres_table import takes_replacements
from elt_dagster.destinations.base import DELETED_AT, TableRef
from elt_dagster.destinations.drift import OURS
from elt_dagster.destinations.files import ARRIVAL
from elt_dagster.destinations.sql import quote, quoted, same_key
from elt_dagster.errors import TransientError
from elt_dagster.model import DeleteMode

_MATCHES, _TWINS, _TOUCHED = "_elt_matches", "_elt_twins", "_elt_touched"


@dataclass(frozen=True, slots=True)
class Merged:
    """How many rows a merge wrote; ``deleted`` are those removed or newly marked."""

    inserted: int
    updated: int
    deleted: int


@dataclass(frozen=True, slots=True)
class _Counts:
    """What the matches are: ``keys`` staged rows have one, ``rows`` of the table are one, and how many of these change or go."""

    keys: int
    rows: int
    changed: int
    gone: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """One merge of ``source`` (one row per key, ``rows`` in all, with `ARRIVAL`) into ``table``.

    With ``deletes`` hard or soft, ``source`` also has `DELETED_AT`, and what is marked there goes or is marked here; with None every row lives.
    """

    session: Session
    table: TableRef
    source: str
    primary_key: Sequence[str]
    columns: pa.Schema
    rows: int
    deletes: DeleteMode | None

    @property
    def _target(self) -> str:
        return qualified(self.table)

    @property
    def _matches(self) -> str:
        return f"pg_temp.{_MATCHES}"

    def run(self) -> Merged:
        """Bring the rows in. One that is equal in all but the ``_elt_`` columns is not written at all, and keeps its load time."""
        found = self._match()
        if not found:
            return Merged(self._insert([]), 0, 0)
        if found > ANALYZED_ROWS:
            analyze_temporary(self.session, self._matches)
        deleted = self._remove_gone() if self.deletes is DeleteMode.HARD else 0
        counts = self._counts()
        if counts.rows > counts.keys:
            self._remove_twins()
            counts = self._counts()
        inserted = self._write(counts)
        if self.deletes is DeleteMode.SOFT:
            self._update("gone", [name for name in self.columns.names if name.startswith(OURS)], counts.gone)
            deleted = counts.gone
        return Merged(inserted, counts.changed, deleted)

    def touched(self, further: str | None) -> str:
        """The keys of all rows that `run` wrote or removed, and those in the table ``further``, as a table of this transaction."""
        keys = quoted(self.primary_key, "s.")
        make(
            self.session, _TOUCHED,
            f"SELECT {keys} FROM {self.source} AS s WHERE NOT EXISTS (SELECT FROM {self._matches} AS m "
            f"WHERE m.arrival = s.{ARRIVAL} AND m.verdict IN ('same', 'kept'))",
        )  # fmt: skip
        if further is not None:
            self.session.run(f"INSERT INTO pg_temp.{_TOUCHED} SELECT {quoted(self.primary_key)} FROM {further}")
        # How many of these keys lack a version, the planner cannot know and takes to be one: without an index that one becomes a
        # scan of all of them for each.
        self.session.run(f"CREATE INDEX ON pg_temp.{_TOUCHED} ({quoted(self.primary_key)})")
        analyze_temporary(self.session, f"pg_temp.{_TOUCHED}")
        return f"pg_temp.{_TOUCHED}"

    def _match(self) -> int:
        many = self.rows > ANALYZED_ROWS
        with roomy(self.session, self.table, self.primary_key[0]) if many else nullcontext():
            return make(
                self.session, _MATCHES,
                f"SELECT s.{ARRIVAL} AS arrival, t.tableoid AS part, t.ctid AS place, {self._verdict()} AS verdict "
                f"FROM {self.source} AS s JOIN {self._target} AS t ON {same_key(self.primary_key)}",
            )  # fmt: skip

    def _verdict(self) -> str:
        """What becomes of the table's row t under the staged row s: same, changed, gone, or kept (it was marked already)."""
        living = f"CASE WHEN {_same_row(self.columns)} THEN 'same' ELSE 'changed' END"
        if self.deletes is None:
            return living
        alive = f"t.{quote(DELETED_AT)} IS NULL" if self.deletes is DeleteMode.SOFT else "true"
        return f"CASE WHEN s.{quote(DELETED_AT)} IS NULL THEN {living} WHEN {alive} THEN 'gone' ELSE 'kept' END"

    def _counts(self) -> _Counts:
        (row,) = self.session.rows(
            f"SELECT count(*), coalesce(sum(found), 0)::int8, coalesce(sum(changed), 0)::int8, coalesce(sum(gone), 0)::int8 FROM "
            f"(SELECT count(*) AS found, count(*) FILTER (WHERE verdict = 'changed') AS changed, "
            f"count(*) FILTER (WHERE verdict = 'gone') AS gone FROM {self._matches} GROUP BY arrival) AS matched"
        )
        return _Counts(*row)

    def _write(self, counts: _Counts) -> int:
        """Bring in what is new and what changed; returns how many rows are new."""
        unmatched = f"NOT EXISTS (SELECT FROM {self._matches} AS m WHERE m.arrival = s.{ARRIVAL}"
        if counts.changed > ANALYZED_ROWS and takes_replacements(self.session, self.table):
            self._require_all(self._remove("changed"), counts.changed)
            stays = [f"{unmatched} AND m.verdict <> 'changed')"] if counts.keys > counts.changed else []
            return self._insert(stays) - counts.changed
        self._update("changed", self.columns.names, counts.changed)
        all_matched = self.deletes is None and counts.keys == self.rows
        return 0 if all_matched else self._insert([f"{unmatched})"])

    def _insert(self, conditions: Sequence[str]) -> int:
        """Insert the living staged rows that meet ``conditions``."""
        alive = [f"s.{quote(DELETED_AT)} IS NULL"] if self.deletes is DeleteMode.HARD else []
        terms = [*conditions, *alive]
        where = f" WHERE {' AND '.join(terms)}" if terms else ""
        return insert(self.session, self._target, f"(SELECT s.* FROM {self.source} AS s{where})", self.columns.names)

    def _remove_gone(self) -> int:
        removed = self._remove("gone")
        self._require_all(removed, self.session.run(f"DELETE FROM {self._matches} WHERE verdict = 'gone'"))
        return removed

    def _remove(self, verdict: str) -> int:
        """Remove the table's rows of ``verdict``, in the order they lie in."""
        with by_place(self.session):
            return self.session.run(
                f"DELETE FROM {self._target} AS t USING (SELECT part, place FROM {self._matches} WHERE verdict = $1 ORDER BY part, place) AS m "
                f"WHERE t.ctid = m.place AND t.tableoid = m.part", [verdict]
            )  # fmt: skip

    def _update(self, verdict: str, names: Sequence[str], expected: int) -> None:
        if expected:
            values = ", ".join(f"{quote(n)} = s.{quote(n)}" for n in names)
            updated = self.session.run(
                f"UPDATE {self._target} AS t SET {values} FROM {self._matches} AS m JOIN {self.source} AS s ON s.{ARRIVAL} = m.arrival "
                f"WHERE t.ctid = m.place AND t.tableoid = m.part AND m.verdict = $1", [verdict]
            )  # fmt: skip
            self._require_all(updated, expected)

    def _remove_twins(self) -> None:
        """A key may be in the table several times, from a time when it was appended to: then one row stays, and becomes the staged one."""
        self.session.run(
            f"CREATE TEMPORARY TABLE {_TWINS} ON COMMIT DROP AS SELECT arrival, part, place, "
            f"row_number() OVER (PARTITION BY arrival ORDER BY part, place) AS number, count(*) OVER (PARTITION BY arrival) AS twins FROM {self._matches}"
        )
        self.session.run(
            f"WITH gone AS (DELETE FROM {self._matches} AS m USING pg_temp.{_TWINS} AS w "
            f"WHERE m.part = w.part AND m.place = w.place AND w.number > 1 RETURNING m.part, m.place) "
            f"DELETE FROM {self._target} AS t USING gone AS g WHERE t.ctid = g.place AND t.tableoid = g.part"
        )
        # a key that had twins counts as updated, even when the row that stays was the same
        self.session.run(
            f"UPDATE {self._matches} AS m SET verdict = 'changed' FROM pg_temp.{_TWINS} AS w "
            f"WHERE w.arrival = m.arrival AND w.twins > 1 AND m.verdict = 'same'"
        )

    def _require_all(self, written: int, expected: int) -> None:
        """A row that somebody else changed between the look and the write has moved away and is not written."""
        if written != expected:
            raise TransientError(
                f"{self.table} was changed by somebody else while rows were merged into it; nothing was committed.",
                fix="It is tried again.",
            )


def _same_row(columns: pa.Schema) -> str:
    """The condition that s and t agree in all but our own columns, and that t lives; intervals as text, for '1 month' equals '30 days' otherwise."""
    terms: list[str] = []
    for field in columns:
        if field.name == DELETED_AT:
            terms.append(f"t.{quote(DELETED_AT)} IS NULL")
        elif not field.name.startswith(OURS):
            cast = "::text" if pa.types.is_interval(field.type) else ""
            terms.append(f"s.{quote(field.name)}{cast} IS NOT DISTINCT FROM t.{quote(field.name)}{cast}")
    return f"({' AND '.join(terms)})" if terms else "true"
