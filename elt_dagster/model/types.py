"""Canonical column types: the Arrow types that travel between a source and a warehouse.

========================  =====================================================
canonical                 arrives from
========================  =====================================================
bool                      booleans
int8 .. int64, uint8 ..   integers
float32, float64          floats (float16 is widened)
decimal128(p, s)          exact numbers of at most 38 digits
string                    text (large, view and dictionary encodings are folded)
json                      nested values: `pa.json_()` over strings
uuid                      `pa.uuid()`
binary                    bytes
date32, time64[us]        dates and times of day
timestamp[us], [ns]       naive, or with tz ``UTC`` (any other zone is converted)
month_day_nano_interval   calendar intervals; durations become them
null                      a column in which nothing was ever seen
========================  =====================================================

`type_name` and `parse_type` give each a stable text form for the store, for YAML and for people.
"""

import re

import pyarrow as pa

from elt_dagster.errors import ConfigError, nearest

JSON = pa.json_()
UUID = pa.uuid()
TIMESTAMP = pa.timestamp("us")
TIMESTAMP_UTC = pa.timestamp("us", "UTC")

_PLAIN: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "json": JSON,
    "uuid": UUID,
    "binary": pa.binary(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": TIMESTAMP,
    "timestamp_utc": TIMESTAMP_UTC,
    "timestamp_ns": pa.timestamp("ns"),
    "timestamp_ns_utc": pa.timestamp("ns", "UTC"),
    "interval": pa.month_day_nano_interval(),
    "null": pa.null(),
}
_NAMES = {kind: name for name, kind in _PLAIN.items()}
_DECIMAL = re.compile(r"decimal\((\d{1,2}),\s*(\d{1,2})\)")
MAX_DECIMAL_DIGITS = 38


def type_name(kind: pa.DataType) -> str:
    """Text form of a canonical type, such as ``decimal(12,2)`` or ``timestamp_utc``.

    Raises ConfigError for a type that `canonical` would have changed.
    """
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    try:
        return _NAMES[kind]
    except KeyError:
        raise ConfigError(f"{kind} is not a canonical column type.", fix="Call canonical() on it first.") from None


def parse_type(name: str) -> pa.DataType:
    """The type called ``name``; the inverse of `type_name`. Raises ConfigError for unknown names."""
    if match := _DECIMAL.fullmatch(name):
        precision, scale = int(match[1]), int(match[2])
        if not 1 <= precision <= MAX_DECIMAL_DIGITS or scale > precision:
            raise ConfigError(f"{name!r} is not a valid decimal.", fix="Use decimal(p,s) with s <= p <= 38.")
        return pa.decimal128(precision, scale)
    if name not in _PLAIN:
        raise ConfigError(f"There is no column type {name!r}.", fix=nearest(name, [*_PLAIN, "decimal(38,9)"]))
    return _PLAIN[name]


def canonical(kind: pa.DataType) -> pa.DataType:
    """The canonical type that holds every value of ``kind``."""
    if kind in _NAMES:
        return kind
    if isinstance(kind, pa.BaseExtensionType):
        return canonical(kind.storage_type)
    t = pa.types
    if t.is_dictionary(kind):
        return canonical(kind.value_type)
    if t.is_decimal(kind):
        fits = kind.precision <= MAX_DECIMAL_DIGITS and 0 <= kind.scale <= kind.precision
        return pa.decimal128(kind.precision, kind.scale) if fits else pa.string()
    if t.is_timestamp(kind):
        unit = "ns" if kind.unit == "ns" else "us"
        return pa.timestamp(unit, "UTC" if kind.tz else None)
    folded: tuple[tuple[bool, pa.DataType], ...] = (
        (t.is_nested(kind), JSON),
        (t.is_float16(kind), pa.float32()),
        (t.is_large_binary(kind) or t.is_fixed_size_binary(kind) or t.is_binary_view(kind), pa.binary()),
        (t.is_date(kind), pa.date32()),
        (t.is_time(kind), pa.time64("us")),
        (t.is_duration(kind), pa.month_day_nano_interval()),
    )
    return next((to for matches, to in folded if matches), pa.string())


def is_orderable(kind: pa.DataType) -> bool:
    """Whether a column of this type can be a cursor: its values only grow and compare the same everywhere.

    Text qualifies because ISO timestamps and ULIDs come as text; JSON, booleans, bytes, intervals and UUIDs do not.
    """
    t = pa.types
    return not isinstance(kind, pa.BaseExtensionType) and (
        t.is_integer(kind) or t.is_decimal(kind) or t.is_floating(kind) or t.is_timestamp(kind)
        or t.is_date(kind) or t.is_string(kind)
    )  # fmt: skip


def schema_to_json(schema: pa.Schema) -> list[dict[str, str | bool]]:
    """Columns as plain data for the store: name, type, nullable, description where there is one."""
    rows: list[dict[str, str | bool]] = []
    for field in schema:
        row: dict[str, str | bool] = {
            "name": field.name, "type": type_name(canonical(field.type)), "nullable": field.nullable,
        }  # fmt: skip
        if described := description_of(field):
            row["description"] = described
        rows.append(row)
    return rows


def schema_from_json(rows: list[dict[str, str | bool]]) -> pa.Schema:
    """The inverse of `schema_to_json`."""
    return pa.schema(
        column(
            str(r["name"]), parse_type(str(r["type"])), nullable=bool(r.get("nullable", True)),
            description=str(r.get("description", "")),
        )
        for r in rows
    )  # fmt: skip


def column(name: str, kind: pa.DataType, *, nullable: bool = True, description: str = "") -> pa.Field:
    """An Arrow field whose description travels in its metadata, to become a column comment."""
    # Arrow refuses a null column that is not nullable
    return pa.field(name, kind, nullable or kind == pa.null(), {"description": description} if description else None)


def description_of(field: pa.Field) -> str:
    """The description `column` put into a field; empty when there is none."""
    return str((field.metadata or {}).get(b"description", b"").decode())
