"""History tables: every version of a row beside its table, kept in the commit that changes it (type 2 of Kimball's dimensions).

``<table>__history`` has the table's columns (but `DELETED_AT`) and three more: a version is valid from ``_valid_from``, the time of the commit that
brought it, until ``_valid_to``, the time of the commit that changed or removed it; ``_valid_to`` is NULL and ``_is_current`` true for the living one.
Time is the warehouse's, not the source's: so spans of a key never overlap and a late or repeated row never rewrites the past. A load that finds a
row as it was adds nothing. The history follows the table as it *is* after the commit, whatever the mode: what a merge updated, a window or a full
refresh replaced, and what deletes removed or marked.
"""

from collections.abc import Sequence

import pyarrow as pa

from elt_dagster.destinations.base import DELETED_AT, IS_CURRENT, VALID_FROM, VALID_TO, LoadPlan, TableRef
from elt_dagster.destinations.drift import Fold, by_name, merged_schema
from elt_dagster.destinations.plans import companion, refuse_our_names
from elt_dagster.destinations.sql import quote, quoted, same_key
from elt_dagster.errors import DestinationError
from elt_dagster.model import DeleteMode
from elt_dagster.model.types import TIMESTAMP_UTC, column

VALIDITY = pa.schema(
    [
        column(VALID_FROM, TIMESTAMP_UTC, description="When the load that brought this version was committed."),
        column(VALID_TO, TIMESTAMP_UTC, description="When the version was replaced or deleted; empty for the current one."),
        column(IS_CURRENT, pa.bool_(), description="Whether this is the row as the table has it now."),
    ]
)  # fmt: skip


def history_table(table: TableRef) -> TableRef:
    """The table beside ``table`` that holds the versions of its rows."""
    return companion(table, "__history")


def history_columns(table: pa.Schema, found: pa.Schema | None, fold: Fold, where: TableRef) -> pa.Schema:
    """How the history of a table with columns ``table`` ends, ``found`` being how it is: its columns stay, wide enough for old and new.

    Raises DestinationError for a table of that name which is no history, ConfigError for columns of the table that have the names of ours.
    """
    refuse_our_names(table, fold, where)
    mine = pa.schema([f for f in table if fold(f.name) != DELETED_AT])
    if found is None:
        return pa.schema([*mine, *VALIDITY])
    known = by_name(found, fold)
    if lacking := [name for name in VALIDITY.names if name not in known]:
        raise DestinationError(
            f"{where} exists and is no history table: it lacks {', '.join(lacking)}.",
            fix="Rename that table, or give this stream another `table`.",
        )
    kept = pa.schema([f for f in found if fold(f.name) not in VALIDITY.names])
    return pa.schema([*merged_schema([kept, mine], fold, str(where)), *VALIDITY])


def is_complete_comparison(plan: LoadPlan, *, had_history: bool) -> bool:
    """Whether the whole table is compared with its history, and not only the keys that were staged."""
    return not had_history or plan.mode.value == "replace" or plan.replaces is not None


def update_statements(
    plan: LoadPlan, table: str, history: str, columns: Sequence[str], *, same: str, now: str, touched: str | None
) -> list[str]:
    """SQL that closes versions which are no more and opens new ones; to be run when the rows of ``table`` are final.

    ``table`` and ``history`` are quoted names, ``columns`` the table's names to copy, ``same`` the condition that ``t`` (table) and ``h`` (history) agree
    in every column but the key and ours, ``now`` an expression for the commit's time, ``touched`` a relation with the primary key's columns outside
    of which nothing changed (None: compare everything).
    """
    key = plan.primary_key
    alive = f" AND t.{quote(DELETED_AT)} IS NULL" if plan.deletes is DeleteMode.SOFT else ""
    names = [name for name in columns if name != DELETED_AT]
    among = f" AND EXISTS (SELECT 1 FROM {touched} AS s WHERE {{}})" if touched else ""
    has_key = " AND ".join(f"t.{quote(name)} IS NOT NULL" for name in key)
    return [
        f"UPDATE {history} AS h SET {quote(VALID_TO)} = greatest(h.{quote(VALID_FROM)}, {now}), {quote(IS_CURRENT)} = false "
        f"WHERE h.{quote(IS_CURRENT)}{among.format(same_key(key, 's', 'h'))} "
        f"AND NOT EXISTS (SELECT 1 FROM {table} AS t WHERE {same_key(key, 't', 'h')}{alive} AND {same})",
        f"INSERT INTO {history} ({quoted(names)}, {quoted(VALIDITY.names)}) "
        f"SELECT {quoted(names, 't.')}, {now}, NULL, true FROM {table} AS t WHERE {has_key}{alive}{among.format(same_key(key, 's', 't'))} "
        f"AND NOT EXISTS (SELECT 1 FROM {history} AS h WHERE h.{quote(IS_CURRENT)} AND {same_key(key, 't', 'h')})",
    ]
