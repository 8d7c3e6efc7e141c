"""Canonical types and names in dlt's words: what a column is called, is made as, and comes back as.

dlt knows eleven types (https://dlthub.com/docs/general-usage/schema#data-types); what it has no word for is loaded as the next wider one, or as
text. Our own word for a column travels in its schema, which dlt keeps in ``_dlt_version``, as the hint ``x-elt-type``: a warehouse's catalogue alone
cannot tell a timestamp with a zone from one without.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from elt_dagster.destinations.base import LoadPlan, TableRef
from elt_dagster.errors import ConfigError
from elt_dagster.model.types import JSON, TIMESTAMP, TIMESTAMP_UTC, description_of, parse_type, type_name

HINT = "x-elt-type"
_UNSAFE = "%:?;\\\n"  # parameters to some driver, or where dlt cuts its SQL into statements
_WIDER: dict[pa.DataType, pa.DataType] = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float32(): pa.float64(),
    pa.uuid(): pa.string(),
    pa.month_day_nano_interval(): pa.string(),
    pa.timestamp("ns"): TIMESTAMP,
    pa.timestamp("ns", "UTC"): TIMESTAMP_UTC,
}
_WORDS: dict[pa.DataType, dict[str, Any]] = {
    pa.bool_(): {"data_type": "bool"},
    pa.int8(): {"data_type": "bigint", "precision": 8},
    pa.int16(): {"data_type": "bigint", "precision": 16},
    pa.int32(): {"data_type": "bigint", "precision": 32},
    pa.int64(): {"data_type": "bigint"},
    pa.float64(): {"data_type": "double"},
    pa.string(): {"data_type": "text"},
    JSON: {"data_type": "json"},
    pa.binary(): {"data_type": "binary"},
    pa.date32(): {"data_type": "date"},
    pa.time64("us"): {"data_type": "time"},
    TIMESTAMP: {"data_type": "timestamp", "timezone": False},
    TIMESTAMP_UTC: {"data_type": "timestamp", "timezone": True},
}
_INTEGERS = {8: pa.int8(), 16: pa.int16(), 32: pa.int32()}
_FOUND: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "double": pa.float64(),
    "json": JSON,
    "binary": pa.binary(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": TIMESTAMP_UTC,
}


def storable(schema: pa.Schema, table: pa.Schema | None = None) -> pa.Schema:
    """``schema`` in types that dlt has; JSON is text where the column of ``table`` is."""
    have = {field.name: field.type for field in table or ()}
    return pa.schema([f.with_type(_storable(f.type, have.get(f.name))) for f in schema], schema.metadata)


def _storable(kind: pa.DataType, have: pa.DataType | None) -> pa.DataType:
    if kind == JSON and have == pa.string():
        return have
    return _WIDER.get(kind, kind)


def dlt_column(field: pa.Field) -> dict[str, Any]:
    """dlt's schema of a column of a type that `storable` gave. Never NOT NULL: keys of rows to come may be missing."""
    kind = field.type
    if pa.types.is_decimal(kind):
        words: Mapping[str, Any] = {"data_type": "decimal", "precision": kind.precision, "scale": kind.scale}
    else:
        words = _WORDS[kind]
    described = {"description": text} if (text := description_of(field)) else {}
    return {"name": field.name, "nullable": True, **words, **described, HINT: type_name(kind)}


def canonical_type(found: Mapping[str, Any], stored: Mapping[str, Any] | None) -> pa.DataType:
    """The canonical type of a column that dlt ``found`` in the warehouse; ``stored`` is what dlt's schema says of it, if it made it."""
    if stored is not None and HINT in stored:
        return parse_type(str(stored[HINT]))
    kind = str(found.get("data_type", "text"))
    precision, scale = found.get("precision"), found.get("scale")
    if kind == "bigint":
        return _INTEGERS.get(precision or 64, pa.int64())
    if kind in ("decimal", "wei"):
        return pa.decimal128(precision, scale or 0) if precision and precision <= 38 else pa.string()
    return _FOUND.get(kind, pa.string())


def check_names(plan: LoadPlan, columns: pa.Schema, normalized: Callable[[str], str]) -> None:
    """Raise ConfigError for a name that dlt would change on its way to the warehouse, or that its drivers take for a parameter."""
    for what, name in (
        ("schema", plan.table.schema),
        ("table", plan.table.name),
        *(("column", n) for n in columns.names),
    ):
        if normalized(name) != name or set(name) & set(_UNSAFE):
            raise ConfigError(
                f"{plan.table}: dlt cannot keep the name of the {what} {name!r} as it is.",
                fix=f"Give the {what} another name: lower-case letters, digits and underscores, not too long for the warehouse.",
            )


def schema_name(table: TableRef) -> str:
    """The name of dlt's schema of ``table``: one each, so that loads of several tables never write the same."""
    import hashlib

    return f"elt_{hashlib.sha256(str(table).encode()).hexdigest()[:16]}"
