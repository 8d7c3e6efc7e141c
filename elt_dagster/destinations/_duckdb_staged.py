"""What a load has staged, as DuckDB sees it: one view in the table's columns and types, and the rows that do not fit them.

The usual load converts every value and fails at the first that has no conversion. Only then is it asked which columns and rows these are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from elt_dagster.destinations._duckdb_file import Session
from elt_dagster.destinations._duckdb_types import DIALECT, can_fail, converted, folded, staged
from elt_dagster.destinations.base import DELETED_AT, LoadPlan
from elt_dagster.destinations.drift import OURS, by_name
from elt_dagster.destinations.files import ARRIVAL, Part
from elt_dagster.destinations.sql import literal, quote
from elt_dagster.model import DeleteMode
from elt_dagster.model.types import JSON, TIMESTAMP_UTC, type_name

STAGED = "_elt_staged"
"""The staged rows that fit, in the columns and types of the table; `ARRIVAL` and `DELETED_AT` may be further columns."""
ARRIVED = "_elt_arrived"
"""The same of all staged rows; a value that does not fit is NULL there."""
_MISFIT = "_elt_misfit"


@dataclass(frozen=True, slots=True)
class Misfit:
    """A staged column some of whose values do not fit: its name, the type it should have, and the condition of such a row."""

    name: str
    to: pa.DataType
    condition: str


def is_marked(parts: Sequence[Part]) -> bool:
    """Whether staged rows may carry `DELETED_AT`."""
    return any(DELETED_AT in part.schema.names for part in parts)


def view_staged(
    session: Session, plan: LoadPlan, parts: Sequence[Part], columns: pa.Schema, *, numbered: bool, lenient: bool = False
) -> None:  # fmt: skip
    """Show all parts as the temporary views `ARRIVED` and `STAGED`: ``columns``, `ARRIVAL` when ``numbered``, and the mark of deleted rows.

    Reading a value that does not fit is an error, unless ``lenient``: then its row is missing in `STAGED`.
    """
    if is_marked(parts) and DELETED_AT not in columns.names:
        columns = columns.append(pa.field(DELETED_AT, TIMESTAMP_UTC))
    selects = []
    for index, part in enumerate(parts):
        misfit = misfit_condition(possible_misfits(plan, part, columns)) if lenient else None
        selects.append(_select(source_of(session, part, index), part.schema, columns, numbered, misfit))
    nothing = _select("(SELECT NULL)", pa.schema([]), columns, numbered, "false" if lenient else None) + " WHERE false"
    session.run(f"CREATE OR REPLACE TEMP VIEW {ARRIVED} AS {' UNION ALL '.join(selects or [nothing])}")
    fitting = f" WHERE NOT {_MISFIT}" if lenient else ""
    session.run(f"CREATE OR REPLACE TEMP VIEW {STAGED} AS FROM {ARRIVED}{fitting}")


def count_misfits(session: Session) -> int:
    """How many staged rows do not fit; after a lenient `view_staged`."""
    return int(session.value(f"SELECT count(*) FROM {ARRIVED} WHERE {_MISFIT}"))


def possible_misfits(plan: LoadPlan, part: Part, columns: pa.Schema) -> list[Misfit]:
    """The columns of ``part`` with values that may not fit the table's ``columns``.

    Of a row that is only there to delete another, nothing but the key has to fit.
    """
    targets = by_name(columns, folded)
    keys = {folded(name) for name in plan.primary_key}
    spares = plan.deletes is DeleteMode.HARD and DELETED_AT in part.schema.names
    found: list[Misfit] = []
    for field in part.schema:
        to = targets.get(folded(field.name))
        if to is not None and can_fail(field.type, to.type):
            value = staged(quote(field.name), field.type)
            fails = f"{value} IS NOT NULL AND {converted(value, field.type, to.type, cast='TRY_CAST')} IS NULL"
            if spares and folded(field.name) not in keys:
                fails += f" AND {quote(DELETED_AT)} IS NULL"
            found.append(Misfit(field.name, to.type, f"({fails})"))
    return found


def misfit_condition(misfits: Sequence[Misfit]) -> str:
    """The condition that some value of a row does not fit."""
    return f"({' OR '.join(m.condition for m in misfits)})" if misfits else "false"


def misfits(session: Session, plan: LoadPlan, parts: Sequence[Part], columns: pa.Schema) -> list[str]:
    """Columns in which some staged value does not fit; asked only after a load failed."""
    found: set[str] = set()
    for index, part in enumerate(parts):
        possible = possible_misfits(plan, part, columns)
        if possible:
            asked = ", ".join(f"coalesce(bool_or({m.condition}), false)" for m in possible)
            answer = session.rows(f"SELECT {asked} FROM {source_of(session, part, index)}")[0]
            found.update(m.name for m, wrong in zip(possible, answer, strict=True) if wrong)
    return sorted(found)


def reason(misfits: Sequence[Misfit]) -> str:
    """SQL for why a row does not fit: its columns and their types, no values."""
    terms = [f"CASE WHEN {m.condition} THEN {literal(f'{m.name} does not fit {type_name(m.to)}')} END" for m in misfits]
    return f"concat_ws('; ', {', '.join(terms)})"


def row_as_json(schema: pa.Schema) -> str:
    """SQL for a staged row as it arrived, in one JSON object, without our own columns."""
    terms: list[str] = []
    for field in schema:
        if not field.name.startswith(OURS):
            terms += [literal(field.name), _value_as_json(field)]
    return f"json_object({', '.join(terms)})"


def _value_as_json(field: pa.Field) -> str:
    value = staged(quote(field.name), field.type)
    if pa.types.is_null(field.type):
        return "NULL"
    if field.type == JSON:  # what is no JSON is kept as text
        return f"coalesce(TRY_CAST({value} AS JSON), to_json({value}))"
    return converted(value, field.type, JSON)


def source_of(session: Session, part: Part, index: int) -> str:
    """SQL for the rows of ``part``, the ``index``-th of a load."""
    if not isinstance(part.data, Path):
        name = f"_elt_part_{index}"
        session.connection.register(name, part.data)
        return name
    path = "".join(f"[{c}]" if c in "*?[" else c for c in str(part.data))  # read_parquet takes a pattern
    return f"read_parquet({literal(path)}, hive_partitioning = false)"


def _select(source: str, schema: pa.Schema, columns: pa.Schema, numbered: bool, misfit: str | None) -> str:
    have = by_name(schema, folded)
    cast = "CAST" if misfit is None else "TRY_CAST"
    terms: list[str] = []
    for field in columns:
        found = have.get(folded(field.name))
        if found is None or pa.types.is_null(found.type):
            value = f"CAST(NULL AS {DIALECT.column_type(field.type)})"
        else:
            value = converted(staged(quote(found.name), found.type), found.type, field.type, cast=cast)
        terms.append(f"{value} AS {quote(field.name)}")
    if numbered:
        terms.append(ARRIVAL if schema.names else f"CAST(NULL AS BIGINT) AS {ARRIVAL}")
    if misfit is not None:
        terms.append(f"{misfit} AS {_MISFIT}")
    return f"SELECT {', '.join(terms)} FROM {source}"
