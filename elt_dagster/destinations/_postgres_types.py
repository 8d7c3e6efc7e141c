"""PostgreSQL's types: what each canonical type is in a table, what a table's types are to us, and how values get across.

PostgreSQL has no unsigned and no one-byte integers and counts microseconds: `representable` names the type that holds the values
instead, and everything here works with those. https://www.postgresql.org/docs/current/datatype.html
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from elt_dagster.destinations.sql import Dialect
from elt_dagster.model.types import JSON, TIMESTAMP, TIMESTAMP_UTC, UUID, canonical

DIALECT = Dialect(
    types={
        "bool": "boolean",
        "int16": "smallint",
        "int32": "integer",
        "int64": "bigint",
        "float": "real",
        "double": "double precision",
        "string": "text",
        "json": "jsonb",
        "uuid": "uuid",
        "binary": "bytea",
        "date": "date",
        "time": "time",
        "timestamp": "timestamp",
        "timestamp_utc": "timestamptz",
        "interval": "interval",
    },
    decimal="numeric({p},{s})",
)
NAME_BYTES = 63
"""PostgreSQL cuts longer names without a word: https://www.postgresql.org/docs/current/limits.html"""
_INSTEAD = {
    pa.int8(): pa.int16(),
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.timestamp("ns"): TIMESTAMP,
    pa.timestamp("ns", "UTC"): TIMESTAMP_UTC,
}
_SAME: dict[str, pa.DataType] = {
    "bool": pa.bool_(), "int2": pa.int16(), "int4": pa.int32(), "int8": pa.int64(), "oid": pa.int64(),
    "float4": pa.float32(), "float8": pa.float64(), "date": pa.date32(), "time": pa.time64("us"),
    "timestamp": TIMESTAMP, "timestamptz": TIMESTAMP_UTC, "interval": pa.month_day_nano_interval(),
    "bytea": pa.binary(), "uuid": UUID, "json": JSON, "jsonb": JSON, "text": pa.string(), "varchar": pa.string(),
}  # fmt: skip
_NESTED_JSON = ("json", "jsonb")


def folded(name: str) -> str:
    """How PostgreSQL compares quoted names: as they are."""
    return name


def representable(kind: pa.DataType) -> pa.DataType:
    """The canonical type of the column that holds values of ``kind``; nanoseconds are cut to microseconds, all else is exact."""
    kind = canonical(kind)
    return _INSTEAD.get(kind, kind)


def representable_schema(schema: pa.Schema) -> pa.Schema:
    """``schema`` with every type `representable`; names and descriptions stay."""
    return pa.schema([f.with_type(representable(f.type)) for f in schema])


def column_kind(row: Mapping[str, Any]) -> pa.DataType:
    """Canonical type of a column from its catalog row (type_name, type_modifier, type_category, type_kind)."""
    name = row["type_name"]
    if row["type_category"] == "A" or row["type_kind"] == "c":
        return JSON
    if name == "numeric" and row["type_modifier"] >= 0:
        packed = row["type_modifier"] - 4
        precision, scale = packed >> 16 & 0xFFFF, ((packed & 0x7FF) ^ 1024) - 1024
        return pa.decimal128(precision, scale) if precision <= 38 and 0 <= scale <= precision else pa.string()
    return _SAME.get(name, pa.string())


def readable(row: Mapping[str, Any], quoted: str) -> str:
    """SQL for a column such that its CSV text is that of its canonical type."""
    if row["type_name"] not in _NESTED_JSON and column_kind(row) == JSON:
        return f"to_json({quoted})"
    return quoted


def converted(expression: str, kind: pa.DataType, to: pa.DataType) -> str:
    """SQL for ``expression``, of representable type ``kind``, as a ``to``. Text becomes JSON by quoting, not by parsing."""
    t = pa.types
    if kind == to or t.is_null(kind):
        return expression if kind == to else f"NULL::{DIALECT.column_type(to)}"
    if to == JSON:
        if t.is_floating(kind):  # numbers that JSON has no words for become text
            special = "('NaN', 'Infinity', '-Infinity')"
            return (
                f"CASE WHEN {expression} IN {special} THEN to_jsonb({expression}::text) ELSE to_jsonb({expression}) END"
            )
        return f"to_jsonb({expression})"
    if t.is_boolean(kind) and not t.is_string(to):  # a boolean casts to integer and to text only
        expression = f"{expression}::integer"
    return f"{expression}::{DIALECT.column_type(to)}"
