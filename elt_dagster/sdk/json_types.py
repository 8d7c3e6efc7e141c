"""The types of JSON columns: how each is parsed by DuckDB, how losses are noticed, how types are inferred and widened.

Every column is first read as text, then cast, and compared with the text it came from, so that a value that does not fit is seen and
widens its column instead of becoming NULL. All of it is SQL over whole columns; Python sees one line of figures per column.
"""

from collections.abc import Sequence

import pyarrow as pa

from elt_dagster.model.types import JSON, TIMESTAMP, TIMESTAMP_UTC, UUID

BIG_INTEGER = pa.decimal128(38, 0)
"""For integers past 64 bits; those with more than 38 digits stay text."""

_SQL_TYPES: dict[pa.DataType, str] = {
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint8(): "UTINYINT",
    pa.uint16(): "USMALLINT",
    pa.uint32(): "UINTEGER",
    pa.uint64(): "UBIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.date32(): "DATE",
    pa.time64("us"): "TIME",
    TIMESTAMP: "TIMESTAMP",
    TIMESTAMP_UTC: "TIMESTAMPTZ",
    pa.timestamp("ns"): "TIMESTAMP_NS",
    pa.month_day_nano_interval(): "INTERVAL",
}
_TIME_OF_DAY = r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,6})?)?"
_ZONE = r"([zZ]|[+-]\d{2}(:?\d{2})?)"
_TIMES = ((_TIME_OF_DAY + _ZONE, "TIMESTAMPTZ"), (_TIME_OF_DAY, "TIMESTAMP"), (r"\d{4}-\d{2}-\d{2}", "DATE"))
_NUMBERS = frozenset({"UBIGINT", "BIGINT", "HUGEINT", "UHUGEINT", "DOUBLE"})


def is_text(kind: pa.DataType) -> bool:
    """Whether any scalar can be kept in a column of ``kind`` as it is."""
    return bool(kind == JSON or pa.types.is_string(kind) or pa.types.is_binary(kind))


def raw_type(kind: pa.DataType) -> str:
    """What ``from_json`` is asked for: JSON keeps quotes and structure, VARCHAR is the plain text of a scalar."""
    return "JSON" if kind == JSON else "VARCHAR"


def cast_sql(kind: pa.DataType, raw: str) -> str:
    """SQL that turns the text expression ``raw`` into ``kind``, NULL where it does not fit."""
    if pa.types.is_null(kind):
        return "NULL"
    if is_text(kind):
        return f"encode({raw})" if pa.types.is_binary(kind) else f"CAST({raw} AS VARCHAR)"
    if pa.types.is_decimal(kind):
        return f"TRY_CAST({raw} AS DECIMAL({kind.precision},{kind.scale}))"
    if kind == pa.timestamp("ns", "UTC"):
        return f"TRY_CAST(TRY_CAST({raw} AS TIMESTAMPTZ) AS TIMESTAMP_NS)"
    if kind == UUID:
        return f"unhex(replace(CAST(TRY_CAST({raw} AS UUID) AS VARCHAR), '-', ''))"
    return f"TRY_CAST({raw} AS {_SQL_TYPES[kind]})"


def misfit_sql(kind: pa.DataType, raw: str) -> str | None:
    """SQL that is true where casting ``raw`` to ``kind`` would change or lose the value; None where nothing can be lost."""
    if is_text(kind):
        return None
    typed, t = cast_sql(kind, raw), pa.types
    if t.is_null(kind):
        return f"{raw} IS NOT NULL"
    if t.is_boolean(kind) or t.is_integer(kind) or t.is_date(kind):
        return f"CAST({typed} AS VARCHAR) IS DISTINCT FROM {raw}"
    lost = f"({typed} IS NULL AND {raw} IS NOT NULL)"
    if t.is_decimal(kind):
        room = f"DECIMAL(38,{38 - (kind.precision - kind.scale)})"
        return f"({lost} OR TRY_CAST({raw} AS {room}) <> {typed})"
    if t.is_timestamp(kind) and kind.tz is None:  # a naive column would drop the zone and keep the wall clock
        return f"({lost} OR regexp_matches({raw}, ':\\d{{2}}[^-+zZ]*{_ZONE}$'))"
    return lost


def kinds_sql(raw: str) -> str:
    """SQL aggregate over the JSON text expression ``raw``: the JSON types in it."""
    return f"list(DISTINCT json_type({raw}))"


def tests_sql(kinds: frozenset[str], raw: str) -> list[str]:
    """The aggregates that decide between the types `infer` may give a column of ``kinds``; none where the kinds alone do."""
    if kinds and kinds <= _NUMBERS:
        whole = f"regexp_full_match({raw}, '-?\\d+')"
        tests = [whole, f"TRY_CAST({raw} AS BIGINT) IS NOT NULL", f"TRY_CAST({raw} AS DECIMAL(38,0)) IS NOT NULL"]
    elif kinds == {"VARCHAR"}:
        text = f"json_extract_string({raw}, '$')"
        tests = [
            f"regexp_full_match({text}, '{form}') AND TRY_CAST({text} AS {kind}) IS NOT NULL" for form, kind in _TIMES
        ]
    else:
        return []
    return [f"bool_and({test}) FILTER (WHERE {raw} IS NOT NULL)" for test in tests]


def infer(kinds: frozenset[str], passed: Sequence[bool]) -> pa.DataType:
    """The narrowest type that holds what was seen: ``passed`` are the answers to `tests_sql`; ``pa.null()`` when nothing was seen.

    Text is taken for a time only when every value is a complete ISO date or time; UUIDs and numbers in quotes stay text.
    """
    if not kinds:
        return pa.null()
    if kinds & {"OBJECT", "ARRAY"}:
        return JSON
    if kinds == {"BOOLEAN"}:
        return pa.bool_()
    if kinds <= _NUMBERS:
        whole, in_int64, in_decimal = passed
        if not whole:
            return pa.float64()
        return pa.int64() if in_int64 else BIG_INTEGER if in_decimal else pa.string()
    times = zip(passed, (TIMESTAMP_UTC, TIMESTAMP, pa.date32()), strict=False)
    return next((kind for matches, kind in times if matches), pa.string())


def widen(known: pa.DataType, seen: pa.DataType) -> pa.DataType:
    """A type that holds the values of both, never ``known`` itself unless it equals ``seen``: null < int < decimal < double < text < json."""
    t = pa.types
    if t.is_null(known) or known == seen:
        return seen
    if t.is_null(seen):
        return known
    if JSON in (known, seen):
        return JSON
    if _is_number(known) and _is_number(seen):
        if t.is_floating(known) or t.is_floating(seen):
            return pa.float64()
        return pa.int64() if t.is_integer(known) and seen == pa.int64() else BIG_INTEGER
    return pa.string()


def _is_number(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_integer(kind) or t.is_floating(kind) or t.is_decimal(kind))
