"""What a binding means once its stream is known: defaults filled in, every name checked. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from elt_dagster.errors import ConfigError, NotFoundError, nearest
from elt_dagster.model import DeleteMode, LoadMode, Stream, TableBinding
from elt_dagster.model.names import check_collisions
from elt_dagster.model.types import is_orderable, type_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedBinding:
    """A `TableBinding` with its stream's facts: nothing in it is None for want of a default.

    ``schema`` has the source's names of the columns that will be read, or None when only reading can tell. ``names`` maps them to the
    warehouse's. ``primary_key``, ``cursor_field`` and ``deleted_field`` are source names.
    """

    binding: TableBinding
    stream: Stream
    load_mode: LoadMode
    primary_key: tuple[str, ...]
    cursor_field: str | None
    deleted_field: str | None
    schema: pa.Schema | None
    names: dict[str, str]


def resolve_binding(binding: TableBinding, stream: Stream) -> ResolvedBinding:
    """``binding`` against ``stream``. Raises ConfigError (or NotFoundError for a column) that names the field, value and remedy."""
    excluded = set(binding.excluded_columns)
    mode, primary_key, cursor = defaults(binding, stream)
    where = f"stream {stream.name!r}"
    for _, error in unknown_columns(binding, stream):
        raise error
    if stream.schema is not None and cursor is not None:
        _check_cursor(cursor, stream.schema, stream, where)
    _check_keeping(binding, mode, primary_key, where)
    if mode is LoadMode.MERGE and not primary_key:
        raise ConfigError(
            f"{where}: load_mode merge needs a primary key, and the source names none.",
            fix="Set primary_key to the columns that identify a row, or use load_mode append or replace.",
        )
    schema = None
    if stream.schema is not None:
        schema = pa.schema([f for f in stream.schema if f.name not in excluded])
        if not len(schema):
            raise ConfigError(f"{where}: every column is excluded.", fix="Leave at least one column in.")
    return ResolvedBinding(
        binding=binding,
        stream=stream,
        load_mode=mode,
        primary_key=primary_key,
        cursor_field=cursor,
        deleted_field=_deleted_field(binding, stream, mode),
        schema=schema,
        names=check_collisions(schema.names, what=where) if schema is not None else {},
    )


def defaults(binding: TableBinding, stream: Stream) -> tuple[LoadMode, tuple[str, ...], str | None]:
    """Load mode, primary key and cursor of ``binding`` with the source's own filled in; nothing is checked."""
    primary_key = binding.primary_key
    if primary_key is None:
        primary_key = () if set(binding.excluded_columns) & set(stream.primary_key) else stream.primary_key
    cursor = _cursor(binding, stream)
    mode = binding.load_mode or _default_mode(binding, primary_key, cursor)
    if mode is LoadMode.REPLACE and binding.cursor_field is None:
        cursor = None
    return mode, primary_key, cursor


def _deleted_field(binding: TableBinding, stream: Stream, mode: LoadMode) -> str | None:
    if mode is LoadMode.APPEND:
        return None  # every row is kept as it comes
    if binding.deleted_field is not None:
        return binding.deleted_field
    return None if stream.deleted_field in binding.excluded_columns else stream.deleted_field


def _check_keeping(binding: TableBinding, mode: LoadMode, primary_key: tuple[str, ...], where: str) -> None:
    kept = binding.deletes in (DeleteMode.SOFT, DeleteMode.IGNORE)
    what = "enabled_history_table" if binding.enabled_history_table else f"deletes {binding.deletes}" if kept else ""
    if what and mode is LoadMode.APPEND:
        raise ConfigError(
            f"{where}: {what} does not go with load_mode append.", fix="Set load_mode to merge or replace."
        )
    if what and not primary_key:
        raise ConfigError(
            f"{where}: {what} needs a primary key, and the source names none.",
            fix="Set primary_key to the columns that identify a row.",
        )


def _default_mode(binding: TableBinding, primary_key: tuple[str, ...], cursor: str | None) -> LoadMode:
    if cursor and primary_key:
        return LoadMode.MERGE
    return LoadMode.APPEND if binding.cursor_field else LoadMode.REPLACE


def _cursor(binding: TableBinding, stream: Stream) -> str | None:
    if binding.cursor_field is not None:
        return binding.cursor_field
    return None if stream.cursor_field in binding.excluded_columns else stream.cursor_field


def unknown_columns(binding: TableBinding, stream: Stream) -> Iterator[tuple[tuple[str | int, ...], NotFoundError]]:
    """Every column that ``binding``, or the source's own key, names and the source does not have: where in the binding, and what to say.

    Nothing for a stream whose columns only reading can tell.
    """
    excluded = set(binding.excluded_columns)
    own_key = () if excluded & set(stream.primary_key) else stream.primary_key
    fields: dict[str, tuple[str, ...]] = {
        "primary_key": own_key if binding.primary_key is None else binding.primary_key,
        "cursor_field": (binding.cursor_field,) if binding.cursor_field else (),
        "deleted_field": (binding.deleted_field,) if binding.deleted_field else (),
        "excluded_columns": binding.excluded_columns,
        "hashed_columns": binding.hashed_columns,
    }
    known = None if stream.schema is None else stream.schema.names
    for name, columns in fields.items():
        for i, column in enumerate(columns):
            if known is not None and column not in known:
                yield (
                    (name,) if name in ("cursor_field", "deleted_field") else (name, i),
                    NotFoundError(
                        f"stream {stream.name!r}: {name} names the column {column!r}, which the source does not have.",
                        fix=nearest(column, known),
                    ),
                )


def _check_cursor(cursor: str, schema: pa.Schema, stream: Stream, where: str) -> None:
    kind = schema.field(cursor).type
    if not is_orderable(kind):
        able = [f.name for f in schema if is_orderable(f.type)]
        raise ConfigError(
            f"{where}: cursor_field {cursor!r} is of type {type_name(kind)}, which has no order to follow.",
            fix=f"Choose one of: {', '.join(able[:10])}." if able else "Use load_mode replace.",
        )
    if stream.cursor_fields and cursor not in stream.cursor_fields and cursor != stream.cursor_field:
        raise ConfigError(
            f"{where}: the source cannot be read incrementally by {cursor!r}.",
            fix=f"Choose one of: {', '.join(stream.cursor_fields[:10])}.",
        )
