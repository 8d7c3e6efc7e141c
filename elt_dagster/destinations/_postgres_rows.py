"""Staged rows as a relation, and how they get into a PostgreSQL table: all at once, or those that are not there yet. Pure SQL, counted exactly."""

from collections.abc import Sequence

import pyarrow as pa

from elt_dagster.destinations._postgres_session import Session
from elt_dagster.destinations._postgres_stage import Part
from elt_dagster.destinations._postgres_types import converted, folded
from elt_dagster.destinations.drift import by_name
from elt_dagster.destinations.files import ARRIVAL
from elt_dagster.destinations.sql import no_key, quote, quoted, same_key

_TWICE = "_elt_twice"
_SEEN, _SEEN_NEXT = "_elt_seen", "_elt_seen_next"
ANALYZED_ROWS = 2_000
"""Nothing analyses temporary tables by itself, and new ones only after a while; without statistics a merge of more rows gets a bad plan."""


def staged(parts: Sequence[Part], columns: pa.Schema, *, numbered: bool) -> str:
    """All parts as a relation in ``columns`` and their types, plus `ARRIVAL` when ``numbered``."""
    selects = [_select(part, columns, numbered) for part in parts]
    if not selects:
        nothing = Part(pa.schema([]), "(SELECT NULL::bigint AS _elt_arrival) AS nothing")
        selects = [_select(nothing, columns, numbered) + " WHERE false"]
    return f"({' UNION ALL '.join(selects)})"


def _select(part: Part, columns: pa.Schema, numbered: bool) -> str:
    have = by_name(part.schema, folded)
    terms: list[str] = []
    for field in columns:
        found = have.get(field.name)
        kind, name = (found.type, quote(found.name)) if found is not None else (pa.null(), "")
        terms.append(f"{converted(name, kind, field.type)} AS {quote(field.name)}")
    return f"SELECT {', '.join([*terms, ARRIVAL] if numbered else terms)} FROM {part.table}"


def analyze(session: Session, parts: Sequence[Part], rows: int, columns: Sequence[str]) -> None:
    """Tell the planner about the staged ``columns`` when there are many rows."""
    for part in parts if rows > ANALYZED_ROWS else ():
        known = [name for name in columns if name in part.schema.names and part.schema.field(name).type != pa.null()]
        analyze_temporary(session, f"{part.table} ({quoted([*known, ARRIVAL])})")


def analyze_temporary(session: Session, what: str) -> None:
    """ANALYZE in a transaction, from 3,000 rows: enough to know how many there are and that keys are distinct, at a tenth of the cost."""
    target = "SET LOCAL default_statistics_target"
    session.run(f"{target} = 10; ANALYZE {what}; {target} TO DEFAULT")


def insert(session: Session, table: str, source: str, columns: Sequence[str]) -> int:
    """Insert every row of ``source``; returns how many."""
    names = quoted(columns)
    return session.run(f"INSERT INTO {table} ({names}) SELECT {names} FROM {source} AS s")


def keep_last(session: Session, source: str, primary_key: Sequence[str], cursor: str | None) -> tuple[str, int]:
    """``source`` with one row per key, and how many rows that leaves out: the highest cursor stays, then the last to arrive.

    Rows without a key all stay.
    """
    order = f"s.{quote(cursor)} DESC NULLS LAST, s.{ARRIVAL} DESC" if cursor else f"s.{ARRIVAL} DESC"
    keys = quoted(primary_key)
    # Only keys that occur twice are sorted: a window over a whole load costs far more than one aggregate.
    doubled = make(
        session, _TWICE,
        f"WITH twice AS (SELECT {keys} FROM {source} AS s WHERE NOT ({no_key(primary_key)}) GROUP BY {keys} HAVING count(*) > 1), "
        f"ranked AS (SELECT s.{ARRIVAL} AS arrival, row_number() OVER (PARTITION BY {quoted(primary_key, 's.')} ORDER BY {order}) AS rank "
        f"FROM {source} AS s JOIN twice AS t ON {same_key(primary_key)}) SELECT arrival FROM ranked WHERE rank > 1",
    )  # fmt: skip
    if not doubled:
        return source, 0
    kept = f"(SELECT s.* FROM {source} AS s WHERE NOT EXISTS (SELECT FROM pg_temp.{_TWICE} AS w WHERE w.arrival = s.{ARRIVAL}))"
    return kept, doubled


def insert_new(
    session: Session, table: str, source: str, columns: Sequence[str], *, identity: Sequence[str], cursor: str, resumed: bool
) -> int:  # fmt: skip
    """Insert rows of ``source`` unless ``table`` had them before this load, each as many times as it had them; returns how many.

    Two rows are the same when the columns ``identity`` are. The first commit of a load looks up what the table holds from the lowest staged
    cursor on; later ones (``resumed``) go on with what is left of that in a temporary table: rows not read again so far.
    """
    seen = f"pg_temp.{_SEEN}"
    if not resumed:
        lowest = f"(SELECT min({quote(cursor)}) FROM {source} AS s)"
        session.run(f"DROP TABLE IF EXISTS {seen}")
        session.run(
            f"CREATE TEMPORARY TABLE {_SEEN} AS SELECT {_fingerprint(identity)} AS row, count(*) AS times, max({quote(cursor)}) AS at "
            f"FROM {table} AS s WHERE {quote(cursor)} >= {lowest} GROUP BY 1"
        )
    if not session.value(f"SELECT EXISTS (SELECT FROM {seen})"):
        return insert(session, table, source, columns)
    known = f"coalesce(s.{quote(cursor)} <= (SELECT max(at) FROM {seen}), false)" if not resumed else "true"
    numbered = (
        f"(SELECT s.*, f.row AS _elt_row, row_number() OVER (PARTITION BY f.row) AS _elt_time FROM {source} AS s "
        f"CROSS JOIN LATERAL (SELECT CASE WHEN {known} THEN {_fingerprint(identity)} END AS row OFFSET 0) AS f)"
    )
    # What is unknown has no fingerprint and finds nothing; what is known counts against the times it was there.
    fresh = (
        f"(SELECT c.* FROM {numbered} AS c LEFT JOIN {seen} AS b ON b.row = c._elt_row "
        f"WHERE c._elt_row IS NULL OR c._elt_time > coalesce(b.times, 0))"
    )
    session.run(
        f"CREATE TEMPORARY TABLE {_SEEN_NEXT} AS SELECT b.row, b.times - coalesce(a.times, 0) AS times, b.at FROM {seen} AS b "
        f"LEFT JOIN (SELECT _elt_row AS row, count(*) AS times FROM {numbered} AS c WHERE _elt_row IS NOT NULL GROUP BY 1) AS a "
        f"ON a.row = b.row WHERE b.times > coalesce(a.times, 0)"
    )
    inserted = insert(session, table, fresh, columns)
    session.run(f"DROP TABLE {seen}")
    session.run(f"ALTER TABLE pg_temp.{_SEEN_NEXT} RENAME TO {_SEEN}")
    return inserted


def _fingerprint(names: Sequence[str]) -> str:
    """128 bits over the text of the values of s; the text of a row tells NULL from empty and knows where a value ends."""
    return f"md5(ROW({quoted(names, 's.')})::text)::uuid"


def make(session: Session, name: str, select: str) -> int:
    """A temporary table for this transaction; returns its number of rows."""
    return session.run(f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS {select}")
