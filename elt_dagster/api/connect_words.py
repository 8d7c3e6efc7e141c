"""From our words to those of the Connect dialect, and back."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from elt_dagster.api import connect_models as shown
from elt_dagster.control.integrations import START_DATE, Integration, integration
from elt_dagster.control.kept import Kept
from elt_dagster.control.runs import RunStatus, RunView, StreamRun
from elt_dagster.control.setup import EXCLUDED, excluded_substreams
from elt_dagster.control.snapshots import Situation, Snapshot, StreamState, Trigger
from elt_dagster.engine import defaults
from elt_dagster.errors import ConfigError, ConflictError, EltError, NotFoundError
from elt_dagster.model import LoadMode, Stream, SyncStatus
from elt_dagster.store import AnySync, BrokenSync, FullRefresh, StoredConnection, StoredSync

T = TypeVar("T")
HIDDEN = frozenset({SyncStatus.ARCHIVED.value})
"""Syncs that this dialect does not know."""
_STATUS = {
    SyncStatus.DRAFT: shown.EltSyncStatus.NOT_STARTED,
    SyncStatus.ACTIVE: shown.EltSyncStatus.RUNNING,
    SyncStatus.PAUSED: shown.EltSyncStatus.PAUSED,
    SyncStatus.ERROR: shown.EltSyncStatus.FAILED,
}
_MODE = {
    LoadMode.REPLACE: shown.OperationMode.FULL,
    LoadMode.APPEND: shown.OperationMode.APPEND,
    LoadMode.MERGE: shown.OperationMode.INCREMENTAL,
}
_TRIGGER = {
    Trigger.NONE: shown.FullSyncTrigger.NONE,
    Trigger.INITIAL: shown.FullSyncTrigger.INITIAL_SYNC,
    Trigger.ALWAYS: shown.FullSyncTrigger.ALWAYS_FULL,
    Trigger.MIDNIGHT: shown.FullSyncTrigger.MIDNIGHT,
    Trigger.USER: shown.FullSyncTrigger.USER,
}
_RUN_STATUS = {
    RunStatus.PENDING: shown.StreamRunStatus.RUNNING,
    RunStatus.RUNNING: shown.StreamRunStatus.RUNNING,
    RunStatus.COMPLETED: shown.StreamRunStatus.COMPLETED,
}
_FIELDS: Mapping[str, str] = {
    "connection": "connection_id",
    "destination": "destination_connection_id",
    "schema": "destination_schema_name",
    "dataset": "destination_schema_name",
    "settings": "elt_settings",
    "streams": "source_streams",
}
_UNMARKED = Kept[StoredSync, shown.EltSync]()
_STREAM_RUNS = Kept[RunView, shown.EltStreamRun]()
_STREAM_FIELDS = {"cursor_field": "incremental_pointer_id"}


# --- errors ------------------------------------------------------------------------------------------------------------------


@contextmanager
def as_written(streams: Sequence[str] = ()) -> Iterator[None]:
    """What is wrong inside is told with the fields of the body; ``streams`` are the names in it, in order."""
    try:
        yield
    except EltError as error:
        error.details = [(_written(path, streams), text) for path, text in error.details]
        raise


def _written(path: tuple[str | int, ...], streams: Sequence[str]) -> tuple[str | int, ...]:
    match path:
        case ("schedule", *_):
            return ("sync_interval",)
        case ("streams", int(at), str(field), *inner):
            return ("source_streams", at, _STREAM_FIELDS.get(field, field), *inner)
        case (str(word), str(name)) if word == EXCLUDED:
            return ("source_streams", streams.index(name), EXCLUDED) if name in streams else ("source_streams",)
        case (str(first), *inner):
            return (_FIELDS.get(first, first), *inner)
    return path


@contextmanager
def as_invalid(*kinds: type[ConflictError]) -> Iterator[None]:
    """What this dialect takes for a wrong request, not for a conflict."""
    try:
        yield
    except kinds as error:
        raise ConfigError(error.what, fix=error.fix) from None


# --- pages -------------------------------------------------------------------------------------------------------------------


def paged(items: Sequence[tuple[str, T]], limit: int) -> shown.Paged[T]:
    """One page of items with their cursors, of which one more than ``limit`` was asked for."""
    here = items[:limit]
    more = len(items) > limit
    return shown.Paged(has_more=more, next_cursor=here[-1][0] if more else None, data=[item for _, item in here])


def after(items: Iterable[tuple[str, T]], cursor: str | None, limit: int) -> list[tuple[str, T]]:
    """Of a list that is held as a whole: those behind ``cursor``, one more than ``limit`` at most. Raises NotFoundError."""
    found = list(items)
    if cursor is None:
        return found[: limit + 1]
    at = next((i for i, (key, _) in enumerate(found) if key == cursor), None)
    if at is None:
        raise NotFoundError(f"There is nothing with the id {cursor!r} to go on from.", fix="Begin at the first page.")
    return found[at + 1 : at + limit + 2]


# --- what is connected -------------------------------------------------------------------------------------------------------


def shown_integration(found: Integration) -> shown.Integration:
    """A connector."""
    return shown.Integration(
        id=found.name,
        name=found.title,
        supports_start_date=found.supports_start_date,
        abilities=abilities(found),
    )


def abilities(found: Integration) -> list[shown.Ability]:
    """What it can be in a sync."""
    roles = ((found.is_source, shown.Ability.SOURCE), (found.is_warehouse, shown.Ability.DESTINATION))
    return [ability for able, ability in roles if able]


def shown_connection(found: StoredConnection) -> shown.Connection:
    """A connection without anything that is secret."""
    try:
        able = abilities(integration(found.spec.connector))
    except (EltError, ImportError):
        able = []
    return shown.Connection(
        id=found.id,
        label=found.label,
        integration_id=found.spec.connector,
        abilities=able,
        status="ACTIVE" if found.error is None else "FAILED",
        created_at=found.created_at,
        updated_at=found.updated_at,
    )


# --- syncs and their streams -------------------------------------------------------------------------------------------------


def visible(sync: AnySync) -> AnySync:
    """``sync``, unless this dialect does not know it. Raises NotFoundError."""
    if isinstance(sync, StoredSync) and sync.spec.status.value in HIDDEN:
        raise NotFoundError(f"There is no sync with the id {sync.id!r}.")
    return sync


def shown_sync(
    sync: AnySync, *, account_id: str, kinds: Mapping[str, str], marks: Mapping[str, FullRefresh]
) -> shown.EltSync:
    """A sync; of one that cannot be read only what is known. ``kinds`` are the connectors of all connections."""
    plain = {"account_id": account_id, "id": sync.id, "created_at": sync.created_at, "updated_at": sync.updated_at}
    if isinstance(sync, BrokenSync):
        unknown = dict.fromkeys(
            ("source_connection_id", "source_integration_id", "destination_connection_id",
             "destination_integration_id", "destination_schema_name"), "",
        )  # fmt: skip
        return shown.EltSync(
            **plain, **unknown, status=shown.EltSyncStatus.FAILED, enabled=False, config={}, sync_interval=None,
            start_date=None, source_streams=[],
        )  # fmt: skip
    marked = any(binding_id in marks for binding_id in sync.binding_ids.values())
    base = _sync_with(sync, marks) if marked else _UNMARKED.of(sync.id, sync, lambda s: _sync_with(s, {}))
    ids = {role: kinds.get(name, "") for role, name in (
        ("source_integration_id", sync.spec.connection), ("destination_integration_id", sync.spec.destination)
    )}  # fmt: skip
    return base.model_copy(update={"account_id": account_id, **ids})


def _sync_with(sync: StoredSync, marks: Mapping[str, FullRefresh]) -> shown.EltSync:
    spec = sync.spec
    return shown.EltSync(
        account_id="",
        id=sync.id,
        created_at=sync.created_at,
        updated_at=sync.updated_at,
        status=_STATUS[spec.status],
        enabled=spec.status is SyncStatus.ACTIVE,
        config=dict(spec.settings),
        source_connection_id=sync.connection_id,
        source_integration_id="",
        destination_connection_id=sync.destination_id,
        destination_integration_id="",
        destination_schema_name=spec.dataset,
        sync_interval=spec.schedule.cron if spec.schedule is not None else None,
        start_date=_day(spec.settings.get(START_DATE)),
        source_streams=[shown_stream(sync, name, marks) for name in sync.binding_ids],
    )


def _day(value: Any) -> Any:
    return value[:10] if isinstance(value, str) and value else None


def shown_stream(sync: StoredSync, name: str, marks: Mapping[str, FullRefresh]) -> shown.EltStream:
    """One stream of a sync."""
    binding, stream, binding_id = sync.spec.binding(name), sync.streams[name], sync.binding_ids[name]
    assert binding is not None  # noqa: S101 - a stored sync has one per id
    _, primary_key, cursor = defaults(binding, stream)
    created_at, updated_at = sync.binding_times[name]
    return shown.EltStream(
        id=binding_id,
        elt_sync_id=sync.id,
        name=name,
        incremental_primary_key_name=list(primary_key),
        incremental_pointer_id=cursor,
        excluded_columns=list(binding.excluded_columns),
        hashed_columns=list(binding.hashed_columns),
        full_sync_at_midnight=binding.full_sync_at_midnight,
        full_sync_always=binding.full_sync_always,
        protected_from_full_sync=binding.protected_from_full_sync,
        excluded_substreams=excluded_substreams(sync).get(name, []),
        enabled_history_table=binding.enabled_history_table,
        full_refresh_requested=binding_id in marks,
        created_at=created_at,
        updated_at=updated_at,
    )


def read_stream(sent: shown.SourceStream) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """A stream as our own data, and its excluded substreams by its name; what was not sent is in neither."""
    data = sent.model_dump(exclude_unset=True)
    excluded = {sent.name: data.pop(EXCLUDED) or []} if EXCLUDED in data else {}
    if "incremental_pointer_id" in data:
        data["cursor_field"] = data.pop("incremental_pointer_id")
    return data, excluded


def shown_available(stream: Stream, children: Sequence[str]) -> shown.AvailableStream:
    """A stream that could be added."""
    return shown.AvailableStream(
        name=stream.name,
        is_selectable=True,
        preselect=stream.selected,
        sub_streams=list(children),
        retired=False,
        retirement_details=None,
    )


# --- runs --------------------------------------------------------------------------------------------------------------------


def stream_run_id(run_id: str, binding_id: str) -> str:
    """The id of one stream of a run."""
    return f"{run_id}.{binding_id}"


def parts_of(stream_run: str) -> tuple[str, str]:
    """The run and the binding of a stream's run. Raises NotFoundError for what is no such id."""
    run_id, dot, binding_id = stream_run.rpartition(".")
    if not (run_id and dot and binding_id):
        raise NotFoundError(f"There is no stream run {stream_run!r}.")
    return run_id, binding_id


