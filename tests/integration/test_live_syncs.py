"""Syncs that come, change and go while Dagster runs, in its own processes: ``dagster dev``, and webserver, daemon and code server apart.

What a person sees is asked of the webserver's GraphQL. Promised are ten seconds; the limit here leaves room for a machine that is busy with
other tests.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from elt_dagster.control.running import Running
from elt_dagster.control.workspace import Workspace
from elt_dagster.errors import ConflictError
from elt_dagster.model import ConnectionSpec
from elt_dagster.orchestration.runs import open_runs
from tests.conftest import EVERYTHING
from tests.integration.dagster_project import REPOSITORY, ShopProject, shop
from tests.integration.live_kills import DAGSTER_YAML

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 120.0
GRPC = "load_from: [{grpc_server: {host: 127.0.0.1, port: PORT, location_name: elt}}]\n"
SHOWN = """{
  assetNodes { assetKey { path } }
  repositoriesOrError { ... on RepositoryConnection { nodes { schedules { name scheduleState { status } } } } }
  runsOrError { ... on Runs { results { runId jobName status tags { key value } } } }
}"""
TICKS = """{
  repositoriesOrError { ... on RepositoryConnection { nodes { sensors { name sensorState { ticks(limit: 1) { skipReason } } } } } }
}"""


@dataclass
class Deployment:
    """Dagster's processes over one project."""

    project: ShopProject
    port: int
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str, *words: str) -> None:
        """Start a command of this environment, in a process group of its own, writing to ``<name>.log``."""
        program = str(Path(sys.executable).parent / words[0])
        with (self.project.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [program, *words[1:]],
                cwd=self.project.folder,
                env={**self.project.environ(), "PYTHONPATH": str(REPOSITORY)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """Kill -9, with the children."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def ask(self, query: str) -> dict[str, Any]:
        """The webserver's answer."""
        response = httpx.post(f"http://127.0.0.1:{self.port}/graphql", json={"query": query}, timeout=30)
        data: dict[str, Any] = response.json()["data"]
        return data

    def wait(self, until: Callable[[dict[str, Any]], bool], what: str, query: str = SHOWN) -> float:
        """Seconds until what is shown is as it should be."""
        begun = time.monotonic()
        seen: Any = None
        while time.monotonic() < begun + PATIENCE_SECONDS:
            try:
                seen = self.ask(query)
                if until(seen):
                    return time.monotonic() - begun
            except (httpx.HTTPError, KeyError, TypeError) as error:
                seen = repr(error)
            time.sleep(0.2)
        logs = {n: (self.project.folder / f"{n}.log").read_text()[-2000:] for n in self.processes}
        raise AssertionError(f"Not seen: {what}. Shown: {json.dumps(seen)[:3000]} {logs}")

    def started(self, slug: str) -> list[dict[str, Any]]:
        """The runs of a sync."""
        return [r for r in self.ask(SHOWN)["runsOrError"]["results"] if r["jobName"] == f"sync_{slug}"]


def assets(shown: dict[str, Any]) -> set[str]:
    return {"/".join(node["assetKey"]["path"]) for node in shown["assetNodes"]}


def schedules(shown: dict[str, Any]) -> dict[str, str]:
    nodes = shown["repositoriesOrError"]["nodes"]
    return {s["name"]: s["scheduleState"]["status"] for node in nodes for s in node["schedules"]}


def succeeded(shown: dict[str, Any], slug: str) -> bool:
    return any(r["jobName"] == f"sync_{slug}" and r["status"] == "SUCCESS" for r in shown["runsOrError"]["results"])


def reasons(shown: dict[str, Any]) -> str:
    nodes = shown["repositoriesOrError"]["nodes"]
    return " ".join(str(t["skipReason"]) for n in nodes for s in n["sensors"] for t in s["sensorState"]["ticks"])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def made(folder: Path) -> Deployment:
    project = ShopProject.make(folder)
    (folder / "home" / "dagster.yaml").write_text(DAGSTER_YAML)
    shutil.copy(REPOSITORY / "definitions.py", folder)
    project.put(shop())
    return Deployment(project, free_port())


def start_dev(deployment: Deployment) -> None:
    shutil.copy(REPOSITORY / "workspace.yaml", deployment.project.folder)
    deployment.start("dev", "dagster", "dev", "-p", str(deployment.port), "-w", "workspace.yaml")


def start_apart(deployment: Deployment) -> None:
    port = str(free_port())
    (deployment.project.folder / "workspace.yaml").write_text(GRPC.replace("PORT", port))
    deployment.start("code", "dagster", "api", "grpc", "-f", "definitions.py", "-p", port, "--location-name", "elt")
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
            break
        except OSError:
            assert time.monotonic() < end, "the code server does not come up"
            time.sleep(0.2)
    deployment.start("webserver", "dagster-webserver", "-w", "workspace.yaml", "-p", str(deployment.port))
    start_daemon(deployment)


def start_daemon(deployment: Deployment) -> None:
    deployment.start("daemon", "dagster-daemon", "run", "-w", "workspace.yaml")


@contextmanager
def running(folder: Path, start: Callable[[Deployment], None]) -> Iterator[Deployment]:
    """A deployment that shows its first sync and looks for changes."""
    deployment = made(folder)
    try:
        start(deployment)
        deployment.wait(lambda shown: "raw_shop/orders" in assets(shown), "the first sync")
        deployment.wait(lambda shown: "of the store is loaded" in reasons(shown), "a tick", TICKS)
        yield deployment
    finally:
        for name in list(deployment.processes):
            deployment.kill(name)


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with running(tmp_path_factory.mktemp("apart"), start_apart) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with running(tmp_path_factory.mktemp("dev"), start_dev) as deployment:
        yield deployment


PROJECT = """
connections:
  - {name: shop-db, connector: scripted, config: {folder: FOLDER, password: x}}
  - {name: warehouse, connector: duckdb, config: {path: FOLDER/warehouse.duckdb}}
syncs:
  - {slug: shop, connection: shop-db, destination: warehouse, schema: raw_shop,
     execution: {max_retries: 2, retry_delay_seconds: 0.1},
     streams: [{name: public.orders}, {name: public.customers}, {name: public.items}]}
"""
FRESH = """
  - {slug: fresh, connection: shop-db, destination: warehouse, schema: fresh, trigger_mode: on_create, STATUS
     schedule: {cron: "0 4 1 1 *"}, streams: [{name: public.orders}]}
  - {slug: nightly, connection: shop-db, destination: warehouse, schema: nightly, STATUS
     schedule: {cron: "0 4 1 1 *"}, streams: [{name: public.orders}]}
"""


def apply(project: ShopProject, text: str) -> None:
    (project.folder / "shop.yaml").write_text(text.replace("FOLDER", str(project.folder)))
    project.command("elt-dagster", "apply", "-f", "shop.yaml", "--prune")


@pytest.mark.parametrize(
    "way",
    [
        "apart",
        pytest.param("dev", marks=pytest.mark.again("in test_run_control syncs come and go under dagster dev")),
    ],
)
def test_a_sync_comes_by_command_runs_is_paused_and_goes(
    request: pytest.FixtureRequest, way: str, record_property: Callable[[str, object], None]
) -> None:
    deployment: Deployment = request.getfixturevalue(way)
    apply(deployment.project, PROJECT + FRESH.replace("STATUS", ""))
    begun = time.monotonic()
    deployment.wait(lambda shown: {"raw_shop/orders", "fresh/orders"} <= assets(shown), "its assets")
    record_property(f"{way}: assets after", round(time.monotonic() - begun, 1))
    assert schedules(deployment.ask(SHOWN))["sync_nightly_schedule"] == "RUNNING"
    deployment.wait(lambda shown: any(r["jobName"] == "sync_fresh" for r in shown["runsOrError"]["results"]), "its run")
    record_property(f"{way}: run after", round(time.monotonic() - begun, 1))
    deployment.wait(lambda shown: succeeded(shown, "fresh"), "its success")
    assert deployment.project.rows("SELECT count(*) FROM fresh.orders") == [(3,)]
    apply(deployment.project, PROJECT + FRESH.replace("STATUS", "status: paused,"))
    deployment.wait(lambda shown: not schedules(shown) and "fresh/orders" in assets(shown), "that it is paused")
    begun = time.monotonic()
    apply(deployment.project, PROJECT)
    deployment.wait(lambda shown: assets(shown) == {f"raw_shop/{t}" for t in ("orders", "customers", "items")}, "gone")
    record_property(f"{way}: gone after", round(time.monotonic() - begun, 1))
    assert len(deployment.started("fresh")) == 1


def test_a_store_out_of_reach_leaves_what_is_shown_and_is_told(apart: Deployment) -> None:
    store = apart.project.folder / "store.sqlite"
    store.rename(store.with_suffix(".away"))
    try:
        apart.wait(lambda shown: "not initialised" in reasons(shown), "the warning", TICKS)
        assert "raw_shop/orders" in assets(apart.ask(SHOWN))
    finally:
        store.with_suffix(".away").rename(store)
    apart.project.put(shop(slug="after", schema="after"))
    apart.wait(lambda shown: {"after/orders", "raw_shop/orders"} <= assets(shown), "the next change")


def test_a_killed_daemon_doubles_nothing_and_a_queued_run_outlives_its_sync(
    apart: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = apart.project
    with project.store.transaction() as tx:
        tx.put_connection(ConnectionSpec(name="second", connector="scripted", config={}), frozenset())
    one: dict[str, Any] = {"streams": [{"name": "public.orders"}], "connection": "second"}
    project.put(shop(slug="once", schema="once", trigger_mode="on_create", **one))
    project.put(shop(slug="doomed", schema="doomed", **one))
    apart.wait(lambda shown: {"once/orders", "doomed/orders"} <= assets(shown), "both")
    apart.wait(lambda shown: any(r["jobName"] == "sync_once" for r in shown["runsOrError"]["results"]), "the run")
    apart.kill("daemon")
    with open_runs(webserver_url=f"http://127.0.0.1:{apart.port}") as runs:
        queued = runs.launch("doomed")
    with project.store.transaction() as tx:
        tx.delete_sync("doomed")
    apart.wait(lambda shown: "doomed/orders" not in assets(shown) and "once/orders" in assets(shown), "one is gone")
    start_daemon(apart)
    apart.wait(lambda shown: all(succeeded(shown, slug) for slug in ("once", "doomed")), "that both ran", SHOWN)
    apart.wait(lambda shown: "of the store is loaded" in reasons(shown), "a tick", TICKS)
    assert len(apart.started("once")) == 1
    assert [r["runId"] for r in apart.started("doomed")] == [queued]
    assert project.rows("SELECT count(*) FROM doomed.orders") == [(3,)]


def test_a_stream_that_was_added_a_moment_ago_is_in_the_run_that_is_started_now(apart: Deployment) -> None:
    project = apart.project
    project.put(shop(slug="grown", schema="grown", streams=[{"name": "public.orders"}]))
    apart.wait(lambda shown: "grown/orders" in assets(shown), "the first stream")
    with open_runs(webserver_url=f"http://127.0.0.1:{apart.port}") as runs:
        running = Running(Workspace(store=project.store), runs)
        sync_id = project.store.sync("grown").id
        first = running.trigger(sync_id, streams=["public.orders"])
        both = [{"name": "public.orders"}, {"name": "public.customers"}]
        project.put(shop(slug="grown", schema="grown", execution_mode="fan_out_entity", streams=both))
        assert "grown/customers" not in assets(apart.ask(SHOWN)), "it is loaded before it can be missed"
        with pytest.raises(ConflictError) as caught:
            running.trigger(sync_id)
        assert caught.value.with_id == first
        second = running.trigger(sync_id, streams=["public.customers"])
        apart.wait(
            lambda shown: (
                [r["status"] for r in shown["runsOrError"]["results"] if r["jobName"] == "sync_grown"]
                == ["SUCCESS"] * 2
            ),
            "both",
        )
        assert project.rows("SELECT count(*) FROM grown.customers") == [(3,)]
        views = runs.get(first), runs.get(second)
        assert [[s.stream for s in view.streams] for view in views] == [["public.orders"], ["public.customers"]]
        assert [view.execution_mode for view in views] == ["sequential", "fan_out_entity"]


@pytest.mark.again("the daemon is killed in other tests as well")
def test_a_daemon_killed_again_and_again_starts_each_first_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    deployment = made(tmp_path)
    kills = 50 if os.environ.get(EVERYTHING) else 12
    words = ("python", "-m", "tests.integration.live_kills", str(tmp_path), str(kills), "1")
    said = deployment.project.command(*words, timeout=20 * kills)
    found = json.loads(said.strip().splitlines()[-1])
    assert found["killed"] >= kills
    assert found["runs"] == {f"new-{number + 1}": 1 for number in range(found["created"])}
