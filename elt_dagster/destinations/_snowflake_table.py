"""A Snowflake table as a load finds and leaves it: whose it is, its columns, its comments, its state.

DDL commits by itself in Snowflake, so all of it comes before the transaction that brings the rows, and in an order in which a crash after any
statement harms nobody: first the claim (a state row without a load id, which is nobody's state: `read_states`), then an empty table, an
additional NULL column, a wider type.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from elt_dagster.destinations import state
from elt_dagster.destinations._snowflake_errors import is_missing_object
from elt_dagster.destinations._snowflake_session import Session, qualified
from elt_dagster.destinations._snowflake_types import (
    DIALECT,
    canonical_type,
    converted,
    folded,
    grows_in_place,
    literal,
    representable_schema,
    text_limit,
)
from elt_dagster.destinations.base import STATE_TABLE, LoadPlan, State, TableRef
from elt_dagster.destinations.drift import Evolution, evolve, merged_schema
from elt_dagster.destinations.dropping import forget_statements, is_ours, states_of, theirs
from elt_dagster.destinations.plans import arriving, check_adoption, check_owner, keeps_rows
from elt_dagster.destinations.sql import quote
from elt_dagster.errors import DestinationError
from elt_dagster.model import LoadMode
from elt_dagster.model.types import column, description_of

_INTEGER = pa.decimal128(38, 0)


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view as it is: columns with canonical types, and what Snowflake calls those types."""

    ref: TableRef
    columns: pa.Schema
    types: dict[str, str]
    comment: str
    is_view: bool

    def limit(self, name: str) -> int | None:
        """How many characters the column takes, where that is less than a VARCHAR does."""
        return text_limit(self.types.get(name, ""))


@dataclass(frozen=True, slots=True)
class Found:
    """What a load finds: its table (None: not there), the binding's state, and whether the state tables are there."""

    table: Table | None
    state: State | None
    has_state_tables: bool
    is_claimed: bool
    """Whether this binding has a row in the state table, be it only a claim."""
    companions: dict[str, Table] = field(default_factory=dict[str, Table])
    """History and rejected rows, by name, as far as they are there and were asked for."""

    @property
    def columns(self) -> pa.Schema | None:
        return self.table.columns if self.table is not None else None


def find(session: Session, plan: LoadPlan, companions: Sequence[str] = ()) -> Found:
    """Look at the plan's table. Raises DestinationError when it is not this binding's and cannot become so."""
    rows = read_rows(session, plan.table.schema)
    found = look(session, plan.table.schema, [plan.table.name, *companions])
    table = found.pop(plan.table.name, None)
    if table is not None and table.is_view:
        raise DestinationError(
            f"{plan.table} is a view, and rows cannot be loaded into a view.", fix="Give this stream another `table`."
        )
    return check_rows(plan, Found(table, None, has_state_tables=False, is_claimed=False, companions=found), rows)


def check_rows(plan: LoadPlan, found: Found, rows: list[State] | None) -> Found:
    """``found`` with the state that is among ``rows`` of the state table. Raises DestinationError when the table is not this binding's."""
    states = [row for row in rows or [] if row.load_id]
    mine = [row for row in rows or [] if row.binding_id == plan.binding_id]
    owner = check_owner(plan, states, folded)
    claimed = any(row.table == plan.table for row in mine)
    if found.table is not None and owner is None and not claimed:
        check_adoption(plan, _adoptable(found.table.columns, plan), representable_schema(plan.columns), folded)
    return replace(
        found,
        state=next((row for row in mine if row.load_id), None),
        has_state_tables=rows is not None,
        is_claimed=bool(mine),
    )


def _adoptable(found: pa.Schema, plan: LoadPlan) -> pa.Schema:
    """A stranger's INTEGER column, which is a NUMBER(38,0), takes our integers as it is; so does a NUMBER of any sufficient precision."""
    fields = []
    for known in found:
        wanted = plan.columns.field(known.name).type if known.name in plan.columns.names else None
        whole = wanted is not None and pa.types.is_integer(wanted) and known.type == _INTEGER
        fields.append(known.with_type(wanted) if whole else known)
    return representable_schema(pa.schema(fields))


def planned_evolution(plan: LoadPlan, table: pa.Schema | None, arrived: Sequence[pa.Schema]) -> Evolution:
    """What the plan and the shapes that arrived do to the table's columns. Raises DestinationError, see `drift.evolve`."""
    shapes = [representable_schema(schema) for schema in (plan.columns, *arriving(plan, arrived))]
    incoming = merged_schema(shapes, folded, str(plan.table))
    rebuild = plan.mode is LoadMode.REPLACE and not keeps_rows(plan)
    return evolve(table, shapes[0], incoming, plan.drift, rebuild=rebuild, fold=folded, where=str(plan.table))


# --- looking


