"""Arrow batches as PostgreSQL's binary COPY format, column by column: Python never touches a value.

Every value becomes a length and its bytes in network order; `binary_join_element_wise` puts the columns of a row side by side. Binary
needs no escapes, so that empty text and NULL, bytes, JSON and quotes hold no traps, and the server takes it more than twice as fast as CSV.
https://www.postgresql.org/docs/current/sql-copy.html (File Formats), and the ``*_recv`` functions of the server for each type.
"""

import sys
from array import array
from functools import cache
from typing import Any

import pyarrow as pa

from elt_dagster.destinations._postgres_types import representable
from elt_dagster.model.compute import pc
from elt_dagster.model.types import JSON, UUID

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
_NULL = pa.scalar(b"\xff\xff\xff\xff", pa.binary())
_NOTHING = pa.scalar(b"", pa.binary())
_EPOCH_DAYS, _EPOCH_MICROS = 10_957, 946_684_800_000_000  # 2000-01-01, PostgreSQL's day zero
_CODES = {2: "h", 4: "i", 8: "q"}
_CHUNK_DIGITS = 16  # four groups of four digits, which is how a numeric travels, in one 64-bit word
_INT64_DIGITS = 18

Piece = Any  # a pyarrow Array, or a Scalar that is the same in every row


def encoded(batch: pa.RecordBatch) -> memoryview:
    """The rows of ``batch`` (canonical types, no null columns) as COPY tuples, without header and trailer.

    Keep batches small: the result must stay below 2 GiB. Raises pyarrow.ArrowInvalid for a date or time that overflows.
    """
    pieces: list[Piece] = [_constant(len(batch.schema).to_bytes(2, "big"))]
    for column in batch.columns:
        pieces += _column(column)
    rows = pc.binary_join_element_wise(*_joined(pieces), _NOTHING)
    return memoryview(rows.buffers()[2])


def _column(column: pa.Array) -> list[Piece]:
    """Length and value of every row, or a length of -1 for NULL."""
    pieces = _value(column)
    if not column.null_count:
        return pieces
    valid = pc.is_valid(column)
    marked = pc.if_else(valid, _NOTHING, pa.scalar(None, pa.binary()))  # one NULL piece makes the whole row's join NULL
    whole = pc.binary_join_element_wise(*_joined(pieces), marked, _NOTHING)
    return [pc.fill_null(whole, _NULL)]


def _value(column: pa.Array) -> list[Piece]:
    t, kind = pa.types, representable(column.type)
    if t.is_decimal(kind):
        return _numeric(column.cast(kind), kind)
    if kind == JSON:
        return _text(column.storage, version=b"\x01")
    if kind == UUID:
        return [_length(16), column.storage.cast(pa.binary())]
    if t.is_string(kind) or t.is_binary(kind):
        return _text(column)
    if t.is_interval(kind):
        return _interval(column)
    return _fixed(_numbers(column, kind))


