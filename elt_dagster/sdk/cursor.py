"""Incremental reading: how a cursor is asked for, filtered by, and turned into checkpoints. Pure functions over values and batches."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa

from elt_dagster.errors import ConfigError, SourceError
from elt_dagster.model import CursorValue
from elt_dagster.model.compute import pc
from elt_dagster.sdk.pages import Call, Into

Order = Literal["asc", "desc", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """A column that only grows, and how the source filters on it.

    Without ``start_param`` the source cannot filter: everything is asked for and older rows are dropped here (``client_filter``).
    ``order`` is what the source promises about its lists; only ``asc`` allows checkpoints before the end, only ``desc`` stopping early.
    """

    field: str
    start_param: str | None = None
    end_param: str | None = None
    into: Into = Into.QUERY
    format: str = "auto"
    """``auto`` (ISO 8601 for times, the value itself for others), ``date``, ``epoch``, ``epoch_ms``, or a strftime pattern."""
    order: Order = "none"
    client_filter: bool = False
    exclusive: bool = False
    """The source answers only with later values (``>``); one second, or one, less is asked for."""
    lookback_seconds: int = 0
    initial: CursorValue | None = None
    """Where the very first read begins; None means everything."""

    @property
    def filters_here(self) -> bool:
        """Whether rows before the start must be dropped by us."""
        return self.client_filter or self.start_param is None


def asked(call: Call, cursor: Cursor, start: CursorValue | None, end: CursorValue | None) -> Call:
    """``call`` limited to ``[start, end)`` as well as the source can; it may answer with more, never with less."""
    if start is not None and cursor.start_param:
        first = stepped_back(start, cursor) if cursor.exclusive else start
        call = call.put(cursor.into, cursor.start_param, sent(first, cursor.format, cursor.into))
    if end is not None and cursor.end_param:
        call = call.put(
            cursor.into, cursor.end_param, sent(_rounded_up(end, cursor.format), cursor.format, cursor.into)
        )
    return call


def sent(value: CursorValue, form: str, into: Into = Into.QUERY) -> str | int:
    """``value`` in the words of the source. Numbers stay numbers in a body."""
    text = rendered(value, form)
    is_number = isinstance(value, int) or form in ("epoch", "epoch_ms")
    return int(text) if into is Into.BODY and is_number and text.lstrip("-").isdigit() else text


def rendered(value: CursorValue, form: str) -> str:
    """``value`` as text in the format ``form`` (see `Cursor.format`), rounded down. Times without zone are taken as they are."""
    if not isinstance(value, date):
        return str(value)
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day, tzinfo=UTC)
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    if form == "auto":
        return value.isoformat() if not isinstance(value, datetime) else moment.isoformat().replace("+00:00", "Z")
    if form == "date":
        return moment.date().isoformat()
    if form in ("epoch", "epoch_ms"):
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        whole = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        return str(whole if form == "epoch_ms" else whole // 1000)
    return moment.strftime(form)


def _rounded_up(value: CursorValue, form: str) -> CursorValue:
    """``value`` moved so far that rounding it down in ``form`` cuts nothing off."""
    if not isinstance(value, datetime) or form == "auto":
        return value
    if form == "date":
        return value if value.time() == datetime.min.time() else value + timedelta(days=1)
    return value + (
        timedelta(milliseconds=1) if form == "epoch_ms" else timedelta(seconds=1) if value.microsecond else timedelta()
    )


def parse_cursor(text: str) -> CursorValue:
    """``text`` as an ISO date or time, a whole number, or itself."""
    for parse in (date.fromisoformat, datetime.fromisoformat, int):
        try:
            value: CursorValue = parse(text)
        except ValueError:
            continue
        return value
    return text


def stepped_back(value: CursorValue, cursor: Cursor) -> CursorValue:
    """The largest value before ``value`` that the source can be asked for. Raises ConfigError for text, which has no such value."""
    if isinstance(value, datetime):
        return value - (timedelta(days=1) if cursor.format == "date" else timedelta(seconds=1))
    if isinstance(value, date):
        return value - timedelta(days=1)
    if isinstance(value, int | Decimal):
        return value - 1
    raise ConfigError(f"The cursor {cursor.field!r} is text, so exclusive cannot be used.", fix="Remove exclusive.")


def back(value: CursorValue | None, seconds: float, form: str) -> CursorValue | None:
    """``value`` moved ``seconds`` into the past; values that are not points in time stay."""
    if value is None or not seconds:
        return value
    if isinstance(value, datetime):
        return value - timedelta(seconds=seconds)
    if isinstance(value, date):
        return value - timedelta(days=-(-seconds // 86400))
    if isinstance(value, int) and form in ("epoch", "epoch_ms"):
        return value - int(seconds * (1000 if form == "epoch_ms" else 1))
    return value


def bound(value: CursorValue, kind: pa.DataType, cursor: Cursor) -> pa.Scalar:
    """``value`` as a scalar that can be compared with a column of type ``kind``.

    A point in time becomes a number where the column holds epochs, and text where it holds text. Raises SourceError when the two
    have nothing to do with each other, as after the source changed the type of its cursor.
    """
    t, plain = pa.types, value
    if isinstance(value, date) and (t.is_integer(kind) or t.is_floating(kind)):
        plain = int(rendered(value, cursor.format if cursor.format in ("epoch", "epoch_ms") else "epoch"))
    elif isinstance(value, date) and t.is_string(kind):
        plain = rendered(value, cursor.format if cursor.format not in ("epoch", "epoch_ms") else "auto")
    elif isinstance(value, datetime) and t.is_date(kind):
        plain = (value.astimezone(UTC) if value.tzinfo else value).date()
    elif isinstance(value, date) and t.is_timestamp(kind):
        moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
        plain = _zoned(moment, kind.tz is not None)
    try:
        if isinstance(plain, str) != bool(t.is_string(kind)):
            raise TypeError
        return pa.scalar(plain, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError):
        raise SourceError(
            f"The cursor {cursor.field!r} is now {kind}, and the checkpoint is a {type(value).__name__}.",
            fix="The source changed its type: read the stream in full once.",
        ) from None


def _zoned(value: datetime, aware: bool) -> datetime:
    if aware:
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value


def within(column: pa.Array, cursor: Cursor, start: CursorValue | None, end: CursorValue | None) -> pa.Array | None:
    """A mask of the rows in ``[start, end)``; rows without a value are not. None when there is no limit."""
    tests: list[Any] = []
    if start is not None:
        tests.append(pc.greater_equal(column, bound(start, column.type, cursor)))
    if end is not None:
        tests.append(pc.less(column, bound(end, column.type, cursor)))
    if not tests:
        return None
    return pc.fill_null(tests[0] if len(tests) == 1 else pc.and_(*tests), False)


def ascends(column: pa.Array, after: CursorValue | None, cursor: Cursor) -> bool:
    """Whether ``column`` is sorted and starts at ``after`` or later; rows without a value do not count."""
    known = column.drop_null()
    if len(known) == 0:
        return True
    if after is not None and pc.less(known[0], bound(after, known.type, cursor)).as_py():
        return False
    return bool(pc.all(pc.less_equal(known.slice(0, len(known) - 1), known.slice(1))).as_py() in (True, None))


def ends_before(column: pa.Array, start: CursorValue, cursor: Cursor) -> bool:
    """Whether the last row of a descending list is older than ``start``."""
    known = column.drop_null()
    return len(known) > 0 and bool(pc.less(known[len(known) - 1], bound(start, known.type, cursor)).as_py())


def capped(high: CursorValue | None, moment: datetime) -> CursorValue | None:
    """``high``, but not past ``moment`` when it is a point in time.

    In a list without order a row may change after its page was read, and only rows changed before the first request are sure to be in.
    """
    if isinstance(high, datetime):
        limit = _zoned(moment, high.tzinfo is not None)
        return min(high, limit)
    return min(high, moment.astimezone(UTC).date()) if isinstance(high, date) else high
