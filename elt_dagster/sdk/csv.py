"""Blocks of CSV text from a database become Arrow batches, column by column, without Python touching a value.

The text is what a server writes: an unquoted empty field is NULL, a quoted one the empty string, ``t`` and ``f`` are booleans, dates
and times are ISO, bytes are hexadecimal after ``\\x``, intervals are in PostgreSQL's verbose style (``1 year 2 mons -3 days 04:05:06.7``).

Decoding is optimistic: a block is parsed straight into its types, which costs the server and us nothing extra. Only when a block
does not fit (NaN in a numeric, ``infinity``, years before 1 or after 9999, the time 24:00:00) is it parsed as text, and what Arrow cannot hold
becomes NULL and is counted. From then on this decoder stays careful.
"""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.csv as pa_csv

from elt_dagster.errors import SourceError
from elt_dagster.model.compute import pc
from elt_dagster.model.types import JSON, UUID
from elt_dagster.sdk.calculator import calculator

INTERVAL = pa.month_day_nano_interval()
_INTERVAL_TEXT = (
    r"^(?:(?P<years>[+-]?\d+) years? ?)?(?:(?P<months>[+-]?\d+) mons? ?)?(?:(?P<days>[+-]?\d+) days? ?)?"
    r"(?:(?P<sign>[+-])?(?P<hours>\d{1,6}):(?P<minutes>\d\d):(?P<seconds>\d\d)(?:\.(?P<micros>\d{1,6}))?)?$"
)
_DATE = r"\d{4}-\d\d-\d\d"
_CLOCK = r"(?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d{1,6})?"


class CsvDecoder:
    """Turns CSV blocks of one query into record batches of ``schema``; ``what`` names the table in errors.

    ``check_utf8`` may be off when the server promises UTF-8. One decoder serves one stream of blocks and is not thread-safe.
    """

    def __init__(self, schema: pa.Schema, *, what: str, check_utf8: bool = False) -> None:
        self.schema = schema
        self.what = what
        self._names = [str(i) for i in range(len(schema))]
        self._straight = {n: _parsed_type(f.type) for n, f in zip(self._names, schema, strict=True)}
        self._check_utf8 = check_utf8
        self._careful = False

    def decode(self, block: bytes) -> tuple[pa.RecordBatch, int]:
        """The rows of ``block``, which ends at a row boundary, and how many values became NULL for want of a type that holds them.

        Raises SourceError, without any value in it, for text that does not fit the column's type at all.
        """
        if not self._careful:
            try:
                return self._finish(self._parse(block, self._straight))
            except pa.ArrowInvalid:
                self._careful = True
        return self._decode_carefully(block)

    def _decode_carefully(self, block: bytes) -> tuple[pa.RecordBatch, int]:
        as_text = {n: pa.string() if _pattern(t) else t for n, t in self._straight.items()}
        try:
            rows = self._parse(block, as_text)
        except pa.ArrowInvalid:
            raise self._refuse("a column") from None  # Arrow's own message shows the value
        lost, arrays = 0, []
        for name, field in zip(self._names, self.schema, strict=True):
            text = rows.column(name)
            pattern = _pattern(self._straight[name])
            if pattern is not None:
                text, missing = _only_matching(text, pattern)
                lost += missing
                try:
                    text = _from_text(text, self._straight[name])
                except pa.ArrowInvalid:
                    raise self._refuse(f"column {field.name!r}") from None
            arrays.append(text)
        batch, more = self._finish(pa.RecordBatch.from_arrays(arrays, names=self._names))
        return batch, lost + more

    def _parse(self, block: bytes, types: dict[str, pa.DataType]) -> pa.RecordBatch:
        table = pa_csv.read_csv(
            pa.BufferReader(block),
            read_options=pa_csv.ReadOptions(column_names=self._names, block_size=len(block) + 1),
            # a row with one NULL column is an empty line
            parse_options=pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            convert_options=pa_csv.ConvertOptions(
                column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False,
                true_values=["t"], false_values=["f"], check_utf8=self._check_utf8,
            ),
        )  # fmt: skip
        return table.combine_chunks().to_batches()[0]

    def _finish(self, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, int]:
        arrays = [_finished(a, f.type) for a, f in zip(rows.columns, self.schema, strict=True)]
        lost = sum(a.null_count - b.null_count for a, b in zip(arrays, rows.columns, strict=True))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema), lost

    def _refuse(self, where: str) -> SourceError:
        return SourceError(
            f"{self.what} holds a value in {where} that does not fit the column's type.",
            fix="Read the column as text, or exclude it with excluded_columns.",
        )


