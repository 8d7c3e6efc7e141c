"""Databricks's types: what each canonical type is in a table, what a table's types are to us, and how values get across.

Databricks has no unsigned integers, no time of day, no UUID, and counts microseconds: `representable` names the type that holds the values instead,
and everything here works with those. https://docs.databricks.com/aws/en/sql/language-manual/sql-ref-datatypes
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from elt_dagster.destinations._databricks_sql import quote
from elt_dagster.destinations.sql import Dialect
from elt_dagster.model.types import JSON, TIMESTAMP, TIMESTAMP_UTC, UUID, canonical

DIALECT = Dialect(
    types={
        "bool": "BOOLEAN",
        "int8": "TINYINT",
        "int16": "SMALLINT",
        "int32": "INT",
        "int64": "BIGINT",
        "float": "FLOAT",
        "double": "DOUBLE",
        "string": "STRING",
        "json": "VARIANT",
        "binary": "BINARY",
        "date": "DATE",
        "timestamp": "TIMESTAMP_NTZ",
        "timestamp_utc": "TIMESTAMP",
    },
    decimal="DECIMAL({p},{s})",
)
INTERVAL = pa.month_day_nano_interval()
_INSTEAD = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.timestamp("ns"): TIMESTAMP,
    pa.timestamp("ns", "UTC"): TIMESTAMP_UTC,
    pa.time64("us"): pa.string(),
    UUID: pa.string(),
    INTERVAL: pa.string(),
}
_SAME: dict[str, pa.DataType] = {
    "boolean": pa.bool_(), "tinyint": pa.int8(), "smallint": pa.int16(), "int": pa.int32(), "integer": pa.int32(),
    "bigint": pa.int64(), "long": pa.int64(), "float": pa.float32(), "double": pa.float64(), "string": pa.string(),
    "varchar": pa.string(), "char": pa.string(), "binary": pa.binary(), "date": pa.date32(), "timestamp": TIMESTAMP_UTC,
    "timestamp_ltz": TIMESTAMP_UTC, "timestamp_ntz": TIMESTAMP, "variant": JSON, "struct": JSON, "array": JSON, "map": JSON,
}  # fmt: skip
_INTEGERS = {pa.int8(): 10, pa.int16(): 10, pa.int32(): 10, pa.int64(): 20}
"""Integer types and the whole digits that a decimal column must have to be widened to in place."""


def representable(kind: pa.DataType, *, json_text: bool = False) -> pa.DataType:
    """The canonical type of the column that holds values of ``kind``; nanoseconds are cut to microseconds, all else is exact."""
    kind = canonical(kind)
    return pa.string() if json_text and kind == JSON else _INSTEAD.get(kind, kind)


def representable_schema(schema: pa.Schema, *, json_text: bool = False) -> pa.Schema:
    """``schema`` with every type `representable`; names and descriptions stay."""
    return pa.schema([f.with_type(representable(f.type, json_text=json_text)) for f in schema])


def column_kind(described: Mapping[str, Any]) -> pa.DataType:
    """Canonical type of a column from the type that DESCRIBE ... AS JSON gives."""
    name = str(described["name"]).lower()
    if name.startswith("decimal"):
        return pa.decimal128(int(described["precision"]), int(described["scale"]))
    return _SAME.get(name.partition("(")[0].partition(" ")[0], pa.string())


def readable(name: str, described: Mapping[str, Any]) -> str:
    """SQL for a column such that its Arrow result can be cast to its canonical type."""
    plain = str(described["name"]).lower()
    if column_kind(described) == JSON:
        return f"to_json({quote(name)})"
    is_known = plain.startswith("decimal") or plain.partition("(")[0].partition(" ")[0] in _SAME
    return quote(name) if is_known else f"CAST({quote(name)} AS STRING)"


def stored_type(kind: pa.DataType) -> str:
    """SQL type of a staged Parquet column of canonical type ``kind``: what `_databricks_stage` wrote."""
    if kind == UUID:
        return "BINARY"
    if kind == INTERVAL:
        return "STRUCT<months: INT, days: INT, micros: BIGINT>"
    return DIALECT.column_type(representable(kind, json_text=True))


def unstored(expression: str, kind: pa.DataType) -> str:
    """SQL for a staged column as a value of `representable` type, JSON still as text."""
    if kind == UUID:
        pattern, groups = "'^(.{8})(.{4})(.{4})(.{4})(.{12})$'", "'$1-$2-$3-$4-$5'"
        return f"lower(regexp_replace(hex({expression}), {pattern}, {groups}))"
    if kind == INTERVAL:
        seconds = f"CAST(CAST({expression}.micros AS DECIMAL(20,6)) / 1000000 AS DECIMAL(20,6))"
        parts = f"CAST({expression}.months AS STRING), 'M', CAST({expression}.days AS STRING), 'DT', CAST({seconds} AS STRING)"
        return f"CASE WHEN {expression} IS NOT NULL THEN concat('P', {parts}, 'S') END"
    return expression


def converted(expression: str, kind: pa.DataType, to: pa.DataType) -> str:
    """SQL for ``expression``, a stored value of representable type ``kind``, as a ``to``; NULL where it does not fit."""
    t = pa.types
    if kind == JSON:  # staged as text
        return f"try_parse_json({expression})" if to == JSON else expression
    if t.is_null(kind):
        return f"CAST(NULL AS {DIALECT.column_type(to)})"
    return expression if kind == to else recast(expression, kind, to)


def recast(expression: str, kind: pa.DataType, to: pa.DataType) -> str:
    """SQL for a column's value of type ``kind`` as a wider ``to``. Text becomes JSON by quoting, not by parsing."""
    t = pa.types
    if kind == JSON and t.is_string(to):
        return f"to_json({expression})"
    if to == JSON:
        if t.is_timestamp(kind) or t.is_date(kind) or t.is_binary(kind):
            expression = recast(expression, kind, pa.string())
        return f"CAST({expression} AS VARIANT)"
    if t.is_string(to) and t.is_timestamp(kind) and kind.tz:  # as text it would depend on the session's zone
        return (
            f"concat(CAST(CAST(to_utc_timestamp({expression}, current_timezone()) AS TIMESTAMP_NTZ) AS STRING), '+00')"
        )
    if t.is_boolean(kind) and t.is_decimal(to):
        expression = f"CAST({expression} AS INT)"
    return f"try_cast({expression} AS {DIALECT.column_type(to)})"


def may_not_fit(kind: pa.DataType, to: pa.DataType) -> bool:
    """Whether some value of ``kind``, as it was staged, may have no place in a column of type ``to``."""
    t = pa.types
    narrower = t.is_integer(kind) and t.is_integer(to) and to.bit_width < kind.bit_width
    return kind == JSON or bool(narrower) or bool(t.is_decimal(kind) and t.is_integer(to))


def widens_in_place(kind: pa.DataType, to: pa.DataType) -> bool:
    """Whether Delta changes a column from ``kind`` to ``to`` without rewriting its files.

    https://docs.databricks.com/aws/en/delta/type-widening
    """
    t = pa.types
    if kind in _INTEGERS:
        if t.is_decimal(to):
            return int(to.precision - to.scale) >= _INTEGERS[kind]
        is_wider = t.is_integer(to) and to.bit_width > kind.bit_width
        return bool(is_wider or (to == pa.float64() and kind != pa.int64()))
    if t.is_decimal(kind) and t.is_decimal(to):
        return bool(to.scale >= kind.scale and to.precision - to.scale >= kind.precision - kind.scale)
    return bool(kind == pa.float32() and to == pa.float64()) or bool(t.is_date(kind) and to == TIMESTAMP)
