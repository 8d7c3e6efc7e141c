"""The client: connections and streams over the Connect dialect, syncs and runs over the Syncs dialect, loaders over theirs; ids are the same in all."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
from pydantic.alias_generators import to_camel

from elt_dagster.client import answers
from elt_dagster.client.loaders import Loaders
from elt_dagster.client.parts import Part, each, given, if_match, in_path, one
from elt_dagster.client.sending import Sending
from elt_dagster.errors import ConflictError, TransientError

SYNCS = "/api/v1/syncs"


class Client:
    """A server and a key. Use as a context manager, or `close` it; threads may share it.

    Requests that were lost, or refused for the moment, are sent again up to ``retries`` times where that cannot do anything twice. Methods
    raise the errors of `elt_dagster.errors`: NotFoundError, ConflictError, ConfigError for what was asked, AuthError for the key,
    TransientError for a server that is away.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout: float = 60.0,
        retries: int = 4,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sending = Sending(url, api_key, timeout=timeout, retries=retries, transport=transport, sleep=sleep)
        self._sleep = sleep
        self.connections = Connections(self._sending, sleep)
        self.syncs = Syncs(self._sending, sleep)
        self.streams = Streams(self._sending, sleep)
        self.runs = Runs(self._sending, sleep)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connections to the server go."""
        self._sending.close()

    def loaders(self, workspace: str = "default") -> Loaders:
        """The loaders of ``workspace``, by its name or id. It has to be that of the key: of any other there are none (NotFoundError)."""
        return Loaders(self._sending, self._sleep, workspace)

    def is_ready(self) -> bool:
        """Whether the server can be reached, and can itself reach its store and Dagster. Raises nothing of ours."""
        return self._sending.is_ready()

    def integrations(self, ability: str | None = None) -> Iterator[answers.Integration]:
        """What can be connected; ``ability`` is EltSource or EltDestination."""
        return each(answers.Integration, self._sending.cursor_pages("/integrations", {"ability": ability}))


class Connections(Part):
    """Accounts at sources and warehouses, and the bridges on which people make them."""

    def list(self) -> Iterator[answers.Connection]:
        """All of them, newest first; pages are fetched as they are needed."""
        return each(answers.Connection, self._sending.cursor_pages("/connections"))

    def settings(self, connection_id: str, partial: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """JSON Schema of the settings a sync of it has, with live options; ``partial`` is what was chosen so far."""
        params = {"partial_settings": json.dumps(dict(partial))} if partial else None
        found: dict[str, Any] = self._sending.ask(
            "GET", f"/connections/{in_path(connection_id)}/settings", params=params
        )
        return found

    def delete(self, connection_id: str) -> None:
        """Forget it. Raises ConflictError while a sync uses it."""
        self._sending.ask("DELETE", f"/connections/{in_path(connection_id)}")

    def authorize(
        self,
        integration_id: str,
        *,
        label: str,
        redirect_uri: str,
        state: str | None = None,
        connection_id: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> answers.Bridge:
        """A bridge for a person to cross; with a ``connection_id`` it renews that connection. ``settings`` are known already, and no secrets."""
        body = {"integration_id": integration_id, "label": label, "redirect_uri": redirect_uri}
        more = {"state": state, "connection_id": connection_id, "settings": dict(settings) if settings else None}
        return one(answers.Bridge, self._sending.ask("POST", "/connection_bridges", body=body | given(more)))

    def bridges(self) -> Iterator[answers.OpenBridge]:
        """Bridges that nobody has crossed yet, newest first; pages are fetched as they are needed."""
        return each(answers.OpenBridge, self._sending.cursor_pages("/connection_bridges"))

    def available(self, connection_id: str) -> Iterator[answers.AvailableStream]:
        """What its source offers; it is asked."""
        path = f"/elt_syncs/{in_path(connection_id)}/source_streams"
        return each(answers.AvailableStream, self._sending.cursor_pages(path))


class Syncs(Part):
    """Configured syncs."""

    def list(
        self, *, q: str | None = None, status: Sequence[str] = (), provider: Sequence[str] = ()
    ) -> Iterator[answers.Sync]:
        """All of them, or those with ``q`` in name or slug, of these statuses and connectors; pages are fetched as they are needed."""
        params = {"q": q, "status": list(status) or None, "provider": list(provider) or None}
        return each(answers.Sync, self._sending.offset_pages(SYNCS, "syncs", params))

    def get(self, sync_id: str) -> answers.Sync:
        """One of them."""
        return self._tagged(answers.Sync, "GET", f"{SYNCS}/{in_path(sync_id)}")

    def create(self, *, connection_id: str, name: str, **more: Any) -> answers.Sync:
        """A new one. ``more`` are the fields of the Syncs dialect in snake_case: ``slug``, ``entities``, ``table_bindings``, ``schedule`` ..."""
        body = _camel({"connection_id": connection_id, "name": name} | more)
        return self._tagged(answers.Sync, "POST", SYNCS, body=body)

    def update(self, sync_id: str, *, etag: str | None = None, **changes: Any) -> answers.Sync:
        """Change what is named, as in `create`; None clears. Raises ConflictError where somebody else has changed it since it was of ``etag``."""
        path = f"{SYNCS}/{in_path(sync_id)}"
        return self._tagged(answers.Sync, "PATCH", path, body=_camel(changes), headers=if_match(etag))

    def delete(self, sync_id: str, *, remove_tables: bool = False, etag: str | None = None) -> None:
        """Remove it and its streams; its tables stay unless asked. ``etag`` as in `update`."""
        # only the Connect dialect has a word for the tables, and it does not know of archived syncs
        path, params = (
            (f"/elt_syncs/{in_path(sync_id)}", {"removeDataReferences": "true"})
            if remove_tables
            else (f"{SYNCS}/{in_path(sync_id)}", None)
        )
        self._sending.ask("DELETE", path, params=params, headers=if_match(etag))

    def draft(
        self,
        *,
        connection_id: str,
        destination_schema_name: str,
        sync_interval: str,
        elt_settings: Mapping[str, Any] | None = None,
        start_date: str | None = None,
        destination_connection_id: str | None = None,
    ) -> answers.Draft:
        """A new one as the Connect dialect makes it: without streams, which `Streams.put` adds, and not started, which `start` does."""
        body = {
            "connection_id": connection_id,
            "destination_schema_name": destination_schema_name,
            "sync_interval": sync_interval,
        }
        more = {"start_date": start_date, "destination_connection_id": destination_connection_id}
        settings = {"elt_settings": dict(elt_settings)} if elt_settings else {}
        return self._tagged(answers.Draft, "POST", "/elt_syncs", body={**body, **settings, **given(more)})

    def drafts(self, connection_id: str | None = None) -> Iterator[answers.Draft]:
        """All syncs, or those of one connection, as the Connect dialect tells of them: with their streams, newest first."""
        return each(answers.Draft, self._sending.cursor_pages("/elt_syncs", {"connection_id": connection_id}))

    def get_draft(self, sync_id: str) -> answers.Draft:
        """One of them, so told."""
        return self._tagged(answers.Draft, "GET", f"/elt_syncs/{in_path(sync_id)}")

    def update_draft(
        self,
        sync_id: str,
        *,
        elt_settings: Mapping[str, Any] | None = None,
        sync_interval: str | None = None,
        etag: str | None = None,
    ) -> answers.Draft:
        """Other settings, in the place of all former ones, or another schedule."""
        body = given(
            {"elt_settings": dict(elt_settings) if elt_settings is not None else None, "sync_interval": sync_interval}
        )
        path = f"/elt_syncs/{in_path(sync_id)}"
        return self._tagged(answers.Draft, "POST", path, body=body, headers=if_match(etag))

    def enable(self, sync_id: str) -> None:
        """Switch its schedule on."""
        self._sending.ask("POST", f"/elt_syncs/{in_path(sync_id)}/enable")

    def disable(self, sync_id: str) -> None:
        """Switch its schedule off."""
        self._sending.ask("POST", f"/elt_syncs/{in_path(sync_id)}/disable")

    def start(self, sync_id: str) -> None:
        """Switch its schedule on, and run it at once."""
        self._sending.ask("POST", f"/elt_syncs/{in_path(sync_id)}/start")

    def status(self, sync_id: str) -> tuple[answers.StreamState, ...]:
        """What each of its streams is doing, and did last."""
        found = self._sending.ask("GET", f"/elt_syncs/{in_path(sync_id)}/status")
        return tuple(one(answers.StreamState, row) for row in found["source_streams"])

    def catalog(self, provider: str) -> dict[str, Any]:
        """What a connector offers: its settings and streams."""
        found: dict[str, Any] = self._sending.ask("GET", f"{SYNCS}/providers/{in_path(provider)}/catalog")
        return found


class Streams(Part):
    """Streams of syncs."""

    def list(self, sync_id: str | None = None) -> Iterator[answers.Stream]:
        """Those of one sync, or of all, newest first."""
        return each(answers.Stream, self._sending.cursor_pages("/elt_streams", {"elt_sync_id": sync_id}))

    def available(self, sync_id: str) -> Iterator[answers.AvailableStream]:
        """What the source of a sync offers; it is asked."""
        path = f"/elt_syncs/{in_path(sync_id)}/available_source_streams"
        return each(answers.AvailableStream, self._sending.cursor_pages(path))

    def put(self, sync_id: str, streams: Sequence[Mapping[str, Any]]) -> tuple[answers.Stream, ...]:
        """Add streams, or change those that are there: a ``name`` each, and what else is to be said; none is removed."""
        body = {"source_streams": [dict(s) for s in streams]}
        found = self._sending.ask("POST", f"/elt_syncs/{in_path(sync_id)}/source_streams", body=body)
        return tuple(one(answers.Stream, row) for row in found["source_streams"])

    def get(self, stream_id: str) -> answers.Stream:
        """One of them."""
        return one(answers.Stream, self._sending.ask("GET", f"/elt_streams/{in_path(stream_id)}"))

    def delete(self, stream_id: str) -> None:
        """Take it out of its sync; its table stays."""
        self._sending.ask("DELETE", f"/elt_streams/{in_path(stream_id)}")

    def request_run(self, stream_id: str, *, patience: float = 60.0) -> str:
        """Run it alone, and return the run's id once it is there. Raises ConflictError, with the active run's id, while one loads it."""
        try:
            told = self._sending.ask("POST", f"/elt_streams/{in_path(stream_id)}/request_run")
        except ConflictError as error:
            error.with_id = error.with_id.partition(".")[0] if error.with_id else None
            raise
        address = urlsplit(told["status_url"])
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            found = self._sending.ask("GET", address.path, params=dict(parse_qsl(address.query)))["data"]
            if found:
                return one(answers.StreamRun, found[0]).run_id
            self._sleep(0.5)
        raise TransientError("The run was asked for, and is not there yet.", fix="List the runs in a moment.")

    def request_full_refresh(self, stream_id: str, *, reset_history_table: bool = False) -> None:
        """Have its next run read everything again."""
        path = f"/elt_streams/{in_path(stream_id)}/request_full_refresh"
        self._sending.ask("POST", path, body={"reset_history_table": reset_history_table})

    def cancel_full_refresh(self, stream_id: str) -> None:
        """Take that back."""
        self._sending.ask("POST", f"/elt_streams/{in_path(stream_id)}/cancel_full_refresh")

    def runs(self, stream_id: str) -> Iterator[answers.StreamRun]:
        """The runs that loaded it, newest first."""
        return each(answers.StreamRun, self._sending.cursor_pages("/elt_stream_runs", {"elt_stream_id": stream_id}))

    def run(self, stream_run_id: str) -> answers.StreamRun:
        """One of those runs, by its own id."""
        return one(answers.StreamRun, self._sending.ask("GET", f"/elt_stream_runs/{in_path(stream_run_id)}"))


class Runs(Part):
    """Runs of syncs: runs of Dagster, also those that were started elsewhere."""

    def trigger(self, sync_id: str, *, run_mode: str | None = None) -> answers.Run:
        """Run a sync now; ``run_mode`` is incremental or full_refresh. Raises ConflictError, with the run's id, while one is active."""
        body = given({"runMode": run_mode})
        return one(answers.Run, self._sending.ask("POST", f"{SYNCS}/{in_path(sync_id)}/trigger", body=body))

    def list(self, sync_id: str) -> Iterator[answers.Run]:
        """The runs of a sync, newest first; pages are fetched as they are needed."""
        return each(answers.Run, self._sending.offset_pages(f"{SYNCS}/{in_path(sync_id)}/runs", "runs"))

    def get(self, run_id: str) -> answers.Run:
        """One of them."""
        return one(answers.Run, self._sending.ask("GET", f"{SYNCS}/runs/{in_path(run_id)}"))

    def wait(self, run_id: str, *, timeout: float | None = None, every: float = 1.0) -> answers.Run:
        """The run once it has ended. Raises TransientError when that takes longer than ``timeout`` seconds; the run goes on."""
        deadline = time.monotonic() + timeout if timeout is not None else None
        while True:
            run = self.get(run_id)
            if run.is_final:
                return run
            if deadline is not None and time.monotonic() + every > deadline:
                raise TransientError(f"Run {run_id} has not ended yet; it is {run.status}.", fix="Wait longer.")
            self._sleep(every)

    def cancel(self, run_id: str, reason: str | None = None) -> answers.Run:
        """Ask it to stop. Raises ConflictError for one that has ended."""
        body = given({"reason": reason})
        return one(answers.Run, self._sending.ask("POST", f"{SYNCS}/runs/{in_path(run_id)}/cancel", body=body))

    def retry(self, run_id: str, *, run_mode: str | None = None) -> answers.Run:
        """Another attempt: what failed, or with a ``run_mode`` all of it. Raises ConflictError for one that has not ended."""
        body = given({"runMode": run_mode})
        return one(answers.Run, self._sending.ask("POST", f"{SYNCS}/runs/{in_path(run_id)}/retry", body=body))


def _camel(values: Mapping[str, Any]) -> dict[str, Any]:
    """The names of fields as the Syncs dialect writes them; what is inside settings is the caller's own."""
    return {
        to_camel(name): [_camel(v) if isinstance(v, Mapping) else v for v in value]
        if name == "table_bindings"
        else value
        for name, value in values.items()
    }
