"""A PostgreSQL table as a load finds and leaves it: whose it is, its columns, comments and indexes, and our rights on it."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from elt_dagster.destinations import state
from elt_dagster.destinations._postgres_session import Session, lock, qualified
from elt_dagster.destinations._postgres_types import (
    DIALECT,
    column_kind,
    converted,
    folded,
    readable,
    representable_schema,
)
from elt_dagster.destinations.base import DELETED_AT, STATE_TABLE, LoadPlan, State, TableRef
from elt_dagster.destinations.drift import Evolution, by_name, evolve, merged_schema
from elt_dagster.destinations.dropping import forget_statements, is_ours, states_of, theirs
from elt_dagster.destinations.plans import arriving, check_adoption, check_owner, keeps_rows
from elt_dagster.destinations.sql import comment_on_column, comment_on_table, quote, quoted
from elt_dagster.errors import DestinationError
from elt_dagster.model import LoadMode
from elt_dagster.model.types import column, description_of

COUNTED_ROWS = 5_000_000
"""Up to here a table's rows are counted after a commit; above, the server's estimate is good enough and costs nothing."""
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "c": "a composite type"}
_LOADABLE = ("r", "p")
_PLACEHOLDER = re.compile(r'"[^"]*"|\?')

_ENTRIES = """
SELECT c.oid::int8 AS oid, c.relname::text AS name, c.relkind::text AS kind,
       coalesce(obj_description(c.oid, 'pg_class'), '') AS comment,
       has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')
       AND has_table_privilege(c.oid, 'DELETE') AS may_write
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind::text <> ALL ('{i,I,t}') AND ($2::text[] IS NULL OR c.relname::text = ANY ($2))
"""
_COLUMNS = """
SELECT a.attname::text AS name, CASE WHEN t.typtype = 'd' THEN b.typname ELSE t.typname END::text AS type_name,
       CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END AS type_modifier,
       coalesce(b.typtype, t.typtype)::text AS type_kind, coalesce(b.typcategory, t.typcategory)::text AS type_category,
       coalesce(col_description(a.attrelid, a.attnum), '') AS comment
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype AND t.typtype = 'd'
WHERE a.attrelid = $1::int8::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_TYPES = """
SELECT attname::text AS name, format_type(atttypid, atttypmod) AS type FROM pg_attribute
WHERE attrelid = $1::int8::oid AND attnum > 0 AND NOT attisdropped
"""
_PLAIN = """
SELECT relkind = 'r' AND NOT relhassubclass AND NOT relhastriggers AND NOT relhasrules AND NOT relrowsecurity
FROM pg_class WHERE oid = to_regclass($1)
"""
_INDEXED = """
SELECT EXISTS (SELECT FROM pg_index i JOIN pg_am m ON m.amname = $3
    JOIN pg_class c ON c.oid = i.indexrelid AND c.relam = m.oid
    WHERE i.indrelid = $1::int8::oid AND i.indisvalid AND i.indexprs IS NULL
    AND pg_get_expr(i.indpred, i.indrelid) IS NOT DISTINCT FROM $5
    AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text) FROM pg_attribute a WHERE a.attrelid = i.indrelid
         AND a.attnum = ANY ((i.indkey::int2[])[0:$4::integer - 1])) = (SELECT array_agg(w ORDER BY w) FROM unnest($2::text[]) w))
"""
_RIGHTS = """
SELECT n.oid IS NOT NULL AS has_schema, has_database_privilege(current_database(), 'CREATE') AS may_make_schema,
       has_database_privilege(current_database(), 'TEMPORARY') AS may_stage,
       coalesce(has_schema_privilege(n.oid, 'CREATE') AND has_schema_privilege(n.oid, 'USAGE'), false) AS may_make_table,
       current_user::text AS role, current_database()::text AS database
FROM (SELECT 1) one LEFT JOIN pg_namespace n ON n.nspname = $1
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A table or view of the catalog."""

    oid: int
    table: TableRef
    kind: str
    comment: str
    may_write: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What a load finds: the table (None: not there) with its columns, and the binding's state."""

    entry: Entry | None
    columns: pa.Schema | None
    state: State | None
    loaded_at: datetime | None = None
    """When anything was last committed to the table, a window of it included."""


