"""Backends without their servers: what a sync may say, what it lacks, and Temporal through a client that does as the real one does.

Temporal's own test server is a download, so a stand-in takes the place of its client; connecting is tried with the real one.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import WorkflowExecutionStatus
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from elt_dagster.control import backends as control
from elt_dagster.control.backends import check_backend, require_backend
from elt_dagster.control.workspace import Workspace
from elt_dagster.errors import (
    AuthError,
    CancelledError,
    ConfigError,
    EltError,
    NotFoundError,
    SourceError,
    TransientError,
)
from elt_dagster.model import Project, SyncSpec
from elt_dagster.model.backend import PLACEHOLDERS, BackendSettings, filled
from elt_dagster.orchestration import backends
from elt_dagster.orchestration._backend_follow import Clock, Follower, Phase, Sight, patient
from elt_dagster.orchestration._backend_prefect import PrefectBackend
from elt_dagster.orchestration._backend_temporal import TemporalBackend
from elt_dagster.sdk.connector import Runtime
from elt_dagster.store import Store, open_store

BASE = {"slug": "shop", "connection": "shop-db", "destination": "warehouse", "schema": "raw_shop"}
TEMPORAL = {"address": "127.0.0.1:7233", "workflow": "LoadStream", "task_queue": "loads"}
BEAT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def spec(backend: str, **settings: Any) -> SyncSpec:
    return SyncSpec.model_validate({**BASE, "execution_backend": backend, "backend": settings})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = open_store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    made.init()
    return made


# --- what a sync may say -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sync", "said"),
    [
        ({"backend": {"deployment": "a/b"}}, "deployment is for execution_backend prefect, and this sync's is native"),
        ({"execution_backend": "temporal", "backend": {"api_url": "http://x/api"}}, "api_url is for execution_backend prefect"),
        ({"execution_backend": "prefect", "backend": {"task_queue": "q"}}, "task_queue is for execution_backend temporal"),
        ({"execution_backend": "external", "backend": {"poll_seconds": 1}}, "poll_seconds is for execution_backend prefect or temporal"),
        ({"execution_backend": "external", "schedule": {"cron": "@daily"}}, "there can be no schedule"),
        ({"execution_backend": "external", "automation": "eager"}, "there can be no automation"),
        ({"execution_backend": "external", "trigger_mode": "on_create"}, "there can be no trigger_mode"),
        ({"execution_backend": "prefect", "backend": {"parameters": {"a": ["{strem}"]}}}, "Did you mean 'stream'"),
        ({"execution_backend": "prefect", "backend": {"api_url": "http://user:canary@x/api"}}, "no user, password or query"),
    ],
    ids=["native", "temporal", "prefect", "external", "schedule", "automation", "on_create", "placeholder", "credentials"],
)  # fmt: skip
def test_what_does_not_fit_the_backend_is_refused(sync: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as caught:
        SyncSpec.model_validate({**BASE, **sync})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("key", ["canary-literal", {"enc": "canary"}, {}, {"env": "A", "file": "b"}])
def test_a_key_is_a_reference(key: object) -> None:
    with pytest.raises(ValidationError) as caught:
        spec("prefect", api_key=key)
    assert "canary" not in str(caught.value)


def test_a_stored_sync_reads_back_although_every_setting_is_in_it() -> None:
    for sync in (spec("native"), spec("external"), spec("prefect", deployment="a/b"), spec("temporal", **TEMPORAL)):
        assert SyncSpec.model_validate_json(sync.model_dump_json(by_alias=True)) == sync


def test_every_placeholder_is_described_and_has_a_value() -> None:
    described = BackendSettings.model_fields["parameters"].description or ""
    assert all(f"{{{name}}}" in described for name in PLACEHOLDERS)
    values: dict[str, str | None] = dict.fromkeys(PLACEHOLDERS, "x") | {"window_end": None}
    assert filled({"a": "{table}-{window_end}!", "b": "{window_end}", "c": [1, "{sync}"]}, values) == {
        "a": "x-!", "b": None, "c": [1, "x"],
    }  # fmt: skip


# --- what it lacks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sync", "named"),
    [
        (spec("prefect", deployment="a/b"), "PREFECT_API_URL"),
        (spec("prefect", api_url="http://x/api"), "backend.deployment"),
        (spec("temporal", workflow="W", task_queue="q"), "TEMPORAL_ADDRESS"),
        (spec("temporal", address="x:1", task_queue="q"), "backend.workflow"),
        (spec("temporal", address="x:1", workflow="W"), "backend.task_queue"),
    ],
    ids=["prefect-address", "deployment", "temporal-address", "workflow", "task_queue"],
)
def test_the_missing_thing_is_named(sync: SyncSpec, named: str) -> None:
    (problem,) = check_backend(sync, ("syncs", 0), {}, verify=False)
    assert named in problem.text
    assert problem.path == ("syncs", 0, "backend")
    with pytest.raises(ConfigError, match=named):
        require_backend(sync, {})


def test_the_environment_may_stand_in_for_an_address() -> None:
    environ = {"PREFECT_API_URL": "http://x/api", "TEMPORAL_ADDRESS": "x:1"}
    assert not check_backend(spec("prefect", deployment="a/b"), (), environ, verify=True)
    assert not check_backend(spec("temporal", workflow="W", task_queue="q"), (), environ, verify=True)
    assert not check_backend(spec("external"), (), {}, verify=True)


def test_a_missing_secret_is_found_when_secrets_are_looked_at() -> None:
    sync = spec("prefect", api_url="http://x/api", deployment="a/b", api_key={"env": "NOT_SET"})
    assert not check_backend(sync, (), {}, verify=False)
    (problem,) = check_backend(sync, (), {}, verify=True)
    assert "NOT_SET" in problem.text


def test_temporal_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "find_spec", lambda name: None)
    (problem,) = check_backend(spec("temporal", **TEMPORAL), ("syncs", 3), {}, verify=False)
    assert problem.path == ("syncs", 3, "execution_backend")
    assert "'temporalio'" in problem.text
    assert "elt-dagster[temporal]" in problem.text


@pytest.mark.parametrize("verify", [True, False])
def test_writing_a_sync_that_lacks_something_is_refused(store: Store, verify: bool) -> None:
    lines = {"streams": [{"name": "public.orders"}], "execution_backend": "prefect", "backend": {"deployment": "a/b"}}
    warehouse = {"name": "warehouse", "connector": "duckdb", "config": {"path": "w.duckdb"}}
    source = {"name": "shop-db", "connector": "postgres", "config": {"host": "127.0.0.1", "database": "d", "user": "u"}}
    project = Project.model_validate({"connections": [source, warehouse], "syncs": [{**BASE, **lines}]})
    with pytest.raises(ConfigError, match="PREFECT_API_URL"):
        Workspace(store=store, environ={}).apply(project, verify=verify)
    assert not store.syncs()
    Workspace(store=store, environ={"PREFECT_API_URL": "http://x/api"}).apply(project, verify=False)
    assert [sync.slug for sync in store.syncs()] == ["shop"]


# --- Temporal ------------------------------------------------------------------------------------------------------------------


@dataclass
class Workflows:
    """Temporal's client as far as it is used: ids are unique for ever, what runs is described, cancelled, asked for its result."""

    statuses: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """What each look at a workflow shows; the last stays."""
    coming: list[list[str]] = field(default_factory=list[list[str]])
    started: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    asked_to_stop: list[str] = field(default_factory=list[str])
    answer: object = None
    error: Exception | None = None

    async def connect(self, address: str, namespace: str, api_key: str | None, tls: bool) -> "Workflows":
        self.connected = (address, namespace, api_key, tls)
        return self

    async def start_workflow(self, workflow: str, arg: Mapping[str, Any], *, id: str, **options: Any) -> None:
        if self.error is not None:
            raise self.error
        assert options["id_reuse_policy"] is WorkflowIDReusePolicy.REJECT_DUPLICATE
        if id in self.statuses:
            raise WorkflowAlreadyStartedError(id, workflow)
        self.statuses[id] = self.coming.pop(0)
        self.started.append({"workflow": workflow, "arg": arg, "id": id, "queue": options["task_queue"]})

    def get_workflow_handle(self, id: str) -> "Handle":
        return Handle(self, id)


