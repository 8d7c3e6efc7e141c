"""A Databricks table as a load finds and leaves it: whose it is, its columns and comments, and the DDL that changes them.

Each statement of DDL is atomic and commits by itself, so a load changes columns before its rows come: what a crash leaves behind is an empty new table or
empty new columns, which the next load takes up. A table remembers its binding in a table property, so that it is known before its first commit.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from elt_dagster.destinations._databricks_errors import StatementFailedError
from elt_dagster.destinations._databricks_session import Session
from elt_dagster.destinations._databricks_settings import JsonColumns
from elt_dagster.destinations._databricks_sql import folded, needs_column_mapping, properties, qualified, quote, text
from elt_dagster.destinations._databricks_state import Row, committed, pending_of, read_rows
from elt_dagster.destinations._databricks_types import (
    DIALECT,
    column_kind,
    recast,
    representable_schema,
    widens_in_place,
)
from elt_dagster.destinations.base import LoadPlan, State, TableRef
from elt_dagster.destinations.drift import Evolution, by_name, evolve, merged_schema
from elt_dagster.destinations.plans import arriving, check_adoption, check_owner, keeps_rows
from elt_dagster.errors import DestinationError
from elt_dagster.model import LoadMode
from elt_dagster.model.types import column, description_of

COMMIT = "_elt_commit"
"""A column of tables that are loaded without transactions, hidden from readers: the commit that brought the row, so that it is never brought twice."""
BINDING = "elt_dagster.binding"
MANAGED = "delta.feature.catalogManaged"
_MAPPING, _WIDENING, _ISOLATION = "delta.columnMapping.mode", "delta.enableTypeWidening", "delta.isolationLevel"
_LOADABLE = ("MANAGED", "EXTERNAL", "TABLE")


@dataclass(frozen=True, slots=True)
class Described:
    """A table or view: its columns without `COMMIT`, the warehouse's own type of each, and what else DESCRIBE tells."""

    table: TableRef
    kind: str
    columns: pa.Schema
    types: Mapping[str, Mapping[str, Any]]
    comment: str = ""
    properties: Mapping[str, str] = field(default_factory=dict[str, str])
    has_commit: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What a load finds: the table (None: not there), the schema's state rows (None: no state table), and the binding's state."""

    table: Described | None
    rows: list[Row] | None
    state: State | None
    pending: Row | None

    @property
    def columns(self) -> pa.Schema | None:
        """The table's columns, or None if there is no table."""
        return self.table.columns if self.table is not None else None


def describe(session: Session, table: TableRef) -> Described | None:
    """Look at a table or view; None when there is none of that name.

    https://docs.databricks.com/aws/en/sql/language-manual/sql-ref-syntax-aux-describe-table
    """
    try:
        ((found,),) = session.rows(f"DESCRIBE TABLE EXTENDED {qualified(session.config.catalog, table)} AS JSON")
    except StatementFailedError as error:
        if error.is_missing:
            return None
        raise
    data = json.loads(found)
    types = {c["name"]: c["type"] for c in data["columns"]}
    shown = [c for c in data["columns"] if c["name"] != COMMIT]
    columns = pa.schema([column(c["name"], column_kind(c["type"]), description=c.get("comment") or "") for c in shown])
    kept = {str(k): str(v) for k, v in (data.get("table_properties") or {}).items()}
    return Described(
        table, str(data.get("type") or ""), columns, types, data.get("comment") or "", kept, has_commit=COMMIT in types
    )


def find(session: Session, plan: LoadPlan) -> Found:
    """Look at the plan's table and state. Raises DestinationError when the table is not this binding's and cannot become so."""
    rows = read_rows(session, plan.table.schema)
    states = committed(rows)
    owner = check_owner(plan, states, folded)
    mine = next((s for s in states if s.binding_id == plan.binding_id), None)
    table = describe(session, plan.table)
    found = Found(table, rows, mine, pending_of(rows, plan.binding_id))
    if table is None:
        return found
    if table.kind not in _LOADABLE:
        raise DestinationError(
            f"{plan.table} is a {table.kind.lower().replace('_', ' ') or 'strange object'}, and rows cannot be loaded into it.",
            fix="Give this stream another `table`.",
        )
    made_for = table.properties.get(BINDING)
    if made_for is not None and made_for != plan.binding_id and owner is None:
        raise DestinationError(
            f"{plan.table} is loaded by another stream (binding {made_for}).",
            fix="Give one of the two another `table`.",
        )
    if owner is None and made_for is None:
        check_adoption(plan, table.columns, planned_columns(session, plan), folded)
    return found


def planned_columns(session: Session, plan: LoadPlan) -> pa.Schema:
    """The plan's columns with the types they have in a table."""
    return representable_schema(plan.columns, json_text=session.config.json_columns is JsonColumns.STRING)


def planned_evolution(
    session: Session, plan: LoadPlan, table: pa.Schema | None, arrived: Sequence[pa.Schema]
) -> Evolution:
    """What the plan and the shapes that arrived do to the table's columns. Raises DestinationError, see `drift.evolve`."""
    json_text = session.config.json_columns is JsonColumns.STRING
    planned = planned_columns(session, plan)
    shapes = [representable_schema(s, json_text=json_text) for s in arriving(plan, arrived)]
    incoming = merged_schema([planned, *shapes], folded, str(plan.table))
    rebuild = plan.mode is LoadMode.REPLACE and not keeps_rows(plan)
    return evolve(table, planned, incoming, plan.drift, rebuild=rebuild, fold=folded, where=str(plan.table))


