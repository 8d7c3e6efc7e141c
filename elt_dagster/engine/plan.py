"""Decide what to read and how to load it: (binding, state, run mode) in, `StreamPlan` out. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pyarrow as pa

from elt_dagster.destinations.base import DELETED_AT, LoadPlan, State, TableRef
from elt_dagster.engine.binding import ResolvedBinding
from elt_dagster.engine.windows import replaces_rows, row_range, window_binding_id, window_field
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
    before: Checkpoint | None

    @property
    def hashed(self) -> frozenset[str]:
        """The source columns that reach the warehouse as hashes."""
        return frozenset(self.resolved.binding.hashed_columns)

    @property
    def add_metadata(self) -> bool:
        """Whether rows are stamped with load time and run."""
        return METADATA_COLUMNS[0].name in self.load.columns.names


def plan_stream(
    sync: SyncSpec,
    resolved: ResolvedBinding,
    binding_id: str,
    state: State | None,
    run: RunContext,
    *,
    table_exists: bool = True,
) -> StreamPlan:
    """What this run does with this stream; ``state`` is the binding's, or the window's when the run is about one.

    A table that somebody dropped (``table_exists`` is False) is read from the beginning again, whatever its state says.
    Raises ConfigError when a full refresh is asked of a stream that is protected from it, or a window of one that has none.
    """
    if run.window is not None:
        return _plan_window(sync, resolved, binding_id, state, run)
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
        columns=_columns(resolved),
        # A full refresh of a cursor stream still reports its checkpoint, so that the next run goes on from there.
        cursor_field=resolved.cursor_field,
        since=since,
        lookback_seconds=binding.lookback_seconds,
        settings=sync.settings,
    )
    may_double = mode is LoadMode.APPEND and incremental and table_exists
    load = replace(
        _load_plan(sync, resolved, binding_id, state, run),
        mode=mode,
        boundary=_boundary(since or Checkpoint(), binding.lookback_seconds) if may_double else None,
        reset_history=run.reset_history and full,
    )
    return StreamPlan(
        resolved=resolved,
        run=run,
        mode=RunMode.FULL_REFRESH if full else RunMode.INCREMENTAL,
        request=request,
        load=load,
        before=state.checkpoint if state is not None else None,
    )


def _plan_window(
    sync: SyncSpec, resolved: ResolvedBinding, binding_id: str, state: State | None, run: RunContext
) -> StreamPlan:
    """Rows of one window take the place of those that the table has of it; the checkpoint stays as it is."""
    window = run.window
    assert window is not None  # noqa: S101 - for the type checkers; the caller looked
    source_column = window_field(resolved)
    column = warehouse_name(resolved.names, source_column)
    request = ReadRequest(
        stream=resolved.stream,
        mode=SyncMode.INCREMENTAL,
        columns=_columns(resolved),
        cursor_field=source_column,
        window=window,
        settings=sync.settings,
    )
    appends = resolved.load_mode is LoadMode.APPEND or not resolved.primary_key
    load = replace(
        _load_plan(sync, resolved, window_binding_id(binding_id, window), state, run),
        mode=LoadMode.APPEND if appends else LoadMode.MERGE,
        cursor_field=column,
        replaces=row_range(resolved, window, column) if replaces_rows(resolved) else None,
    )
    return StreamPlan(resolved=resolved, run=run, mode=run.mode, request=request, load=load, before=None)


def _load_plan(
    sync: SyncSpec, resolved: ResolvedBinding, binding_id: str, state: State | None, run: RunContext
) -> LoadPlan:
    """What is the same for every load of a binding."""
    binding = resolved.binding
    return LoadPlan(
        table=TableRef(sync.dataset, binding.table_name),
        columns=target_schema(resolved, add_metadata=sync.add_metadata_columns),
        mode=resolved.load_mode,
        binding_id=binding_id,
        load_id=run.load_id,
        run_id=run.run_id,
        fence=run.fence,
        after_load=state.load_id if state is not None else None,
        primary_key=tuple(warehouse_name(resolved.names, c) for c in resolved.primary_key),
        cursor_field=warehouse_name(resolved.names, resolved.cursor_field) if resolved.cursor_field else None,
        deduplicate=resolved.load_mode is LoadMode.MERGE,
        deletes=binding.deletes or DeleteMode.HARD,
        history=binding.enabled_history_table,
        drift=sync.schema_drift,
        description=resolved.stream.description,
    )


def _columns(resolved: ResolvedBinding) -> tuple[str, ...] | None:
    return tuple(resolved.schema.names) if resolved.schema is not None else None


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


def _boundary(since: Checkpoint, lookback_seconds: int) -> Checkpoint:
    if isinstance(since.cursor, datetime):
        return Checkpoint(since.cursor - timedelta(seconds=lookback_seconds), since.extra)
    return since