@dataclass
class Handle:
    """One workflow."""

    of: Workflows
    id: str

    async def describe(self) -> Any:
        shown = self.of.statuses[self.id]
        status = shown.pop(0) if len(shown) > 1 else shown[0]
        activity = PendingActivityInfo()
        activity.last_heartbeat_time.FromDatetime(BEAT)
        raw = SimpleNamespace(pending_activities=[PendingActivityInfo(), activity])
        return SimpleNamespace(
            status=WorkflowExecutionStatus[status],
            run_id="run-1",
            start_time=datetime(2026, 3, 1, tzinfo=UTC),
            close_time=None,
            raw_description=raw,
        )

    async def cancel(self) -> None:
        self.of.asked_to_stop.append(self.id)
        self.of.statuses[self.id] = ["CANCELED"]

    async def result(self) -> Any:
        return self.of.answer


def temporal(workflows: Workflows, **settings: Any) -> TemporalBackend:
    sync = spec("temporal", **{**TEMPORAL, **settings})
    return TemporalBackend(sync, Runtime(environ={"TEMPORAL_KEY": "canary-key"}), workflows.connect)


def follow(
    workflows: Workflows, *, attempt: int = 0, timeout: float = 60.0, sleep: Any = lambda seconds: None
) -> Sight:
    ticks = iter(range(10_000))
    backend = temporal(workflows)
    follower = Follower(
        backend=backend,
        stream="public.orders",
        poll_seconds=1,
        timeout_seconds=timeout,
        clock=Clock(now=lambda: float(next(ticks)), sleep=sleep),
        notice=lambda sight: None,
    )
    try:
        return follower.run("elt-run-binding", "shop", {"stream": "public.orders"}, attempt)
    finally:
        backend.close()


