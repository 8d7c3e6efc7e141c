"""Every ``curl`` of the source documents, by the real program against a real server: host, key and ids are ours, the rest is as printed."""

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from elt_dagster.client import Client
from elt_dagster.model import ConnectionSpec
from elt_dagster.registry import connector_names
from tests.integration.api_process import KEY, Served, served
from tests.integration.dagster_project import CANARY, REPOSITORY
from tests.integration.seed_commands import commands

pytestmark = pytest.mark.slow
COPY = Path(__file__).with_name("seed_curls.json")
SEEDS = REPOSITORY.parent / "shared" / "seeds"
ALL: list[tuple[str, int, str]] = [
    (seed, at, command) for seed, found in json.loads(COPY.read_text()).items() for at, command in enumerate(found)
]
SYNC = {
    "connectionId", "createdAt", "createdBy", "destinationConfig", "entities", "executionBackend", "executionConfig", "executionMode",
    "freshnessSlaSeconds", "id", "lastError", "lastSuccessAt", "name", "providerKey", "schedule", "slug", "sourceConfig", "status",
    "tableBindings", "taskSlug", "triggerMode", "updatedAt", "updatedBy",
}  # fmt: skip
RUN = {
    "attemptNumber", "attemptRootRunId", "backendHeartbeatAt", "backendRunRef", "backendRunUrl", "backendStatus", "cancelReason",
    "cancelRequestedAt", "cancelRequestedBy", "completedAt", "createdAt", "error", "executionBackend", "executionMode", "executorId", "id",
    "lastHeartbeatAt", "maxAutoResumeAttempts", "nextAttemptRunId", "previousAttemptRunId", "resultClass", "resultReasonCode", "runMode",
    "startedAt", "status", "summary", "syncId", "triggerRef", "triggeredBy", "updatedAt",
}  # fmt: skip
LOADER = {
    "id", "workspace_id", "source_id", "name", "loader_type", "config", "target_schema", "selected_streams", "sync_mode", "schedule", "status",
    "status_error", "created_by", "created_at", "updated_at", "last_run_at", "last_run_id",
}  # fmt: skip
LOADER_RUN = {
    "id", "loader_id", "workspace_id", "status", "started_at", "completed_at", "rows_loaded", "streams_total", "streams_failed",
    "error_message", "triggered_by", "created_at",
}  # fmt: skip
ELT_SYNC = {
    "account_id", "id", "status", "enabled", "config", "created_at", "updated_at", "source_connection_id", "source_integration_id",
    "destination_connection_id", "destination_integration_id", "destination_schema_name", "sync_interval", "start_date", "source_streams",
}  # fmt: skip


@dataclass
class Stage:
    """What the documents take for granted: a connection, syncs, runs; each is made when a command first names it."""

    server: Served
    client: Client

    @cached_property
    def workspace(self) -> str:
        return self.server.project.store.workspaces()[0].id

    def connection(self, name: str) -> str:
        return self.server.project.store.connection(name).id

    @cached_property
    def draft(self) -> str:
        """A sync as the Connect pages have it when they add streams."""
        return self.client.syncs.create(connection_id=self.connection("crm"), name="Drafted").id

    @cached_property
    def sync(self) -> str:
        """A sync that can run."""
        return self._active("Shop", "public.orders", "public.customers")

    @cached_property
    def failed_run(self) -> str:
        """A run of which a stream failed."""
        self.server.project.say("customers.fail", "yes")
        run = self.client.runs.trigger(self.sync)
        found = self.client.runs.wait(run.id, timeout=90, every=0.3)
        self.server.project.say("customers.fail", "")
        assert (found.status, found.result_class) == ("failed", "partial"), found
        return found.id

    def active_run(self) -> str:
        """A run that will take a while, and that has begun: Dagster may forget what is noted of a run at the moment in which that begins."""
        self.server.project.say("orders.slow", 60)
        run = self.client.runs.trigger(self._active("Slow", "public.orders"))
        end = time.monotonic() + 90
        while self.client.runs.get(run.id).status != "running":
            assert time.monotonic() < end, "it does not begin"
            time.sleep(0.2)
        return run.id

    def loader(self) -> str:
        return self._active("Loaded", "public.items")

    def _active(self, name: str, *streams: str) -> str:
        return self.client.syncs.create(
            connection_id=self.connection("shop-db"), name=name, entities=list(streams), status="active",
            execution_config={"maxRetries": 0},
        ).id  # fmt: skip


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if shutil.which("curl") is None:
        pytest.fail("curl is missing: install it (Debian: apt-get install curl)")
    with served(tmp_path_factory.mktemp("curls")) as server:
        with server.project.store.transaction() as tx:
            tx.put_connection(ConnectionSpec(name="crm", connector="crm"), frozenset())
        with server.client() as client:
            yield Stage(server, client)