def find(session: Session, plan: LoadPlan) -> Found:
    """Look at the plan's table. Raises DestinationError when it is not this binding's and cannot become so."""
    names = entries(session, plan.table.schema, [plan.table.name, STATE_TABLE])
    states = read_states(session, plan.table.schema) if STATE_TABLE in names else []
    owner = check_owner(plan, states, folded)
    mine = next((s for s in states if s.binding_id == plan.binding_id), None)
    loaded_at = max((s.committed_at for s in states if s.table.name == plan.table.name), default=None)
    entry = names.get(plan.table.name)
    if entry is None:
        return Found(None, None, mine, loaded_at)
    _check_loadable(entry)
    columns = columns_of(session, entry)
    if owner is None:
        check_adoption(plan, columns, representable_schema(plan.columns), folded)
    return Found(entry, columns, mine, loaded_at)


def loadable(session: Session, table: TableRef) -> Entry | None:
    """The table, or None if there is nothing of that name. Raises DestinationError for a view and the like."""
    entry = entries(session, table.schema, [table.name]).get(table.name)
    if entry is not None:
        _check_loadable(entry)
    return entry


def _check_loadable(entry: Entry) -> None:
    if entry.kind not in _LOADABLE:
        raise DestinationError(
            f"{entry.table} is {_KINDS.get(entry.kind, 'no table')}, and rows cannot be loaded into it.",
            fix="Give this stream another `table`.",
        )


def check_rights(session: Session, plan: LoadPlan, found: Sequence[Found], *, temporary: bool) -> None:
    """Raise DestinationError, with the GRANT to run, when this role cannot do what a load needs.

    ``found`` is the plan's table and, where the load keeps it, the history table.
    """
    (rights,) = session.rows(_RIGHTS, plan.table.schema)
    role, schema = quote(rights["role"]), quote(plan.table.schema)
    makes_table = any(f.entry is None for f in found) or not entries(session, plan.table.schema, [STATE_TABLE])
    if shut := next((f.entry.table for f in found if f.entry is not None and not f.entry.may_write), None):
        what = f"write to {shut}", f"SELECT, INSERT, UPDATE, DELETE ON {qualified(shut)}"
    elif not rights["has_schema"] and not rights["may_make_schema"]:
        what = f"make the schema {plan.table.schema}", f"CREATE ON DATABASE {quote(rights['database'])}"
    elif rights["has_schema"] and not rights["may_make_table"] and makes_table:
        what = f"make tables in the schema {plan.table.schema}", f"USAGE, CREATE ON SCHEMA {schema}"
    elif temporary and not rights["may_stage"]:
        what = "make temporary tables", f"TEMPORARY ON DATABASE {quote(rights['database'])}"
    else:
        return
    raise DestinationError(f"The role {role} may not {what[0]}.", fix=f"Run: GRANT {what[1]} TO {role};")


def planned_evolution(plan: LoadPlan, table: pa.Schema | None, arrived: Sequence[pa.Schema]) -> Evolution:
    """What the plan and the shapes that arrived do to the table's columns. Raises DestinationError, see `drift.evolve`."""
    planned = representable_schema(plan.columns)
    shapes = [representable_schema(s) for s in arriving(plan, arrived)]
    incoming = merged_schema([planned, *shapes], folded, str(plan.table))
    rebuild = plan.mode is LoadMode.REPLACE and not keeps_rows(plan)
    if table is not None and DELETED_AT in planned.names and DELETED_AT not in table.names:
        table = table.append(planned.field(DELETED_AT))  # ours: no policy on the source's columns keeps it out
    return evolve(table, planned, incoming, plan.drift, rebuild=rebuild, fold=folded, where=str(plan.table))