def shown_run(view: RunView, part: StreamRun, *, sync_id: str, binding_id: str) -> shown.EltStreamRun:
    """One stream of a run."""
    key = stream_run_id(view.id, binding_id)
    return _STREAM_RUNS.of(key, view, lambda _: _shown_run(view, part, sync_id, binding_id))


def _shown_run(view: RunView, part: StreamRun, sync_id: str, binding_id: str) -> shown.EltStreamRun:
    over = part.status.is_final or view.status.is_final
    waiting = shown.StreamRunStatus.FAILED if over else shown.StreamRunStatus.RUNNING
    found = _RUN_STATUS.get(part.status, shown.StreamRunStatus.FAILED)
    return shown.EltStreamRun(
        id=stream_run_id(view.id, binding_id),
        elt_sync_id=sync_id,
        elt_stream_id=binding_id,
        started_at=view.started_at or view.created_at,
        finished_at=view.ended_at if over else None,
        status=waiting if found is shown.StreamRunStatus.RUNNING else found,
        rows_synced=part.rows,
    )


def shown_state(state: StreamState) -> shown.StreamSnapshots:
    """A stream at this moment."""
    return shown.StreamSnapshots(
        name=state.stream, active_sync=_snapshot(state.active), latest_sync=_snapshot(state.latest)
    )


