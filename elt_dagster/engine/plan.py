"""Decide what to read and how to load it: (binding, state, run mode) in, `StreamPlan` out. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from elt_dagster.destinations.base import DELETED_AT, LoadPlan, State, TableRef
from elt_dagster.engine.binding import ResolvedBinding
from elt_dagster.errors import ConfigError
from elt_dagster.model import Checkpoint, DeleteMode, LoadMode, ReadRequest, RunMode, SyncMode, SyncSpec, Window
from elt_dagster.model.types import TIMESTAMP_UTC, column

LOADED_AT = "_elt_loaded_at"
RUN_ID = "_elt_run_id"
DELETION_MARK = column(DELETED_AT, TIMESTAMP_UTC, description="When this row was found deleted at the source.")
METADATA_COLUMNS = (
    column(LOADED_AT, TIMESTAMP_UTC, description="When elt_dagster wrote this row."),
    column(RUN_ID, pa.string(), description="The Dagster run that wrote this row."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """Which run asks: its id, its mode, the time it started, and the fence of its lease."""

    run_id: str
    load_id: str
    started_at: datetime
    mode: RunMode = RunMode.INCREMENTAL
    fence: int = 0
    window: Window | None = None
    reset_history: bool = False
    """Whether a full refresh begins the history table anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """One stream of one run: what to ask the source for, what to do to the table, and what happens between."""

    resolved: ResolvedBinding
    run: RunContext
    mode: RunMode
    request: ReadRequest
    load: LoadPlan
    hashed: frozenset[str]
    add_metadata: bool
    before: Checkpoint | None


def plan_stream(
    sync: SyncSpec,
    resolved: ResolvedBinding,
    binding_id: str,
    state: State | None,
    run: RunContext,
    *,
    table_exists: bool = True,
) -> StreamPlan:
    """What this run does with this stream.

    A table that somebody dropped (``table_exists`` is False) is read from the beginning again, whatever its state says.
    Raises ConfigError when a full refresh is asked of a stream that is protected from it.
    """
    binding, stream = resolved.binding, resolved.stream
    full = run.mode is RunMode.FULL_REFRESH or binding.full_sync_always or resolved.load_mode is LoadMode.REPLACE
    if full and binding.protected_from_full_sync and state is not None:
        raise ConfigError(
            f"Stream {stream.name!r} is protected from full refresh.",
            fix="Run it incrementally, or take protected_from_full_sync away first.",
        )
    incremental = resolved.cursor_field is not None and not full
    goes_on = incremental and table_exists and state is not None and _is_position(state.checkpoint)
    since = state.checkpoint if goes_on and state is not None else None
    mode = LoadMode.REPLACE if full else resolved.load_mode
    request = ReadRequest(
        stream=stream,
        mode=SyncMode.INCREMENTAL if incremental else SyncMode.FULL_REFRESH,
        columns=tuple(resolved.schema.names) if resolved.schema is not None else None,
        # A full refresh of a cursor stream still reports its checkpoint, so that the next run goes on from there.
        cursor_field=resolved.cursor_field,
        since=since,
        window=run.window,
        lookback_seconds=binding.lookback_seconds,
        settings=sync.settings,
    )
    load = LoadPlan(
        table=TableRef(sync.dataset, binding.table_name),
        columns=target_schema(resolved, add_metadata=sync.add_metadata_columns),
        mode=mode,
        binding_id=binding_id,
        load_id=run.load_id,
        run_id=run.run_id,
        fence=run.fence,
        after_load=state.load_id if state is not None else None,
        primary_key=tuple(warehouse_name(resolved.names, c) for c in resolved.primary_key),
        cursor_field=warehouse_name(resolved.names, resolved.cursor_field) if resolved.cursor_field else None,
        deduplicate=resolved.load_mode is LoadMode.MERGE,
        boundary=_boundary(since, binding.lookback_seconds) if mode is LoadMode.APPEND else None,
        deletes=binding.deletes or DeleteMode.HARD,
        history=binding.enabled_history_table,
        reset_history=run.reset_history and full,
        drift=sync.schema_drift,
        description=stream.description,
    )
    return StreamPlan(
        resolved=resolved,
        run=run,
        mode=RunMode.FULL_REFRESH if full else RunMode.INCREMENTAL,
        request=request,
        load=load,
        hashed=frozenset(binding.hashed_columns),
        add_metadata=sync.add_metadata_columns,
        before=state.checkpoint if state is not None else None,
    )


def target_schema(resolved: ResolvedBinding, *, add_metadata: bool) -> pa.Schema:
    """The table's columns as far as they are known before reading: warehouse names, canonical types."""
    binding = resolved.binding
    fields: list[pa.Field] = []
    for field in resolved.schema or ():
        name = resolved.names[field.name]
        fields.append((field.with_type(pa.string()) if field.name in binding.hashed_columns else field).with_name(name))
    marks = (DELETION_MARK,) if binding.deletes is DeleteMode.SOFT else ()
    return pa.schema([*fields, *(METADATA_COLUMNS if add_metadata else ()), *marks])


def warehouse_name(names: Mapping[str, str], source_column: str) -> str:
    """The warehouse's name of a source column, known or not."""
    from elt_dagster.model.names import snake_case

    return names.get(source_column) or snake_case(source_column)


def _is_position(checkpoint: Checkpoint) -> bool:
    return checkpoint.cursor is not None or bool(checkpoint.extra)


def _boundary(since: Checkpoint | None, lookback_seconds: int) -> Checkpoint | None:
    if since is None or not lookback_seconds:
        return since
    cursor: Any = since.cursor
    return (
        Checkpoint(cursor - timedelta(seconds=lookback_seconds), since.extra) if isinstance(cursor, datetime) else since
    )
