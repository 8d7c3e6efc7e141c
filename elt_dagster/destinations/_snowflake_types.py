"""Snowflake's types and casts: what each canonical type is in a table, and how values get in, out and across.

Whole numbers keep their width as precision: an int32 is a ``NUMBER(10,0)``, which grows into a ``NUMBER(19,0)`` without a row being touched.
So a ``NUMBER(38,0)``, which is what INTEGER means to Snowflake, is a decimal to us. Points in time and times of day travel as whole numbers
since 1970 or midnight, in both directions: Parquet, Snowflake and its driver each have their own ideas of what else they could be.
https://docs.snowflake.com/en/sql-reference/intro-summary-data-types
"""

import re
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from elt_dagster.destinations.sql import Dialect, quote
from elt_dagster.model.types import JSON, TIMESTAMP, TIMESTAMP_UTC, UUID, canonical

NAME_LENGTH = 255
MAX_TEXT = 16_777_216
"""Length of a VARCHAR without a length."""
DIALECT = Dialect(
    types={
        "bool": "BOOLEAN",
        "int8": "NUMBER(3,0)",
        "int16": "NUMBER(5,0)",
        "int32": "NUMBER(10,0)",
        "int64": "NUMBER(19,0)",
        "double": "FLOAT",
        "string": "VARCHAR",
        "json": "VARIANT",
        "binary": "BINARY",
        "date": "DATE",
        "time": "TIME(6)",
        "timestamp": "TIMESTAMP_NTZ(6)",
        "timestamp_utc": "TIMESTAMP_TZ(6)",
        "timestamp_ns": "TIMESTAMP_NTZ(9)",
        "timestamp_ns_utc": "TIMESTAMP_TZ(9)",
    },
    decimal="NUMBER({p},{s})",
)
_WHOLE = {3: pa.int8(), 5: pa.int16(), 10: pa.int32(), 19: pa.int64()}
_INSTEAD: dict[pa.DataType, pa.DataType] = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float32(): pa.float64(),
    UUID: pa.string(),
    pa.month_day_nano_interval(): pa.string(),
}
_TYPE = re.compile(r"([A-Z_]+)(?:\((\d+)(?:, ?(\d+))?\))?")
_TEXT = ("VARCHAR", "TEXT", "STRING", "CHAR")
_NESTED = ("VARIANT", "OBJECT", "ARRAY", "MAP")
_RANGES: dict[pa.DataType, tuple[int, int]] = {
    pa.date32(): (-719_162, 2_932_896),
    TIMESTAMP: (-62_135_596_800_000_000, 253_402_300_799_999_999),
    TIMESTAMP_UTC: (-62_135_596_800_000_000, 253_402_300_799_999_999),
}
"""Days and microseconds since 1970 of the years 1 to 9999: Snowflake holds no others."""


def folded(name: str) -> str:
    """How Snowflake compares quoted names: as they are."""
    return name


