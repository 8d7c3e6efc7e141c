"""A server for tests of the API: a store, the connector `shelf`, a DuckDB warehouse, runs in memory, and a client with a key.

Each test has a workspace of its own on a server that others share.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from fastapi import FastAPI
from fastapi.testclient import TestClient

from elt_dagster import registry
from elt_dagster.api.app import create_app
from elt_dagster.api.services import Services
from elt_dagster.control.runs import LatestRuns, RunStatus, RunView
from elt_dagster.errors import ConfigError
from elt_dagster.model import ConnectionSpec, RunMode, TriggeredBy
from elt_dagster.store import Store, open_store
from tests import servers
from tests.unit import cli_shelf, connect_stage
from tests.unit.cli_shelf import TOKEN, Shelf

NOBODY = "00000000-0000-4000-8000-000000000000"
ENGINES = ["sqlite", pytest.param("postgres", marks=pytest.mark.again("another engine"))]
"""For a fixture with ``params``: what `opened` opens."""
_numbers = itertools.count(1)
_SECRET_KEY = Fernet.generate_key().decode()


@dataclass
class MemoryRuns(connect_stage.MemoryRuns):
    """Runs that nobody carries out, and that may be cancelled and retried."""

    latest_asked: int = field(default=0)

    def latest(self, sync_ids: Any) -> dict[str, LatestRuns]:
        self._reach()
        self.latest_asked += 1
        return dict(super().latest(sync_ids))

    def cancel(self, run_id: str, reason: str = "", *, requested_by: str = "") -> None:
        self._change(
            run_id, cancel_reason=reason, cancel_requested_by=requested_by, cancel_requested_at=datetime.now(UTC)
        )

    def retry(self, run_id: str, *, run_mode: RunMode | None = None, trigger_ref: str = "") -> str:
        before = self.get(run_id)
        failed = [s.stream for s in before.streams if s.status is not RunStatus.COMPLETED]
        streams = failed if run_mode is None else [s.stream for s in before.streams]
        if not streams:
            raise ConfigError(f"Everything in run {run_id} landed.", fix="Give a run mode.")
        made = self.launch(
            before.sync, streams=streams, run_mode=run_mode or before.run_mode, triggered_by=TriggeredBy.RETRY,
            trigger_ref=trigger_ref, sync_id=before.sync_id,
        )  # fmt: skip
        root = before.root_id or before.id
        self._change(made, root_id=root, parent_id=before.id, attempt=(before.attempt or 1) + 1)
        self._change(run_id, next_id=made)
        return made

    def _change(self, run_id: str, **changes: Any) -> RunView:
        at = next(i for i, v in enumerate(self.views) if v.id == run_id)
        self.views[at] = replace(self.views[at], **changes)
        return self.views[at]


@dataclass
class Server:
    """One application that several tests use, and what is behind it."""

    store: Store
    runs: MemoryRuns
    app: FastAPI


@dataclass
class Place:
    """One workspace with its key and its connections."""

    server: Server
    name: str
    key: str
    client: TestClient
    file: Path
    token: str = TOKEN
    """A literal secret of the source: it may not appear in any answer."""

    @property
    def store(self) -> Store:
        return self.server.store

    @property
    def runs(self) -> MemoryRuns:
        return self.server.runs

    @property
    def id(self) -> str:
        """The workspace's id."""
        return next(w.id for w in self.store.workspaces() if w.name == self.name)

    @property
    def source(self) -> str:
        """The id of the source's connection."""
        return self.connection("books")

    @property
    def warehouse(self) -> str:
        """The id of the warehouse's connection."""
        return self.connection("warehouse")

    def connection(self, name: str) -> str:
        """The id of a connection."""
        return self.store.connection(name, workspace=self.name).id

    def ask(self, method: str, path: str, status: int = 200, **request: Any) -> Any:
        """The JSON of an answer that has ``status``; None where it is empty. No secret is in it."""
        answer = self.client.request(method, path, **request)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        assert self.token not in answer.text
        return answer.json() if answer.content else None

    def invalid(self, method: str, path: str, **request: Any) -> dict[tuple[Any, ...], str]:
        """What a 422 says, by the place it names."""
        told = self.ask(method, path, 422, **request)
        found: dict[tuple[Any, ...], str] = {}
        for e in told["detail"]:
            found[tuple(e["loc"])] = " ".join(filter(None, (found.get(tuple(e["loc"])), e["msg"])))
        return found


@contextmanager
def opened(engine: str, folder: Path) -> Iterator[Store]:
    """A new store on SQLite or PostgreSQL."""
    if engine == "sqlite":
        store = open_store(f"sqlite:///{folder}/store.sqlite")
        store.init()
        yield store
        return
    with servers.database() as url:
        store = open_store(url)
        store.init()
        yield store
        store.close()


def serve(store: Store, **options: Any) -> Server:
    """An application over ``store``."""

    def streams_of(sync_id: str) -> list[str]:
        found = (s for w in store.workspaces() for s in store.syncs(workspace=w.name) if s.id == sync_id)
        return list(next(s.binding_ids for s in found if s.error is None))

    runs = MemoryRuns(streams_of)
    services = Services(store=store, runs=runs, **{"requests_per_minute": 1_000_000, **options})  # type: ignore[arg-type]  # as much of Runs as is asked
    return Server(store, runs, create_app(services))


def shelves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the registry find the connector ``shelf``, asked nothing yet, and let stores seal secrets."""
    monkeypatch.setenv("ELT_DAGSTER_SECRET_KEY", _SECRET_KEY)
    known = registry._connector_modules
    monkeypatch.setattr(registry, "_connector_modules", lambda: {**known(), "shelf": cli_shelf.__name__})
    for name in ("asked", "while_asked", "further_columns"):
        monkeypatch.setattr(Shelf, name, [])


def settle(server: Server, folder: Path, **source: Any) -> Place:
    """A workspace of its own, with a source called ``books`` and a warehouse."""
    name = f"w{next(_numbers)}"
    server.store.create_workspace(name)
    file = folder / "warehouse.duckdb"
    with server.store.transaction(name) as tx:
        config = {"token": TOKEN, **source}
        tx.put_connection(
            ConnectionSpec(name="books", connector="shelf", config=config), frozenset({"token"}), label="My books"
        )
        tx.put_connection(ConnectionSpec(name="warehouse", connector="duckdb", config={"path": str(file)}))
    _, key = server.store.api_keys.create(workspace=name, name="test")
    server.runs.views, server.runs.away = [], False
    client = TestClient(server.app, headers={"x-api-key": key}, raise_server_exceptions=True)
    return Place(server, name, key, client, file)