def _numbers(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The column as the integers (or floats) of the server's own width and origin."""
    t = pa.types
    if t.is_boolean(kind):
        return column.cast(pa.int8())
    if t.is_date(kind):
        return pc.subtract_checked(column.view(pa.int32()), pa.scalar(_EPOCH_DAYS, pa.int32()))
    if t.is_timestamp(kind):
        micros = column.cast(kind, safe=False).view(pa.int64())
        return pc.subtract_checked(micros, pa.scalar(_EPOCH_MICROS, pa.int64()))
    return column.view(pa.int64()) if t.is_time(kind) else column.cast(kind)


def _fixed(numbers: pa.Array) -> list[Piece]:
    width = numbers.type.bit_width // 8
    return [_length(width), _network_order(numbers, width)]


def _text(column: pa.Array, version: bytes = b"") -> list[Piece]:
    data = column.cast(pa.binary())
    lengths = pc.fill_null(pc.binary_length(data), 0)
    if version:
        lengths = pc.add(lengths, pa.scalar(len(version), pa.int32()))
    return [_network_order(lengths, 4), *([_constant(version)] if version else []), pc.fill_null(data, b"")]


def _interval(column: pa.Array) -> list[Piece]:
    """Microseconds, days, months; Arrow keeps months, days (32 bits each) and nanoseconds (64) side by side."""
    rows, start, data = len(column), column.offset, column.buffers()[1]
    halves, wholes = array("i"), array("q")
    if data is not None:
        view = memoryview(data)[16 * start : 16 * (start + rows)]
        halves.frombytes(view)
        wholes.frombytes(view)
    nanos = pa.Array.from_buffers(pa.int64(), rows, [None, pa.py_buffer(wholes[1::2])])
    micros = pc.divide(nanos, pa.scalar(1_000, pa.int64()))
    days, months = (pa.Array.from_buffers(pa.int32(), rows, [None, pa.py_buffer(halves[i::4])]) for i in (1, 0))
    return [_length(16), _network_order(micros, 8), _network_order(days, 4), _network_order(months, 4)]


# --- numeric: count of base-10000 digits, weight of the first, sign, scale, then the digits, 16 bits each ------------------


def _numeric(column: pa.Array, kind: pa.DataType) -> list[Piece]:
    """Zeros in front and behind are allowed, and so every value of a column gets the same number of digits."""
    whole, fraction = _chunk_count(kind.precision - kind.scale), _chunk_count(kind.scale)
    if kind.precision <= _INT64_DIGITS:
        negative, words = _words_of_int64(column, kind, whole, fraction)
    else:
        negative, words = _words_of_text(column, kind, whole, fraction)
    digits = 4 * (whole + fraction)
    front = (
        _length(8 + 2 * digits).as_py() + digits.to_bytes(2, "big") + (4 * whole - 1).to_bytes(2, "big", signed=True)
    )
    plus, minus = (front + sign + kind.scale.to_bytes(2, "big") for sign in (b"\0\0", b"\x40\0"))
    has_negative = pc.any(negative).as_py()
    first = pc.if_else(pc.fill_null(negative, False), _constant(minus), _constant(plus))
    return [first if has_negative else _constant(plus), *(_network_order(w, 8) for w in words)]


def _chunk_count(digits: int) -> int:
    return -(-digits // _CHUNK_DIGITS)


def _words_of_int64(column: pa.Array, kind: pa.DataType, whole: int, fraction: int) -> tuple[pa.Array, list[pa.Array]]:
    """Sign and 64-bit words of values that fit into 64 bits: the lower half of each decimal is the value."""
    values = array("q")
    values.frombytes(memoryview(column.buffers()[1])[16 * column.offset : 16 * (column.offset + len(column))])
    low = slice(0, None, 2) if sys.byteorder == "little" else slice(1, None, 2)
    unscaled = pa.Array.from_buffers(pa.int64(), len(column), [_valid(column), pa.py_buffer(values[low])])
    unscaled = pc.fill_null(unscaled, 0)  # what lies under a NULL may be anything
    rest = pc.abs(unscaled)
    words: list[pa.Array] = []
    if whole:
        above = _quotient(rest, 10**kind.scale) if kind.scale else rest
        rest = _remainder(rest, above, 10**kind.scale)
        words += _chunks(above, whole, kind.precision - kind.scale)
    if fraction:
        pad = fraction * _CHUNK_DIGITS - kind.scale
        if fraction == 1:
            words.append(_packed(rest, kind.scale, pad))
        else:  # 17 or 18 places: the first 16, then what is left
            above = _quotient(rest, 10 ** (kind.scale - _CHUNK_DIGITS))
            left = _remainder(rest, above, 10 ** (kind.scale - _CHUNK_DIGITS))
            words += [_packed(above, _CHUNK_DIGITS, 0), _packed(left, _CHUNK_DIGITS - pad, pad)]
    return pc.less(unscaled, 0), words


def _words_of_text(column: pa.Array, kind: pa.DataType, whole: int, fraction: int) -> tuple[pa.Array, list[pa.Array]]:
    """Sign and 64-bit words through the decimal text, for values of more than 18 digits."""
    buffers = [_valid(column), _slice(column, 16)]
    integers = pa.Array.from_buffers(
        pa.decimal128(38, 0), len(column), buffers
    )  # the text of a small fraction has exponents
    text = pc.fill_null(integers.cast(pa.string()), "0")
    digits = pc.utf8_lpad(pc.utf8_ltrim(text, "-"), whole * _CHUNK_DIGITS + kind.scale, "0")
    digits = pc.utf8_rpad(digits, (whole + fraction) * _CHUNK_DIGITS, "0")
    starts = range(0, (whole + fraction) * _CHUNK_DIGITS, _CHUNK_DIGITS)
    chunks = [pc.utf8_slice_codeunits(digits, at, at + _CHUNK_DIGITS).cast(pa.int64()) for at in starts]
    return pc.starts_with(text, "-"), [_packed(chunk, _CHUNK_DIGITS, 0) for chunk in chunks]


def _chunks(values: pa.Array, count: int, digits: int) -> list[pa.Array]:
    if count == 1:
        return [_packed(values, digits, 0)]
    above = _quotient(values, 10**_CHUNK_DIGITS)
    below = _remainder(values, above, 10**_CHUNK_DIGITS)
    return [_packed(above, digits - _CHUNK_DIGITS, 0), _packed(below, _CHUNK_DIGITS, 0)]


def _packed(values: pa.Array, digits: int, zeros: int) -> pa.Array:
    """Values of at most ``digits`` digits, followed by ``zeros`` zeros (16 in all at most), as four base-10000 digits in a word."""
    shift = zeros // 4
    values = _times(values, 10 ** (zeros % 4))
    groups = -(-(digits + zeros % 4) // 4)
    word: pa.Array | None = None
    for position in range(groups - 1, -1, -1):  # from the largest; each group goes 16 bits above the next
        above = _quotient(values, 10_000**position) if position else values
        values = _remainder(values, above, 10_000**position) if position else values
        placed = pc.shift_left(above, pa.scalar(16 * (position + shift), pa.int64()))
        word = placed if word is None else pc.bit_wise_or(word, placed)
    return values if word is None else word


def _quotient(values: pa.Array, by: int) -> pa.Array:
    return pc.divide(values, pa.scalar(by, pa.int64()))


def _remainder(values: pa.Array, quotient: pa.Array, by: int) -> pa.Array:
    return pc.subtract(values, _times(quotient, by))


def _times(values: pa.Array, by: int) -> pa.Array:
    return pc.multiply(values, pa.scalar(by, pa.int64())) if by != 1 else values


# --- bytes -------------------------------------------------------------------------------------------------------------


def _network_order(numbers: pa.Array, width: int) -> pa.Array:
    """The numbers' bytes, highest first, as a binary array without NULLs."""
    data = _slice(numbers, width)
    if width > 1 and sys.byteorder == "little":
        swapped = array(_CODES[width])
        swapped.frombytes(memoryview(data))
        swapped.byteswap()
        data = pa.py_buffer(swapped)
    return pa.Array.from_buffers(pa.binary(), len(numbers), [None, _offsets(len(numbers), width), data])


def _slice(column: pa.Array, width: int) -> pa.Buffer:
    """The values of a column of fixed width, without what lies before and behind a slice."""
    data = column.buffers()[1]
    if data is None:
        return pa.py_buffer(bytes(width * len(column)))
    return data.slice(width * column.offset, width * len(column))


def _valid(column: pa.Array) -> pa.Buffer | None:
    return pc.is_valid(column).buffers()[1] if column.null_count else None


@cache
def _regular_offsets(rows: int, width: int) -> pa.Buffer:
    return pa.py_buffer(array("i", range(0, width * (rows + 1), width)))


def _offsets(rows: int, width: int) -> pa.Buffer:
    """0, width, 2 * width, ...; made for a power of two of rows, so that there are few of them to keep."""
    return _regular_offsets(1 << max(rows, 1).bit_length(), width)


def _length(value: int) -> pa.Scalar:
    return _constant(value.to_bytes(4, "big"))


def _constant(value: bytes) -> pa.Scalar:
    return pa.scalar(value, pa.binary())


def _joined(pieces: list[Piece]) -> list[Piece]:
    """``pieces`` with neighbouring constants made one."""
    out: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, pa.Scalar) and out and isinstance(out[-1], pa.Scalar):
            out[-1] = _constant(out[-1].as_py() + piece.as_py())
        else:
            out.append(piece)
    return out
