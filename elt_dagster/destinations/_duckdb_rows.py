"""How staged rows get into a DuckDB table: all at once, those that are not there yet, or by primary key. Pure SQL, counted exactly."""

from collections.abc import Sequence

import pyarrow as pa

from elt_dagster.destinations._duckdb_file import Session
from elt_dagster.destinations._duckdb_staged import STAGED
from elt_dagster.destinations._duckdb_types import folded
from elt_dagster.destinations.base import DELETED_AT
from elt_dagster.destinations.drift import OURS
from elt_dagster.destinations.files import ARRIVAL
from elt_dagster.destinations.sql import no_key, quote, quoted, same_key

_TWICE, _SEEN = "_elt_twice", "_elt_seen"
_COMING, _THERE, _MATCHES, _UNCHANGED = "_elt_coming", "_elt_there", "_elt_matches", "_elt_unchanged"


def insert(session: Session, table: str, source: str, columns: pa.Schema) -> int:
    """Insert every row of ``source``; returns how many."""
    names = quoted(columns.names)
    return session.run(f"INSERT INTO {table} ({names}) SELECT {names} FROM {source}")


def keep_last(session: Session, primary_key: Sequence[str], cursor: str | None) -> str:
    """A relation over `STAGED` with one row per key: the highest cursor, then the last to arrive. Rows without a key all stay."""
    keys = quoted(primary_key)
    order = f"{quote(cursor)} DESC NULLS LAST, {ARRIVAL} DESC" if cursor else f"{ARRIVAL} DESC"
    # Only keys that occur twice are sorted: a window over a whole load costs far more than one aggregate.
    doubled = session.run(
        f"CREATE TEMP TABLE {_TWICE} AS WITH twice AS "
        f"(SELECT {keys} FROM {STAGED} WHERE NOT ({no_key(primary_key)}) GROUP BY {keys} HAVING count(*) > 1) "
        f"SELECT s.{ARRIVAL} FROM {STAGED} AS s SEMI JOIN twice AS t ON {same_key(primary_key)} "
        f"QUALIFY row_number() OVER (PARTITION BY {quoted(primary_key, 's.')} ORDER BY {order}) > 1"
    )
    return f"(SELECT * FROM {STAGED} ANTI JOIN {_TWICE} USING ({ARRIVAL}))" if doubled else STAGED


def merge(session: Session, table: str, source: str, primary_key: Sequence[str], columns: pa.Schema) -> tuple[int, int]:
    """Rows of ``source`` (one per key) replace those of the same key; returns how many were inserted and updated.

    A row that is equal in all but the ``_elt_`` columns stays as it is, and keeps its load time; one that was marked as deleted is an update.
    """
    keys, content = quoted(primary_key), content_hash(columns, primary_key)
    # Both sides are brought down to key and hash before they meet: in one statement DuckDB carries all columns into the join, which
    # takes four times as long and for a million rows of 60 columns more memory than there is.
    session.run(f"CREATE TEMP TABLE {_COMING} AS SELECT {keys}, {ARRIVAL}, {content} AS _elt_content FROM {source}")
    session.run(
        f"CREATE TEMP TABLE {_THERE} AS SELECT {keys}, {content} AS _elt_content "
        f"FROM {table} AS t SEMI JOIN {_COMING} AS s ON {same_key(primary_key)}"
    )
    session.run(
        f"CREATE TEMP TABLE {_MATCHES} AS SELECT s.{ARRIVAL}, s._elt_content = t._elt_content AS _elt_same "
        f"FROM {_COMING} AS s JOIN {_THERE} AS t ON {same_key(primary_key)}"
    )
    # A key may be in the table several times, from a time when it was appended to: then all go and one comes.
    session.run(
        f"CREATE TEMP VIEW {_UNCHANGED} AS SELECT {ARRIVAL} FROM {_MATCHES} "
        f"GROUP BY {ARRIVAL} HAVING count(*) = 1 AND bool_and(_elt_same)"
    )
    changed = f"{_MATCHES} ANTI JOIN {_UNCHANGED} USING ({ARRIVAL})"
    updated = int(session.value(f"SELECT count(DISTINCT {ARRIVAL}) FROM {changed}"))
    if updated:  # by key and not by rowid, for which a column of that name would stand in
        gone = f"(SELECT {keys} FROM {_COMING} SEMI JOIN (SELECT {ARRIVAL} FROM {changed}) USING ({ARRIVAL}))"
        session.run(f"DELETE FROM {table} AS t USING {gone} AS s WHERE {same_key(primary_key)}")
    if not session.value(f"SELECT 1 FROM {_COMING} ANTI JOIN {_UNCHANGED} USING ({ARRIVAL}) LIMIT 1"):
        return 0, 0  # reading all columns again to insert none of them would take as long as everything before
    new = f"{source} AS s ANTI JOIN {_UNCHANGED} AS u ON s.{ARRIVAL} = u.{ARRIVAL}"
    return insert(session, table, new, columns) - updated, updated


