"""Columns of text into columns with types, losing nothing: what CSV and JSON lines have in common.

A type is only given when the text can be had back from the value: ``007``, ``+5`` and numbers of more digits than a double holds
stay text. Everything here works on whole Arrow columns; no value passes through Python.
"""

from collections.abc import Iterable
from contextlib import suppress

import pyarrow as pa

from elt_dagster.model.compute import pc
from elt_dagster.model.types import JSON, TIMESTAMP, TIMESTAMP_UTC

SAMPLE_ROWS = 10_000
DOUBLE_DIGITS = 17  # as many significant digits as a double's shortest exact text may have
WIDE_INTEGER = pa.decimal128(38, 0)
_TIME = pa.time64("us")
_DAY = r"\d{4}-\d{2}-\d{2}"
_CLOCK = r"\d{2}:\d{2}:\d{2}"
_ZONE = r"(Z|[+-]\d{2}(:?\d{2})?)"
_PATTERNS: tuple[tuple[str, tuple[pa.DataType, ...]], ...] = (
    (r"(?i)^(true|false)$", (pa.bool_(),)),
    (r"^-?(0|[1-9]\d{0,37})$", (pa.int64(), WIDE_INTEGER)),
    (r"^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$", (pa.float64(),)),
    (rf"^{_DAY}$", (pa.date32(),)),
    (rf"^{_DAY}[T ]\d{{2}}:\d{{2}}(:\d{{2}}(\.\d{{1,9}})?)?$", (TIMESTAMP, pa.timestamp("ns"))),
    (
        rf"^{_DAY}[T ]\d{{2}}:\d{{2}}(:\d{{2}}(\.\d{{1,9}})?)?{_ZONE}$",
        (TIMESTAMP_UTC, pa.timestamp("ns", "UTC")),
    ),
    (rf"^{_CLOCK}(\.\d{{1,6}})?$", (_TIME,)),
)


def infer(column: pa.Array) -> pa.DataType:
    """The narrowest type that holds every value of a text column exactly; ``null`` when there is no value, else ``string``."""
    values = pc.utf8_trim_whitespace(pc.unique(column.drop_null()))
    if len(values) == 0:
        return pa.null()
    for pattern, kinds in _PATTERNS:
        if _all(pc.match_substring_regex(values, pattern)):
            return next((kind for kind in kinds if cast(values, kind) is not None), pa.string())
    return pa.string()


def cast(column: pa.Array, kind: pa.DataType, *, exact: bool = True) -> pa.Array | None:
    """A text column as ``kind``, or None when a value does not fit.

    ``exact`` also refuses values whose text would be lost, such as ``007`` as an integer. Blanks around a value are ignored, except
    in text.
    """
    if kind == pa.string():
        return column
    if pa.types.is_null(kind):
        return pa.nulls(len(column)) if column.null_count == len(column) else None
    if not exact or _keeps_text(column, kind):
        with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return _parsed(column, kind, exact=exact)
    trimmed = pc.utf8_trim_whitespace(column)
    return None if trimmed.equals(column) else cast(trimmed, kind, exact=exact)


def join(one: pa.DataType, two: pa.DataType) -> pa.DataType:
    """The narrowest type that holds the values of both exactly; ``string`` when there is no better."""
    kinds = (one, two)
    if one == two:
        return one
    if pa.null() in kinds:
        return one if two == pa.null() else two
    if JSON in kinds:
        return JSON
    return _wider_number(one, two) or _wider_time(one, two) or pa.string()


def fits(narrow: pa.DataType, wide: pa.DataType) -> bool:
    """Whether every value of ``narrow`` can be held as ``wide``."""
    return bool(join(narrow, wide) == wide)