def test_a_workflow_is_started_followed_and_asked_what_it_did() -> None:
    workflows = Workflows(coming=[["RUNNING", "RUNNING", "COMPLETED"]], answer={"rows": 12, "bytes": 9})
    sight = follow(workflows)
    (started,) = workflows.started
    assert started == {
        "workflow": "LoadStream", "arg": {"stream": "public.orders"}, "id": "elt-run-binding-0", "queue": "loads",
    }  # fmt: skip
    assert (sight.phase, sight.status, sight.heartbeat) == (Phase.COMPLETED, "COMPLETED", BEAT)
    backend = temporal(workflows, ui_url="http://ui/")
    assert backend.result(sight.reference) == {"rows": 12, "bytes": 9}
    assert backend.look(sight.reference).url == "http://ui/namespaces/default/workflows/elt-run-binding-0/run-1"
    backend.close()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("FAILED", SourceError),
        ("TIMED_OUT", TransientError),
        ("CANCELED", CancelledError),
        ("TERMINATED", CancelledError),
    ],
    ids=["failed", "timed_out", "canceled", "terminated"],
)
def test_each_end_has_its_error(status: str, error: type[EltError]) -> None:
    with pytest.raises(error, match=r"public\.orders") as caught:
        follow(Workflows(coming=[["RUNNING", status]]))
    assert type(caught.value) is error


def test_every_status_that_temporal_knows_is_known() -> None:
    workflows, backend = Workflows(), temporal(Workflows())
    for status in WorkflowExecutionStatus:
        workflows.statuses["w"] = [status.name]
        backend._client = workflows
        assert backend.look("w").phase in Phase
    backend.close()


