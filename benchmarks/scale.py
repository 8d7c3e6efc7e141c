"""How Dagster bears many syncs of ten streams: what loading costs beside plain Dagster's, schedules, the webserver's graph, and one run.

``python -m benchmarks.scale [SYNCS ...]`` (100 and 1,000). Loading is told in seconds of processor time, because wall time on a shared machine tells little,
each beside the same number of plain assets, checks and jobs (``@dg.asset``, ``define_asset_job``) in the same run. The rest is one real
instance: code server, webserver and daemon, on PostgreSQL, with every schedule due each minute and the queue closed.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from tests.servers import database

STREAMS = 10
MOST_SCHEDULES = 100
"""Each run that is requested costs Dagster the better part of a second (it notes every asset and check that is planned, one connection each)."""
COLUMNS = pa.schema([("id", pa.int64()), ("updated_at", pa.timestamp("us", "UTC")), *((f"c{i}", pa.string()) for i in range(13))])  # fmt: skip
PARTS = ("import", "build", "repository", "jobs", "snapshot")
_BIN = Path(sys.executable).parent


def main() -> int:
    """Print both tables; or do one child's part."""
    if len(sys.argv) == 4 and sys.argv[1] == "--load":
        print(json.dumps(_LOADS[sys.argv[2]](int(sys.argv[3]))))
        return 0
    sizes = [int(n.replace(",", "")) for n in sys.argv[1:]] or [100, 1000]
    loading = Table("syncs x 10", "what", *PARTS, "sum, s", "peak MB", title="loading, seconds of processor time")
    living = Table("syncs x 10", "what", "seconds", title="one instance, wall time")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder, database("scale") as url:
            home = Path(folder)
            os.environ.update(
                DAGSTER_HOME=folder, ELT_DAGSTER_STORE=f"sqlite:///{folder}/store.sqlite", BENCH_POSTGRES=url
            )
            _fill(home, size)
            for what in _LOADS:
                _add_load(loading, what, size)
            for what, seconds in _live(home, size):
                living.add_row(f"{size:,}", what, f"{seconds:.2f}")
    Console().print(loading, living)
    return 0


def _fill(home: Path, size: int) -> None:
    """A store with ``size`` syncs of a folder with ten files."""
    from elt_dagster.model import ConnectionSpec, Stream, SyncSpec
    from elt_dagster.store import open_store

    names = [f"t{i}" for i in range(STREAMS)]
    for name in names:
        (home / f"{name}.csv").write_text("id,updated_at\n1,2026-01-01T00:00:00Z\n")
    files = {"url": str(home), "streams": [{"name": name, "glob": f"{name}.csv"} for name in names]}
    store = open_store()
    store.init()
    with store.transaction() as tx:
        tx.put_connection(ConnectionSpec(name="files", connector="files", config=files))
        tx.put_connection(
            ConnectionSpec(name="warehouse", connector="duckdb", config={"path": str(home / "warehouse.duckdb")})
        )
        for number in range(size):
            sync = {
                "slug": f"shop-{number:04}", "connection": "files", "destination": "warehouse", "schema": f"raw_{number:04}",
                "schedule": {"cron": "* * * * *"}, "trigger_mode": "scheduled",
                "streams": [{"name": name, "load_mode": "replace", "primary_key": ["id"]} for name in names],
            }  # fmt: skip
            tx.put_sync(SyncSpec.model_validate(sync), {name: Stream(name=name, schema=COLUMNS) for name in names})


# --- loading -------------------------------------------------------------------------------------------------------------------


