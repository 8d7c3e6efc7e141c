"""A DuckDB table as a load finds and leaves it: whose it is, its columns, its comments, the swap of a replace.

No keys or NOT NULL are declared: an index makes DuckDB slower and hungrier, and the engine has checked both before.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import duckdb
import pyarrow as pa

from elt_dagster.destinations import state
from elt_dagster.destinations._duckdb_file import Session
from elt_dagster.destinations._duckdb_types import DIALECT, canonical_type, converted, folded
from elt_dagster.destinations.base import DELETED_AT, STATE_TABLE, LoadPlan, State, TableRef
from elt_dagster.destinations.drift import Evolution, by_name, evolve, merged_schema
from elt_dagster.destinations.dropping import forget_statements, is_ours, states_of, theirs
from elt_dagster.destinations.plans import arriving, check_adoption, check_owner, keeps_rows
from elt_dagster.destinations.sql import comment_on_column, comment_on_table, literal, quote
from elt_dagster.errors import DestinationError
from elt_dagster.model import LoadMode
from elt_dagster.model.types import column, description_of


@dataclass(frozen=True, slots=True)
class Found:
    """What a load finds: the table's columns (None: no table), its comment, the binding's state, and when the table was last loaded."""

    columns: pa.Schema | None
    comment: str
    state: State | None
    loaded_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A table or view, under the name it was made with."""

    table: TableRef
    comment: str
    is_view: bool


def find(session: Session, plan: LoadPlan) -> Found:
    """Look at the plan's table. Raises DestinationError when it is not this binding's and cannot become so."""
    names = entries(session, plan.table.schema)
    states = read_states(session, plan.table.schema, names)
    owner = check_owner(plan, states, folded)
    mine = next((s for s in states if s.binding_id == plan.binding_id), None)
    loaded_at = max((s.committed_at for s in states if folded(s.table.name) == folded(plan.table.name)), default=None)
    entry = names.get(folded(plan.table.name))
    if entry is None:
        return Found(None, "", mine, loaded_at)
    if entry.is_view:
        raise DestinationError(
            f"{plan.table} is a view, and rows cannot be loaded into a view.", fix="Give this stream another `table`."
        )
    columns = columns_of(session, entry, comments=any(description_of(f) for f in plan.columns))
    if owner is None:
        check_adoption(plan, columns, plan.columns, folded)
    return Found(columns, entry.comment, mine, loaded_at)


def planned_evolution(plan: LoadPlan, table: pa.Schema | None, arrived: Sequence[pa.Schema]) -> Evolution:
    """What the plan and the shapes that arrived do to the table's columns. Raises DestinationError, see `drift.evolve`."""
    incoming = merged_schema([plan.columns, *arriving(plan, arrived)], folded, str(plan.table))
    rebuild = plan.mode is LoadMode.REPLACE and not keeps_rows(plan)
    lacks_mark = table is not None and DELETED_AT in plan.columns.names and DELETED_AT not in by_name(table, folded)
    if table is not None and lacks_mark:  # ours to add, whatever is said about the source's columns
        table = table.append(plan.columns.field(DELETED_AT))
    evolution = evolve(table, plan.columns, incoming, plan.drift, rebuild=rebuild, fold=folded, where=str(plan.table))
    return replace(evolution, added=(*evolution.added, DELETED_AT)) if lacks_mark else evolution


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
        try:
            session.run(f"ALTER TABLE {table} ALTER COLUMN {quote(name)} TYPE {kind} USING {value}")
        except duckdb.ConversionException:  # its text quotes the value
            raise DestinationError(
                f"Column {name!r} of {table} holds values that cannot become {kind}, which the source now needs.",
                fix="Exclude the column, or reload the table with a full refresh.",
            ) from None
    _describe(session, table, old, evolution.columns)
    if description and description != before.comment:
        session.run(comment_on_table(table, description))


def find_companion(session: Session, table: TableRef) -> pa.Schema | None:
    """The columns of a table of ours beside another one; None if there is none. Raises DestinationError for a view of that name."""
    entry = entries(session, table.schema).get(folded(table.name))
    if entry is not None and entry.is_view:
        raise DestinationError(
            f"{table} is a view, and its name is needed for a table of ours.",
            fix="Rename that view, or give this stream another `table`.",
        )
    return columns_of(session, entry, comments=True) if entry is not None else None