def test_an_attempt_goes_on_with_what_an_earlier_one_left_running() -> None:
    workflows = Workflows(statuses={"elt-run-binding-0": ["RUNNING", "COMPLETED"]})
    assert follow(workflows, attempt=1).reference == "elt-run-binding-0"
    assert not workflows.started


def test_an_attempt_starts_anew_after_what_failed() -> None:
    workflows = Workflows(statuses={"elt-run-binding-0": ["TIMED_OUT"]}, coming=[["COMPLETED"]])
    assert follow(workflows, attempt=1).reference == "elt-run-binding-1"


def test_what_takes_too_long_is_cancelled() -> None:
    workflows = Workflows(coming=[["RUNNING"]])
    with pytest.raises(TransientError, match="5 s"):
        follow(workflows, timeout=5)
    assert workflows.asked_to_stop == ["elt-run-binding-0"]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, CancelledError], ids=["signal", "thread"])
def test_a_cancelled_step_cancels_its_workflow(interrupt: type[BaseException]) -> None:
    workflows = Workflows(coming=[["RUNNING"]])

    def sleep(seconds: float) -> None:
        raise interrupt("stop")

    with pytest.raises(interrupt):
        follow(workflows, sleep=sleep)
    assert workflows.asked_to_stop == ["elt-run-binding-0"]


def test_losing_sight_cancels_nothing() -> None:
    workflows = Workflows(coming=[["RUNNING"]])

    def sleep(seconds: float) -> None:
        raise TransientError("away")

    with pytest.raises(TransientError, match="away"):
        follow(workflows, sleep=sleep)
    assert not workflows.asked_to_stop


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (RPCStatusCode.UNAUTHENTICATED, AuthError),
        (RPCStatusCode.NOT_FOUND, NotFoundError),
        (RPCStatusCode.INVALID_ARGUMENT, ConfigError),
        (RPCStatusCode.UNAVAILABLE, TransientError),
    ],
    ids=["unauthenticated", "not_found", "invalid", "unavailable"],
)
def test_temporals_answers_are_sorted_by_who_has_to_act(status: RPCStatusCode, error: type[EltError]) -> None:
    workflows = Workflows(error=RPCError("canary", status, b""))
    with pytest.raises(error, match=r"127\.0\.0\.1:7233") as caught:
        follow(workflows)
    assert "canary" not in str(caught.value)


def test_a_key_goes_to_temporal_from_its_reference() -> None:
    workflows = Workflows()
    temporal(workflows, api_key={"env": "TEMPORAL_KEY"}, namespace="shop").close()
    assert workflows.connected == ("127.0.0.1:7233", "shop", "canary-key", False)


def test_temporal_out_of_reach_is_transient_with_its_real_client() -> None:
    with pytest.raises(TransientError, match=r"could not be reached at 127\.0\.0\.1:1"):
        TemporalBackend(spec("temporal", **{**TEMPORAL, "address": "127.0.0.1:1"}), Runtime(environ={}))


def test_the_real_client_takes_what_we_give_it() -> None:
    from temporalio.client import Client

    async def lazily() -> None:
        client = await Client.connect("127.0.0.1:1", lazy=True)
        bound = __import__("inspect").signature(client.start_workflow).bind
        bound(
            "W",
            {},
            id="a",
            task_queue="q",
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            execution_timeout=None,
        )
        assert all(hasattr(client.get_workflow_handle("a"), name) for name in ("describe", "cancel", "result"))

    asyncio.run(lazily())


# --- both ----------------------------------------------------------------------------------------------------------------------


def test_a_patient_sleep_ends_when_the_run_is_cancelled() -> None:
    answers = iter([False, False, True])
    with pytest.raises(CancelledError):
        patient(lambda: next(answers))(60.0)


def test_what_work_tells_becomes_numbers_or_a_warning() -> None:
    said: list[str] = []
    assert backends.reported({"rows": 3, "bytes": True, "rows_deleted": -1, "more": "x"}, said.append) == {
        "elt/rows_read": 3
    }
    assert sorted(text.split()[2] for text in said) == ["bytes", "rows_deleted"]
    assert backends.reported(None, said.append) == {}
    assert backends.reported("canary", said.append) == {}
    assert "canary" not in "".join(said)


