"""The table of what a DuckDB table cannot take: filled in the load's transaction, after a first try failed on values.

See `elt_dagster.destinations.rejected` for what it promises.
"""

from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa

from elt_dagster.destinations._duckdb_file import Session
from elt_dagster.destinations._duckdb_staged import (
    Misfit,
    misfit_condition,
    possible_misfits,
    reason,
    row_as_json,
    source_of,
)
from elt_dagster.destinations._duckdb_table import find_companion, settle_companion
from elt_dagster.destinations._duckdb_types import folded, instant
from elt_dagster.destinations.base import LoadPlan, TableRef
from elt_dagster.destinations.drift import by_name
from elt_dagster.destinations.files import Part
from elt_dagster.destinations.rejected import REJECTED, ROW, rejected_table
from elt_dagster.destinations.sql import literal, quote, quoted
from elt_dagster.errors import DestinationError


def set_aside(session: Session, plan: LoadPlan, parts: Sequence[Part], columns: pa.Schema, now: datetime) -> None:
    """List every staged row that does not fit ``columns``, unless an earlier load listed it. Raises DestinationError when the name is taken."""
    table = rejected_table(plan.table)
    found = find_companion(session, table)
    if found is not None:
        _require_ours(table, found)
    settle_companion(session, table, found, REJECTED, f"Rows that do not fit {plan.table.name}, with the reason.")
    target = session.table(table)
    for index, part in enumerate(parts):
        if misfits := possible_misfits(plan, part, columns):
            source = _rejects(plan, part, source_of(session, part, index), misfits, now)
            listed = f"SELECT 1 FROM {target} AS b WHERE b.{quote(ROW)} = r.{quote(ROW)} AND b._elt_load_id <> r._elt_load_id"
            session.run(
                f"INSERT INTO {target} ({quoted(REJECTED.names)}) "
                f"SELECT {quoted(REJECTED.names)} FROM ({source}) AS r WHERE NOT EXISTS ({listed})"
            )


def _rejects(plan: LoadPlan, part: Part, source: str, misfits: Sequence[Misfit], now: datetime) -> str:
    values = (instant(now), literal(plan.run_id), literal(plan.load_id), reason(misfits), row_as_json(part.schema))
    terms = ", ".join(f"{value} AS {quote(name)}" for value, name in zip(values, REJECTED.names, strict=True))
    return f"SELECT {terms} FROM {source} WHERE {misfit_condition(misfits)}"


def _require_ours(table: TableRef, found: pa.Schema) -> None:
    if lacking := [name for name in REJECTED.names if folded(name) not in by_name(found, folded)]:
        raise DestinationError(
            f"{table} exists and is no table of rejected rows: it lacks {', '.join(lacking)}.",
            fix="Rename that table, or give this stream another `table`.",
        )
