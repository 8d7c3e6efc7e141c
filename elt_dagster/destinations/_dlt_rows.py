"""Staged rows on their way to dlt: brought into one shape, one row per key where that is asked for, without what is there already.

All of it is SQL in a DuckDB of our own with bounded memory, over the staged Arrow tables or files; what does not fit into memory goes to the
load's folder. dlt gets Arrow tables, one after another.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from elt_dagster.destinations._duckdb_file import DEFAULT_MEMORY, Session, explained
from elt_dagster.destinations._duckdb_rows import keep_last
from elt_dagster.destinations._duckdb_staged import STAGED, is_marked, misfits, view_staged
from elt_dagster.destinations._duckdb_types import DIALECT, folded, readable
from elt_dagster.destinations.base import DELETED_AT, LoadPlan
from elt_dagster.destinations.drift import by_name
from elt_dagster.destinations.files import Part
from elt_dagster.destinations.plans import needs_arrival
from elt_dagster.destinations.sql import quote, quoted
from elt_dagster.errors import DestinationError
from elt_dagster.model import DeleteMode, LoadMode
from elt_dagster.model.types import JSON

CELLS = 1_000_000
"""How many values a table has that is handed to dlt, or read from it, at a time."""
_MISFIT = (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException)


@dataclass(frozen=True, slots=True)
class Rows:
    """What one commit brings: a relation over the staged rows, and how many there are."""

    session: Session
    source: str
    count: int
    marked: int
    """How many of them only say that a row was deleted."""

    def tables(self, columns: pa.Schema) -> Iterator[pa.Table]:
        """The rows, lazily, as dlt takes them: JSON as its text. First an empty one, so that a load of nothing makes its table too."""
        schema = pa.schema([pa.field(f.name, _sent(f.type)) for f in columns])
        yield schema.empty_table()
        reader = self.session.connection.sql(f"SELECT {quoted(columns.names)} FROM {self.source}").to_arrow_reader(
            max(1_024, CELLS // max(1, len(columns)))
        )
        for batch in reader:
            sent = [c.storage if c.type == JSON else c for c in batch.columns]
            yield pa.Table.from_arrays(
                [c if c.type == f.type else c.cast(f.type) for c, f in zip(sent, schema, strict=True)], schema=schema
            )


def _sent(kind: pa.DataType) -> pa.DataType:
    return pa.string() if kind == JSON else kind


@contextlib.contextmanager
def arranged(plan: LoadPlan, parts: Sequence[Part], columns: pa.Schema, folder: Path) -> Iterator[Rows]:
    """The rows of ``parts`` in ``columns``: the last one per key where the plan says so, those marked as deleted only where a merge needs them.

    Raises DestinationError that names the columns when a value fits no more.
    """
    with open_duckdb(folder) as session:
        try:
            view_staged(session, plan, parts, columns, numbered=needs_arrival(plan))
            source = keep_last(session, plan.primary_key, plan.cursor_field) if needs_arrival(plan) else STAGED
            marked = is_marked(parts) and plan.deletes is DeleteMode.HARD
            if marked and plan.mode is LoadMode.REPLACE:
                source, marked = f"(SELECT * FROM {source} WHERE {quote(DELETED_AT)} IS NULL)", False
            counted = f"count({quote(DELETED_AT)})" if marked else "0"
            ((count, gone),) = session.rows(f"SELECT count(*), {counted} FROM {source}")
            yield Rows(session, source, int(count), int(gone))
        except duckdb.Error as error:
            raise _explained(session, plan, parts, columns, error) from None


def _explained(
    session: Session, plan: LoadPlan, parts: Sequence[Part], columns: pa.Schema, error: duckdb.Error
) -> Exception:
    wrong = misfits(session, plan, parts, columns) if isinstance(error, _MISFIT) else []
    if not wrong:
        return explained(error, f"arranging the rows of {plan.table}")
    return DestinationError(
        f"{plan.table}: values of {', '.join(wrong)} do not fit the column's type. Nothing was committed.",
        fix="Exclude the column, or load into a table of another name: dlt changes no column's type.",
    )


# --- rows that are there already


def without(rows: Rows, seen: pa.Table, identity: Sequence[str]) -> tuple[Rows, pa.Table]:
    """``rows`` but for those in ``seen`` (fingerprint and number of times), and what of ``seen`` was not read again."""
    if not seen.num_rows:
        return rows, seen
    session, row = rows.session, fingerprint(identity)
    session.connection.register("_elt_seen_before", seen)
    counted = f"(SELECT *, {row} AS _elt_row, row_number() OVER (PARTITION BY {row}) AS _elt_time FROM {rows.source})"
    session.run(
        f"CREATE TEMP TABLE _elt_fresh AS SELECT c.* EXCLUDE (_elt_row, _elt_time) FROM {counted} AS c "
        f"LEFT JOIN _elt_seen_before AS s ON s.row = c._elt_row WHERE c._elt_time > coalesce(s.times, 0)"
    )
    came = f"(SELECT {row} AS row, count(*) AS times FROM {rows.source} GROUP BY 1)"
    left = session.connection.sql(
        f"SELECT row, s.times - coalesce(c.times, 0) AS times FROM _elt_seen_before AS s LEFT JOIN {came} AS c USING (row) "
        f"WHERE s.times > coalesce(c.times, 0)"
    ).to_arrow_table()
    return Rows(session, "_elt_fresh", int(session.value("SELECT count(*) FROM _elt_fresh")), 0), left


def counted_fingerprints(session: Session, tables: Iterator[pa.Table], identity: Sequence[str]) -> pa.Table:
    """How many times each row of ``tables`` is there: ``row`` and ``times``."""
    session.run("CREATE TEMP TABLE _elt_there (row BLOB)")
    for table in tables:
        session.connection.register("_elt_chunk", table)
        session.run(f"INSERT INTO _elt_there SELECT {fingerprint(identity)} FROM _elt_chunk")
    return session.connection.sql("SELECT row, count(*) AS times FROM _elt_there GROUP BY row").to_arrow_table()


def fingerprint(names: Sequence[str]) -> str:
    """SQL for 128 bits over the text of the values; as a JSON list, so that no two different rows give one text."""
    values = ", ".join(f"CAST({quote(name)} AS VARCHAR)" for name in names)
    return f"unhex(md5(CAST(to_json([{values}]) AS VARCHAR)))"


# --- rows as they come out of a warehouse


def canonical(session: Session, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """``table`` as a driver gave it, in the canonical types of ``schema``: text becomes numbers, dates or JSON again where that is what they are."""
    have = by_name(table.schema, folded)
    plain = pa.Table.from_arrays([_readable(table[have[folded(f.name)].name]) for f in schema], names=schema.names)
    session.connection.register("_elt_read", plain)
    session.run(
        "CREATE OR REPLACE TEMP TABLE _elt_typed AS SELECT " + ", ".join(_typed(f) for f in schema) + " FROM _elt_read"
    )
    terms = ", ".join(readable(f.name, DIALECT.column_type(f.type)) for f in schema)
    found = session.connection.sql(f"SELECT {terms} FROM _elt_typed").to_arrow_table()
    return pa.Table.from_arrays(
        [c if c.type == f.type else c.cast(f.type) for c, f in zip(found.columns, schema, strict=True)], schema=schema
    )


def _readable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column


def _typed(field: pa.Field) -> str:
    return f"CAST({quote(field.name)} AS {DIALECT.column_type(field.type)}) AS {quote(field.name)}"


@contextlib.contextmanager
def open_duckdb(folder: Path | None) -> Iterator[Session]:
    """A DuckDB in memory; ``folder`` takes what does not fit."""
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{DEFAULT_MEMORY}MB",
        "threads": 2,
        "temp_directory": str(folder or ""),
        "autoinstall_known_extensions": "false",
    }
    with duckdb.connect(":memory:", config=settings) as connection:
        for statement in ("TimeZone = 'UTC'", "enable_progress_bar = false", "arrow_lossless_conversion = true"):
            connection.execute(f"SET {statement}")
        yield Session(connection, "memory")