def _parsed_type(kind: pa.DataType) -> pa.DataType:
    """What the CSV parser makes of a column before `_finished`."""
    return pa.string() if kind in (JSON, UUID, INTERVAL) or pa.types.is_binary(kind) else kind


def _pattern(kind: pa.DataType) -> str | None:
    """What the text of a ``kind`` looks like when Arrow can hold the value; None for kinds whose text always fits."""
    t = pa.types
    if t.is_date(kind):
        return f"^{_DATE}$"
    if t.is_timestamp(kind):
        return rf"^{_DATE} {_CLOCK}(?:\+00)?$"
    if t.is_time(kind):
        return f"^{_CLOCK}$"
    return r"^-?\d+(?:\.\d+)?$" if t.is_decimal(kind) else None


def _only_matching(text: pa.Array, pattern: str) -> tuple[pa.Array, int]:
    """``text`` with NULL where it does not match, and how many values that were."""
    fits = pc.match_substring_regex(text, pattern)
    lost = int(pc.sum(pc.invert(fits)).as_py() or 0)
    return (pc.if_else(fits, text, pa.scalar(None, text.type)) if lost else text), lost


def _from_text(text: pa.Array, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_time(kind):
        return text.cast(kind)
    # Arrow casts no text to times, but text to timestamps and those to times
    return pc.binary_join_element_wise("1970-01-01", text, " ").cast(pa.timestamp("us")).cast(kind)


def _finished(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The parsed column as the canonical type."""
    if array.type == kind:
        return array
    finish: Callable[[pa.Array], pa.Array] = (
        _json if kind == JSON else _uuid if kind == UUID else interval_from_text if kind == INTERVAL else _bytes
    )
    return finish(array)


def _json(text: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(JSON, text)


def _bytes(text: pa.Array) -> pa.Array:
    return _unhexed(text, "unhex(column0[3:])")


def _uuid(text: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(UUID, _unhexed(text, "unhex(replace(column0, '-', ''))").cast(pa.binary(16)))


def _unhexed(text: pa.Array, expression: str) -> pa.Array:
    """Hexadecimal text as bytes. Arrow has no such function; DuckDB in memory does it vectorised."""
    with calculator() as connection:
        rows = connection.from_arrow(pa.table({"column0": text})).project(f"{expression} AS column0")
        table: pa.Table = rows.to_arrow_table()
    return _one_chunk(table.column(0)).cast(pa.binary())


def interval_from_text(text: pa.Array) -> pa.Array:
    """Intervals in PostgreSQL's verbose style as month, day, nanosecond; NULL for ``infinity`` and for beyond a million hours."""
    parts = pc.extract_regex(pc.replace_substring_regex(text, "^$", "00:00:00"), pattern=_INTERVAL_TEXT)

    def number(name: str, kind: pa.DataType) -> pa.Array:
        digits = pc.utf8_ltrim(pc.struct_field(parts, name), "+")
        return pc.if_else(pc.equal(digits, ""), "0", digits).cast(kind)

    long = pa.int64()
    months = pc.add(pc.multiply(number("years", long), 12), number("months", long)).cast(pa.int32())
    days = number("days", long).cast(pa.int32())
    seconds = pc.add(
        pc.multiply(number("hours", long), 3600),
        pc.add(pc.multiply(number("minutes", long), 60), number("seconds", long)),
    )
    fraction = pc.utf8_rpad(pc.struct_field(parts, "micros"), 9, "0")
    nanos = pc.add_checked(pc.multiply_checked(seconds, 1_000_000_000), fraction.cast(long))
    nanos = pc.if_else(pc.equal(pc.struct_field(parts, "sign"), "-"), pc.negate(nanos), nanos)
    return _packed_intervals(months, days, nanos)


def _packed_intervals(months: pa.Array, days: pa.Array, nanos: pa.Array) -> pa.Array:
    """Three columns as one: the 16 bytes of an Arrow interval are the three numbers side by side."""
    sixteen = pc.binary_join_element_wise(
        *(_raw(pc.fill_null(a, 0), width) for a, width in ((months, 4), (days, 4), (nanos, 8))), b""
    )
    valid = pc.is_valid(months)
    data = sixteen.cast(pa.binary(16)).buffers()[1]
    return pa.Array.from_buffers(INTERVAL, len(months), [valid.buffers()[1], data], offset=0)


def _raw(numbers: pa.Array, width: int) -> pa.Array:
    return numbers.view(pa.binary(width)).cast(pa.binary())


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
