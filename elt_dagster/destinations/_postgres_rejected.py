"""Rejected rows in PostgreSQL: staged rows that their table cannot take are moved aside, and listed in ``<table>__rejected``.

Asked only after a load failed on a value. PostgreSQL 12 has no way to try a cast, so a function of this session does: its variable takes the value as a
column would, lengths of text included, and an error becomes an answer.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from elt_dagster.destinations._postgres_session import Session, qualified, whole_tables
from elt_dagster.destinations._postgres_stage import Part, row_as_json
from elt_dagster.destinations._postgres_table import columns_of, create, loadable, sql_types
from elt_dagster.destinations._postgres_types import DIALECT, converted, folded
from elt_dagster.destinations.base import DELETED_AT, LoadPlan, TableRef
from elt_dagster.destinations.drift import by_name
from elt_dagster.destinations.rejected import REJECTED, ROW, rejected_table
from elt_dagster.destinations.sql import literal, quote, quoted
from elt_dagster.errors import DestinationError
from elt_dagster.model import DeleteMode
from elt_dagster.model.types import type_name

_FITS = "_elt_fits"
_STAGED = "_elt_staged"


def set_misfits_aside(
    session: Session, plan: LoadPlan, parts: Sequence[Part], columns: pa.Schema, *, types: Mapping[str, str], refused: str
) -> int:  # fmt: skip
    """Move rows of ``parts`` with a value that does not fit its column into the table ``refused``; returns how many.

    ``types`` are those of the table's columns as PostgreSQL writes them.
    """
    return sum(_set_aside(session, plan, part, columns, types=types, refused=refused) for part in parts)


def table_types(session: Session, table: TableRef, before: pa.Schema | None, columns: pa.Schema) -> dict[str, str]:
    """The types of the columns that the table will have; those it has and keeps may be narrower than ours, such as varchar(5)."""
    entry = loadable(session, table)
    have = sql_types(session, entry) if entry is not None else {}
    known = by_name(before or pa.schema([]), folded)
    return {
        f.name: have[f.name] if f.name in have and known[f.name].type == f.type else DIALECT.column_type(f.type)
        for f in columns
    }


def list_rejected(session: Session, plan: LoadPlan, refused: str, *, now: str) -> None:
    """Add what is in ``refused`` to the table of rejected rows, but for rows that are listed already."""
    where = rejected_table(plan.table)
    entry = loadable(session, where)
    if entry is None:
        create(session, qualified(where), REJECTED, f"Rows that {plan.table} could not take.")
    elif lacking := [name for name in REJECTED.names if name not in columns_of(session, entry).names]:
        raise DestinationError(
            f"{where} exists and is no table of rejected rows: it lacks {', '.join(lacking)}.",
            fix="Rename that table, or give this stream another `table`.",
        )
    with whole_tables(session):
        session.run(
            f"INSERT INTO {qualified(where)} ({quoted(REJECTED.names)}) "
            f"SELECT {now}, {literal(plan.run_id)}, {literal(plan.load_id)}, n.reason, n.row FROM {refused} AS n "
            f"WHERE NOT EXISTS (SELECT FROM {qualified(where)} AS r WHERE r.{quote(ROW)} = n.row)"
        )


def columns_at_fault(session: Session, columns: Sequence[str], refused: str) -> list[str]:
    """Which of ``columns`` the rows in ``refused`` were refused for."""
    named = "strpos('; ' || r.reason, '; ' || c.name || ' does not fit ') > 0"
    select = (
        f"SELECT c.name FROM unnest($1::text[]) AS c (name) WHERE EXISTS (SELECT FROM {refused} AS r WHERE {named})"
    )
    return [name for (name,) in session.rows(select, list(columns))]


def _set_aside(
    session: Session, plan: LoadPlan, part: Part, columns: pa.Schema, *, types: Mapping[str, str], refused: str
) -> int:  # fmt: skip
    have = by_name(part.schema, folded)
    checked = [f for f in columns if f.name in have and _may_not_fit(have[f.name].type, f.type, types[f.name])]
    if not checked:
        return 0
    fits: dict[str, str] = {}
    for number, field in enumerate(checked):
        function = f"pg_temp.{_FITS}_{number}"
        session.run(_function(function, have[field.name].type, field.type, types[field.name]))
        fits[field.name] = f"{function}({_STAGED}.{quote(field.name)})"
    if plan.deletes is DeleteMode.HARD and DELETED_AT in have:
        _spare_deleted(session, plan, part, fits)
    moved = session.run(
        f"WITH gone AS (DELETE FROM {part.table} AS {_STAGED} WHERE NOT ({' AND '.join(fits.values())}) "
        f"RETURNING concat_ws('; ', {_reasons(checked, types, fits)}) AS reason, {row_as_json(_STAGED)} AS row) "
        f"INSERT INTO {refused} (reason, row) SELECT reason, row FROM gone"
    )
    for fit in fits.values():
        session.run(f"DROP FUNCTION {fit.partition('(')[0]}")
    return moved


def _spare_deleted(session: Session, plan: LoadPlan, part: Part, fits: Mapping[str, str]) -> None:
    """Of a row that is only there to delete another, nothing but the key has to fit."""
    for name, fit in fits.items():
        if name not in plan.primary_key:
            session.run(
                f"UPDATE {part.table} AS {_STAGED} SET {quote(name)} = NULL "
                f"WHERE {_STAGED}.{quote(DELETED_AT)} IS NOT NULL AND NOT {fit}"
            )


def _reasons(checked: Sequence[pa.Field], types: Mapping[str, str], fits: Mapping[str, str]) -> str:
    """SQL for the columns of a row that do not fit, each with its type: the server's where it is narrower than ours."""
    terms: list[str] = []
    for field in checked:
        kind = types[field.name]
        shown = type_name(field.type) if kind == DIALECT.column_type(field.type) else kind
        terms.append(f"CASE WHEN NOT {fits[field.name]} THEN {literal(f'{field.name} does not fit {shown}')} END")
    return ", ".join(terms)


def _may_not_fit(kind: pa.DataType, to: pa.DataType, sql_type: str) -> bool:
    return not pa.types.is_null(kind) and (kind != to or sql_type != DIALECT.column_type(to))


def _function(name: str, kind: pa.DataType, to: pa.DataType, sql_type: str) -> str:
    return (
        f"CREATE FUNCTION {name}(given {DIALECT.column_type(kind)}) RETURNS boolean LANGUAGE plpgsql AS $elt$ "
        f"DECLARE kept {sql_type}; BEGIN kept := {converted('given', kind, to)}; RETURN true; "
        f"EXCEPTION WHEN data_exception THEN RETURN false; END $elt$"
    )
