"""ELT syncs of the Connect dialect."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from elt_dagster.api import connect_models as shown
from elt_dagster.api.auth import Authenticated
from elt_dagster.api.connect_common import (
    CHANGED,
    CONFLICT,
    MISSING,
    REFUSALS,
    UPSTREAM,
    After,
    Limit,
    SyncId,
    TheSync,
    UsableSync,
)
from elt_dagster.api.connect_words import (
    HIDDEN,
    after,
    as_written,
    paged,
    read_stream,
    shown_available,
    shown_state,
    shown_stream,
    shown_sync,
    visible,
)
from elt_dagster.api.documented import TAGGED
from elt_dagster.api.errors import in_body, in_request
from elt_dagster.api.routes import KeyedRoute
from elt_dagster.api.services import Caller
from elt_dagster.api.words import Revision, etag
from elt_dagster.control.meant import meant
from elt_dagster.control.setup import Draft, substreams
from elt_dagster.errors import NotFoundError
from elt_dagster.model import Catalog
from elt_dagster.store import AnySync, Place, StoredSync, SyncFilter

router = APIRouter(prefix="/elt_syncs", route_class=KeyedRoute, responses=REFUSALS, tags=["ELT Syncs"])


def _answer(caller: Caller, sync: AnySync, response: Response) -> shown.EltSync:
    response.headers["ETag"] = etag(sync)
    marks = caller.syncs.marks(sync) if isinstance(sync, StoredSync) else {}
    return shown_sync(sync, account_id=caller.principal.workspace_id, kinds=caller.syncs.kinds(), marks=marks)


@router.post("", summary="Create an ELT sync", status_code=201, responses={201: TAGGED, **CONFLICT, **UPSTREAM})
def create_sync(body: shown.EltSyncCreate, caller: Authenticated, response: Response) -> shown.EltSync:
    """A sync without streams, which nothing starts yet: add streams, then start it."""
    with in_body("connection_id"):
        source = caller.accounts.get(body.connection_id)
    with in_body("destination_connection_id"):
        chosen = body.destination_connection_id
        destination = caller.accounts.get(chosen) if chosen else caller.accounts.default_destination()
    draft = Draft(
        source=source,
        destination=destination,
        dataset=body.destination_schema_name,
        cron=body.sync_interval,
        settings=body.elt_settings,
        start_date=body.start_date,
    )
    with as_written():
        sync = caller.setup.draft(draft, by=caller.by)
    return _answer(caller, sync, response)


@router.get("", summary="List ELT syncs", responses=MISSING)
def list_syncs(
    caller: Authenticated,
    connection_id: Annotated[
        str | None, Query(max_length=255, description="Only those of this source connection.")
    ] = None,
    starting_after: After = None,
    limit: Limit = 10,
) -> shown.Paged[shown.EltSync]:
    """Syncs, newest first."""
    if connection_id is not None:
        caller.accounts.get(connection_id)
    wanted = SyncFilter(without_statuses=HIDDEN, connection_id=connection_id)
    with in_request("query", "starting_after"):
        page = caller.syncs.page(wanted, Place(limit=limit + 1, after=starting_after or None, newest_first=True))
    account = caller.principal.workspace_id
    items = [(s.id, shown_sync(s, account_id=account, kinds=page.kinds, marks=page.marks)) for s in page.items]
    return paged(items, limit)


@router.get("/{id}", summary="Get an ELT sync", responses={200: TAGGED, **MISSING})
def get_sync(sync: TheSync, caller: Authenticated, response: Response) -> shown.EltSync:
    """One sync with its streams. Its ETag changes with every change of it."""
    return _answer(caller, sync, response)


@router.post(
    "/{id}", summary="Update an ELT sync", responses={200: TAGGED, **MISSING, **CONFLICT, **CHANGED, **UPSTREAM}
)
def update_sync(
    sync: UsableSync, body: shown.EltSyncUpdate, caller: Authenticated, revision: Revision, response: Response
) -> shown.EltSync:
    """Other settings, or another schedule. The source is asked whether it knows the settings."""

    def change(data: dict[str, Any], envelope: dict[str, Any]) -> None:
        if body.elt_settings is not None:
            data["settings"] = body.elt_settings
        if body.sync_interval is not None:
            data["schedule"] = {**(data.get("schedule") or {}), "cron": body.sync_interval}

    with as_written():
        changed = caller.syncs.update(sync.id, change, revision=revision, by=caller.by)
    return _answer(caller, changed, response)


@router.delete(
    "/{id}", summary="Delete an ELT sync", status_code=204, responses={**MISSING, **CONFLICT, **CHANGED, **UPSTREAM}
)
def delete_sync(
    sync: TheSync,
    caller: Authenticated,
    revision: Revision,
    remove_data: Annotated[
        bool,
        Query(
            alias="removeDataReferences", description="Drop its tables in the warehouse as well; they stay otherwise."
        ),
    ] = False,
) -> None:
    """Remove a sync and its streams."""
    caller.setup.remove(sync.id, tables=remove_data, revision=revision)


@router.post(
    "/{id}/enable",
    summary="Switch the schedule on",
    status_code=204,
    responses={204: TAGGED, **MISSING, **CONFLICT, **CHANGED},
)
def enable_sync(sync: UsableSync, caller: Authenticated, revision: Revision, response: Response) -> None:
    """From now on the sync runs by its schedule."""
    response.headers["ETag"] = etag(caller.setup.set_enabled(sync.id, True, revision=revision, by=caller.by))


@router.post(
    "/{id}/disable",
    summary="Switch the schedule off",
    status_code=204,
    responses={204: TAGGED, **MISSING, **CONFLICT, **CHANGED},
)
def disable_sync(sync: UsableSync, caller: Authenticated, revision: Revision, response: Response) -> None:
    """From now on the sync runs only when it is asked to."""
    response.headers["ETag"] = etag(caller.setup.set_enabled(sync.id, False, revision=revision, by=caller.by))


@router.post(
    "/{id}/start",
    summary="Start an ELT sync",
    status_code=204,
    responses={204: TAGGED, **MISSING, **CONFLICT, **CHANGED, **UPSTREAM},
)
def start_sync(sync: UsableSync, caller: Authenticated, revision: Revision, response: Response) -> None:
    """Switch the schedule on, and run once at once."""
    caller.setup.start(sync.id, revision=revision, by=caller.by)
    response.headers["ETag"] = etag(caller.syncs.find(sync.id))


@router.get("/{id}/status", summary="Where each stream is", responses={**MISSING, **UPSTREAM})
def get_status(sync: UsableSync, caller: Authenticated) -> shown.EltSyncState:
    """A snapshot of what is being loaded and of what was loaded last."""
    states = caller.running.states(sync)
    return shown.EltSyncState(elt_sync_id=sync.id, source_streams=[shown_state(s) for s in states])


AllOrLimit = Annotated[
    int | None,
    Query(ge=1, le=100, description="How many on a page; all of them when neither this nor a cursor is given."),
]


def _available(catalog: Catalog, cursor: str | None, limit: int | None) -> shown.Paged[shown.AvailableStream]:
    children = substreams(catalog)
    streams = [(s.name, shown_available(s, children[s.name])) for s in catalog]
    size = limit or (10 if cursor else max(1, len(streams)))
    with in_request("query", "starting_after"):
        return paged(after(streams, cursor or None, size), size)


@router.get("/{id}/available_source_streams", summary="What the source offers", responses={**MISSING, **UPSTREAM})
def get_available_streams(
    sync: UsableSync, caller: Authenticated, starting_after: After = None, limit: AllOrLimit = None
) -> shown.Paged[shown.AvailableStream]:
    """Every stream that could be added, in the source's order; the source is asked."""
    return _available(caller.setup.available(sync.id), starting_after, limit)


