"""From our words to those of the Loaders dialect, and back."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from elt_dagster.api import loaders_models as shown
from elt_dagster.api.model_base import RunStatusWord
from elt_dagster.control.catalog import Provider, canonical
from elt_dagster.control.kept import Kept
from elt_dagster.control.loaders import Loader, Wanted
from elt_dagster.control.runs import LatestRuns, RunView
from elt_dagster.engine import defaults
from elt_dagster.errors import EltError
from elt_dagster.model import LoadMode, SyncMode, SyncStatus, TriggeredBy
from elt_dagster.store import BrokenSync, StoredConnection, StoredSync

SPELLING = "loader"
"""In a sync's envelope: how this dialect was told of it."""
_LOAD = {
    shown.StreamSyncMode.FULL_REFRESH: LoadMode.REPLACE,
    shown.StreamSyncMode.INCREMENTAL: LoadMode.MERGE,
    shown.StreamSyncMode.APPEND: LoadMode.APPEND,
}
_MODE = {load: mode for mode, load in _LOAD.items()}
_ASKED = frozenset({TriggeredBy.API.value, TriggeredBy.RETRY.value})
_FIELDS: Mapping[str, str] = {
    "connector": "loader_type",
    "connection": "config",
    "settings": "config",
    "destination": "source_id",
    "schema": "target_schema",
    "dataset": "target_schema",
    "slug": "name",
    "trigger_mode": "schedule",
}
_OPEN = frozenset({"config", "settings"})
_RUNS = Kept[RunView, shown.LoaderRun]()
_STREAM_FIELDS = {"name": "name", "load_mode": "sync_mode"}


# --- errors ------------------------------------------------------------------------------------------------------------------


@contextmanager
def told() -> Iterator[None]:
    """What is wrong inside is told with the fields of the body."""
    try:
        yield
    except EltError as error:
        error.details = [(_written(path), text) for path, text in error.details]
        raise


def _written(path: tuple[str | int, ...]) -> tuple[str | int, ...]:
    match path:
        case ("connections" | "syncs", 0, *inner):
            return _written(tuple(inner))
        case ("streams", int(at), str(field), *_) if field in _STREAM_FIELDS:
            return ("selected_streams", at, _STREAM_FIELDS[field])
        case ("streams", *inner):
            return ("selected_streams", *inner[:1])
        case (str(first), *inner):
            return (_FIELDS.get(first, first), *(inner if first in _OPEN else ()))
    return path


# --- what is sent ------------------------------------------------------------------------------------------------------------


def read_loader(body: shown.LoaderWanted, destination: StoredConnection) -> Wanted:
    """A loader in our words."""
    usual = shown.StreamSyncMode(body.sync_mode.value)
    status = body.status if isinstance(body, shown.LoaderReplaced) else None
    return Wanted(
        name=body.name,
        connector=body.loader_type,
        config=body.config,
        destination=destination,
        dataset=body.target_schema,
        streams=[{"name": s.name, "load_mode": _LOAD[s.sync_mode or usual].value} for s in body.selected_streams],
        cron=body.schedule or None,
        status=SyncStatus(status.value) if status is not None else None,
        envelope={SPELLING: {"type": body.loader_type, "sync_mode": body.sync_mode.value}},
    )


# --- what is answered --------------------------------------------------------------------------------------------------------


def shown_loader(loader: Loader, *, workspace_id: str, runs: LatestRuns, error: str | None) -> shown.Loader:
    """A loader; ``error`` is why its newest run failed."""
    sync = loader.sync
    newest = runs.newest
    common: dict[str, Any] = {
        "id": sync.id,
        "workspace_id": workspace_id,
        "config": loader.config,
        "created_at": sync.created_at,
        "updated_at": sync.updated_at,
        "last_run_at": (newest.started_at or newest.created_at) if newest else None,
        "last_run_id": newest.id if newest else None,
    }
    connector = loader.connection.spec.connector if loader.connection else ""
    if isinstance(sync, BrokenSync):
        return shown.Loader(
            **common, source_id="", name=sync.title or sync.slug, loader_type=connector, target_schema="",
            selected_streams=[], sync_mode=shown.LoaderSyncMode.FULL_REFRESH, schedule=None,
            status=shown.LoaderStatus.ERROR, status_error=sync.error, created_by=None,
        )  # fmt: skip
    spec = sync.spec
    streams = _streams(sync)
    return shown.Loader(
        **common,
        source_id=sync.destination_id,
        name=spec.title,
        loader_type=_type(sync, connector),
        target_schema=spec.dataset,
        selected_streams=streams,
        sync_mode=_mode(sync, streams),
        schedule=spec.schedule.cron if spec.schedule is not None else None,
        status=shown.LoaderStatus(spec.status.value),
        status_error=(error or "") if spec.status is SyncStatus.ERROR else "",
        created_by=sync.created_by or None,
    )


def _streams(sync: StoredSync) -> list[shown.SelectedStream]:
    modes = {b.name: defaults(b, sync.streams[b.name])[0] for b in sync.spec.streams}
    return [shown.SelectedStream(name=name, sync_mode=_MODE[mode]) for name, mode in modes.items()]


def _type(sync: StoredSync, connector: str) -> str:
    """As it was sent, if that still means its connector."""
    sent = str((sync.envelope.get(SPELLING) or {}).get("type") or "")
    return sent if sent and canonical(sent) == connector else connector


def _mode(sync: StoredSync, streams: Sequence[shown.SelectedStream]) -> shown.LoaderSyncMode:
    sent = (sync.envelope.get(SPELLING) or {}).get("sync_mode")
    if sent is not None:
        return shown.LoaderSyncMode(sent)
    whole = all(s.sync_mode is shown.StreamSyncMode.FULL_REFRESH for s in streams)
    return shown.LoaderSyncMode.FULL_REFRESH if whole else shown.LoaderSyncMode.INCREMENTAL


def shown_run(view: RunView, *, workspace_id: str) -> shown.LoaderRun:
    """A run of a loader."""
    return _RUNS.of(f"{view.id} {workspace_id}", view, lambda _: _shown_run(view, workspace_id))


def _shown_run(view: RunView, workspace_id: str) -> shown.LoaderRun:
    summary = view.summary
    work = view.backend
    return shown.LoaderRun(
        id=view.id,
        loader_id=view.sync_id,
        workspace_id=workspace_id,
        status=RunStatusWord(view.status.value),
        started_at=view.started_at,
        completed_at=view.ended_at,
        rows_loaded=summary["rows_loaded"],
        streams_total=summary["streams_total"],
        streams_failed=summary["streams_failed"],
        error_message=view.first_error or "",
        triggered_by=(view.trigger_ref or None) if view.triggered_by in _ASKED else None,
        job_id=work.run if work is not None else None,
        created_at=view.created_at,
    )


def shown_types(found: Provider) -> list[shown.LoaderType]:
    """A connector under each of its names."""
    streams = [
        shown.TypeStream(name=r.name, description=r.description, sync_modes=_modes(r.sync_modes))
        for r in found.resources
    ]
    return [
        shown.LoaderType(
            type=name,
            name=found.title,
            description=found.description,
            config_schema=found.whole_schema,
            streams=streams,
        )
        for name in (found.name, *found.aliases)
    ]


def _modes(modes: Sequence[SyncMode]) -> list[shown.StreamSyncMode]:
    whole, *growing = shown.StreamSyncMode
    return [whole, *(growing if SyncMode.INCREMENTAL in modes else [])]