def union(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """The columns of all schemas in order of first appearance, each wide enough for all."""
    found: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            found[field.name] = join(found.get(field.name, pa.null()), field.type)
    return pa.schema(list(found.items()))


def _parsed(column: pa.Array, kind: pa.DataType, *, exact: bool) -> pa.Array:
    if kind == _TIME:  # Arrow parses times of day only as part of a timestamp
        day = pa.scalar("1970-01-01T")
        return pc.binary_join_element_wise(day, column, "").cast(TIMESTAMP).cast(_TIME)
    if kind == JSON:
        return pa.ExtensionArray.from_storage(JSON, column)
    values = column.cast(kind)
    if exact and pa.types.is_floating(kind) and not _all(pc.is_finite(values)):
        raise pa.ArrowInvalid("a number beyond the largest double")
    return values


def _keeps_text(column: pa.Array, kind: pa.DataType) -> bool:
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        # leading zeros are identifiers or hexadecimal, not numbers
        padded = pc.and_(pc.starts_with(column, "0"), pc.greater(pc.binary_length(column), 1))
        return not _any(padded) and not _any(pc.starts_with(column, "-0"))
    if pa.types.is_floating(kind):
        longest = pc.max(pc.binary_length(column)).as_py() or 0
        return longest <= DOUBLE_DIGITS or _fits_double(column)
    return True


def _fits_double(column: pa.Array) -> bool:
    """Whether no number has too many significant digits; a cheap upper bound first, the regular expression only for what exceeds it."""
    marks = (
        pc.starts_with(column, "-"),
        pc.match_substring(column, "."),
        pc.or_(pc.starts_with(column, "0."), pc.starts_with(column, "-0.")),
    )
    most = pc.binary_length(column)
    for mark in marks:
        most = pc.subtract(most, mark.cast(pa.int32()))
    long = column.filter(pc.greater(most, DOUBLE_DIGITS))
    digits = pc.replace_substring_regex(long, r"[eE].*$|^[-+]?0*\.?0*|\.", "")
    return not _any(pc.greater(pc.binary_length(digits), DOUBLE_DIGITS))


def _wider_number(one: pa.DataType, two: pa.DataType) -> pa.DataType | None:
    is_integer, is_decimal, is_floating = pa.types.is_integer, pa.types.is_decimal, pa.types.is_floating
    kinds = (one, two)
    if all(is_integer(k) for k in kinds):
        return _wider_integer(one, two)
    if all(is_integer(k) or is_floating(k) for k in kinds):
        return pa.float64()
    if all(is_integer(k) or is_decimal(k) for k in kinds):
        return _wider_decimal(one, two)
    return None


def _wider_time(one: pa.DataType, two: pa.DataType) -> pa.DataType | None:
    is_timestamp, is_date = pa.types.is_timestamp, pa.types.is_date
    if is_timestamp(one) and is_timestamp(two) and one.tz == two.tz:
        return pa.timestamp("ns" if "ns" in (one.unit, two.unit) else "us", two.tz)
    for day, moment in ((one, two), (two, one)):
        if is_date(day) and is_timestamp(moment) and moment.tz is None:
            return moment
    return None


def _wider_integer(one: pa.DataType, two: pa.DataType) -> pa.DataType:
    if pa.types.is_signed_integer(one) == pa.types.is_signed_integer(two):
        return one if one.bit_width >= two.bit_width else two
    unsigned = one if pa.types.is_unsigned_integer(one) else two
    return pa.int64() if unsigned.bit_width < 64 else WIDE_INTEGER


def _wider_decimal(one: pa.DataType, two: pa.DataType) -> pa.DataType:
    scales = [k.scale if pa.types.is_decimal(k) else 0 for k in (one, two)]
    wholes = [k.precision - k.scale if pa.types.is_decimal(k) else 19 for k in (one, two)]
    precision = max(scales) + max(wholes)
    return pa.decimal128(precision, max(scales)) if precision <= 38 else pa.string()


def _all(mask: pa.Array) -> bool:
    return pc.all(mask).as_py() is not False


def _any(mask: pa.Array) -> bool:
    return bool(pc.any(mask).as_py())
