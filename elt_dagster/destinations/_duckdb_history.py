"""The history table of a DuckDB table: made, altered and brought up to date in the transaction that changes the table.

See `elt_dagster.destinations.history` for what it promises.
"""

from datetime import datetime

import pyarrow as pa

from elt_dagster.destinations._duckdb_deletes import WINDOW
from elt_dagster.destinations._duckdb_file import Session
from elt_dagster.destinations._duckdb_rows import content_hash
from elt_dagster.destinations._duckdb_staged import STAGED
from elt_dagster.destinations._duckdb_table import find_companion, settle_companion
from elt_dagster.destinations._duckdb_types import folded, instant, projected
from elt_dagster.destinations.base import DELETED_AT, LoadPlan
from elt_dagster.destinations.drift import by_name
from elt_dagster.destinations.history import (
    VALIDITY,
    history_columns,
    history_table,
    is_complete_comparison,
    update_statements,
)
from elt_dagster.destinations.sql import no_key, quote, quoted
from elt_dagster.model import LoadMode
from elt_dagster.model.types import TIMESTAMP_UTC


def keep_history(
    session: Session, plan: LoadPlan, columns: pa.Schema, now: datetime, *, first: bool, is_new: bool
) -> None:
    """Bring the history of the plan's table, whose ``columns`` and rows are final, up to ``now``.

    ``first`` is True for a load's first commit, which alone may begin the history anew; ``is_new`` when the table was not there before.
    Raises DestinationError when the history's name is taken.
    """
    kept, had_history = _prepare(session, plan, columns, anew=plan.reset_history and first)
    touched = None if is_new else _touched(plan, columns, kept, had_history=had_history, first=first)
    statements = update_statements(
        plan, _as_history_has_it(session, plan, columns, kept, single=not had_history),
        session.table(history_table(plan.table)), kept.names,
        same=f"{content_hash(kept, plan.primary_key, 't.')} = {content_hash(kept, plan.primary_key, 'h.')}",
        now=instant(now), touched=touched,
    )  # fmt: skip
    for statement in statements if had_history else statements[1:]:
        session.run(statement)


def find_history(session: Session, plan: LoadPlan) -> pa.Schema | None:
    """The columns of the plan's history table; None if there is none. Raises DestinationError when something else has its name."""
    table = history_table(plan.table)
    found = find_companion(session, table)
    if found is not None:
        history_columns(pa.schema([]), found, folded, table)
    return found


def _touched(plan: LoadPlan, columns: pa.Schema, kept: pa.Schema, *, had_history: bool, first: bool) -> str | None:
    """The keys outside of which nothing has changed, in the history's types; None: any may have."""
    window = plan.replaces is not None and plan.mode is not LoadMode.REPLACE
    if not (had_history and window) and is_complete_comparison(plan, had_history=had_history):
        return None
    known = by_name(kept, folded)
    key = pa.schema([known[folded(name)] for name in plan.primary_key])
    touched = projected(STAGED, columns, key)
    # A window is all that can have changed besides: the whole table need not be looked at for each of hundreds.
    return f"({touched} UNION ALL {projected(WINDOW, columns, key)})" if window and first else f"({touched})"


def _prepare(session: Session, plan: LoadPlan, columns: pa.Schema, *, anew: bool) -> tuple[pa.Schema, bool]:
    """Make or alter the history table; its columns but the validity, and whether it was there."""
    table, found = history_table(plan.table), find_history(session, plan)
    if anew and found is not None:
        session.run(f"DROP TABLE {session.table(table)}")
        found = None
    wanted = history_columns(columns, found, folded, table)
    settle_companion(
        session, table, found, wanted, f"Every version of the rows of {plan.table.name}, with the time it was valid."
    )
    return pa.schema([f for f in wanted if folded(f.name) not in VALIDITY.names]), found is not None


def _as_history_has_it(session: Session, plan: LoadPlan, columns: pa.Schema, kept: pa.Schema, *, single: bool) -> str:
    """The table's rows in the history's columns and types, and with the mark of deleted ones; ``single``: one per key."""
    source = session.table(plan.table)
    if single and _has_twins(session, plan, source):
        keys = quoted(plan.primary_key)
        source = f"(FROM {source} QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {_newest_first(plan)}) = 1)"
    mark = [pa.field(DELETED_AT, TIMESTAMP_UTC)] if DELETED_AT in columns.names else []
    return f"({projected(source, columns, pa.schema([*kept, *mark]))})"


def _has_twins(session: Session, plan: LoadPlan, source: str) -> bool:
    """Whether a key is several times in the table, from a time when it was appended to: two versions cannot both be current."""
    keys = quoted(plan.primary_key)
    twins = f"SELECT 1 FROM {source} WHERE NOT ({no_key(plan.primary_key)}) GROUP BY {keys} HAVING count(*) > 1 LIMIT 1"
    return bool(session.value(twins))


def _newest_first(plan: LoadPlan) -> str:
    return f"{quote(plan.cursor_field)} DESC NULLS LAST" if plan.cursor_field else "1"