@router.get(
    "/{id}/source_streams", summary="What the source offers, also by connection", responses={**MISSING, **UPSTREAM}
)
def get_source_streams(
    id: Annotated[str, Path(description="The id of an ELT sync, or of a connection.")],
    caller: Authenticated,
    starting_after: After = None,
    limit: AllOrLimit = None,
) -> shown.Paged[shown.AvailableStream]:
    """The same as `available_source_streams`; the id of a connection is taken as well."""
    try:
        visible(caller.syncs.find(id))
    except NotFoundError:
        caller.accounts.get(id)
    return _available(caller.setup.available(id), starting_after, limit)


@router.post(
    "/{id}/source_streams",
    summary="Add or change streams",
    status_code=201,
    responses={201: TAGGED, **MISSING, **CONFLICT, **CHANGED, **UPSTREAM},
)
def put_streams(
    id: SyncId,
    sync: UsableSync,
    body: shown.SourceStreamsAdd,
    caller: Authenticated,
    *,
    revision: Revision,
    response: Response,
) -> shown.SourceStreamsAdded:
    """Add streams and change those that are there; none is removed, and what a stream does not name stays. A name may differ from the source's
    by case, or by singular and plural."""
    data: list[dict[str, Any]] = []
    excluded: dict[str, list[str]] = {}
    for sent in body.source_streams:
        stream, children = read_stream(sent)
        data.append(stream)
        excluded |= children
    names = [s.name for s in body.source_streams]
    with as_written(names):
        written = caller.setup.put_streams(sync.id, data, excluded, revision=revision, by=caller.by)
    response.headers["ETag"] = etag(written)
    marks = caller.syncs.marks(written)
    found = meant(names, [binding.name for binding in written.spec.streams])
    return shown.SourceStreamsAdded(source_streams=[shown_stream(written, found[name], marks) for name in names])