@pytest.mark.skipif(not SEEDS.exists(), reason="the source documents are not at hand")
def test_the_copied_commands_are_those_of_the_documents() -> None:
    pages = {page.name[:3]: commands(page.read_text()) for page in sorted(SEEDS.glob("*.txt"))}
    assert pages == json.loads(COPY.read_text())
    assert sum(map(len, pages.values())) == sum(page.read_text().count("curl ") for page in SEEDS.glob("*.txt"))


@pytest.mark.parametrize(("seed", "at", "command"), ALL, ids=[f"{seed}-{at}" for seed, at, _ in ALL])
def test_the_printed_command_works(stage: Stage, seed: str, at: int, command: str) -> None:
    words = shlex.split(re.sub(r"\\\s+", " ", command))  # some pages have lost their line breaks
    method = next((words[i + 1] for i, w in enumerate(words) if w in ("-X", "--request")), "GET")
    path = urlsplit(next(w for w in words if "://" in w)).path
    if path.endswith("/source_streams"):
        assert stage.draft
    body, status, told = _curl(stage, [_ours(stage, word, path) for word in words], at)
    assert CANARY not in told
    _documented(stage, method, path, status, json.loads(body) if body else None)


def _ours(stage: Stage, word: str, path: str) -> str:
    """A word of a command, with our host, key and ids in the place of the examples'."""
    run = ""
    if "/syncs/runs/" in word:
        run = stage.active_run() if word.endswith("/cancel") else stage.failed_run
    elif "497f6eca" in word:
        run = _disposable(stage) if path.endswith("6f08") and "://" in word else stage.sync
    swapped = {
        "YOUR_API_KEY": KEY, "<token>": KEY, "<workspace-id>": stage.workspace, "497f6eca-6276-4993-bfeb-53cbbbba6f08": run,
        "84b500d7-71c8-4b1f-adf4-f1eb0000973d": stage.connection("shop-db"), "770e8400-e29b-41d4-a716-446655440000": stage.connection("warehouse"),
        "YOUR_CONNECTION_ID": stage.connection("crm"),
    }  # fmt: skip
    if "YOUR_SYNC_ID" in word:
        swapped["YOUR_SYNC_ID"] = stage.draft
    if "{loaderId}" in word:
        swapped["{loaderId}"] = stage.loader()
    for theirs, ours in {**swapped, "{id}": stage.workspace}.items():
        word = word.replace(theirs, ours)
    return (
        re.sub(r"https://[\w.-]+(?=/)", stage.server.url, word, count=1) if "://" in word and "{" not in word else word
    )


def _disposable(stage: Stage) -> str:
    """A sync that a command may read, change or delete."""
    return stage.client.syncs.create(connection_id=stage.connection("shop-db"), name="Disposable").id


