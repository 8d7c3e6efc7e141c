"""What the routes of the Connect dialect share: parameters, documented errors, and the sync or stream that an address names."""

from typing import Annotated, Any

from fastapi import Depends, Path, Query

from elt_dagster.api import connect_models as shown
from elt_dagster.api.auth import Authenticated
from elt_dagster.api.connect_words import visible
from elt_dagster.api.one_thread import awaitable
from elt_dagster.api.services import Caller
from elt_dagster.errors import ConfigError, NotFoundError
from elt_dagster.store import AnySync, StoredSync

REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {
        "model": shown.Problem,
        "description": "The request is wrong; the message has the JSON pointer of each field",
    },
    401: {"model": shown.Problem, "description": "No key, or one that opens nothing"},
    413: {"model": shown.Problem, "description": "The body is too large"},
    429: {"model": shown.Problem, "description": "Too many requests with this key: see Retry-After"},
    "4XX": {"model": shown.Problem, "description": "Anything else that is wrong with the request"},
}
MISSING: dict[int | str, dict[str, Any]] = {404: {"model": shown.Problem, "description": "There is no such thing"}}
UPSTREAM: dict[int | str, dict[str, Any]] = {
    424: {"model": shown.Problem, "description": "The source, the warehouse or Dagster failed or cannot be reached"}
}
CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": shown.ConflictProblem, "description": "It collides with what `conflict_id` names"}
}
CHANGED: dict[int | str, dict[str, Any]] = {
    412: {"model": shown.Problem, "description": "It was changed meanwhile: If-Match has an older ETag"}
}

Limit = Annotated[int, Query(ge=1, le=100, description="How many on a page.")]
After = Annotated[
    str | None, Query(max_length=512, description="`next_cursor` of the page before; the first page without it.")
]
SyncId = Annotated[str, Path(description="The id of an ELT sync.")]
StreamId = Annotated[str, Path(description="The id of an ELT stream.")]


def any_sync(id: SyncId, caller: Authenticated) -> AnySync:
    """The sync that the address names, broken or not."""
    return visible(caller.syncs.find(id))


def usable_sync(id: SyncId, caller: Authenticated) -> StoredSync:
    """The sync that the address names. Raises ConfigError for one that cannot be read."""
    found = any_sync(id, caller)
    if not isinstance(found, StoredSync):
        raise ConfigError(found.error)
    return found


def stream_of(caller: Caller, stream_id: str) -> tuple[StoredSync, str]:
    """A sync and the name of the one of its streams that has the id. Raises NotFoundError."""
    sync, name = caller.syncs.of_stream(stream_id)
    try:
        visible(sync)
    except NotFoundError:
        raise NotFoundError(f"There is no stream with the id {stream_id!r}.") from None
    return sync, name


def named_stream(id: StreamId, caller: Authenticated) -> tuple[StoredSync, str]:
    """The stream that the address names, with its sync."""
    return stream_of(caller, id)


TheSync = Annotated[AnySync, Depends(awaitable(any_sync))]
UsableSync = Annotated[StoredSync, Depends(awaitable(usable_sync))]
TheStream = Annotated[tuple[StoredSync, str], Depends(awaitable(named_stream))]
