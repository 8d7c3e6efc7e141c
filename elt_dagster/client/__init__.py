"""A typed client for the REST API of a server that `elt-dagster serve` runs.

    from elt_dagster.client import Client

    with Client("http://127.0.0.1:8000", api_key) as client:
        for sync in client.syncs.list(status=["active"]):
            print(sync.slug, sync.last_success_at)
        run = client.runs.trigger(sync.id)
        print(client.runs.wait(run.id).result_class)

It needs httpx and pydantic, and nothing else of this package but its errors.
"""

from elt_dagster.client.answers import (
    AvailableStream,
    Bridge,
    Connection,
    Draft,
    Integration,
    Loader,
    LoaderRun,
    LoaderType,
    OpenBridge,
    Run,
    Schedule,
    SelectedStream,
    Stream,
    StreamRun,
    StreamSnapshot,
    StreamState,
    Sync,
    TableBinding,
)
from elt_dagster.client.client import Client

__all__ = [
    "AvailableStream",
    "Bridge",
    "Client",
    "Connection",
    "Draft",
    "Integration",
    "Loader",
    "LoaderRun",
    "LoaderType",
    "OpenBridge",
    "Run",
    "Schedule",
    "SelectedStream",
    "Stream",
    "StreamRun",
    "StreamSnapshot",
    "StreamState",
    "Sync",
    "TableBinding",
]
