"""Syncs whose streams are loaded by Celery workers: a real Redis, two workers, and a Dagster instance, store and warehouse in PostgreSQL.

The workers are the processes that `deploy/docker-compose` starts, over its ``dagster.yaml``. Each runs one step at a time, so that two
streams side by side need both.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
import yaml

from elt_dagster.control.runs import Runs, RunStatus, RunView
from elt_dagster.orchestration.runs import open_runs
from elt_dagster.store import Store
from tests.integration.dagster_project import CANARY, REPOSITORY, WARM_DEFINITIONS
from tests.integration.deployed import COMPOSE, environ, prepare, put
from tests.prefect_server import started
from tests.redis_server import PASSWORD, redis_url
from tests.servers import database

pytestmark = pytest.mark.slow
APP = "elt_dagster.orchestration.celery_app"
PATIENCE_SECONDS = 90.0


@dataclass(frozen=True)
class Cluster:
    """A folder with a source, a database with everything else, and the means to start runs."""

    folder: Path
    url: str
    store: Store
    runs: Runs
    instance: dg.DagsterInstance

    def say(self, name: str, text: object) -> None:
        """Tell the source how to behave, see `scripted`; None for nothing."""
        (self.folder / name).unlink(missing_ok=True)
        if text is not None:
            (self.folder / name).write_text(str(text))

    def wait(self, run_id: str, until: Callable[[RunView], bool] = lambda view: view.status.is_final) -> RunView:
        """The run when it is as it should be."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not until(view := self.runs.get(run_id)):
            assert time.monotonic() < end, (view, self.logs())
            time.sleep(0.2)
        return view

    def logs(self) -> str:
        """What the workers said last."""
        return "\n".join(log.read_text()[-3000:] for log in self.folder.glob("worker-*.log"))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query on the warehouse answers."""
        with psycopg2.connect(self.url) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return [tuple(row) for row in cursor.fetchall()]

    def workers(self, run_id: str) -> dict[str, str]:
        """Which worker ran each step."""
        found: dict[str, str] = {}
        for entry in self.instance.all_logs(run_id):
            event = entry.dagster_event
            if event is not None and event.is_engine_event and event.step_key is not None:
                name = event.engine_event_data.metadata.get("Celery worker")
                if name is not None:
                    found[event.step_key] = str(name.value).partition("@")[0]
        return found

    def failures(self, run_id: str) -> dict[str, str]:
        """What the steps that failed said."""
        events = [e.dagster_event for e in self.instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)]
        return {e.step_key or "": str(e.step_failure_data.error_display_string) for e in events if e is not None}

    def pids(self, run_id: str) -> set[int | None]:
        """The processes that wrote the starts of steps."""
        starts = (e.dagster_event for e in self.instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_START))
        return {event.pid for event in starts if event is not None}


def composed() -> dict[str, Any]:
    """What compose.yaml says about a worker."""
    service: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]["worker-1"]
    return service


@contextmanager
def two_workers(folder: Path, environ: Mapping[str, str]) -> Iterator[None]:
    """One started as compose.yaml does, one by dagster-celery's own command."""
    programs = Path(sys.executable).parent
    name, *arguments = composed()["command"]
    places = {"elt@%h": "first@%h", "${CELERY_CONCURRENCY:-4}": "1"}
    celery: list[str | Path] = [programs / name, *[places.get(str(word), str(word)) for word in arguments]]
    dagster_celery: list[str | Path] = [programs / "dagster-celery", "worker", "start", "-A", APP, "-q", "dagster", "-n", "second",
                      "--", "--concurrency=1"]  # fmt: skip
    # dagster-celery calls celery by its name
    path = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    with (
        started(celery, {**os.environ, **environ, **path}, folder / "worker-first.log"),
        started(dagster_celery, {**os.environ, **environ, **path}, folder / "worker-second.log"),
    ):
        yield