def prepare_schema(session: Session, schema: str) -> None:
    """Make the schema and its state tables in a transaction of their own, so that no load waits for another's rows.

    Under a lock, for ``IF NOT EXISTS`` alone fails when two sessions make the same thing at once.
    """
    if STATE_TABLE in entries(session, schema, [STATE_TABLE]):
        return
    tables = [qualified(TableRef(schema, name)) for name in (STATE_TABLE, state.HISTORY_TABLE)]
    with session.transaction():
        lock(session, f"schema {schema}")
        if not session.value("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema):
            session.run(f"CREATE SCHEMA {quote(schema)}")
        if STATE_TABLE not in entries(session, schema, [STATE_TABLE]):
            for statement in state.create_statements(tables[0], tables[1], DIALECT.types["timestamp_utc"]):
                session.run(statement)


def create(session: Session, table: str, columns: pa.Schema, description: str) -> None:
    """Make ``table`` (quoted) with its comments."""
    session.run(DIALECT.create_table(table, columns))
    _describe(session, table, pa.schema([]), columns)
    if description:
        session.run(comment_on_table(table, description))


def alter(session: Session, table: str, before: Found, columns: pa.Schema, description: str) -> None:
    """Bring an existing ``table`` (quoted) to ``columns``, in one pass over its rows, and to their comments.

    Columns that are not among ``columns`` are dropped. Nothing is locked when nothing differs.
    """
    old, new = by_name(before.columns or pa.schema([]), folded), by_name(columns, folded)
    changes = [f"DROP COLUMN {quote(f.name)}" for name, f in old.items() if name not in new]
    for name, field in new.items():
        kind = DIALECT.column_type(field.type)
        if name not in old:
            changes.append(f"ADD COLUMN {quote(field.name)} {kind}")
        elif old[name].type != field.type:
            value = converted(quote(field.name), old[name].type, field.type)
            changes.append(f"ALTER COLUMN {quote(field.name)} TYPE {kind} USING {value}")
    if changes:
        session.run(f"ALTER TABLE {table} {', '.join(changes)}")
    _describe(session, table, before.columns or pa.schema([]), columns)
    if description and before.entry is not None and description != before.entry.comment:
        session.run(comment_on_table(table, description))


def ensure_index(
    session: Session, table: TableRef, columns: Sequence[str], method: str = "btree", where: str | None = None
) -> None:
    """Make an index that finds rows by ``columns``, unless there is one that begins with them; only of rows where the column ``where`` is true."""
    (entry,) = entries(session, table.schema, [table.name]).values()
    if not session.value(_INDEXED, entry.oid, list(columns), method, len(columns), where):
        options = " WITH (autosummarize = on)" if method == "brin" else ""
        condition = f" WHERE {quote(where)}" if where is not None else ""
        session.run(f"CREATE INDEX ON {qualified(table)} USING {method} ({quoted(columns)}){options}{condition}")


def takes_replacements(session: Session, table: TableRef) -> bool:
    """Whether nobody notices that a row is removed and inserted instead of updated: no trigger, foreign key, rule, policy or partition does."""
    return bool(session.value(_PLAIN, qualified(table)))


def entries(session: Session, schema: str, names: Sequence[str] | None = None) -> dict[str, Entry]:
    """The tables and views of a schema, by name; only ``names`` if given."""
    rows = session.rows(_ENTRIES, schema, list(names) if names is not None else None)
    return {
        r["name"]: Entry(r["oid"], TableRef(schema, r["name"]), r["kind"], r["comment"], r["may_write"]) for r in rows
    }


def columns_of(session: Session, entry: Entry) -> pa.Schema:
    """Columns with canonical types and descriptions."""
    rows = session.rows(_COLUMNS, entry.oid)
    return pa.schema([column(r["name"], column_kind(r), description=r["comment"]) for r in rows])


def sql_types(session: Session, entry: Entry) -> dict[str, str]:
    """The type of each column by name, as PostgreSQL writes it."""
    return {r["name"]: r["type"] for r in session.rows(_TYPES, entry.oid)}


def readable_columns(session: Session, entry: Entry) -> dict[str, tuple[pa.DataType, str]]:
    """By name: the canonical type of each column, and SQL for it such that its CSV text is that type's."""
    rows = session.rows(_COLUMNS, entry.oid)
    return {r["name"]: (column_kind(r), readable(r, quote(r["name"]))) for r in rows}


def table_size(session: Session, table: TableRef) -> int:
    """The number of rows: exact up to `COUNTED_ROWS`, the planner's estimate above."""
    sql = "SELECT reltuples::float8 FROM pg_class WHERE oid = to_regclass($1)"
    estimated = session.value(sql, qualified(table))
    if estimated is not None and estimated > COUNTED_ROWS:
        sql = (
            "SELECT (reltuples / greatest(relpages, 1) * pg_relation_size(oid) / current_setting('block_size')::int8)::int8 "
            "FROM pg_class WHERE oid = to_regclass($1)"
        )
        return int(session.value(sql, qualified(table)))
    return int(session.value(f"SELECT count(*) FROM {qualified(table)}"))


# --- state -------------------------------------------------------------------------------------------------------------


def read_states(session: Session, schema: str) -> list[State]:
    """Every binding's state in a schema that has the state table, by table."""
    source = qualified(TableRef(schema, STATE_TABLE))
    rows = session.rows(f'SELECT {state.SELECTED} FROM {source} ORDER BY table_name COLLATE "C", binding_id')
    return [state.from_row(schema, tuple(row)) for row in rows]


def read_history(session: Session, schema: str, binding_id: str) -> list[State]:
    """The last states of a binding, newest first."""
    source = qualified(TableRef(schema, state.HISTORY_TABLE))
    sql = f"SELECT {state.SELECTED} FROM {source} WHERE binding_id = $1 ORDER BY position DESC"
    return [state.from_row(schema, tuple(row)) for row in session.rows(sql, binding_id)]


def save_state(session: Session, row: State) -> None:
    """Make ``row`` its binding's state, and the newest of its history."""
    current, past = (qualified(TableRef(row.table.schema, name)) for name in (STATE_TABLE, state.HISTORY_TABLE))
    for statement, parameters in state.save_statements(current, past, row):
        session.run(_numbered(statement), parameters)


def drop(session: Session, schema: str, binding_ids: Collection[str]) -> tuple[TableRef, ...]:
    """Remove the tables and states of bindings; the tables that were there. Inside a transaction."""
    if not entries(session, schema, [STATE_TABLE]):
        return ()
    tables = theirs(states_of(read_states(session, schema), binding_ids))
    for table, marks in tables.items():
        if not marks:
            lock(session, f"table {table}")
    # again, now that no commit is under way
    gone = states_of(read_states(session, schema), binding_ids)
    known = entries(session, schema, [table.name for table in tables])
    dropped: list[TableRef] = []
    for table, marks in theirs(gone).items():
        entry = known.get(table.name)
        if entry is None or entry.kind not in _LOADABLE or not is_ours(sql_types(session, entry), marks):
            continue
        session.run(f"DROP TABLE {qualified(table)}")
        dropped.append(table)
    current, past = (qualified(TableRef(schema, name)) for name in (STATE_TABLE, state.HISTORY_TABLE))
    for statement, parameters in forget_statements(current, past, gone):
        session.run(_numbered(statement), parameters)
    return tuple(dropped)


def _numbered(sql: str) -> str:
    """``?`` outside of quoted names as ``$1``, ``$2``, ..."""
    count = 0

    def number(found: re.Match[str]) -> str:
        nonlocal count
        if found[0] != "?":
            return found[0]
        count += 1
        return f"${count}"

    return _PLACEHOLDER.sub(number, sql)


def _describe(session: Session, table: str, before: pa.Schema, after: pa.Schema) -> None:
    known = {name: description_of(field) for name, field in by_name(before, folded).items()}
    for field in after:
        text = description_of(field)
        if text and text != known.get(field.name):
            session.run(comment_on_column(table, field.name, text))
