"""Rows of a PostgreSQL table as Arrow: the server filters and writes CSV, and `CsvDecoder` parses it column by column."""

import logging
from collections.abc import Generator, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa

from elt_dagster.destinations._postgres_session import Session, qualified
from elt_dagster.destinations._postgres_table import Entry, readable_columns
from elt_dagster.destinations.base import LoadPlan, RowRange, TableRef
from elt_dagster.destinations.sql import quote
from elt_dagster.errors import ConfigError, NotFoundError, nearest
from elt_dagster.sdk.csv import CsvDecoder

BLOCK_BYTES = 4 * 1024 * 1024
_ISO_TIME = r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])([T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?( ?(Z|[+-]\d\d(:?\d\d)?))?)?$"
_AT_ONCE_BYTES = 32 * 1024 * 1024


def planned_select(
    session: Session, entry: Entry, columns: list[str] | None, where: Mapping[str, tuple[Any, Any]]
) -> tuple[pa.Schema, str]:
    """What to ask, and what the answer looks like. Raises NotFoundError for a missing column."""
    found = readable_columns(session, entry)
    chosen = [_required(found, name, entry.table) for name in columns] if columns is not None else list(found)
    schema = pa.schema([(name, found[name][0]) for name in chosen])
    terms = ", ".join(found[name][1] for name in chosen)
    return schema, f"SELECT {terms} FROM {qualified(entry.table)}{_condition(found, where, entry.table)}"


def streamed(session: Session, select: str, decoder: CsvDecoder, log: logging.Logger) -> Generator[pa.RecordBatch]:
    """Batches of ``select``; closes the session at the end, or when nobody wants more."""
    lost = 0
    try:
        for block in session.copy_out(select, BLOCK_BYTES):
            batch, missing = decoder.decode(block)
            lost += missing
            yield batch
        if lost:
            log.warning("%s: %d values that Arrow cannot hold were read as NULL.", decoder.what, lost)
    finally:
        session.close()


def partly_fetched(schema: pa.Schema, batches: Generator[pa.RecordBatch]) -> pa.RecordBatchReader:
    """A reader over ``batches`` of which the first 32 MiB are fetched now: a small result leaves nothing open."""
    first: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        first.append(batch)
        size += batch.nbytes
        if size > _AT_ONCE_BYTES:
            break
    return pa.RecordBatchReader.from_batches(schema, _chained(first, batches))


def _chained(first: list[pa.RecordBatch], rest: Generator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    try:
        while first:
            yield first.pop(0)
        yield from rest
    finally:
        rest.close()


def _required(found: Mapping[str, Any], name: str, table: TableRef) -> str:
    if name not in found:
        raise NotFoundError(f"{table} has no column {name!r}.", fix=nearest(name, list(found)))
    return name


def _condition(found: Mapping[str, Any], where: Mapping[str, tuple[Any, Any]], table: TableRef) -> str:
    terms: list[str] = []
    for name, (low, high) in where.items():
        column = quote(_required(found, name, table))
        for value, compare in ((low, ">="), (high, "<")):
            if value is not None:
                terms.append(f"{column} {compare} {bound(value, name)}")
    return f" WHERE {' AND '.join(terms)}" if terms else ""


def in_range(plan: LoadPlan, window: RowRange, columns: pa.Schema) -> str:
    """The condition that a row of t is in ``window``. Times without a zone are UTC; text that is no ISO time is in no window.

    Raises ConfigError when the column is not there, or holds no times.
    """
    index = columns.get_field_index(window.column)
    kind, t = columns.field(index).type if index >= 0 else pa.null(), pa.types
    if not (t.is_timestamp(kind) or t.is_date(kind) or t.is_string(kind)):
        what = "has no times in its column" if index >= 0 else "has no column"
        raise ConfigError(
            f"{plan.table} {what} {window.column!r}, by which its windows are told apart.",
            fix="Set the slicing column to one of dates or timestamps.",
        )
    value = f"t.{quote(window.column)}"
    if t.is_string(kind):
        value = f"CASE WHEN {value} ~ '{_ISO_TIME}' THEN {value}::timestamptz END"
    return f"({value} >= {bound(window.start, window.column)} AND {value} < {bound(window.end, window.column)})"


def bound(value: Any, column: str) -> str:
    """``value``, which ``column`` is compared with, as SQL made of harmless characters only, for COPY takes no parameters. Naive times stay naive."""
    if isinstance(value, str):
        return f"convert_from(decode('{value.encode().hex()}', 'hex'), 'UTF8')"
    if isinstance(value, datetime):
        return f"'{value.isoformat(' ')}'::{'timestamptz' if value.tzinfo else 'timestamp'}"
    if isinstance(value, date):
        return f"'{value.isoformat()}'::date"
    if isinstance(value, UUID):
        return f"'{value}'::uuid"
    if isinstance(value, bool | int | float | Decimal):
        kind = {bool: "boolean", int: "numeric", float: "float8"}.get(type(value), "numeric")
        return f"'{value}'::{kind}"
    raise ConfigError(
        f"A {type(value).__name__} cannot be a bound of {column!r}.", fix="Use a number, text, date or time."
    )