def _curl(stage: Stage, words: list[str], at: int) -> tuple[str, int, str]:
    """Body, status, and everything that was said; where the document leaves the key to the reader, each of its three forms has its turn."""
    if not any(KEY in word for word in words):
        forms = [["-H", f"X-API-Key: {KEY}"], ["-H", f"Authorization: Bearer {KEY}"], ["--cookie", f"vai_token={KEY}"]]
        words = [*words, *forms[at % 3]]
    done = subprocess.run(
        [*words, "-sS", "--max-time", "60", "-w", "\n%{http_code}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    body, _, status = done.stdout.rpartition("\n")
    return body, int(status), done.stdout + done.stderr


def _documented(  # noqa: PLR0912 - one line of the documents after the other
    stage: Stage, method: str, path: str, status: int, body: Any
) -> None:
    """Whether an answer is what the document says of it."""
    print(status, body)
    shape = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "{uuid}", path)
    match method, shape:
        case "GET", "/connections":
            assert status == 200
            assert set(body) == {"has_more", "next_cursor", "data"}
            assert {c["integration_id"] for c in body["data"]} == {"scripted", "duckdb", "crm"}
        case "POST", "/connection_bridges":
            assert status == 201
            assert set(body) >= {"id", "authorize_url", "expires_at"}
            assert body["authorize_url"].startswith(stage.server.url)
        case "POST", "/elt_syncs":
            assert status == 201
            assert set(body) == ELT_SYNC
            assert (body["status"], body["sync_interval"]) == ("NOT_STARTED", "0 */6 * * *")
        case "GET", "/elt_syncs/YOUR_SYNC_ID/available_source_streams":
            assert status == 200
            assert {s["name"] for s in body["data"]} == {"accounts", "contacts", "opportunities"}
        case "POST", "/elt_syncs/YOUR_SYNC_ID/source_streams":
            assert status == 201
            assert [s["name"] for s in body["source_streams"]] == ["accounts", "contacts", "opportunities"]
        case "GET", "/api/v1/syncs":
            assert status == 200
            assert set(body) == {"hasNext", "limit", "offset", "syncs", "total"}
            assert body["syncs"]
            assert all(set(s) == SYNC for s in body["syncs"])
        case "POST", "/api/v1/syncs":
            assert status in (200, 201)
            assert set(body) == SYNC
            assert (body["name"], body["status"]) == ("string", "draft")
        case "GET", "/api/v1/syncs/providers/shopify/catalog":
            _catalog(status, body)
        case ("GET" | "PATCH", "/api/v1/syncs/{uuid}"):
            assert status == 200
            assert set(body) == SYNC
        case "DELETE", "/api/v1/syncs/{uuid}":
            assert (status, body) == (204, None)
        case "GET", "/api/v1/syncs/{uuid}/runs":
            assert status == 200
            assert set(body) == {"hasNext", "limit", "offset", "runs", "total"}
            assert all(set(r) == RUN for r in body["runs"])
        case "GET", "/api/v1/syncs/runs/{uuid}":
            assert status == 200
            assert set(body) == RUN
            assert (body["resultClass"], body["resultReasonCode"]) == ("partial", "auth_failed")
        case "POST", "/api/v1/syncs/runs/{uuid}/cancel":
            assert status == 200
            assert set(body) == RUN
            assert body["cancelRequestedAt"]
            stage.server.project.say("orders.slow", "")
        case "POST", "/api/v1/syncs/runs/{uuid}/retry":
            assert status in (200, 201)
            assert set(body) == RUN
            assert (body["attemptNumber"], body["previousAttemptRunId"]) == (2, stage.failed_run)
            assert stage.client.runs.wait(body["id"], timeout=90, every=0.3).result_class == "success"
        case "POST", "/api/v1/syncs/{uuid}/trigger":
            assert status in (200, 201)
            assert set(body) == RUN
            assert (body["syncId"], body["triggeredBy"], body["runMode"]) == (stage.sync, "api", "incremental")
            # another run of it may not begin before this one has ended
            assert stage.client.runs.wait(body["id"], timeout=90, every=0.3).summary["streamsSucceeded"] == 2
        case "GET", "/api/v1/workspaces/{id}/loaders":
            assert status == 200
            assert body
            assert all(set(loader) == LOADER for loader in body)
        case "POST", "/api/v1/workspaces/{id}/loaders":
            # the example's config has no credentials: a clear answer, and nothing is left behind
            assert status == 422
            assert {tuple(e["loc"])[:2] for e in body["detail"]} == {("body", "config")}
        case "POST", "/api/v1/workspaces/{id}/loaders/{loaderId}/trigger":
            assert status == 201
            assert set(body) >= LOADER_RUN
            assert body["status"] in ("pending", "running")
        case _:
            pytest.fail(f"nothing is known of {method} {shape}")


def _catalog(status: int, body: Any) -> None:
    if "shopify" in connector_names():
        assert status == 200
        assert set(body) == {
            "availableResources", "configSchema", "defaultResources", "defaults", "displayName", "dynamicResources", "name", "provider", "resources",
        }  # fmt: skip
    else:
        assert status == 422
        assert "salesforce" in str(body["detail"])
