"""The Loaders dialect: loaders, their runs, and the types of loaders there are."""

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, Response

from elt_dagster.api import loaders_models as shown
from elt_dagster.api.auth import Authenticated
from elt_dagster.api.documented import COUNTED, TAGGED
from elt_dagster.api.errors import in_body
from elt_dagster.api.loaders_words import read_loader, shown_loader, shown_run, shown_types, told
from elt_dagster.api.one_thread import awaitable
from elt_dagster.api.routes import KeyedRoute
from elt_dagster.api.services import Caller
from elt_dagster.api.words import Revision, etag
from elt_dagster.control.catalog import provider, providers
from elt_dagster.control.loaders import Loader
from elt_dagster.control.runs import LatestRuns
from elt_dagster.errors import NotFoundError
from elt_dagster.store import Place, StoredConnection

Responses = dict[int | str, dict[str, Any]]
REFUSALS: Responses = {
    400: {"model": shown.LoaderProblem, "description": "X-Workspace-ID is not the workspace of the path"},
    401: {"model": shown.LoaderProblem, "description": "No key, or one that opens nothing"},
    404: {
        "model": shown.LoaderProblem,
        "description": "There is no such thing, or it is in another workspace than the key",
    },
    413: {"model": shown.LoaderProblem, "description": "The body is too large"},
    422: {"model": shown.LoaderInvalid, "description": "The request is wrong; `loc` leads to each field"},
    429: {"model": shown.LoaderProblem, "description": "Too many requests with this key: see Retry-After"},
    "4XX": {"model": shown.LoaderProblem, "description": "Anything else that is wrong with the request"},
}
CONFLICT: Responses = {
    409: {"model": shown.LoaderConflictProblem, "description": "It collides with what `conflict_id` names"}
}
UPSTREAM: Responses = {
    424: {
        "model": shown.LoaderProblem,
        "description": "The source, the warehouse or Dagster failed or cannot be reached",
    }
}
CHANGED: Responses = {
    412: {"model": shown.LoaderProblem, "description": "It was changed meanwhile: If-Match has an older ETag"}
}
TOTAL = "X-Total-Count"
RUNS = 100
"""How many runs are answered where no page is asked for."""


def here(
    id: Annotated[str, Path(description="The workspace: its id, or its name.")],
    caller: Authenticated,
    x_workspace_id: Annotated[str | None, Header(description="The same, where it is sent.")] = None,
) -> Caller:
    """Whoever asks, if the address is their own workspace. Raises NotFoundError; 400 for a header that means another one."""
    known = (caller.principal.workspace_id, caller.principal.workspace)
    if id not in known:
        raise NotFoundError(f"There is no workspace {id[:100]!r}.", fix="Use the one that the API key belongs to.")
    if x_workspace_id is not None and x_workspace_id not in known:
        raise HTTPException(400, "X-Workspace-ID is not the workspace of the path. Send the same, or leave it out.")
    return caller


def page_of(
    page: Annotated[int | None, Query(ge=1, le=2**31, description="Which page, from 1.")] = None,
    page_size: Annotated[int | None, Query(ge=1, le=100, description="How many on a page; 20 if not given.")] = None,
) -> Place | None:
    """The page that is asked for; None where none is."""
    if page is None and page_size is None:
        return None
    size = page_size or 20
    return Place(limit=size, offset=((page or 1) - 1) * size)


Here = Annotated[Caller, Depends(awaitable(here))]
Page = Annotated[Place | None, Depends(awaitable(page_of))]
LoaderId = Annotated[str, Path(alias="loaderId", description="The id of a loader.")]
RunId = Annotated[str, Path(alias="runId", description="The id of a run.")]

router = APIRouter(prefix="/api/v1/workspaces/{id}", route_class=KeyedRoute, responses=REFUSALS, tags=["Loaders"])


def _shown(caller: Caller, found: Iterable[Loader]) -> list[shown.Loader]:
    loaders = list(found)
    latest = caller.running.latest_known([x.sync.id for x in loaders])
    errors = caller.running.last_errors(latest)
    return [
        shown_loader(
            x,
            workspace_id=caller.principal.workspace_id,
            runs=latest.get(x.sync.id, LatestRuns()),
            error=errors.get(x.sync.id),
        )
        for x in loaders
    ]


def _answer(caller: Caller, loader: Loader, response: Response) -> shown.Loader:
    response.headers["ETag"] = etag(loader)
    return _shown(caller, [loader])[0]