def settle_companion(
    session: Session, table: TableRef, found: pa.Schema | None, wanted: pa.Schema, description: str
) -> None:
    """Make a table of ours with the columns ``wanted``, or widen the one that is there to them."""
    if found is None:
        create(session, session.table(table), wanted, description)
        return
    have = by_name(found, folded)
    evolution = Evolution(
        wanted,
        added=tuple(f.name for f in wanted if folded(f.name) not in have),
        widened=tuple(
            have[folded(f.name)].name for f in wanted if folded(f.name) in have and have[folded(f.name)].type != f.type
        ),
    )
    alter(session, session.table(table), Found(found, description, None), evolution, description)


def swap(session: Session, new: TableRef, old: TableRef) -> None:
    """Put ``new`` in the place of ``old``. Views find the new table, for DuckDB's views refer by name."""
    session.run(f"DROP TABLE IF EXISTS {session.table(old)}")
    session.run(f"ALTER TABLE {session.table(new)} RENAME TO {quote(old.name)}")


def entries(session: Session, schema: str) -> dict[str, Entry]:
    """The tables and views of a schema, by folded name."""
    rows = session.rows(
        "SELECT schema_name, table_name, coalesce(comment, ''), false FROM duckdb_tables() WHERE database_name = $1 "
        "UNION ALL SELECT schema_name, view_name, coalesce(comment, ''), true FROM duckdb_views() WHERE database_name = $1",
        session.catalog,
    )
    return {
        folded(name): Entry(TableRef(found, name), comment, is_view)
        for found, name, comment, is_view in rows
        if folded(found) == folded(schema)
    }


def duckdb_columns(session: Session, entry: Entry) -> list[tuple[str, str]]:
    """Name and DuckDB type of each column."""
    rows = session.rows(f"SELECT name, type FROM pragma_table_info({literal(session.table(entry.table))})")
    return [(name, kind) for name, kind in rows]


def columns_of(session: Session, entry: Entry, *, comments: bool) -> pa.Schema:
    """Columns with canonical types, and with their descriptions when ``comments`` (which takes longer)."""
    texts = _column_comments(session, entry.table) if comments else {}
    return pa.schema(
        [
            column(name, canonical_type(kind), description=texts.get(name, ""))
            for name, kind in duckdb_columns(session, entry)
        ]
    )


def read_states(session: Session, schema: str, names: dict[str, Entry]) -> list[State]:
    """Every binding's state in a schema whose `entries` are ``names``, by table; empty before the first commit."""
    if STATE_TABLE not in names:
        return []
    source = session.table(TableRef(schema, STATE_TABLE))
    rows = session.rows(f"SELECT {state.SELECTED} FROM {source} ORDER BY table_name, binding_id")
    return [state.from_row(schema, row) for row in rows]


def read_history(session: Session, schema: str, binding_id: str) -> list[State]:
    """The last states of a binding, newest first."""
    if state.HISTORY_TABLE not in entries(session, schema):
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


def drop(session: Session, schema: str, binding_ids: Collection[str]) -> tuple[TableRef, ...]:
    """Remove the tables and states of bindings; the tables that were there. Inside a transaction."""
    known = entries(session, schema)
    gone = states_of(read_states(session, schema, known), binding_ids)
    dropped: list[TableRef] = []
    for table, marks in theirs(gone).items():
        entry = known.get(folded(table.name))
        if entry is None or entry.is_view or not is_ours((n for n, _ in duckdb_columns(session, entry)), marks):
            continue
        session.run(f"DROP TABLE {session.table(entry.table)}")
        dropped.append(entry.table)
    current, past = (session.table(TableRef(schema, name)) for name in (STATE_TABLE, state.HISTORY_TABLE))
    for statement, parameters in forget_statements(current, past, gone):
        session.run(statement, parameters)
    return tuple(dropped)


def _column_comments(session: Session, table: TableRef) -> dict[str, str]:
    rows = session.rows(
        "SELECT column_name, comment FROM duckdb_columns() "
        "WHERE database_name = ? AND schema_name = ? AND table_name = ? AND comment IS NOT NULL",
        session.catalog, table.schema, table.name,
    )  # fmt: skip
    return dict(rows)


def _describe(session: Session, table: str, before: pa.Schema, after: pa.Schema) -> None:
    known = {name: description_of(field) for name, field in by_name(before, folded).items()}
    for field in after:
        text = description_of(field)
        if text and text != known.get(folded(field.name)):
            session.run(comment_on_column(table, field.name, text))
