"""History tables in PostgreSQL; what they are is said in `elt_dagster.destinations.history`."""

from contextlib import nullcontext

import pyarrow as pa

from elt_dagster.destinations._postgres_rows import ANALYZED_ROWS
from elt_dagster.destinations._postgres_session import Session, qualified, whole_tables
from elt_dagster.destinations._postgres_table import Found, alter, columns_of, create, ensure_index, loadable
from elt_dagster.destinations._postgres_types import DIALECT, converted, folded
from elt_dagster.destinations.base import DELETED_AT, IS_CURRENT, LoadPlan
from elt_dagster.destinations.drift import OURS, by_name
from elt_dagster.destinations.history import VALIDITY, history_columns, history_table, update_statements
from elt_dagster.destinations.sql import no_key, quote, quoted
from elt_dagster.model import DeleteMode, LoadMode


def find_history(session: Session, plan: LoadPlan) -> Found:
    """The history table as it is. Raises DestinationError when something else has its name."""
    where = history_table(plan.table)
    entry = loadable(session, where)
    found = columns_of(session, entry) if entry is not None else None
    history_columns(pa.schema([]), found, folded, where)
    return Found(entry, found, None)


def keep_history(
    session: Session, plan: LoadPlan, columns: pa.Schema, *, now: str, touched: str | None, first: bool
) -> None:
    """Bring the history table to what the plan's table, with ``columns``, now is.

    ``now`` is SQL for the commit's time, ``touched`` a relation with the keys outside of which nothing changed (None: that is not known). Only the ``first``
    commit of a load begins the history anew.
    """
    where = history_table(plan.table)
    before, history = find_history(session, plan), qualified(where)
    wanted = history_columns(columns, before.columns, folded, where)
    text = f"Every version of the rows of {plan.table}."
    if before.columns is None:
        create(session, history, wanted, text)
    else:
        alter(session, history, before, wanted, text)
    anew = plan.reset_history and first
    if before.columns is not None and anew:  # not dropped: views and grants hang on it
        session.run(f"DELETE FROM {history}")
    goes_on = before.columns is not None and not anew
    content = pa.schema([f for f in wanted if f.name not in VALIDITY.names])
    # A read of everything is compared with everything, which mends what was missed while no history was kept.
    among = touched if goes_on and plan.mode is not LoadMode.REPLACE else None
    if among is not None:
        ensure_index(session, where, plan.primary_key, where=IS_CURRENT)
    statements = update_statements(
        plan, _as_in_history(session, plan, columns, content, single=not goes_on), history, content.names,
        same=_same_version(plan, content), now=now, touched=among,
    )  # fmt: skip
    with whole_tables(session) if among is None else nullcontext():
        written = sum(session.run(statement) for statement in statements)
    ensure_index(session, where, plan.primary_key, where=IS_CURRENT)
    if not goes_on and written > ANALYZED_ROWS:
        # The next merge may come before autovacuum, and would read all of it for one key.
        session.run(f"ANALYZE {history} ({quoted([*plan.primary_key, IS_CURRENT])})")


def _as_in_history(session: Session, plan: LoadPlan, columns: pa.Schema, content: pa.Schema, *, single: bool) -> str:
    """The plan's table in the columns and types of its history; what it has no more is NULL. With ``single`` one row per key."""
    have = by_name(columns, folded)
    terms: list[str] = []
    for field in content:
        known = have.get(field.name)
        value = (
            converted(f"c.{quote(field.name)}", known.type, field.type)
            if known is not None
            else f"NULL::{DIALECT.column_type(field.type)}"
        )
        terms.append(f"{value} AS {quote(field.name)}")
    if plan.deletes is DeleteMode.SOFT:
        terms.append(f"c.{quote(DELETED_AT)}")
    source = f"{qualified(plan.table)} AS c"
    if not (single and _has_twins(session, plan)):
        return f"(SELECT {', '.join(terms)} FROM {source})"
    key = quoted(plan.primary_key, "c.")
    newest = f", c.{quote(plan.cursor_field)} DESC NULLS LAST" if plan.cursor_field else ""
    return f"(SELECT DISTINCT ON ({key}) {', '.join(terms)} FROM {source} ORDER BY {key}{newest})"


def _has_twins(session: Session, plan: LoadPlan) -> bool:
    """Whether a key is several times in the table, from a time when it was appended to: two versions cannot both be current."""
    keys, table = quoted(plan.primary_key), qualified(plan.table)
    twins = f"SELECT FROM {table} WHERE NOT ({no_key(plan.primary_key)}) GROUP BY {keys} HAVING count(*) > 1"
    return bool(session.value(f"SELECT EXISTS ({twins})"))


def _same_version(plan: LoadPlan, content: pa.Schema) -> str:
    """The condition that t and h agree; intervals as text, for '1 month' equals '30 days' otherwise."""
    terms: list[str] = []
    for field in content:
        if field.name not in plan.primary_key and not field.name.startswith(OURS):
            cast = "::text" if pa.types.is_interval(field.type) else ""
            terms.append(f"t.{quote(field.name)}{cast} IS NOT DISTINCT FROM h.{quote(field.name)}{cast}")
    return f"({' AND '.join(terms)})" if terms else "true"
