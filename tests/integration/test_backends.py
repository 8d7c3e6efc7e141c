"""Syncs that something else loads: external assets reported over a real webserver, and streams handed to a real Prefect server.

Prefect's flow runs are moved on by the tests in a worker's place, but for the one test that serves a real flow.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import httpx
import pytest

from elt_dagster.orchestration.backends import BACKEND_RUN, BACKEND_STATUS, BACKEND_URL
from elt_dagster.orchestration.metadata import COLUMN_SCHEMA, ROWS_READ
from elt_dagster.store import StoredSync
from tests.integration.dagster_project import CUSTOMERS, ITEMS, ORDERS, REPOSITORY, ShopProject, shop
from tests.prefect_server import AUTH, PYTHON, PrefectServer, prefect_server, started

STREAM = [{"name": "public.orders"}]
FLOW = """
from prefect import flow
from prefect.artifacts import create_table_artifact

@flow(name="served")
def load(stream: str, table: str):
    create_table_artifact(key="elt-result", table=[{"rows": len(stream), "bytes": 7}])

if __name__ == "__main__":
    load.serve(name="prod")
"""


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PREFECT", AUTH)


def handed(prefect: PrefectServer, deployment: str, **changes: Any) -> dict[str, Any]:
    """The shop's orders, loaded by a deployment."""
    backend = {
        "api_url": prefect.api_url,
        "deployment": deployment,
        "api_key": {"env": "SHOP_PREFECT"},
        "timeout_seconds": 20,
        "poll_seconds": 0.1,
    }
    settings = {**backend, **changes.pop("backend", {})}
    return shop(streams=STREAM, execution_backend="prefect", backend=settings, **changes)