def _warehouse(caller: Caller, body: shown.LoaderWanted) -> StoredConnection:
    with in_body("loader_type"):
        provider(body.loader_type)
    with in_body("source_id"):
        return caller.accounts.get(str(body.source_id))


@router.get("/loader-types", summary="List the types of loaders")
def list_types(caller: Here) -> list[shown.LoaderType]:
    """Every connector that is installed: its settings and, where every account has the same, its streams."""
    return [kind for found in providers() for kind in shown_types(found)]


@router.get("/loaders", summary="List loaders", responses={200: COUNTED})
def list_loaders(caller: Here, place: Page, response: Response) -> list[shown.Loader]:
    """All of them, oldest first, or one page; `X-Total-Count` says how many there are."""
    if place is None:
        found = list(caller.loaders.every())
        total = len(found)
    else:
        found, total = caller.loaders.page(place)
    response.headers[TOTAL] = str(total)
    return _shown(caller, found)


@router.post("/loaders", summary="Create a loader", status_code=201, responses={201: TAGGED, **CONFLICT, **UPSTREAM})
def create_loader(body: shown.LoaderWanted, caller: Here, response: Response) -> shown.Loader:
    """A source connection from `config` and an active sync that reads it, or neither. The source is asked for the streams."""
    warehouse = _warehouse(caller, body)
    with told():
        made = caller.loaders.create(read_loader(body, warehouse), by=caller.by)
    return _answer(caller, made, response)


@router.get("/loaders/{loaderId}", summary="Get a loader", responses={200: TAGGED})
def get_loader(loader_id: LoaderId, caller: Here, response: Response) -> shown.Loader:
    """One of them. Its ETag changes with every change of it or of its connection."""
    return _answer(caller, caller.loaders.get(loader_id), response)


@router.put(
    "/loaders/{loaderId}", summary="Replace a loader", responses={200: TAGGED, **CONFLICT, **CHANGED, **UPSTREAM}
)
def replace_loader(
    loader_id: LoaderId, body: shown.LoaderReplaced, caller: Here, revision: Revision, response: Response
) -> shown.Loader:
    """Another loader in its place, of the same type; ids and tables stay. The mask of a secret stands for the one that is kept."""
    caller.loaders.get(loader_id)
    warehouse = _warehouse(caller, body)
    with told():
        changed = caller.loaders.replace(loader_id, read_loader(body, warehouse), revision=revision, by=caller.by)
    return _answer(caller, changed, response)


@router.delete("/loaders/{loaderId}", summary="Delete a loader", responses=CHANGED)
def delete_loader(loader_id: LoaderId, caller: Here, revision: Revision) -> shown.Deleted:
    """Remove it, and its connection unless something else uses that; the tables in the warehouse stay."""
    caller.loaders.delete(loader_id, revision=revision)
    return shown.Deleted()


@router.post(
    "/loaders/{loaderId}/trigger", summary="Run a loader now", status_code=201, responses={**CONFLICT, **UPSTREAM}
)
def trigger_loader(loader_id: LoaderId, caller: Here) -> shown.LoaderRun:
    """Start a run. A conflict, with the run's id, while one is active."""
    caller.loaders.get(loader_id)
    run_id = caller.running.trigger(loader_id, by=caller.by)
    return shown_run(caller.running.get(run_id)[0], workspace_id=caller.principal.workspace_id)


@router.get("/loaders/{loaderId}/runs", summary="List the runs of a loader", responses={200: COUNTED, **UPSTREAM})
def list_runs(loader_id: LoaderId, caller: Here, place: Page, response: Response) -> list[shown.LoaderRun]:
    """Its runs, newest first: the newest 100, or one page; `X-Total-Count` says how many there are."""
    caller.loaders.get(loader_id)
    at = place or Place(limit=RUNS)
    found, _ = caller.running.page(loader_id, limit=at.limit, offset=at.offset)
    response.headers[TOTAL] = str(found.total)
    return [shown_run(view, workspace_id=caller.principal.workspace_id) for view in found.items]


@router.get("/loaders/{loaderId}/runs/{runId}", summary="Get a run of a loader", responses=UPSTREAM)
def get_run(loader_id: LoaderId, run_id: RunId, caller: Here) -> shown.LoaderRun:
    """One of its runs."""
    caller.loaders.get(loader_id)
    view, sync = caller.running.get(run_id)
    if sync.id != loader_id:
        raise NotFoundError(f"There is no run {run_id!r}.")
    return shown_run(view, workspace_id=caller.principal.workspace_id)