@pytest.mark.parametrize(
    ("data", "result"),
    [('[{"rows": 1}]', {"rows": 1}), ('```json\n{"rows": 2}\n```', {"rows": 2}), ([{"rows": 3}], {"rows": 3}), ("# words", "# words")],
    ids=["table", "markdown", "list", "words"],
)  # fmt: skip
def test_prefects_artifacts_come_in_several_shapes(data: object, result: object) -> None:
    backend = prefect(lambda request: httpx.Response(200, json=[{"data": data}]))
    assert backend.result("r") == result


def test_prefects_pages_are_found_from_its_api() -> None:
    cloud = "https://api.prefect.cloud/api/accounts/a1/workspaces/w1"
    run = {"id": "r", "state": {"type": "RUNNING", "name": "Running"}}
    seen = prefect(lambda request: httpx.Response(200, json=run), api_url=cloud).look("r")
    assert seen.url == "https://app.prefect.cloud/account/a1/workspace/w1/runs/flow-run/r"


def test_a_flow_run_that_somebody_deleted_is_cancelled() -> None:
    assert prefect(lambda request: httpx.Response(404, json={})).look("r").phase is Phase.CANCELLED


def test_prefects_keys_are_sent_as_its_kind_of_server_wants_them() -> None:
    sent: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["authorization"])
        return httpx.Response(404, json={})

    for key in ("pnu_abc", "admin:pass"):
        prefect(answer, key=key).look("r")
    assert sent == ["Bearer pnu_abc", "Basic YWRtaW46cGFzcw=="]


@pytest.mark.parametrize(
    ("address", "environment", "sent"),
    [
        (None, "https://ours.example/api", "Bearer k"),
        ("https://ours.example/api", "https://ours.example/api/", "Bearer k"),
        ("https://evil.example/api", "https://ours.example/api", None),
        ("http://ours.example/api", "https://ours.example/api", None),
        ("https://ours.example/api/other", "https://ours.example/api", None),
        ("https://evil.example/api", "", None),
    ],
    ids=["environment", "same", "other", "unprotected", "path", "nowhere"],
)
def test_the_environments_key_to_prefect_goes_to_the_environments_address(
    address: str | None, environment: str, sent: str | None
) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(404, json={})

    environ = {"PREFECT_API_URL": environment, "PREFECT_API_KEY": "k"}
    runtime = Runtime(transport=httpx.MockTransport(answer), environ=environ, sleep=lambda seconds: None)
    sync = spec("prefect", deployment="a/b", **({"api_url": address} if address else {}))
    PrefectBackend(sync, runtime, lambda seconds: None).look("r")
    assert [r.headers.get("authorization") for r in asked] == [sent]


@pytest.mark.parametrize(
    ("address", "key"), [("ours:7233", "k"), ("evil:7233", None), (None, "k")], ids=["same", "other", "environment"]
)
def test_the_environments_key_to_temporal_goes_to_the_environments_address(
    address: str | None, key: str | None
) -> None:
    environ = {"TEMPORAL_ADDRESS": "ours:7233", "TEMPORAL_API_KEY": "k"}
    found: list[str | None] = []

    async def connect(address: str, namespace: str, key: str | None, tls: bool) -> Any:
        found.append(key)

    sync = spec("temporal", workflow="W", task_queue="q", **({"address": address} if address else {}))
    TemporalBackend(sync, Runtime(environ=environ), connect).close()
    assert found == [key]


def prefect(answer: Any, *, api_url: str = "http://prefect/api", key: str = "k") -> PrefectBackend:
    runtime = Runtime(transport=httpx.MockTransport(answer), environ={"KEY": key}, sleep=lambda seconds: None)
    sync = spec("prefect", api_url=api_url, deployment="a/b", api_key={"env": "KEY"})
    return PrefectBackend(sync, replace(runtime), lambda seconds: None)
