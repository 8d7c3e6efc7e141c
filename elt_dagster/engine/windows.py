"""Windows of a stream's history: which streams have them, which rows of a table are one. Pure.

A window has a state row of its own, under the binding's id and the window's start: windows load side by side, each with its lease and its fence,
and none touches the checkpoint of the incremental cursor.
"""

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from elt_dagster.destinations.base import RowRange
from elt_dagster.destinations.plans import part_of_binding
from elt_dagster.engine.binding import ResolvedBinding
from elt_dagster.errors import ConfigError
from elt_dagster.model import LoadMode, Slicing, SyncSpec, Window
from elt_dagster.model.types import type_name


def slicing_of(sync: SyncSpec, resolved: ResolvedBinding) -> Slicing | None:
    """How a stream is cut into windows, None when it is loaded whole. Raises ConfigError where it insists (``sliced``) and cannot be."""
    slicing = sync.slicing_of(resolved.binding)
    if slicing is None:
        return None
    try:
        kind = _kind(resolved, window_field(resolved))
        if kind is not None and pa.types.is_date(kind) and slicing.window.endswith("h"):
            raise ConfigError(
                f"stream {resolved.stream.name!r}: its cursor is a date, so no window can be shorter than a day.",
                fix="Set slicing.window to 1d or more.",
            )
    except ConfigError:
        if resolved.binding.sliced:
            raise
        return None
    return slicing


def window_field(resolved: ResolvedBinding) -> str:
    """The source column that tells a row's window. Raises ConfigError where there is none, or it is no time."""
    name = resolved.binding.cursor_field or resolved.stream.cursor_field
    where = f"stream {resolved.stream.name!r}"
    if name is None or name in resolved.binding.excluded_columns:
        raise ConfigError(f"{where} has no cursor, so it cannot be loaded in windows.", fix="Set cursor_field.")
    kind = _kind(resolved, name)
    if kind is not None and not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise ConfigError(
            f"{where} cannot be loaded in windows: its cursor {name!r} is {type_name(kind)}, not a time.",
            fix="Set cursor_field to a date or timestamp column.",
        )
    return name


def window_binding_id(binding_id: str, window: Window) -> str:
    """Under which id a window keeps its lease and its state."""
    return part_of_binding(binding_id, window.start.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ"))


def row_range(resolved: ResolvedBinding, window: Window, column: str) -> RowRange:
    """The rows of a table that are ``window``; ``column`` is the warehouse's name. Bounds have the column's own kind of time."""
    kind = _kind(resolved, window_field(resolved))
    return RowRange(column, bound(window.start, kind), bound(window.end, kind))


def replaces_rows(resolved: ResolvedBinding) -> bool:
    """Whether a window's load first removes the rows it had. A merge need not, unless rows that are gone are to be found."""
    return resolved.load_mode is not LoadMode.MERGE or resolved.binding.deletes is not None


def _kind(resolved: ResolvedBinding, name: str) -> pa.DataType | None:
    schema = resolved.stream.schema
    return schema.field(name).type if schema is not None and name in schema.names else None


def bound(at: datetime, kind: Any) -> datetime | date:
    """``at`` (aware) as a value that a column of type ``kind`` can be compared with."""
    if kind is not None and pa.types.is_date(kind):
        return at.date()  # a date knows no zone: the day is the one that the window's own zone calls so
    aware = at.astimezone(UTC)
    return aware.replace(tzinfo=None) if kind is not None and pa.types.is_timestamp(kind) and kind.tz is None else aware
