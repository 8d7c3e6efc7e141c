"""Rows in flight, and the position they were read at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from elt_dagster.errors import ContractError
from elt_dagster.model.stream import Stream
from elt_dagster.model.words import SyncMode

CursorValue = int | float | str | Decimal | date | datetime
MAX_EXTRA_BYTES = 256 * 1024
ESTIMATED_ROWS = "estimated_rows"
"""Among the counts of the first batch of a read of everything: about how many rows there are, where the source tells without counting them."""

_TO_TEXT = {int: "int", float: "float", str: "str", Decimal: "decimal", datetime: "datetime", date: "date"}
_FROM_TEXT: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "decimal": Decimal,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A position to resume from: reading on from here, inclusive, misses nothing.

    ``cursor`` is the largest value of the cursor column whose rows are all out. Naive datetimes stay naive; aware ones are UTC.
    ``extra`` is plain JSON for what one value cannot say (a manifest of recent files, one cursor per parent): at most 256 KiB.
    """

    cursor: CursorValue | None = None
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> dict[str, Any]:
        """Plain data for the state table; exact for every cursor type."""
        import json

        data: dict[str, Any] = {"extra": dict(self.extra)}
        if self.cursor is not None:
            kind = _TO_TEXT.get(type(self.cursor))
            if kind is None:
                raise ContractError(f"A cursor of type {type(self.cursor).__name__} cannot be a checkpoint.")
            data["cursor"] = {"type": kind, "value": cursor_text(self.cursor)}
        if len(json.dumps(data)) > MAX_EXTRA_BYTES:
            raise ContractError(f"A checkpoint holds more than {MAX_EXTRA_BYTES} bytes; keep only what is recent.")
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Checkpoint":
        """A checkpoint from what `to_json` gave."""
        cursor = data.get("cursor")
        value = _FROM_TEXT[cursor["type"]](cursor["value"]) if cursor else None
        return cls(value, data.get("extra") or {})


def cursor_text(value: CursorValue) -> str:
    """The text form of a cursor value, for people and for the state table."""
    if isinstance(value, datetime):
        return (value.astimezone(UTC) if value.tzinfo else value).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return repr(value) if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open span ``[start, end)`` of the cursor: one partition of a stream's history."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """One stream to read: which columns, from where on, in batches of what size.

    ``columns`` are the names to read, in order; None reads all. A connector must not even ask the source for the others of the stream's
    schema, where the source allows it. What a source has got since (no column of that schema) comes after them, and what it has lost is
    left out, unless it is a key or cursor: schema drift is for the load to judge. ``since`` is None on a first or full read. ``cursor_field`` is None when the read is not incremental.
    """

    stream: Stream
    mode: SyncMode = SyncMode.FULL_REFRESH
    columns: tuple[str, ...] | None = None
    cursor_field: str | None = None
    since: Checkpoint | None = None
    window: Window | None = None
    lookback_seconds: int = 0
    """Read again this far before the checkpoint; only for cursors that are points in time."""
    batch_bytes: int = 16 * 1024 * 1024
    at_most: int | None = None
    """A preview wants about so many rows: nothing beyond them need be prepared. More may come."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The sync's own settings for this connector (`Connector.settings_schema`)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one stream, with canonical types and the source's column names.

    ``checkpoint`` may be saved once these rows, and all before them, are stored. ``counts`` are additions to the run's counters, such as
    ``{"null_cursor_rows": 3}`` or ``{"non_finite_values": 1}``: what was changed or left out, so that nothing is silent.
    """

    data: pa.RecordBatch
    checkpoint: Checkpoint | None = None
    counts: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Whether the other side can be reached with this configuration, in words for a person."""

    ok: bool
    message: str
