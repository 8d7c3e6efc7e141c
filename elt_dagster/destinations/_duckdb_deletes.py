"""Rows that are gone: reported as deleted, not found again by a read of everything, or in the way of a window.

All of it happens in the load's transaction, before or after the staged rows come, and changes no value of a row but our own columns.
"""

from datetime import datetime

import pyarrow as pa

from elt_dagster.destinations._duckdb_file import Session
from elt_dagster.destinations._duckdb_staged import ARRIVED
from elt_dagster.destinations._duckdb_types import folded, instant
from elt_dagster.destinations.base import DELETED_AT, LoadPlan, RowRange
from elt_dagster.destinations.drift import OURS, by_name
from elt_dagster.destinations.files import ARRIVAL
from elt_dagster.destinations.plans import keeps_rows
from elt_dagster.destinations.sql import literal, no_key, quote, quoted, same_key
from elt_dagster.errors import ConfigError
from elt_dagster.model import DeleteMode

WINDOW = "_elt_window"
"""The keys that were in the window before it was replaced; only where a history is kept."""
_MARKED = "_elt_marked"
_DELETED, _ALIVE = f"{quote(DELETED_AT)} IS NOT NULL", f"{quote(DELETED_AT)} IS NULL"


def living(source: str) -> str:
    """The rows of ``source`` that are not marked as deleted."""
    return f"(SELECT * FROM {source} WHERE {_ALIVE})"


def apply_marks(session: Session, plan: LoadPlan, table: str, source: str, columns: pa.Schema) -> tuple[str, int]:
    """Delete or mark the rows of ``table`` that ``source`` (one row per key) says are deleted.

    Returns what of ``source`` is left to be merged, and how many rows were removed or newly marked.
    """
    if not session.value(f"SELECT 1 FROM {source} WHERE {_DELETED} LIMIT 1"):
        return source, 0
    if plan.deletes is DeleteMode.SOFT:
        return _mark(session, plan, table, source, columns)
    removed = 0
    if plan.deletes is DeleteMode.HARD:
        gone = f"(SELECT {quoted(plan.primary_key)} FROM {source} WHERE {_DELETED})"
        removed = session.run(f"DELETE FROM {table} AS t USING {gone} AS s WHERE {same_key(plan.primary_key)}")
    return living(source), removed


def _mark(session: Session, plan: LoadPlan, table: str, source: str, columns: pa.Schema) -> tuple[str, int]:
    """Rows that are there keep their values; deleted ones that never were come as they are, so that they are known."""
    ours = [name for name in columns.names if name.startswith(OURS)]
    gone = f"(SELECT {quoted(plan.primary_key)}, {ARRIVAL}, {quoted(ours)} FROM {source} WHERE {_DELETED})"
    session.run(
        f"CREATE TEMP TABLE {_MARKED} AS SELECT s.{ARRIVAL} FROM {gone} AS s SEMI JOIN {table} AS t ON {same_key(plan.primary_key)}"
    )
    changes = ", ".join(f"{quote(name)} = s.{quote(name)}" for name in ours)
    marked = session.run(
        f"UPDATE {table} AS t SET {changes} FROM {gone} AS s WHERE {same_key(plan.primary_key)} AND t.{_ALIVE}"
    )
    return f"(SELECT * FROM {source} ANTI JOIN {_MARKED} USING ({ARRIVAL}))", marked


def clear_window(session: Session, plan: LoadPlan, table: str, columns: pa.Schema) -> int:
    """Make room in ``table`` for a read of everything or of a window, before its rows come; returns how many rows went for good.

    Where rows are kept, only those without a key go: nobody could tell whether they were found again.
    """
    among = _in_window(plan, columns)
    if plan.history and plan.replaces is not None:
        session.run(f"CREATE TEMP TABLE {WINDOW} AS SELECT {quoted(plan.primary_key)} FROM {table} WHERE {among}")
    if keeps_rows(plan):
        session.run(f"DELETE FROM {table} WHERE ({no_key(plan.primary_key)}) AND {among}")
        return 0
    return session.run(f"DELETE FROM {table} WHERE {among}")


def mark_missing(session: Session, plan: LoadPlan, table: str, columns: pa.Schema, now: datetime) -> int:
    """Mark the rows of ``table`` that a read of everything, or of a window, did not find again; returns how many were alive.

    A row that arrived with a value that does not fit was found.
    """
    stamps = {DELETED_AT: instant(now), "_elt_loaded_at": instant(now), "_elt_run_id": literal(plan.run_id)}
    known = by_name(columns, folded)
    changes = ", ".join(f"{quote(name)} = {value}" for name, value in stamps.items() if name in known)
    found = f"SELECT 1 FROM {ARRIVED} AS s WHERE {same_key(plan.primary_key)}"
    return session.run(
        f"UPDATE {table} AS t SET {changes} WHERE {_ALIVE} AND {_in_window(plan, columns)} AND NOT EXISTS ({found})"
    )


def _in_window(plan: LoadPlan, columns: pa.Schema) -> str:
    return _in_range(plan, plan.replaces, columns) if plan.replaces is not None else "true"


def _in_range(plan: LoadPlan, window: RowRange, columns: pa.Schema) -> str:
    """The condition that a row is in ``window``. Times without a zone are UTC; text that is no time is in no window."""
    field = by_name(columns, folded).get(folded(window.column))
    if field is None or not (
        pa.types.is_timestamp(field.type) or pa.types.is_date(field.type) or pa.types.is_string(field.type)
    ):
        what = "has no column" if field is None else "has no times in its column"
        raise ConfigError(
            f"{plan.table} {what} {window.column!r}, by which its windows are told apart.",
            fix="Set the slicing column to one of dates or timestamps.",
        )
    value = quote(field.name)
    if pa.types.is_string(field.type):
        value = f"TRY_CAST({value} AS TIMESTAMPTZ)"
    elif field.type == pa.timestamp("ns", "UTC"):  # which DuckDB compares with nothing else
        value = f"CAST({value} AS TIMESTAMPTZ)"
    return f"coalesce({value} >= {instant(window.start)} AND {value} < {instant(window.end)}, false)"
