"""The Syncs dialect: syncs, their runs, and what the providers offer."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response

from elt_dagster.api import syncs_models as shown
from elt_dagster.api import syncs_run_models as runs
from elt_dagster.api.auth import Authenticated
from elt_dagster.api.documented import TAGGED
from elt_dagster.api.errors import in_body, in_request
from elt_dagster.api.one_thread import awaitable
from elt_dagster.api.routes import KeyedRoute
from elt_dagster.api.services import Caller
from elt_dagster.api.syncs_reading import Reading
from elt_dagster.api.syncs_words import shown_provider, shown_run, shown_sync
from elt_dagster.api.words import Revision, etag
from elt_dagster.control import catalog
from elt_dagster.control.secrets import may_refer
from elt_dagster.model import RunMode, SyncStatus
from elt_dagster.store import AnySync, Place, SyncFilter

Responses = dict[int | str, dict[str, Any]]
REFUSALS: Responses = {
    401: {"model": shown.Refusal, "description": "No key, or one that opens nothing"},
    413: {"model": shown.Refusal, "description": "The body is too large"},
    422: {"model": shown.Invalid, "description": "The request is wrong; `loc` leads to each field"},
    429: {"model": shown.Refusal, "description": "Too many requests with this key: see Retry-After"},
    "4XX": {"model": shown.Refusal, "description": "Anything else that is wrong with the request"},
}
MISSING: Responses = {404: {"model": shown.Refusal, "description": "There is no such thing"}}
CONFLICT: Responses = {409: {"model": shown.Conflict, "description": "It collides with what `conflictId` names"}}
CHANGED: Responses = {
    412: {"model": shown.Refusal, "description": "It was changed meanwhile: If-Match has an older ETag"}
}
UPSTREAM: Responses = {
    424: {"model": shown.Refusal, "description": "The source, the warehouse or Dagster failed or cannot be reached"}
}
SyncId = Annotated[uuid.UUID, Path(description="The id of a sync.")]
RunId = Annotated[uuid.UUID, Path(description="The id of a run.")]
Offset = Annotated[int, Query(ge=0, le=2**31, description="How many to leave out at the beginning.")]
Limit = Annotated[int, Query(ge=1, le=100, description="How many on a page.")]

router = APIRouter(prefix="/api/v1/syncs", route_class=KeyedRoute, responses=REFUSALS, tags=["Syncs"])


def _shown(caller: Caller, found: Sequence[AnySync], kinds: Mapping[str, str]) -> list[shown.Sync]:
    latest = caller.running.latest_known([s.id for s in found])
    errors = caller.running.last_errors(latest)
    return [shown_sync(s, kinds=kinds, latest=latest, errors=errors) for s in found]


def _answer(caller: Caller, sync: AnySync, response: Response) -> shown.Sync:
    response.headers["ETag"] = etag(sync)
    return _shown(caller, [sync], caller.syncs.kinds())[0]


def _warehouse(caller: Caller, body: shown.SyncWanted | shown.SyncChange) -> str | None:
    """The name of the connection that the body chooses to load into."""
    chosen = (body.destination_config or {}).get("connectionId")
    with in_body("destinationConfig", "connectionId"):
        return caller.accounts.get(str(chosen)[:100]).spec.name if chosen is not None else None


def _usual_warehouse(caller: Caller) -> str:
    with in_body("destinationConfig", "connectionId"):
        return caller.accounts.default_destination().spec.name


def _run(caller: Caller, run_id: str) -> runs.Run:
    view, sync = caller.running.get(run_id)
    return shown_run(view, sync.spec)


# --- syncs -------------------------------------------------------------------------------------------------------------------


def _filter(
    q: Annotated[str | None, Query(max_length=255, description="A part of the name or the slug.")] = None,
    status: Annotated[list[SyncStatus] | None, Query(description="Only of these statuses; repeat it.")] = None,
    provider: Annotated[list[str] | None, Query(description="Only of these connectors; repeat it.")] = None,
) -> SyncFilter:
    kinds = tuple(catalog.canonical(name) for name in provider or ())
    return SyncFilter(text=q or "", statuses=tuple(s.value for s in status or ()), connectors=kinds)


@router.get("", summary="List syncs")
def list_syncs(
    caller: Authenticated,
    wanted: Annotated[SyncFilter, Depends(awaitable(_filter))],
    limit: Limit = 50,
    offset: Offset = 0,
) -> shown.SyncPage:
    """Syncs, oldest first, so that new ones move nothing."""
    page = caller.syncs.page(wanted, Place(limit=limit, offset=offset), marks=False)
    return shown.SyncPage(
        has_next=offset + len(page.items) < page.total,
        limit=limit,
        offset=offset,
        total=page.total,
        syncs=_shown(caller, page.items, page.kinds),
    )


@router.post("", summary="Create a sync", status_code=201, responses={201: TAGGED, **CONFLICT, **UPSTREAM})
def create_sync(body: shown.SyncWanted, caller: Authenticated, response: Response) -> shown.Sync:
    """A new sync: a draft, unless a status is sent. The source is asked for the streams that are chosen, and knows their columns."""
    with in_body("connectionId"):
        source = caller.accounts.get(str(body.connection_id))
    reading = Reading(body, _warehouse(caller, body) or _usual_warehouse(caller), may_refer(caller.workspace.environ))
    data: dict[str, Any] = {"connection": source.spec.name}
    envelope: dict[str, Any] = {}
    with reading.told():
        reading.apply(data, envelope)
    with reading.told():
        asks = bool(data.get("streams") or data.get("settings"))
        sync = caller.syncs.create(data, envelope=envelope, by=caller.by, verify=asks)
    return _answer(caller, sync, response)


@router.get("/providers/{provider}/catalog", summary="What a provider offers", tags=["Sync providers"])
def get_catalog(
    provider: Annotated[str, Path(description="A connector, such as postgres.")], caller: Authenticated
) -> shown.ProviderCatalog:
    """Its settings and, where every account has the same, its streams. No source is asked."""
    with in_request("path", "provider"):
        found = catalog.provider(provider)
    return shown_provider(found, caller.accounts.default_kind())


@router.get("/runs/{run_id}", summary="Get a run", tags=["Sync runs"], responses={**MISSING, **UPSTREAM})
def get_run(run_id: RunId, caller: Authenticated) -> runs.Run:
    """One run with what each of its streams loaded."""
    return _run(caller, str(run_id))


@router.post(
    "/runs/{run_id}/cancel", summary="Cancel a run", tags=["Sync runs"], responses={**MISSING, **CONFLICT, **UPSTREAM}
)
def cancel_run(run_id: RunId, caller: Authenticated, body: runs.CancelWanted | None = None) -> runs.Run:
    """Ask a run to stop; what it committed stays. To ask again does no harm; a run that has ended otherwise is a conflict."""
    reason = (body.reason if body is not None else None) or ""
    caller.running.cancel(str(run_id), reason, by=caller.by)
    return _run(caller, str(run_id))


@router.post(
    "/runs/{run_id}/retry", summary="Retry a run", tags=["Sync runs"], responses={**MISSING, **CONFLICT, **UPSTREAM}
)
def retry_run(run_id: RunId, caller: Authenticated, body: runs.RetryWanted | None = None) -> runs.Run:
    """Another attempt of a run that has ended: what failed, or with a run mode all of it."""
    mode = body.run_mode if body is not None else None
    return _run(caller, caller.running.retry(str(run_id), run_mode=mode, by=caller.by))


@router.get("/{sync_id}", summary="Get a sync", responses={200: TAGGED, **MISSING})
def get_sync(sync_id: SyncId, caller: Authenticated, response: Response) -> shown.Sync:
    """One sync with its streams. Its ETag changes with every change of it."""
    return _answer(caller, caller.syncs.find(str(sync_id)), response)


@router.patch(
    "/{sync_id}", summary="Update a sync", responses={200: TAGGED, **MISSING, **CONFLICT, **CHANGED, **UPSTREAM}
)
def update_sync(
    sync_id: SyncId, body: shown.SyncChange, caller: Authenticated, revision: Revision, response: Response
) -> shown.Sync:
    """Change what is named, and nothing else. The source is asked about streams that are new."""
    caller.syncs.find(str(sync_id))
    reading = Reading(body, _warehouse(caller, body), may_refer(caller.workspace.environ))
    with reading.told():
        sync = caller.syncs.update(str(sync_id), reading.apply, revision=revision, by=caller.by)
    return _answer(caller, sync, response)


@router.delete("/{sync_id}", summary="Delete a sync", status_code=204, responses={**MISSING, **CONFLICT, **CHANGED})
def delete_sync(sync_id: SyncId, caller: Authenticated, revision: Revision) -> None:
    """Remove a sync and its streams; the tables in the warehouse stay."""
    caller.syncs.delete(str(sync_id), revision=revision)


# --- runs --------------------------------------------------------------------------------------------------------------------


@router.post(
    "/{sync_id}/trigger", summary="Run a sync now", tags=["Sync runs"], responses={**MISSING, **CONFLICT, **UPSTREAM}
)
def trigger_sync(sync_id: SyncId, caller: Authenticated, body: runs.RunWanted | None = None) -> runs.Run:
    """Start a run. A conflict, with the run's id, while one is active."""
    mode = body.run_mode if body is not None and body.run_mode is not None else RunMode.INCREMENTAL
    return _run(caller, caller.running.trigger(str(sync_id), run_mode=mode, by=caller.by))


@router.get("/{sync_id}/runs", summary="List the runs of a sync", tags=["Sync runs"], responses={**MISSING, **UPSTREAM})
def list_runs(sync_id: SyncId, caller: Authenticated, limit: Limit = 25, offset: Offset = 0) -> runs.RunPage:
    """Runs of a sync, newest first: started from here, by a schedule, or in Dagster itself."""
    page, sync = caller.running.page(str(sync_id), limit=limit, offset=offset)
    return runs.RunPage(
        has_next=offset + len(page.items) < page.total,
        limit=limit,
        offset=offset,
        total=page.total,
        runs=[shown_run(view, sync.spec) for view in page.items],
    )