def literal(text: str) -> str:
    """``text`` as a string literal; a backslash starts an escape in Snowflake's."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def representable(kind: pa.DataType) -> pa.DataType:
    """The canonical type of the column that holds values of ``kind``, all of them exactly."""
    kind = canonical(kind)
    if pa.types.is_decimal(kind) and kind.scale == 0 and kind.precision in _WHOLE:
        return pa.decimal128(kind.precision + 1, 0)  # so that it is not taken for the integer type of that precision
    return _INSTEAD.get(kind, kind)


def representable_schema(schema: pa.Schema) -> pa.Schema:
    """``schema`` with every type `representable`; names and descriptions stay."""
    return pa.schema([f.with_type(representable(f.type)) for f in schema])


def canonical_type(name: str) -> pa.DataType:
    """The canonical type of a column whose type ``DESCRIBE TABLE`` calls ``name``; what we do not know is text."""
    found = _TYPE.match(name)
    base, first, second = (found[1], found[2], found[3]) if found else ("", None, None)
    if base in ("NUMBER", "DECIMAL", "NUMERIC"):
        precision, scale = int(first or 38), int(second or 0)
        return _WHOLE.get(precision, pa.decimal128(precision, 0)) if scale == 0 else pa.decimal128(precision, scale)
    if base.startswith("TIMESTAMP"):
        zone = None if base == "TIMESTAMP_NTZ" else "UTC"
        return pa.timestamp("us" if int(first or 9) <= 6 else "ns", zone)
    plain: dict[str, pa.DataType] = {
        "BOOLEAN": pa.bool_(), "FLOAT": pa.float64(), "DOUBLE": pa.float64(), "REAL": pa.float64(),
        "BINARY": pa.binary(), "VARBINARY": pa.binary(), "DATE": pa.date32(), "TIME": pa.time64("us"),
    }  # fmt: skip
    return JSON if base in _NESTED else plain.get(base, pa.string())


def text_limit(name: str) -> int | None:
    """How many characters a text column of that type takes; None for other types, and for a column without a limit of its own."""
    found = _TYPE.match(name)
    if found is None or found[1] not in _TEXT or found[2] is None or int(found[2]) >= MAX_TEXT:
        return None
    return int(found[2])


def grows_in_place(before: str, after: pa.DataType) -> bool:
    """Whether ALTER can turn a column of type ``before`` into one for ``after``: digits before the point and characters may become more."""
    old, new = _TYPE.match(before), _TYPE.match(DIALECT.column_type(after))
    if old is None or new is None:
        return False
    if old[1] in _TEXT and new[1] == "VARCHAR":
        return True
    return old[1] == new[1] == "NUMBER" and (old[3] or "0") == new[3] and int(new[2]) >= int(old[2])


def staged_type(kind: pa.DataType) -> str:
    """Column type of staged values of canonical type ``kind``."""
    if pa.types.is_decimal(kind):
        return DIALECT.column_type(kind)
    if travels_as_number(kind) or pa.types.is_integer(kind):
        return "NUMBER(38,0)"
    return "VARCHAR" if kind == JSON else DIALECT.column_type(kind)


def travels_as_number(kind: pa.DataType) -> bool:
    """Whether values are staged and read as whole numbers."""
    return bool(pa.types.is_temporal(kind) and not pa.types.is_interval(kind))


def unit_of(kind: pa.DataType) -> str:
    """Word for what a `travels_as_number` type counts."""
    return "DAY" if pa.types.is_date(kind) else "NANOSECOND" if kind.unit == "ns" else "MICROSECOND"


def from_staged(expression: str, kind: pa.DataType) -> str:
    """SQL for a value of canonical type ``kind`` out of its staged form. Values that `misfit` finds must not get here."""
    if pa.types.is_date(kind):
        return f"DATEADD(DAY, {expression}, CAST('1970-01-01' AS DATE))"
    if pa.types.is_time(kind):
        return f"TIMEADD(MICROSECOND, {expression}, CAST('00:00:00' AS TIME(6)))"
    if pa.types.is_timestamp(kind):
        function = "TO_TIMESTAMP_NTZ" if kind.tz is None else "TO_TIMESTAMP_TZ"
        scale = 9 if kind.unit == "ns" else 6
        return f"CAST({function}({expression}, {scale}) AS {DIALECT.column_type(kind)})"
    return f"PARSE_JSON({expression})" if kind == JSON else expression


def misfit(expression: str, kind: pa.DataType, to: pa.DataType, limit: int | None) -> str:
    """The condition that a staged value of type ``kind`` cannot be put into a column of type ``to``; empty when all can.

    ``limit`` is the column's `text_limit`.
    """
    if kind == JSON and to == JSON:
        return f"({expression} IS NOT NULL AND TRY_PARSE_JSON({expression}) IS NULL)"
    if pa.types.is_integer(kind) and pa.types.is_integer(to) and to.bit_width < kind.bit_width:
        low, high = -(2 ** (to.bit_width - 1)), 2 ** (to.bit_width - 1) - 1
        return f"{expression} NOT BETWEEN {low} AND {high}"
    if kind in _RANGES:
        low, high = _RANGES[kind]
        return f"{expression} NOT BETWEEN {low} AND {high}"
    if limit is not None and pa.types.is_string(to):
        return f"LENGTH({expression}) > {limit}"
    return ""


def converted(expression: str, kind: pa.DataType, to: pa.DataType) -> str:
    """SQL for ``expression``, of canonical type ``kind``, as a ``to``. Text becomes JSON by quoting, not by parsing."""
    t = pa.types
    if t.is_null(kind):
        return f"CAST(NULL AS {DIALECT.column_type(to)})"
    if kind == to or (t.is_integer(kind) and t.is_integer(to)):
        return expression
    if to == JSON:
        plain = (
            t.is_boolean(kind) or t.is_integer(kind) or t.is_decimal(kind) or t.is_floating(kind) or t.is_string(kind)
        )
        return f"TO_VARIANT({expression if plain else f'CAST({expression} AS VARCHAR)'})"
    if t.is_boolean(kind) and not t.is_string(to):
        return f"CASE WHEN {expression} THEN 1 WHEN NOT {expression} THEN 0 END"
    if kind == JSON:
        return f"TO_JSON({expression})"
    return f"CAST({expression} AS {DIALECT.column_type(to)})"


def bound_text(value: Any, kind: pa.DataType) -> str:
    """A bound of a range as the text that casts to a column of type ``kind``; a point in time is a day to a column of days."""
    if isinstance(value, datetime):
        utc = value.astimezone(UTC) if value.tzinfo is not None else value
        return (utc.date() if pa.types.is_date(kind) else utc).isoformat()
    return value.isoformat() if isinstance(value, date) else str(value)


def comparable(expression: str, kind: pa.DataType) -> str:
    """SQL for a value that can be compared and grouped; JSON as its text, in which Snowflake sorts the keys."""
    return f"TO_JSON({expression})" if kind == JSON else expression


def readable(name: str, kind: pa.DataType) -> str:
    """SQL for a column in the form that `as_canonical` takes."""
    column, t = quote(name), pa.types
    if kind == JSON:
        return f"TO_JSON({column})"
    if t.is_timestamp(kind):
        return f"DATE_PART(EPOCH_{unit_of(kind)}, {column})"
    if t.is_date(kind):
        return f"DATEDIFF(DAY, CAST('1970-01-01' AS DATE), {column})"
    if t.is_time(kind):
        return f"DATEDIFF(MICROSECOND, CAST('00:00:00' AS TIME(6)), {column})"
    return f"CAST({column} AS VARCHAR)" if t.is_string(kind) else column


def as_canonical(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """What the driver gave for a `readable` column, as canonical type ``kind``. Raises pyarrow.ArrowInvalid for a value out of its range."""
    if kind == JSON:
        texts = column.cast(pa.string())
        return pa.chunked_array([pa.ExtensionArray.from_storage(JSON, chunk) for chunk in texts.chunks], JSON)
    if travels_as_number(kind):
        return column.cast(pa.int32() if pa.types.is_date(kind) else pa.int64()).cast(kind)
    if pa.types.is_decimal(kind) and pa.types.is_integer(column.type):
        return column.cast(pa.decimal128(max(kind.precision, 19 + kind.scale) if kind.scale else 38, kind.scale)).cast(
            kind
        )
    return column.cast(kind)