def wait_for_code_servers() -> None:
    """Until those that `open_runs` started in this process are gone."""
    end = time.monotonic() + PATIENCE_SECONDS
    children = ["pgrep", "-P", str(os.getpid()), "-f", "dagster api grpc"]
    while subprocess.run(children, capture_output=True, check=False).returncode == 0:
        assert time.monotonic() < end, "A code server did not end."
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("celery")
    with ExitStack() as stack:
        broker = stack.enter_context(redis_url(folder))
        url = stack.enter_context(database("celery"))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in (settings := environ(folder, url, broker)).items():
            patch.setenv(name, value)
        patch.delenv("ELT_DAGSTER_WEBSERVER_URL", raising=False)
        patch.chdir(folder)
        # A code server whose database goes while it still looks after the process of a run would never end.
        stack.callback(wait_for_code_servers)
        store = prepare(folder, url)
        shutil.copy(WARM_DEFINITIONS, folder / "definitions.py")
        for slug in ("shop", "stopped"):
            put(store, slug)
        stack.enter_context(two_workers(folder, settings))
        runs = stack.enter_context(open_runs())
        instance = stack.enter_context(dg.DagsterInstance.get())
        yield Cluster(folder, url, store, runs, instance)


@pytest.fixture(scope="module")
def first(cluster: Cluster) -> RunView:
    """A run in which two streams take their time and the third fails."""
    for stream in ("orders", "customers"):
        cluster.say(f"{stream}.slow", 2)
    cluster.say("items.fail", "yes")
    view = cluster.wait(cluster.runs.launch("shop"))
    for told in ("orders.slow", "customers.slow", "items.fail"):
        cluster.say(told, None)
    return view


def test_streams_side_by_side_are_materialized_by_both_workers(cluster: Cluster, first: RunView) -> None:
    workers = cluster.workers(first.id)
    assert {workers["shop__orders"], workers["shop__customers"]} == {"first", "second"}
    assert len(cluster.pids(first.id)) == 3  # a fresh process for each step
    assert cluster.rows("SELECT (SELECT count(*) FROM shop.orders), (SELECT count(*) FROM shop.customers)") == [(3, 3)]


def test_a_stream_that_fails_leaves_its_siblings_alone(first: RunView) -> None:
    assert first.status is RunStatus.FAILED
    assert {s.stream: s.status for s in first.streams} == {
        "public.orders": RunStatus.COMPLETED,
        "public.customers": RunStatus.COMPLETED,
        "public.items": RunStatus.FAILED,
    }


def test_what_failed_is_run_again_alone_and_as_the_sync_is_by_then(cluster: Cluster, first: RunView) -> None:
    put(cluster.store, "shop", {"hashed_columns": ["email"]})
    with open_runs() as reloaded:  # what the sensor does in a deployment
        again = cluster.wait(reloaded.retry(first.id))
    assert again.status is RunStatus.COMPLETED, cluster.logs()
    assert set(cluster.workers(again.id)) == {"shop__items"}
    assert cluster.rows("SELECT count(*), count(*) FILTER (WHERE email LIKE '%@%') FROM shop.items") == [(3, 0)]


def test_cancelling_a_run_stops_the_steps_that_workers_have_begun(cluster: Cluster) -> None:
    cluster.say("orders.slow", 600)
    run_id = cluster.runs.launch("stopped")
    cluster.wait(run_id, lambda view: "stopped__orders" in cluster.workers(run_id))
    begun = time.monotonic()
    cluster.runs.cancel(run_id, "not today")
    assert cluster.wait(run_id).status is RunStatus.CANCELLED
    # The run does not wait for its steps, which look after it every two seconds; the source would take ten minutes.
    while "stopped__orders" not in (said := cluster.failures(run_id)):
        assert time.monotonic() - begun < 45, cluster.logs()
        time.sleep(0.2)
    assert "The run was cancelled." in said["stopped__orders"]
    assert cluster.rows("SELECT to_regclass('stopped.orders') IS NULL") == [(True,)]


def test_a_worker_that_listens_is_healthy_and_one_that_is_not_there_is_not(cluster: Cluster) -> None:
    kind, check = composed()["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for worker, healthy in (("first", True), ("third", False)):
        command = check.replace("$$", "$").replace("elt@", f"{worker}@").replace("-t 10", "-t 2")
        done = subprocess.run(["sh", "-c", command], env={**os.environ, **path}, capture_output=True, check=False)
        assert (done.returncode == 0) is healthy, done.stderr


def test_no_worker_writes_the_password_of_the_broker_down(cluster: Cluster) -> None:
    written = [
        p for p in (cluster.folder / "home").rglob("*") if p.is_file() and PASSWORD in p.read_text(errors="replace")
    ]
    assert not written
    assert PASSWORD not in cluster.logs()
    assert CANARY not in cluster.logs()
