"""A stage for tests of the Connect dialect: a source with settings that depend on each other, a DuckDB file, runs in memory, and a client."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from fastapi.testclient import TestClient
from pydantic import SecretStr

from elt_dagster.api.app import create_app
from elt_dagster.api.services import Services
from elt_dagster.control.runs import AsStored, LatestRuns, RunPage, RunStatus, RunView, StreamRun
from elt_dagster.errors import AuthError, NotFoundError, TransientError
from elt_dagster.model import Batch, Catalog, CheckResult, ReadRequest, RunMode, Stream, TriggeredBy, Window
from elt_dagster.model.types import TIMESTAMP_UTC, column
from elt_dagster.sdk.connector import Config, Connector, Runtime
from elt_dagster.store import Store, StoredSync

CANARY = "canary-51c9e"
"""The literal password of the source: it may not appear in any answer."""
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
ACCOUNTS = {"123456": "Name of account", "987654": "Another"}
CAMPAIGNS = {"123456": ["spring", "summer"], "987654": ["autumn"]}
COLUMNS = [column("id", pa.int64(), nullable=False), column("updated_at", TIMESTAMP_UTC), column("email", pa.string())]


class AdvertsConfig(Config):
    """Where the adverts are."""

    password: SecretStr = SecretStr("none")
    """What opens them."""
    mood: Literal["good", "away", "refusing"] = "good"
    """Whether they answer."""
    draft: str = "https://json-schema.org/draft/2020-12/schema"
    """How the schema of the settings is written."""
    needs_accounts: bool = False
    """Whether a sync has to name ad accounts."""


class AdvertsSettings(Config):
    """What one sync wants of them."""

    ad_accounts: tuple[str, ...] = ()
    """Which accounts."""
    campaign: str | None = None
    """Which campaign."""
    start_date: date | None = None
    """Nothing older is read."""


class Adverts(Connector[AdvertsConfig]):
    """Three streams, one of them below another."""

    name: ClassVar[str] = "adverts"
    title: ClassVar[str] = "Adverts"
    docs_url: ClassVar[str] = "https://example.com/adverts"
    settings_type = AdvertsSettings
    asked: ClassVar[list[Mapping[str, Any]]] = []

    def settings_schema(self, partial: Mapping[str, Any] | None = None) -> dict[str, Any]:
        self._answer()
        accounts = [{"const": key, "title": title} for key, title in ACCOUNTS.items()]
        chosen = (partial or {}).get("ad_accounts") or ()
        campaigns = [{"const": c, "title": c} for a in chosen for c in CAMPAIGNS.get(a, ())]
        return {
            "$schema": self.config.draft,
            "type": "object",
            "properties": {
                "ad_accounts": {"type": "array", "title": "Ad accounts", "anyOf": accounts},
                "campaign": {"type": "string", "anyOf": campaigns} if campaigns else {"type": "string"},
                "start_date": {"type": "string", "format": "date"},
            },
            "required": ["ad_accounts"] if self.config.needs_accounts else [],
            "dependencies": {"campaign": ["ad_accounts"]},
        }

    def check(self) -> CheckResult:
        return CheckResult(self.config.mood == "good", "here")

    def discover(self, settings: Mapping[str, Any] | None = None) -> Catalog:
        self._answer()
        Adverts.asked.append(dict(settings or {}))
        whole = pa.schema(COLUMNS)
        return Catalog(
            (
                Stream(name="adverts", schema=whole, primary_key=("id",), cursor_field="updated_at"),
                Stream(
                    name="adverts.images", schema=whole, primary_key=("id",), depends_on=("adverts",), selected=False
                ),
                Stream(name="label", schema=pa.schema(COLUMNS[:1]), primary_key=("id",)),
            )
        )

    def _answer(self) -> None:
        if self.config.mood == "away":
            raise TransientError("The adverts cannot be reached.", fix="Wait.", retry_after=7)
        if self.config.mood == "refusing":
            raise AuthError("The adverts refused the password.", fix="Check it.")

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        raise NotImplementedError


connector = Adverts


@dataclass
class MemoryRuns:
    """Runs that nobody carries out: `Runs` over a list, oldest first."""

    streams_of: Any = None
    """The streams of a sync, by its id: what a run of all of them loads."""
    views: list[RunView] = field(default_factory=list[RunView])
    away: bool = False

    def launch(
        self, sync: str, *, streams: Sequence[str] | None = None, run_mode: RunMode = RunMode.INCREMENTAL,
        reset_history_table: bool = False, window: Window | None = None,
        triggered_by: TriggeredBy = TriggeredBy.MANUAL, trigger_ref: str = "", sync_id: str = "",
        as_stored: AsStored | None = None,
    ) -> str:  # fmt: skip
        self._reach()
        names = list(streams) if streams is not None else list(self.streams_of(sync_id))
        parts = tuple(StreamRun(stream=name, status=RunStatus.PENDING) for name in names)
        made = RunView(
            id=str(uuid.uuid4()), sync=sync, sync_id=sync_id, status=RunStatus.PENDING, run_mode=run_mode,
            triggered_by=triggered_by.value, trigger_ref=trigger_ref, created_at=datetime.now(UTC), streams=parts,
        )  # fmt: skip
        self.views.append(made)
        return made.id

    def put(self, run_id: str, status: RunStatus, parts: Mapping[str, StreamRun] | None = None, **changes: Any) -> None:
        """Let something happen to a run: all of its streams, but ``parts``, go with it."""
        at = next(i for i, v in enumerate(self.views) if v.id == run_id)
        streams = tuple((parts or {}).get(p.stream) or replace(p, status=status) for p in self.views[at].streams)
        self.views[at] = replace(self.views[at], status=status, **{"streams": streams, **changes})

    def get(self, run_id: str) -> RunView:
        self._reach()
        found = next((v for v in self.views if v.id == run_id), None)
        if found is None:
            raise NotFoundError(f"There is no run {run_id!r}.")
        return found

    def list(self, sync: str | None = None, *, limit: int = 20) -> "list[RunView]":
        self._reach()
        return [v for v in reversed(self.views) if sync in (None, v.sync)][:limit]

    def page(
        self, sync_ids: Sequence[str], *, limit: int, offset: int = 0, before: str | None = None, streams: bool = False
    ) -> RunPage:
        self._reach()
        mine = [v for v in reversed(self.views) if v.sync_id in sync_ids]
        return RunPage(tuple(mine[offset : offset + limit]), len(mine))

    def latest(self, sync_ids: Sequence[str]) -> Mapping[str, LatestRuns]:
        found: dict[str, LatestRuns] = {}
        for sync_id in sync_ids:
            mine = [v for v in reversed(self.views) if v.sync_id == sync_id]
            good = next((v for v in mine if v.status is RunStatus.COMPLETED), None)
            active = next((v for v in mine if not v.status.is_final), None)
            newest = mine[0] if mine else None
            found[sync_id] = LatestRuns(newest=newest, last_success_at=good.ended_at if good else None, active=active)
        return found

    def active(self, sync_id: str, stream: str | None = None) -> str | None:
        self._reach()
        mine = [v for v in self.views if v.sync_id == sync_id and not v.status.is_final]
        return next((v.id for v in mine if stream is None or any(p.stream == stream for p in v.streams)), None)

    def stream_page(
        self, sync_id: str, stream: str, *, limit: int, after: str | None = None, ascending: bool = False
    ) -> Sequence[tuple[RunView, StreamRun]]:
        self._reach()
        views = self.views if ascending else list(reversed(self.views))
        found = [(v, p) for v in views if v.sync_id == sync_id for p in v.streams if p.stream == stream]
        if after is not None:
            ids = [v.id for v, _ in found]
            if after not in ids:
                raise NotFoundError(f"There is no run {after!r}.")
            found = found[ids.index(after) + 1 :]
        return found[:limit]

    def _reach(self) -> None:
        if self.away:
            raise TransientError("Dagster cannot be reached.", fix="Start it.")


@dataclass
class Clock:
    """What time it is, as far as the server knows."""

    ahead: timedelta = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Stage:
    """One workspace with its key, its connections and its warehouse, on a server that others share."""

    store: Store
    runs: MemoryRuns
    clock: Clock
    client: TestClient
    name: str
    file: Path

    @property
    def account_id(self) -> str:
        """The workspace's id."""
        return next(w.id for w in self.store.workspaces() if w.name == self.name)

    def ask(self, method: str, path: str, status: int = 200, **request: Any) -> Any:
        """The JSON of an answer that has ``status``; None where it is empty."""
        answer = self.client.request(method, path, **request)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        assert CANARY not in answer.text
        if status >= 400:
            assert set(answer.json()) <= {"error_code", "message", "conflict_id", "active_run_id"}, answer.text
        return answer.json() if answer.content else None

    def refused(self, method: str, path: str, status: int, **request: Any) -> str:
        """The message of a refusal."""
        told: str = self.ask(method, path, status, **request)["message"]
        return told

    def sync(self, streams: Sequence[Mapping[str, Any]] = (), **changes: Any) -> dict[str, Any]:
        """A new sync, with streams if there are to be any."""
        body = {"connection_id": self.connection, "destination_schema_name": "raw_ads", "sync_interval": "0 */6 * * *"}
        made: dict[str, Any] = self.ask("POST", "/elt_syncs", 201, json={**body, **changes})
        if streams:
            path = f"/elt_syncs/{made['id']}/source_streams"
            self.ask("POST", path, 201, json={"source_streams": list(streams)})
            made = self.ask("GET", f"/elt_syncs/{made['id']}")
        return made

    @property
    def connection(self) -> str:
        """The id of the source."""
        return next(c.id for c in self.store.connections(workspace=self.name) if c.spec.name == "ads")


def server(store: Store) -> tuple[TestClient, MemoryRuns, Clock]:
    """An application over ``store``, without a key."""
    clock = Clock()

    def streams_of(sync_id: str) -> list[str]:
        found = (s for w in store.workspaces() for s in store.syncs(workspace=w.name) if s.id == sync_id)
        return next(list(s.binding_ids) for s in found if isinstance(s, StoredSync))

    runs = MemoryRuns(streams_of)
    services = Services(
        store=store, runs=runs, runtime=Runtime(now=clock.now), requests_per_minute=1_000_000,  # type: ignore[arg-type]  # as much of Runs as is asked
    )  # fmt: skip
    return TestClient(create_app(services), raise_server_exceptions=True), runs, clock