def insert_new(
    session: Session, table: str, source: str, columns: pa.Schema, *, identity: Sequence[str], cursor: str, seen: pa.Table | None
) -> tuple[int, pa.Table]:  # fmt: skip
    """Insert rows of ``source`` unless ``table`` had them before this load, each as many times as it had them.

    Two rows are the same when the columns ``identity`` are. ``seen`` is what the load's previous commit returned: rows that were in the
    table before the load and were not read again so far (fingerprint and number of times); None on the first commit, which
    looks them up from the lowest staged cursor on. Returns the number of inserted rows and the new ``seen``.
    """
    known = "true"  # staged rows that may have been in the table
    if seen is None:
        known = f"coalesce({quote(cursor)} <= (SELECT max({quote(cursor)}) FROM {table}), false)"
        old = f"SELECT {_fingerprint(identity)} AS row FROM {table} WHERE {quote(cursor)} >= (SELECT min({quote(cursor)}) FROM {source})"
        session.run(f"CREATE TEMP TABLE {_SEEN} AS SELECT row, count(*) AS times FROM ({old}) GROUP BY row")
    else:
        session.connection.register("_elt_seen_before", seen)
        session.run(f"CREATE TEMP TABLE {_SEEN} AS FROM _elt_seen_before")
    if session.value(f"SELECT count(*) FROM {_SEEN}") == 0:
        return insert(session, table, source, columns), _seen_rows(session, f"FROM {_SEEN}")
    again = f"(SELECT *, {_fingerprint(identity)} AS _elt_row FROM {source} WHERE {known})"
    counted = f"(SELECT *, row_number() OVER (PARTITION BY _elt_row) AS _elt_time FROM {again})"
    names = quoted(columns.names)
    left = _seen_rows(
        session,
        f"SELECT row, s.times - coalesce(a.times, 0) AS times FROM {_SEEN} AS s LEFT JOIN "
        f"(SELECT _elt_row AS row, count(*) AS times FROM {again} GROUP BY _elt_row) AS a USING (row) "
        f"WHERE s.times > coalesce(a.times, 0)",
    )
    fresh = (
        f"(SELECT {names} FROM {source} WHERE NOT {known} UNION ALL SELECT {names} FROM {counted} AS c "
        f"LEFT JOIN {_SEEN} AS s ON s.row = c._elt_row WHERE c._elt_time > coalesce(s.times, 0))"
    )
    return insert(session, table, fresh, columns), left


def _seen_rows(session: Session, sql: str) -> pa.Table:
    return session.connection.sql(sql).to_arrow_table()


def _fingerprint(names: Sequence[str]) -> str:
    """128 bits over the text of the values; as a JSON list, so that no two different rows give one text."""
    values = ", ".join(f"CAST({quote(name)} AS VARCHAR)" for name in names)
    return f"unhex(md5(CAST(to_json([{values}]) AS VARCHAR)))"


def content_hash(columns: pa.Schema, primary_key: Sequence[str], prefix: str = "") -> str:
    """64 bits over all but the key and our own columns, but for whether the row is deleted: a join that carried the values themselves would need memory for all of them.

    A change of one column of at most 64 bits is never missed, any other with a chance of one in 2^64. Intervals are taken as text,
    for '1 month' and '30 days' are equal otherwise. ``prefix`` goes before each column.
    """
    keys = {folded(name) for name in primary_key}
    values = [
        f"CAST({prefix}{quote(f.name)} AS VARCHAR)" if pa.types.is_interval(f.type) else prefix + quote(f.name)
        for f in columns
        if not f.name.startswith(OURS) and folded(f.name) not in keys
    ]
    if DELETED_AT in columns.names:
        values.append(f"{prefix}{quote(DELETED_AT)} IS NULL")
    return f"hash({', '.join(values)})" if values else "1"