def _snapshot(found: Snapshot | None) -> shown.StreamSnapshot | None:
    if found is None:
        return None
    return shown.StreamSnapshot(
        status=shown.SnapshotStatus(Situation(found.situation).name),
        operation_mode=_MODE[found.load_mode],
        full_sync_trigger=_TRIGGER[found.trigger],
        records_synced=found.rows,
        bytes_synced=found.bytes,
        estimated_total_count=found.expected_rows,
        retry_attempt=found.attempt,
        started_at=found.started_at,
        finished_at=found.ended_at,
        error_message=found.error,
        details=found.details,
    )


# --- settings ----------------------------------------------------------------------------------------------------------------


def chosen_so_far(query: Sequence[tuple[str, str]], body: Any) -> dict[str, Any]:
    """``partial_settings`` of a request: in its JSON body, as JSON in the query, or as ``partial_settings[name]=value``. Raises ConfigError."""
    found: dict[str, Any] = {}
    for key, value in query:
        if key == "partial_settings":
            found |= _object(_json(value))
        elif key.startswith("partial_settings[") and key.endswith("]"):
            found[key[len("partial_settings[") : -1]] = value
    if body is not None:
        found |= _object(_object(body).get("partial_settings") or {})
    return found


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        error = ConfigError("partial_settings is no JSON object.", fix='Send {"partial_settings": {"name": "value"}}.')
        error.details = [(("partial_settings",), str(error))]
        raise error
    return value