def look(session: Session, schema: str, names: Sequence[str]) -> dict[str, Table]:
    """The tables and views of those names, as far as they are there (or this role may know of them)."""
    found: dict[str, Table] = {}
    for row in _listed(session, schema, names):
        described = session.named(f"DESCRIBE TABLE {qualified(TableRef(schema, row['name']))}")
        columns = [r for r in described if r.get("kind", "COLUMN") == "COLUMN"]
        found[row["name"]] = Table(
            TableRef(schema, row["name"]),
            pa.schema([column(r["name"], canonical_type(r["type"]), description=r["comment"] or "") for r in columns]),
            {r["name"]: r["type"] for r in columns},
            row["comment"] or "",
            "VIEW" in row["kind"],
        )
    return found


def names_of(session: Session, schema: str) -> list[str]:
    """Names of the tables and views in a schema, 10,000 at most, for a message."""
    try:
        return [row["name"] for row in session.named(f"SHOW OBJECTS IN SCHEMA {quote(schema)}")]
    except Exception as error:
        if is_missing_object(error):
            return []
        raise


def _listed(session: Session, schema: str, names: Sequence[str]) -> list[dict[str, str]]:
    """Rows of SHOW OBJECTS for ``names``; one statement where they begin alike, as companions do."""
    prefix = _common(names)
    patterns = [_pattern(prefix) + "%"] if len(prefix) >= 3 or len(names) == 1 else [_pattern(n) for n in names]
    rows: list[dict[str, str]] = []
    for pattern in patterns:
        try:
            rows += session.named(f"SHOW OBJECTS LIKE '{pattern}' IN SCHEMA {quote(schema)}")
        except Exception as error:
            if not is_missing_object(error):
                raise
    return [row for row in rows if row["name"] in names]  # the pattern knows no case, and its wildcards are many


def _pattern(name: str) -> str:
    """A pattern that ``name`` fits; what could mean something to LIKE, or to a string, becomes "any character"."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name)


def _common(names: Sequence[str]) -> str:
    first, last = min(names), max(names)
    length = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length]


# --- making and changing


def create(session: Session, table: TableRef, columns: pa.Schema, description: str) -> None:
    """Make ``table`` with its comments, unless it is there."""
    lines = ", ".join(f"{quote(f.name)} {DIALECT.column_type(f.type)}{_comment(description_of(f))}" for f in columns)
    session.run(f"CREATE TABLE IF NOT EXISTS {qualified(table)} ({lines}){_comment(description, ' COMMENT = ')}")


def alter(session: Session, before: Table, columns: pa.Schema, description: str, *, unlimited: bool) -> None:
    """Bring an existing table to ``columns``, which has all of its own, and to its comments; ``unlimited`` lifts limits of text columns.

    Columns that ALTER cannot change (a number into text, more digits after the point) need a rebuild: `needs_rebuild`.
    """
    table = qualified(before.ref)
    if needs_rebuild(before, columns):
        rebuild(session, before.ref, columns, f"SELECT {_carried(before, columns)} FROM {table}", before.comment)
        _describe(session, table, pa.schema([]), columns)
    else:
        for new in columns:
            old = before.types.get(new.name)
            if old is None:
                session.run(
                    f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {quote(new.name)} {DIALECT.column_type(new.type)}"
                )
            elif before.columns.field(new.name).type != new.type or (unlimited and before.limit(new.name)):
                session.run(f"ALTER TABLE {table} ALTER COLUMN {quote(new.name)} SET DATA TYPE {_in_full(new.type)}")
        _describe(session, table, before.columns, columns)
    if description and description != before.comment:
        session.run(f"COMMENT ON TABLE {table} IS {literal(description)}")


def needs_rebuild(before: Table, columns: pa.Schema) -> bool:
    """Whether a column of ``columns`` is one that ALTER cannot make of the one that is there."""
    return any(
        f.name in before.types
        and before.columns.field(f.name).type != f.type
        and not grows_in_place(before.types[f.name], f.type)
        for f in columns
    )


def rebuild(session: Session, table: TableRef, columns: pa.Schema, select: str, description: str) -> None:
    """Put a new table with the rows of ``select`` in the place of ``table``: one atomic statement, which readers never see half of.

    Not ``SWAP WITH``, which is just as atomic for readers but needs a second statement for the rows, and leaves a table behind if the process
    dies between the two. Views find the new table by its name; COPY GRANTS keeps who may read it.
    """
    lines = ", ".join(f"{quote(f.name)} {DIALECT.column_type(f.type)}" for f in columns)
    session.run(f"CREATE OR REPLACE TABLE {qualified(table)} ({lines}) COPY GRANTS AS {select}")
    if description:
        session.run(f"COMMENT ON TABLE {qualified(table)} IS {literal(description)}")


def describe(session: Session, table: TableRef, columns: pa.Schema) -> None:
    """Set every column's comment anew."""
    _describe(session, qualified(table), pa.schema([]), columns)


def _describe(session: Session, table: str, before: pa.Schema, after: pa.Schema) -> None:
    known = {f.name: description_of(f) for f in before}
    for new in after:
        text = description_of(new)
        if text and text != known.get(new.name):
            session.run(f"ALTER TABLE {table} ALTER COLUMN {quote(new.name)} COMMENT {literal(text)}")