def _add_load(table: Table, what: str, size: int) -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "--load", what, str(size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    shown = [f"{found[part]:.1f}" if part in found else "" for part in PARTS]
    table.add_row(
        f"{size:,}", what, *shown, f"{sum(v for k, v in found.items() if k != 'mb'):.1f}", f"{found['mb']:.0f}"
    )


def _ours(_: int) -> dict[str, float]:
    clock = _Clock()
    from elt_dagster import build_definitions

    clock.note("import")
    defs = build_definitions()
    clock.note("build")
    return _whole(defs, clock)


def _plain(size: int) -> dict[str, float]:
    clock = _Clock()
    import dagster as dg

    clock.note("import")
    jobs, assets = [], []
    for number in range(size):
        mine = [_plain_asset(dg, f"raw_{number:04}", f"t{i}") for i in range(STREAMS)]
        jobs.append(dg.define_asset_job(f"sync_{number:04}", selection=mine))
        assets += mine
    clock.note("build")
    return _whole(dg.Definitions(assets=assets, jobs=jobs), clock)


def _plain_asset(dg: Any, schema: str, table: str) -> Any:
    columns = dg.TableSchema([dg.TableColumn(name, "string") for name in COLUMNS.names])
    checks = [dg.AssetCheckSpec(name, asset=[schema, table]) for name in ("drift", "key", "rejected", "volume")]

    def load():  # type: ignore[no-untyped-def]  # noqa: ANN202 - an annotation would have to name five outputs
        ...

    decorate = dg.asset(
        key=[schema, table],
        check_specs=checks,
        metadata={"dagster/column_schema": columns},
        group_name=schema,
    )
    return decorate(load)


def _one_run(_: int) -> dict[str, float]:
    """As a run worker loads: it has one run at hand."""
    from types import SimpleNamespace

    clock = _Clock()
    from elt_dagster import build_definitions
    from elt_dagster.orchestration import _run_scope

    clock.note("import")
    run = SimpleNamespace(job_name="sync_shop_0007", asset_selection=None, asset_check_selection=None)
    _run_scope._run_of_this_process = lambda: run
    defs = build_definitions()
    clock.note("build")
    repository = defs.get_repository_def()
    clock.note("repository")
    repository.get_job("sync_shop_0007")
    clock.note("jobs")
    return clock.found()


def _whole(defs: Any, clock: "_Clock") -> dict[str, float]:
    from dagster._core.remote_representation.external_data import RepositorySnap  # noqa: TID251 - what a code server does
    from dagster_shared.serdes import serialize_value

    repository = defs.get_repository_def()
    clock.note("repository")
    repository.get_all_jobs()
    clock.note("jobs")
    serialize_value(RepositorySnap.from_def(repository, defer_snapshots=True))
    clock.note("snapshot")
    return clock.found()


class _Clock:
    """Processor time of this process, part by part."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self.last = time.process_time()

    def note(self, part: str) -> None:
        now = time.process_time()
        self.parts[part], self.last = now - self.last, now

    def found(self) -> dict[str, float]:
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return {**self.parts, "mb": int(peak[1]) / 1024 if peak else 0.0}


_LOADS = {"elt_dagster": _ours, "plain Dagster": _plain, "elt_dagster, in a run": _one_run}


# --- one instance --------------------------------------------------------------------------------------------------------------


def _live(home: Path, size: int) -> Iterator[tuple[str, float]]:
    (home / "definitions.py").write_text("from elt_dagster import build_definitions\ndefs = build_definitions()\n")
    (home / "workspace.yaml").write_text(f"load_from: [{{python_file: {home / 'definitions.py'}}}]\n")
    _configure(home, "run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}")
    started = time.perf_counter()
    with _serving(home) as url:
        _ask(url, "{ assetNodes { id } }", patience=600)
        yield "webserver up, all loaded", time.perf_counter() - started
        for what, query in _QUERIES.items():
            yield what, min(_timed(url, query) for _ in range(3))
        yield "launch of one sync of them, until its worker has loaded", _run(url)
    if size <= MOST_SCHEDULES:
        _configure(home, "concurrency: {runs: {max_concurrent_runs: 0}}")
        yield "all schedules due at once, until the last run is in the queue, each", _tick(home, size) / size


def _configure(home: Path, how: str) -> None:
    threads = "schedules: {use_threads: true, num_workers: 4}"
    storage = f"storage: {{postgres: {{postgres_url: '{os.environ['BENCH_POSTGRES']}'}}}}"
    (home / "dagster.yaml").write_text(f"telemetry: {{enabled: false}}\n{storage}\n{threads}\n{how}\n")


_QUERIES = {
    "asset graph of all": "{ assetNodes { id assetKey { path } dependencyKeys { path } groupName kinds } }",
    "one group of it": '{ assetNodes(group: {groupName: "shop_0007", repositoryName: "__repository__", repositoryLocationName: "definitions.py"}) '
    "{ id assetKey { path } dependencyKeys { path } jobNames hasMaterializePermission } }",
    "one asset": '{ assetNodes(assetKeys: [{path: ["raw_0007", "t3"]}]) { id description jobNames metadataEntries { label } '
    "assetMaterializations(limit: 10) { runId } } }",
}
_LAUNCH = """mutation($job: String!) { launchRun(executionParams: {runConfigData: {}, selector: {jobName: $job,
 repositoryName: "__repository__", repositoryLocationName: "definitions.py"}}) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""


@contextmanager
def _serving(home: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(_BIN / "dagster-webserver"), "-p", str(port), "-h", "127.0.0.1", "-w", str(home / "workspace.yaml")]
    with open(home / "webserver.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=home)
        try:
            yield f"http://127.0.0.1:{port}/graphql"
        finally:
            server.terminate()
            server.wait()


def _ask(url: str, query: str, variables: dict[str, Any] | None = None, patience: float = 0.0) -> Any:
    body = json.dumps({"query": query, "variables": variables or {}}).encode()
    end = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, body, {"Content-Type": "application/json"})
            ) as answer:
                found = json.load(answer)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
            continue
        assert "errors" not in found, found
        return found["data"]


def _timed(url: str, query: str) -> float:
    started = time.perf_counter()
    found = _ask(url, query)
    assert found["assetNodes"], found
    return time.perf_counter() - started


def _run(url: str) -> float:
    import dagster as dg

    started = time.time()
    launched = _ask(url, _LAUNCH, {"job": "sync_shop_0007"})["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    with dg.DagsterInstance.get() as instance:
        while True:
            record = instance.get_run_record_by_id(launched["run"]["runId"])
            assert record is not None
            if record.start_time and record.dagster_run.is_finished:
                assert record.dagster_run.is_success, "see the run"
                return record.start_time - started
            time.sleep(0.1)


def _tick(home: Path, size: int) -> float:
    """From the minute in which the schedules are due; loading, which the daemon does before, is not in it."""
    import dagster as dg

    command = [str(_BIN / "dagster-daemon"), "run", "-w", str(home / "workspace.yaml")]
    with dg.DagsterInstance.get() as instance, open(home / "daemon.log", "w") as log:
        before = instance.get_runs_count()
        daemon = subprocess.Popen(command, stdout=log, stderr=log, cwd=home)
        try:
            while instance.get_runs_count() - before < size:
                time.sleep(0.2)
            ended = time.time()
            due = {run.tags[".dagster/scheduled_execution_time"] for run in instance.get_runs(limit=size)}
            return ended - min(datetime.fromisoformat(text).timestamp() for text in due)
        finally:
            daemon.terminate()
            daemon.wait()


if __name__ == "__main__":
    sys.exit(main())
