"""A DuckDB table as a load finds and leaves it: whose it is, its columns, its comments, the swap of a replace.

No keys or NOT NULL are declared: an index makes DuckDB slower and hungrier, and the engine has checked both before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from elt_dagster.destinations import state
from elt_dagster.destinations._duckdb_file import Session
from elt_dagster.destinations._duckdb_types import DIALECT, canonical_type, converted, folded
from elt_dagster.destinations.base import STATE_TABLE, LoadPlan, State, TableRef
from elt_dagster.destinations.drift import Evolution, by_name, differences, evolve, merged_schema
from elt_dagster.destinations.sql import comment_on_column, comment_on_table, quote
from elt_dagster.errors import DestinationError
from elt_dagster.model import LoadMode
from elt_dagster.model.types import column, description_of


@dataclass(frozen=True, slots=True)
class Found:
    """What a load finds: the table's columns (None: no table), its comment, and the binding's state."""

    columns: pa.Schema | None
    comment: str
    state: State | None


def find(session: Session, plan: LoadPlan) -> Found:
    """Look at the plan's table. Raises DestinationError when it is not this binding's and cannot become so."""
    states = read_states(session, plan.table.schema)
    owner = next((s for s in states if folded(s.table.name) == folded(plan.table.name)), None)
    if owner is not None and owner.binding_id != plan.binding_id:
        raise DestinationError(
            f"{plan.table} is loaded by another stream (binding {owner.binding_id}).",
            fix="Give one of the two another `table`.",
        )
    _refuse_view(session, plan.table)
    columns = table_columns(session, plan.table)
    if columns is not None and owner is None:
        _adopt(plan, columns)
    mine = next((s for s in states if s.binding_id == plan.binding_id), None)
    return Found(columns, _table_comment(session, plan.table) if columns is not None else "", mine)


def planned_evolution(plan: LoadPlan, table: pa.Schema | None, arrived: Sequence[pa.Schema]) -> Evolution:
    """What the plan and the shapes that arrived do to the table's columns. Raises DestinationError, see `drift.evolve`."""
    incoming = merged_schema([plan.columns, *arrived], folded, str(plan.table))
    rebuild = plan.mode is LoadMode.REPLACE
    return evolve(table, plan.columns, incoming, plan.drift, rebuild=rebuild, fold=folded, where=str(plan.table))


def create(session: Session, table: str, columns: pa.Schema, description: str) -> None:
    """Make ``table`` (quoted) with its comments."""
    session.run(DIALECT.create_table(table, columns))
    _describe(session, table, pa.schema([]), columns)
    if description:
        session.run(comment_on_table(table, description))


def alter(session: Session, table: str, before: Found, evolution: Evolution, description: str) -> None:
    """Bring an existing ``table`` (quoted) to the columns and comments of ``evolution``."""
    old, new = before.columns or pa.schema([]), by_name(evolution.columns, folded)
    for name in evolution.added:
        session.run(DIALECT.add_column(table, new[folded(name)]))
    for name in evolution.widened:
        was, now = old.field(name), new[folded(name)]
        kind, value = DIALECT.column_type(now.type), converted(quote(name), was.type, now.type)
        session.run(f"ALTER TABLE {table} ALTER COLUMN {quote(name)} TYPE {kind} USING {value}")
    _describe(session, table, old, evolution.columns)
    if description and description != before.comment:
        session.run(comment_on_table(table, description))


def swap(session: Session, new: TableRef, old: TableRef) -> None:
    """Put ``new`` in the place of ``old``. Views find the new table, for DuckDB's views refer by name."""
    session.run(f"DROP TABLE IF EXISTS {session.table(old)}")
    session.run(f"ALTER TABLE {session.table(new)} RENAME TO {quote(old.name)}")


def table_columns(session: Session, table: TableRef) -> pa.Schema | None:
    """Columns of a table or view with canonical types and descriptions, or None if there is none."""
    found = duckdb_columns(session, table)
    return pa.schema([column(n, canonical_type(t), description=c) for n, t, c in found]) if found else None