def _carried(before: Table, columns: pa.Schema) -> str:
    terms = []
    for new in columns:
        known = new.name in before.types
        old = before.columns.field(new.name).type if known else pa.null()
        terms.append(f"{converted(quote(new.name), old, new.type)} AS {quote(new.name)}")
    return ", ".join(terms)


def _in_full(kind: pa.DataType) -> str:
    return "VARCHAR(16777216)" if pa.types.is_string(kind) else DIALECT.column_type(kind)


def _comment(text: str, word: str = " COMMENT ") -> str:
    return f"{word}{literal(text)}" if text else ""


# --- state


def read_rows(session: Session, schema: str) -> list[State] | None:
    """Every row of the state table, claims (without a load id) too, by table; None when there is no state table."""
    source = qualified(TableRef(schema, STATE_TABLE))
    try:
        rows = session.rows(f"SELECT {state.SELECTED} FROM {source} ORDER BY table_name, binding_id")
    except Exception as error:
        if is_missing_object(error):
            return None
        raise
    return [state.from_row(schema, row) for row in rows]


def read_states(session: Session, schema: str) -> list[State]:
    """Every binding's state in a schema, by table; empty before the first commit."""
    return [row for row in read_rows(session, schema) or [] if row.load_id]


def read_history(session: Session, schema: str, binding_id: str) -> list[State]:
    """The last states of a binding, newest first."""
    source = qualified(TableRef(schema, state.HISTORY_TABLE))
    try:
        rows = session.rows(
            f"SELECT {state.SELECTED} FROM {source} WHERE binding_id = ? ORDER BY position DESC", [binding_id]
        )
    except Exception as error:
        if is_missing_object(error):
            return []
        raise
    return [state.from_row(schema, row) for row in rows]


def make_schema(session: Session, schema: str) -> None:
    """Make the schema if it is not there."""
    session.run(f"CREATE SCHEMA IF NOT EXISTS {quote(schema)}")


def claim(session: Session, plan: LoadPlan, found: Found, now: str) -> None:
    """Make sure that the state tables are there, and that the binding has a row to lock: see `lock_state`."""
    current, past = _state_tables(plan.table.schema)
    if not found.has_state_tables:
        for statement in state.create_statements(current, past, DIALECT.types["timestamp_utc"]):
            session.run(statement)
    if not found.is_claimed:
        session.run(
            f"INSERT INTO {current} ({state.COLUMNS}) SELECT ?, ?, '{{}}', '', ?, 0, CAST(? AS TIMESTAMP_TZ(6))",
            [plan.binding_id, plan.table.name, plan.run_id, now],
        )


def lock_state(session: Session, plan: LoadPlan) -> list[State]:
    """Wait until no other load of this binding or table is between here and its commit, and keep others out; returns all states as they are then.

    An UPDATE locks the rows it touches until its transaction ends. Every load has put a row of its own there before (`claim`, committed at once),
    so the UPDATE touches at least that one; and of two loads at least one sees the row of the other, because each wrote its row before it
    began to look. So one of them waits here. The SELECT is a statement of its own, begun when the lock is held: Snowflake reads what was committed before
    a statement began, so it sees what the other one has done.
    """
    current, _ = _state_tables(plan.table.schema)
    session.run(
        f"UPDATE {current} SET run_id = run_id WHERE binding_id = ? OR table_name = ?",
        [plan.binding_id, plan.table.name],
    )
    return read_states(session, plan.table.schema)


def lock_states(session: Session, schema: str) -> list[State]:
    """The same for every binding of a schema; an empty list when there is no state table."""
    current, _ = _state_tables(schema)
    try:
        session.run(f"UPDATE {current} SET run_id = run_id")
    except Exception as error:
        if is_missing_object(error):
            return []
        raise
    return read_states(session, schema)


def save_state(session: Session, row: State) -> None:
    """Make ``row`` its binding's state, and the newest of its history."""
    for statement, parameters in state.save_statements(*_state_tables(row.table.schema), row):
        session.run(statement, [p.isoformat() if p is row.committed_at else p for p in parameters])


def drop(session: Session, schema: str, binding_ids: Collection[str]) -> tuple[TableRef, ...]:
    """Remove the tables and states of bindings; the tables that were there. DDL ends a transaction here, so the states go last, in one of their own:
    whoever is interrupted calls it again."""
    gone = states_of(read_states(session, schema), binding_ids)
    tables = theirs(gone)
    known = look(session, schema, [table.name for table in tables]) if tables else {}
    dropped: list[TableRef] = []
    for table, marks in tables.items():
        found = known.get(table.name)
        if found is None or found.is_view or not is_ours(found.columns.names, marks):
            continue
        session.run(f"DROP TABLE {qualified(table)}")
        dropped.append(table)
    if gone:
        with session.transaction():
            lock_states(session, schema)
            for statement, parameters in forget_statements(*_state_tables(schema), gone):
                session.run(statement, parameters)
    return tuple(dropped)


def _state_tables(schema: str) -> tuple[str, str]:
    return qualified(TableRef(schema, STATE_TABLE)), qualified(TableRef(schema, state.HISTORY_TABLE))
