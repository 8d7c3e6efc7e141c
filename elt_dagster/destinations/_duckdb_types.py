"""DuckDB's types and casts: what each canonical type is in a table, and how values get in, out and across.

https://duckdb.org/docs/current/sql/data_types/overview
"""

import re
from datetime import UTC, date, datetime

import pyarrow as pa

from elt_dagster.destinations.drift import by_name
from elt_dagster.destinations.sql import Dialect, quote
from elt_dagster.model.types import JSON, UUID

DIALECT = Dialect(
    types={
        "bool": "BOOLEAN",
        "int8": "TINYINT",
        "int16": "SMALLINT",
        "int32": "INTEGER",
        "int64": "BIGINT",
        "uint8": "UTINYINT",
        "uint16": "USMALLINT",
        "uint32": "UINTEGER",
        "uint64": "UBIGINT",
        "float": "FLOAT",
        "double": "DOUBLE",
        "string": "VARCHAR",
        "json": "JSON",
        "uuid": "UUID",
        "binary": "BLOB",
        "date": "DATE",
        "time": "TIME",
        "timestamp": "TIMESTAMP",
        "timestamp_utc": "TIMESTAMPTZ",
        "timestamp_ns": "TIMESTAMP_NS",
        "timestamp_ns_utc": "TIMESTAMPTZ_NS",
        "interval": "INTERVAL",
    }
)
_CANONICAL: dict[str, pa.DataType] = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "UTINYINT": pa.uint8(),
    "USMALLINT": pa.uint16(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "VARCHAR": pa.string(),
    "JSON": JSON,
    "UUID": UUID,
    "BLOB": pa.binary(),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "TIMESTAMP": pa.timestamp("us"),
    "TIMESTAMP_S": pa.timestamp("us"),
    "TIMESTAMP_MS": pa.timestamp("us"),
    "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", "UTC"),
    "TIMESTAMP_NS": pa.timestamp("ns"),
    "TIMESTAMPTZ_NS": pa.timestamp("ns", "UTC"),
    "INTERVAL": pa.month_day_nano_interval(),
}
_COARSE = {"TIMESTAMP_S", "TIMESTAMP_MS"}
_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")
_NESTED = re.compile(r"(STRUCT|MAP|UNION)\(|.*\]$")


def canonical_type(name: str) -> pa.DataType:
    """The canonical type of a column that DuckDB calls ``name``: nested ones are JSON, what we do not know is text."""
    if match := _DECIMAL.fullmatch(name):
        return pa.decimal128(int(match[1]), int(match[2]))
    if name in _CANONICAL:
        return _CANONICAL[name]
    return JSON if _NESTED.match(name) else pa.string()


def folded(name: str) -> str:
    """How DuckDB compares names, quoted or not: ASCII letters without their case."""
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in name)


def staged(expression: str, kind: pa.DataType) -> str:
    """SQL for a value of canonical type ``kind`` out of its staged form (`elt_dagster.destinations.files`)."""
    if pa.types.is_interval(kind):
        parts = (
            f"to_months({expression}.months)",
            f"to_days({expression}.days)",
            f"to_microseconds({expression}.micros)",
        )
        return f"({' + '.join(parts)})"
    return expression


def converted(expression: str, kind: pa.DataType, to: pa.DataType, *, cast: str = "CAST") -> str:
    """SQL for ``expression``, of canonical type ``kind``, as a ``to``. Text becomes JSON by quoting, not by parsing.

    With ``cast`` TRY_CAST, a value that does not fit becomes NULL; else it is an error.
    """
    if to == JSON and kind != JSON:
        if pa.types.is_floating(kind):  # JSON has no words for infinity and not-a-number
            return f"CASE WHEN isfinite({expression}) THEN to_json({expression}) ELSE to_json(CAST({expression} AS VARCHAR)) END"
        if pa.types.is_decimal(kind):  # to_json would go through a double
            return f"CAST(CAST({expression} AS VARCHAR) AS JSON)"
        return f"to_json({expression})"
    return f"{cast}({expression} AS {DIALECT.column_type(to)})"


def can_fail(kind: pa.DataType, to: pa.DataType) -> bool:
    """Whether some value of canonical type ``kind`` has no conversion to ``to``: only staged JSON fails at its own type, for it is text."""
    if pa.types.is_null(kind) or pa.types.is_string(to):
        return False
    return bool(kind == JSON if to == JSON else kind != to)


def projected(source: str, have: pa.Schema, columns: pa.Schema) -> str:
    """SELECT over ``source``, a table with columns ``have``, in ``columns`` and their types; those it lacks are NULL."""
    known = by_name(have, folded)
    terms: list[str] = []
    for field in columns:
        found = known.get(folded(field.name))
        # Cast also where canonical types agree: a stranger's table may have a column of another DuckDB type.
        value = (
            f"CAST(NULL AS {DIALECT.column_type(field.type)})"
            if found is None
            else converted(quote(found.name), found.type, field.type)
        )
        terms.append(f"{value} AS {quote(field.name)}")
    return f"SELECT {', '.join(terms)} FROM {source}"


def instant(at: datetime | date) -> str:
    """``at`` as a literal: a DATE, or a TIMESTAMP, or with a zone a TIMESTAMPTZ."""
    if not isinstance(at, datetime):
        return f"DATE '{at.isoformat()}'"
    if at.tzinfo is None:
        return f"TIMESTAMP '{at.isoformat()}'"
    return f"TIMESTAMPTZ '{at.astimezone(UTC).isoformat()}'"


def readable(name: str, duckdb_type: str) -> str:
    """SQL for a column such that Arrow gets its canonical type."""
    kind = canonical_type(duckdb_type)
    if pa.types.is_decimal(kind) or (duckdb_type in _CANONICAL and duckdb_type not in _COARSE):
        return quote(name)
    expression = f"to_json({quote(name)})" if kind == JSON else f"CAST({quote(name)} AS {DIALECT.column_type(kind)})"
    return f"{expression} AS {quote(name)}"