def wanted_properties(binding_id: str, columns: Sequence[str], *, transactional: bool) -> dict[str, str]:
    """The table properties of a table of ours."""
    wanted = {BINDING: binding_id, **({MANAGED: "supported"} if transactional else {_ISOLATION: "Serializable"})}
    return {**wanted, _MAPPING: "name"} if needs_column_mapping(columns) else wanted


def create(
    session: Session, table: TableRef, columns: pa.Schema, description: str, values: Mapping[str, str], *, commits: bool
) -> None:
    """Make an empty table with its comments; with ``commits`` it has the column `COMMIT`."""
    lines = [f"{quote(f.name)} {DIALECT.column_type(f.type)}{_comment(description_of(f))}" for f in columns]
    lines += [f"{quote(COMMIT)} STRING"] if commits else []
    session.run(
        f"CREATE TABLE {qualified(session.config.catalog, table)} ({', '.join(lines)}){_comment(description)}{properties(values)}"
    )


def alter(
    session: Session,
    before: Described,
    columns: pa.Schema,
    description: str,
    values: Mapping[str, str],
    *,
    commits: bool,
) -> None:
    """Bring an existing table to ``columns``, comments and properties, with as few statements as need be; nothing is taken away."""
    name = qualified(session.config.catalog, before.table)
    old = by_name(before.columns, folded)
    wider = [f for f in columns if folded(f.name) in old and old[folded(f.name)].type != f.type]
    added = [f for f in columns if folded(f.name) not in old]
    in_place = all(widens_in_place(old[folded(f.name)].type, f.type) for f in wider)
    missing = {k: v for k, v in values.items() if before.properties.get(k) != v and k != MANAGED}
    if wider and in_place and before.properties.get(_WIDENING) != "true":
        missing[_WIDENING] = "true"
    if missing:
        session.run(f"ALTER TABLE {name} SET{properties(missing)}")
    lines = [f"{quote(f.name)} {DIALECT.column_type(f.type)}{_comment(description_of(f))}" for f in added]
    lines += [f"{quote(COMMIT)} STRING"] if commits and not before.has_commit else []
    if lines:
        session.run(f"ALTER TABLE {name} ADD COLUMNS ({', '.join(lines)})")
    if wider and in_place:
        for f in wider:
            session.run(f"ALTER TABLE {name} ALTER COLUMN {quote(f.name)} TYPE {DIALECT.column_type(f.type)}")
    elif wider:
        _rebuild(session, before, columns, {**before.properties, **values}, commits=commits or before.has_commit)
    known = (
        pa.schema([f.remove_metadata() for f in columns])
        if wider and not in_place
        else pa.schema([*before.columns, *added])
    )
    describe_columns(session, before.table, known, columns)
    if description and description != before.comment:
        session.run(f"COMMENT ON TABLE {name} IS {text(description)}")


def describe_columns(session: Session, table: TableRef, before: pa.Schema, after: pa.Schema) -> None:
    """Comment the columns whose descriptions differ, in one statement."""
    known = {name: description_of(f) for name, f in by_name(before, folded).items()}
    texts = {
        f.name: description_of(f) for f in after if description_of(f) and description_of(f) != known.get(folded(f.name))
    }
    if texts:
        changes = ", ".join(f"{quote(name)} COMMENT {text(words)}" for name, words in texts.items())
        session.run(f"ALTER TABLE {qualified(session.config.catalog, table)} ALTER COLUMN {changes}")


def ours(values: Mapping[str, str]) -> dict[str, str]:
    """The properties of ``values`` that a statement which makes the table anew has to repeat."""
    return {k: v for k, v in values.items() if k in (BINDING, MANAGED, _MAPPING, _WIDENING, _ISOLATION)}


def table_names(session: Session, schema: str) -> list[str]:
    """The names of the tables and views in a schema, for a message."""
    try:
        return [str(row[1]) for row in session.rows(f"SHOW TABLES IN {quote(session.config.catalog)}.{quote(schema)}")]
    except StatementFailedError:
        return []


def _rebuild(
    session: Session, before: Described, columns: pa.Schema, values: Mapping[str, str], *, commits: bool
) -> None:
    """Write the table anew with wider columns: what Delta cannot widen in place, such as numbers to text. One atomic statement."""
    name = qualified(session.config.catalog, before.table)
    old = by_name(before.columns, folded)
    terms = []
    for f in columns:
        known = old.get(folded(f.name), f)
        value = quote(f.name) if known.type == f.type else recast(quote(f.name), known.type, f.type)
        terms.append(f"{value} AS {quote(f.name)}")
    terms += [quote(COMMIT)] if commits else []
    words = _comment(before.comment)
    session.run(
        f"CREATE OR REPLACE TABLE {name}{words}{properties(ours(values))} AS SELECT {', '.join(terms)} FROM {name}"
    )


def _comment(words: str) -> str:
    return f" COMMENT {text(words)}" if words else ""