def duckdb_columns(session: Session, table: TableRef) -> list[tuple[str, str, str]]:
    """Name, DuckDB type and comment of each column; empty if there is no such table or view."""
    rows = session.rows(
        "SELECT schema_name, table_name, column_name, data_type, coalesce(comment, '') FROM duckdb_columns() "
        "WHERE database_name = ? AND lower(table_name) = lower(?) ORDER BY table_oid, column_index",
        session.catalog, table.name,
    )  # fmt: skip
    return [(n, t, c) for s, name, n, t, c in rows if _is(table, s, name)]


def table_names(session: Session, schema: str) -> list[str]:
    """Names of the tables and views in a schema."""
    rows = session.rows(
        "SELECT DISTINCT schema_name, table_name FROM duckdb_columns() WHERE database_name = ? AND NOT internal",
        session.catalog,
    )
    return [name for found, name in rows if folded(found) == folded(schema)]


def read_states(session: Session, schema: str) -> list[State]:
    """Every binding's state in a schema, by table; empty before the first commit."""
    if not duckdb_columns(session, TableRef(schema, STATE_TABLE)):
        return []
    source = session.table(TableRef(schema, STATE_TABLE))
    rows = session.rows(f"SELECT {state.SELECTED} FROM {source} ORDER BY table_name, binding_id")
    return [state.from_row(schema, row) for row in rows]


def read_history(session: Session, schema: str, binding_id: str) -> list[State]:
    """The last states of a binding, newest first."""
    if not duckdb_columns(session, TableRef(schema, state.HISTORY_TABLE)):
        return []
    source = session.table(TableRef(schema, state.HISTORY_TABLE))
    rows = session.rows(
        f"SELECT {state.SELECTED} FROM {source} WHERE binding_id = ? ORDER BY position DESC", binding_id
    )
    return [state.from_row(schema, row) for row in rows]


def save_state(session: Session, row: State) -> None:
    """Make ``row`` its binding's state, and the newest of its history."""
    current, past = (session.table(TableRef(row.table.schema, name)) for name in (STATE_TABLE, state.HISTORY_TABLE))
    for statement in state.create_statements(current, past, DIALECT.types["timestamp_utc"]):
        session.run(statement)
    for statement, parameters in state.save_statements(current, past, row):
        session.run(statement, parameters)


def _adopt(plan: LoadPlan, columns: pa.Schema) -> None:
    """A table that nobody's state names is taken over only if it could have been ours."""
    if found := differences(columns, plan.columns, folded):
        raise DestinationError(
            f"The table {plan.table} exists, was not made by this sync, and has other columns: {'; '.join(found)}.",
            fix="Give this stream another `table`, or drop that one.",
        )


def _refuse_view(session: Session, table: TableRef) -> None:
    rows = session.rows("SELECT schema_name, view_name FROM duckdb_views() WHERE database_name = ?", session.catalog)
    if any(_is(table, schema, name) for schema, name in rows):
        raise DestinationError(
            f"{table} is a view, and rows cannot be loaded into a view.", fix="Give this stream another `table`."
        )


def _table_comment(session: Session, table: TableRef) -> str:
    rows = session.rows(
        "SELECT schema_name, table_name, coalesce(comment, '') FROM duckdb_tables() WHERE database_name = ?",
        session.catalog,
    )
    return next((comment for schema, name, comment in rows if _is(table, schema, name)), "")


def _is(table: TableRef, schema: str, name: str) -> bool:
    return folded(schema) == folded(table.schema) and folded(name) == folded(table.name)


def _describe(session: Session, table: str, before: pa.Schema, after: pa.Schema) -> None:
    known = {name: description_of(field) for name, field in by_name(before, folded).items()}
    for field in after:
        text = description_of(field)
        if text and text != known.get(folded(field.name)):
            session.run(comment_on_column(table, field.name, text))
