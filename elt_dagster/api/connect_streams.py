"""ELT streams of the Connect dialect, and their runs."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query

from elt_dagster.api import connect_models as shown
from elt_dagster.api.auth import Authenticated
from elt_dagster.api.connect_common import (
    MISSING,
    REFUSALS,
    UPSTREAM,
    After,
    Limit,
    StreamId,
    TheStream,
    stream_of,
)
from elt_dagster.api.connect_words import (
    HIDDEN,
    as_invalid,
    paged,
    parts_of,
    shown_run,
    shown_stream,
    stream_run_id,
    visible,
)
from elt_dagster.api.errors import in_request
from elt_dagster.api.routes import KeyedRoute
from elt_dagster.control.running import NotRunnableError
from elt_dagster.errors import ConfigError, ConflictError, NotFoundError
from elt_dagster.store import Place, SyncFilter

router = APIRouter(route_class=KeyedRoute, responses=REFUSALS)


@router.get("/elt_streams", tags=["ELT Streams"], summary="List ELT streams", responses=MISSING)
def list_streams(
    caller: Authenticated,
    elt_sync_id: Annotated[str | None, Query(max_length=255, description="Only those of this sync.")] = None,
    starting_after: After = None,
    limit: Limit = 10,
) -> shown.Paged[shown.EltStream]:
    """Streams of all syncs, or of one, newest first."""
    if elt_sync_id is not None:
        visible(caller.syncs.find(elt_sync_id))
    place = Place(limit=limit + 1, after=starting_after or None, newest_first=True)
    with in_request("query", "starting_after"):
        found = caller.syncs.streams_page(SyncFilter(without_statuses=HIDDEN), place, sync_id=elt_sync_id)
    marks = caller.syncs.marks_of([binding for binding, _, _ in found])
    return paged([(binding, shown_stream(sync, name, marks)) for binding, sync, name in found], limit)


@router.get("/elt_streams/{id}", tags=["ELT Streams"], summary="Get an ELT stream", responses=MISSING)
def get_stream(stream: TheStream, caller: Authenticated) -> shown.EltStream:
    """One stream of a sync."""
    sync, name = stream
    return shown_stream(sync, name, caller.syncs.marks(sync))


@router.delete(
    "/elt_streams/{id}", tags=["ELT Streams"], summary="Delete an ELT stream", status_code=204, responses=MISSING
)
def delete_stream(id: StreamId, stream: TheStream, caller: Authenticated) -> None:
    """Take a stream out of its sync; its table stays. A sync that loses its last one is not started any more."""
    caller.syncs.remove_stream(id, by=caller.by)


@router.post(
    "/elt_streams/{id}/request_run",
    tags=["ELT Streams"],
    summary="Run an ELT stream now",
    responses={
        **MISSING,
        **UPSTREAM,
        409: {"model": shown.RunConflictProblem, "description": "`active_run_id` is loading it"},
    },
)
def request_run(id: StreamId, stream: TheStream, caller: Authenticated) -> shown.RunRequested:
    """Start a run of this stream alone. `status_url` says how it is; an empty list there means that it is not scheduled yet."""
    sync, name = stream
    try:
        with as_invalid(NotRunnableError):
            before, _ = caller.running.trigger_stream(sync, name, by=caller.by)
    except ConflictError as error:
        error.with_id = stream_run_id(error.with_id, id) if error.with_id else None
        raise
    query = {
        "elt_stream_id": id,
        "starting_after": stream_run_id(before, id) if before else "",
        "limit": 1,
        "sort_direction": shown.SortDirection.ASC.value,
    }
    return shown.RunRequested(status_url=f"/elt_stream_runs?{urlencode(query)}")


@router.post(
    "/elt_streams/{id}/request_full_refresh",
    tags=["ELT Streams"],
    summary="Have the next run read everything again",
    status_code=204,
    responses=MISSING,
)
def request_full_refresh(
    id: StreamId, stream: TheStream, caller: Authenticated, body: shown.FullRefreshRequest | None = None
) -> None:
    """Mark the next run of this stream as a full refresh. It starts nothing. Refused for a stream that is protected from it."""
    reset = body is not None and body.reset_history_table
    with as_invalid(ConflictError):
        caller.syncs.request_full_refresh(id, reset_history=reset, by=caller.by)


@router.post(
    "/elt_streams/{id}/cancel_full_refresh",
    tags=["ELT Streams"],
    summary="Take that back",
    status_code=204,
    responses=MISSING,
)
def cancel_full_refresh(id: StreamId, stream: TheStream, caller: Authenticated) -> None:
    """The next run of this stream goes on from its checkpoint again. Nothing happens where nothing was asked."""
    caller.syncs.cancel_full_refresh(id)


@router.get(
    "/elt_stream_runs",
    tags=["ELT Stream Runs"],
    summary="List runs of an ELT stream",
    responses={**MISSING, **UPSTREAM},
)
def list_runs(
    caller: Authenticated,
    elt_stream_id: Annotated[str, Query(max_length=255, description="The stream.")],
    starting_after: After = None,
    limit: Limit = 10,
    sort_direction: Annotated[
        shown.SortDirection, Query(description="asc begins with the oldest.")
    ] = shown.SortDirection.DESC,
) -> shown.Paged[shown.EltStreamRun]:
    """Runs that loaded a stream, alone or with others, newest first: started from here, by a schedule, or in Dagster itself."""
    sync, name = stream_of(caller, elt_stream_id)
    with in_request("query", "starting_after"):
        cursor = parts_of(starting_after) if starting_after else None
        if cursor is not None and cursor[1] != elt_stream_id:
            raise ConfigError("The cursor belongs to another stream.", fix="Begin at the first page.")
        ascending = sort_direction is shown.SortDirection.ASC
        found = caller.running.stream_page(
            sync, name, limit=limit + 1, after=cursor[0] if cursor else None, ascending=ascending
        )
    runs = [shown_run(view, part, sync_id=sync.id, binding_id=elt_stream_id) for view, part in found]
    return paged([(run.id, run) for run in runs], limit)


@router.get(
    "/elt_stream_runs/{id}",
    tags=["ELT Stream Runs"],
    summary="Get a run of an ELT stream",
    responses={**MISSING, **UPSTREAM},
)
def get_run(
    id: Annotated[str, Path(description="The id of a stream's run.")], caller: Authenticated
) -> shown.EltStreamRun:
    """One stream of one Dagster run."""
    run_id, binding_id = parts_of(id)
    sync, name = stream_of(caller, binding_id)
    view, owner = caller.running.get(run_id)
    part = next((p for p in view.streams if p.stream == name), None)
    if owner.id != sync.id or part is None:
        raise NotFoundError(f"There is no stream run {id!r}.")
    return shown_run(view, part, sync_id=sync.id, binding_id=binding_id)