class Worker(threading.Thread):
    """Treats each new flow run of a flow by the next of ``scripts``."""

    def __init__(self, prefect: PrefectServer, flow: str, *scripts: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self.prefect, self.flow, self.scripts = prefect, flow, list(scripts)
        self.stopped = threading.Event()

    def run(self) -> None:
        """Until every script was used."""
        done = 0
        while done < len(self.scripts) and not self.stopped.is_set():
            for run in self.prefect.runs(self.flow)[done : done + 1]:
                self.scripts[done](run["id"])
                done += 1
            self.stopped.wait(0.1)


def materialize(
    project: ShopProject, instance: dg.DagsterInstance, *, windowed: str | None = None
) -> dg.ExecuteInProcessResult:
    job = project.defs(executor=dg.in_process_executor).resolve_job_def("sync_shop")
    return job.execute_in_process(instance=instance, raise_on_error=False, partition_key=windowed)


def failure(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """What the one failed step says."""
    (event,) = [e for e in result.all_events if e.is_step_failure]
    told = event.step_failure_data.user_failure_data
    assert told is not None
    return {"text": told.description, **{k: v.value for k, v in told.metadata.items()}}


def finish(prefect: PrefectServer, *states: str, row: dict[str, Any] | None = None) -> Callable[[str], None]:
    def script(run_id: str) -> None:
        prefect.put(run_id, "PENDING", "RUNNING")
        if row is not None:
            prefect.report(run_id, row)
        prefect.put(run_id, *states)

    return script


def test_a_deployment_loads_a_stream_and_what_it_tells_is_on_the_asset(
    project: ShopProject, instance: dg.DagsterInstance, prefect: PrefectServer
) -> None:
    wanted = {
        "what": "{schema}.{table}",
        "mode": "{run_mode}",
        "from": "{window_start}",
        "fixed": [1, {"at": "{stream}"}],
    }
    project.put(handed(prefect, prefect.deploy("tells"), backend={"parameters": wanted}))

    (sync,) = project.store.syncs()
    assert isinstance(sync, StoredSync)
    holders: list[str | None] = []

    def load(run_id: str) -> None:
        holders.append(project.store.active_run(sync.binding_ids["public.orders"]))
        with duckdb.connect(str(project.file)) as warehouse:
            warehouse.execute("CREATE SCHEMA raw_shop; CREATE TABLE raw_shop.orders AS SELECT 1 AS id, 2.5 AS amount")
        finish(prefect, "COMPLETED", row={"rows": 1, "table_rows": 1, "bytes": "many"})(run_id)

    Worker(prefect, "tells", load).start()
    result = materialize(project, instance)
    assert result.success
    assert holders == [result.run_id], "no other run loads the table meanwhile"
    (event,) = result.get_asset_materialization_events()
    told = {name: value.value for name, value in event.materialization.metadata.items()}
    (run,) = prefect.runs("tells")
    assert run["parameters"] == {
        "what": "raw_shop.orders", "mode": "incremental", "from": None, "fixed": [1, {"at": "public.orders"}],
    }  # fmt: skip
    assert (told[ROWS_READ], told["dagster/row_count"]) == (1, 1)
    assert "elt/bytes_read" not in told, "what is no number is left out, and fails nothing"
    assert (told[BACKEND_RUN], told[BACKEND_STATUS]) == (run["id"], "Completed")
    assert told[BACKEND_URL] == f"{prefect.api_url.removesuffix('/api')}/runs/flow-run/{run['id']}"
    schema = told[COLUMN_SCHEMA]
    assert isinstance(schema, dg.TableSchema)
    assert [c.name for c in schema.columns] == ["id", "amount"]
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("schema_drift", True)
    seen = [e.asset_observation_data.asset_observation.metadata[BACKEND_STATUS].value
            for e in result.all_events if e.event_type_value == "ASSET_OBSERVATION"]  # fmt: skip
    assert seen[0] == "Scheduled"
    assert seen[-1] == "Completed"


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
def test_what_ends_badly_there_fails_the_step_once(
    project: ShopProject, instance: dg.DagsterInstance, prefect: PrefectServer, state: str
) -> None:
    expected = {"FAILED": ("SourceError", "source_error"), "CANCELLED": ("CancelledError", "cancelled")}
    flow = f"ends-{state.lower()}"
    project.put(handed(prefect, prefect.deploy(flow)))
    Worker(prefect, flow, finish(prefect, state)).start()
    told = failure(materialize(project, instance))
    assert (told["elt/error_class"], told["elt/reason"]) == expected[state]
    (run,) = prefect.runs(flow)
    assert run["id"] in told["text"], "the link is there"
    assert "canary" not in told["text"], "an exception of somebody else's may hold rows"


@pytest.mark.parametrize("state", ["CRASHED", "FAILED/TimedOut"])
def test_what_was_lost_there_is_tried_again_as_another_flow_run(
    project: ShopProject, instance: dg.DagsterInstance, prefect: PrefectServer, state: str
) -> None:
    flow = f"lost-{state.rpartition('/')[2].lower()}"
    project.put(handed(prefect, prefect.deploy(flow)))
    Worker(prefect, flow, finish(prefect, state), finish(prefect, "COMPLETED", row={"rows": 5})).start()
    result = materialize(project, instance)
    assert result.success
    first, second = prefect.runs(flow)
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata[BACKEND_RUN].value == second["id"] != first["id"]


def test_work_that_takes_too_long_is_cancelled_and_then_given_up(
    project: ShopProject, instance: dg.DagsterInstance, prefect: PrefectServer
) -> None:
    quick = {"max_retries": 0}
    project.put(handed(prefect, prefect.deploy("slow"), backend={"timeout_seconds": 1}, execution=quick))
    told = failure(materialize(project, instance))
    assert told["elt/error_class"] == "TransientError"
    (run,) = prefect.runs("slow")
    assert run["state_type"] == "CANCELLED"


def test_cancelling_the_run_cancels_the_flow_run(
    project: ShopProject, instance: dg.DagsterInstance, prefect: PrefectServer
) -> None:
    project.put(handed(prefect, prefect.deploy("stopped")))

    def stop(run_id: str) -> None:
        prefect.put(run_id, "PENDING", "RUNNING")
        os.kill(os.getpid(), signal.SIGINT)  # what Dagster sends to a run that is terminated
        while prefect.runs("stopped")[0]["state_type"] != "CANCELLING":
            time.sleep(0.05)
        prefect.put(run_id, "CANCELLED")

    Worker(prefect, "stopped", stop).start()
    told = failure(materialize(project, instance))
    assert told["elt/error_class"] == "CancelledError"
    end = time.monotonic() + 30
    while (state := prefect.runs("stopped")[0]["state_type"]) != "CANCELLED":  # the worker sees it a moment later
        assert time.monotonic() < end, state
        time.sleep(0.1)


def test_a_step_that_lost_prefect_finds_its_flow_run_again(
    project: ShopProject, instance: dg.DagsterInstance, prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.put(handed(prefect, prefect.deploy("found")))
    original, broken = httpx.Client.send, threading.Event()

    def send(client: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        # the first look at the flow run never comes back, as often as it is tried within the attempt
        if request.url.path.startswith("/api/flow_runs/") and request.method == "GET" and not broken.is_set():
            if len(failed) == 3:
                broken.set()
            failed.append(1)
            raise httpx.ConnectError("gone", request=request)
        return original(client, request, **options)

    failed: list[int] = []
    monkeypatch.setattr(httpx.Client, "send", send)
    monkeypatch.setattr("elt_dagster.sdk.http.Http._backoff", lambda self, attempt: 0.0)

    def load(run_id: str) -> None:
        assert broken.wait(30)
        finish(prefect, "COMPLETED", row={"rows": 4})(run_id)

    Worker(prefect, "found", load).start()
    assert materialize(project, instance).success
    assert len(prefect.runs("found")) == 1, "the second attempt follows what the first had started"


def test_wrong_settings_are_told_apart(
    project: ShopProject, instance: dg.DagsterInstance, prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.put(handed(prefect, "nobody/there"))
    told = failure(materialize(project, instance))
    assert told["elt/error_class"] == "ConfigError"
    assert "no deployment 'nobody/there'" in told["text"]
    schema = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}
    strict = prefect.deploy("strict", enforce_parameter_schema=True, parameter_openapi_schema=schema)
    project.put(handed(prefect, strict, backend={"parameters": {"id": "{stream}"}}))
    assert "does not take the parameters id" in failure(materialize(project, instance))["text"]
    monkeypatch.setenv("SHOP_PREFECT", "admin:canary-wrong")
    told = failure(materialize(project, instance))
    assert told["elt/error_class"] == "AuthError"
    assert "canary" not in told["text"]


@pytest.mark.slow
def test_a_real_flow_is_run_by_a_real_worker(
    project: ShopProject, instance: dg.DagsterInstance, prefect: PrefectServer
) -> None:
    file = project.folder / "flow.py"
    file.write_text(FLOW)
    wanted = {"stream": "{stream}", "table": "{table}"}
    project.put(handed(prefect, "served/prod", backend={"parameters": wanted, "timeout_seconds": 120}))
    with started([PYTHON, file], prefect.environ, project.folder / "flow.log"):
        end = time.monotonic() + 90
        while not prefect.ask("deployments/filter", {"flows": {"name": {"any_": ["served"]}}}):
            assert time.monotonic() < end, (project.folder / "flow.log").read_text()
            time.sleep(0.2)
        result = materialize(project, instance)
    assert result.success, (project.folder / "flow.log").read_text()
    (event,) = result.get_asset_materialization_events()
    told = {name: value.value for name, value in event.materialization.metadata.items()}
    assert (told[ROWS_READ], told["elt/bytes_read"]) == (len("public.orders"), 7)


def test_an_external_sync_has_assets_and_nothing_that_runs(project: ShopProject) -> None:
    project.put(shop(execution_backend="external", freshness_sla_seconds=3600))
    defs = project.defs()
    graph = defs.resolve_asset_graph()
    assert {ORDERS, CUSTOMERS, ITEMS} <= set(graph.external_asset_keys)
    assert not list(defs.jobs or ())
    assert not list(defs.schedules or ())
    specs = {spec.key: spec for spec in defs.resolve_all_asset_specs()}
    assert specs[ORDERS].freshness_policy is not None
    assert specs[ORDERS].metadata["dagster/table_name"] == "raw_shop.orders"
    assert "external" in specs[ORDERS].kinds
    assert [dep.asset_key for dep in specs[ITEMS].deps] == [ORDERS], "lineage stays"


def test_others_define_checks_on_an_external_asset_and_read_it(
    project: ShopProject, instance: dg.DagsterInstance
) -> None:
    project.put(shop(execution_backend="external"))
    with duckdb.connect(str(project.file)) as warehouse:
        warehouse.execute("CREATE SCHEMA raw_shop; CREATE TABLE raw_shop.orders AS SELECT 1 AS id")

    @dg.asset_check(asset=ORDERS)
    def is_there() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    @dg.asset(ins={"orders": dg.AssetIn(ORDERS)})
    def report(orders: Any) -> int:
        return int(orders.num_rows)

    own = dg.Definitions(
        assets=[report], asset_checks=[is_there], jobs=[dg.define_asset_job("own", [report])], resources={"io_manager": dg.mem_io_manager}
    )  # fmt: skip
    result = dg.Definitions.merge(project.defs(), own).resolve_job_def("own").execute_in_process(instance=instance)
    assert result.output_for_node("report") == 1


@pytest.mark.slow
def test_whoever_loads_an_external_table_reports_it_over_the_webserver(project: ShopProject) -> None:
    project.put(shop(execution_backend="external", freshness_sla_seconds=60))
    text = "from elt_dagster.orchestration.definitions import build_definitions\ndefs = build_definitions()\n"
    (project.folder / "definitions.py").write_text(text)
    port = _free_port()
    command: list[str | Path] = [
        REPOSITORY / ".venv" / "bin" / "dagster-webserver", "-f", str(project.folder / "definitions.py"), "-p", str(port),
    ]  # fmt: skip
    url, body = f"http://127.0.0.1:{port}", {"metadata": {"dagster/row_count": 42}, "data_version": "7"}
    with started(command, {**project.environ(), "PYTHONPATH": str(REPOSITORY)}, project.folder / "web.log"):
        _wait_for(f"{url}/server_info", project.folder / "web.log")
        answer = httpx.post(f"{url}/report_asset_materialization/raw_shop/orders", json=body, timeout=30)
        assert answer.is_success, answer.text
        query = """{ assetNodeOrError(assetKey: {path: ["raw_shop", "orders"]}) { ... on AssetNode {
            isMaterializable isExecutable jobNames assetMaterializations(limit: 1) { metadataEntries { label ... on IntMetadataEntry { intValue } } } } } }"""
        node = httpx.post(f"{url}/graphql", json={"query": query}, timeout=60).json()["data"]["assetNodeOrError"]
    assert (node["isMaterializable"], node["isExecutable"], node["jobNames"]) == (False, False, [])
    (event,) = node["assetMaterializations"]
    assert {"label": "dagster/row_count", "intValue": 42} in event["metadataEntries"]


def _free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for(url: str, log: Path) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end:
        try:
            if httpx.get(url, timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.3)
    raise AssertionError(log.read_text()[-2000:])


def test_a_sync_whose_backend_lacks_something_is_one_broken_asset(
    project: ShopProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    project.put(shop(execution_backend="prefect", backend={"deployment": "a/b"}))
    project.put(shop(slug="good", schema="raw_good"))
    defs = project.defs()
    keys = {spec.key: spec for spec in defs.resolve_all_asset_specs()}
    assert "PREFECT_API_URL" in (keys[dg.AssetKey(["broken", "shop"])].description or "")
    assert dg.AssetKey(["raw_good", "orders"]) in keys
    assert ORDERS not in keys
