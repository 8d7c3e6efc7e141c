"""Where an incremental read of a REST API stands: its limits, the rows within them, and what may be saved when."""

import logging
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from elt_dagster.errors import ConfigError
from elt_dagster.model import Checkpoint, CursorValue, ReadRequest
from elt_dagster.model.types import is_orderable, type_name
from elt_dagster.sdk.arrow import highest
from elt_dagster.sdk.cursor import Cursor, ascends, back, bound, capped, ends_before, within
from elt_dagster.sdk.endpoint import Endpoint


@dataclass(slots=True)
class Position:
    """Where the incremental read of ``where`` stands."""

    where: str
    cursor: Cursor
    start: CursorValue | None
    end: CursorValue | None
    since: CursorValue | None
    ordered: bool
    saves: bool
    high: CursorValue | None = None
    """The highest value so far, never below ``since``."""
    latest: CursorValue | None = None
    """The highest value of this read."""
    rows: int = 0
    done: bool = False
    last: pa.RecordBatch | None = None
    saved: bool = False

    @classmethod
    def of(cls, endpoint: Endpoint, request: ReadRequest, where: str) -> "Position | None":
        """The limits of a read; None when it has none and saves nothing. Raises ConfigError for a window without a cursor."""
        own = endpoint.cursor
        name = request.cursor_field or (own.field if own and request.window else None)
        if name is None:
            if request.window:
                raise ConfigError(f"{where} has no cursor, so it cannot be read in windows.", fix="Declare a cursor.")
            return None
        cursor = own if own and own.field == name else Cursor(field=name, client_filter=True)
        if request.window:
            return cls(where, cursor, request.window.start, request.window.end, None, ordered=False, saves=False)
        since = request.since.cursor if request.since else None
        start = back(since, request.lookback_seconds + cursor.lookback_seconds, cursor.format)
        ordered = cursor.order == "asc" and endpoint.parent is None
        return cls(
            where, cursor, cursor.initial if start is None else start, None, since, ordered, saves=True, high=since
        )

    def advance(self, data: pa.RecordBatch, counts: Counter[str], log: logging.Logger) -> pa.RecordBatch:
        """The rows within the limits; moves over them. Raises ConfigError when they have no such cursor."""
        cursor, column = self.cursor, self._column(data)
        counts["null_cursor_rows"] += column.null_count
        if pa.types.is_null(column.type):
            self.rows += data.num_rows
            return data
        if cursor.order == "desc" and self.start is not None:
            self.done = ends_before(column, self.start, cursor)
        here = cursor.filters_here or self.end is not None
        mask = within(column, cursor, self.start if here else None, self.end)
        data = data if mask is None else data.filter(mask)
        if self.high is not None:
            self.high = bound(self.high, column.type, cursor).as_py()
        if self.ordered and not ascends(data.column(cursor.field), self.latest, cursor):
            self.ordered = False
            log.warning("%s is not sorted by %s as declared; it is saved at the end only.", self.where, cursor.field)
        self.high = highest(data, cursor.field, self.high)
        self.latest = highest(data, cursor.field, self.latest)
        self.rows += data.num_rows
        return data

    def _column(self, data: pa.RecordBatch) -> pa.Array:
        cursor = self.cursor
        if cursor.field not in data.schema.names:
            raise ConfigError(
                f"{self.where}: there is no column {cursor.field!r} to be the cursor.", fix="Choose another."
            )
        column = data.column(cursor.field)
        if not (is_orderable(column.type) or pa.types.is_null(column.type)):
            raise ConfigError(
                f"{self.where}: the cursor {cursor.field!r} is {type_name(column.type)}, which cannot be ordered.",
                fix="Choose a column with numbers, dates, times or text.",
            )
        return column

    def final(self, now: datetime) -> tuple[pa.RecordBatch, Checkpoint] | None:
        """The checkpoint of a list without order, once everything is out, for a batch without rows; ``now`` is when the source answered first."""
        if not self.saves or self.last is None or self.high is None or (self.ordered and self.saved):
            return None
        high = capped(self.high, now)
        if self.since is not None and high is not None:
            high = max(high, bound(self.since, pa.scalar(high).type, self.cursor).as_py())
        return self.last, Checkpoint(high)


def limits_of(position: Position | None) -> tuple[Cursor, CursorValue | None, CursorValue | None] | None:
    """The cursor and from where to where it is read."""
    return (position.cursor, position.start, position.end) if position else None


def selected(data: pa.RecordBatch, request: ReadRequest) -> pa.RecordBatch:
    """``data`` in the order of the request, then what drifted in; the columns of the schema that were not asked for are left out."""
    schema = request.stream.schema
    known = list(schema.names) if schema is not None else []
    first = list(request.columns) if request.columns is not None else known
    names = [n for n in first if n in data.schema.names]
    if request.columns is None or schema is not None:
        names += [n for n in data.schema.names if n not in known and n not in names]
    return data if names == data.schema.names else data.select(names)
