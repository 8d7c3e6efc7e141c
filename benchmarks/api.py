"""How fast the REST API answers with many syncs and runs: each question alone on an idle server, then 200 requests a second for a while.

``python -m benchmarks.api [sqlite] [postgres] [--syncs 1000] [--runs 10000] [--seconds 20] [--rate 200]``. The server is a process of its own, one
worker, with a real Dagster instance behind it; runs are written straight into that instance. Besides the time that passes, which on a shared
machine tells little, the table has the server's processor time for each answer.
"""

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from tests.servers import database

KEY = "elt_bench_0123456789abcdef"
STREAMS = ("orders", "customers", "items")
ASKED = 60
"""How often each question is asked on the idle server."""
LIMIT_MS = 50
WARM_SECONDS = 5
"""For how long requests are sent before those that count."""
IDLE_SECONDS = 3.0
"""A connection that was left alone for longer is not used again: the server closes it after five."""
REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True)
class Size:
    """How much there is, and how hard it is asked for."""

    syncs: int
    runs: int
    seconds: int
    rate: int


def main() -> int:
    """Print the tables; or fill a home, or send the load, as a child process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engines", nargs="*", default=["sqlite", "postgres"])
    for name, default in (("syncs", 1000), ("runs", 10_000), ("seconds", 20), ("rate", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--fill", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    size = Size(asked.syncs, asked.runs, asked.seconds, asked.rate)
    if asked.fill:
        fill(Path(asked.fill), size)
        return 0
    if asked.load:
        print(json.dumps(asyncio.run(_load(asked.load, size))))
        return 0
    slow = 0
    for engine in asked.engines:
        slow += _measure(engine, size)
    return min(slow, 1)


def _measure(engine: str, size: Size) -> int:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = Path(folder)
        environ = _environ(home, engine, stack)
        options = [f"--syncs={size.syncs}", f"--runs={size.runs}", f"--seconds={size.seconds}", f"--rate={size.rate}"]
        subprocess.run([sys.executable, "-m", "benchmarks.api", *options, "--fill", folder], env=environ, check=True)
        with _server(home, environ) as (url, pid):
            table = Table(
                "question", "median ms", "p99 ms", "server ms", "kB", title=f"{engine}: {size.syncs:,} syncs, {size.runs:,} runs, one at a time"
            )  # fmt: skip
            slow = _alone(table, url, pid)
            Console(width=110).print(table)
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.api", *options, "--load", url], env=environ, check=True, stdout=subprocess.PIPE, text=True
            )  # fmt: skip
            found = json.loads(done.stdout)
            Console(width=110).print(f"{engine}: {_wrk(url, home, size.seconds)}")
            Console(width=110).print(
                f"{engine}: {size.rate} requests/s for {size.seconds} s: {found['answers']} answers, median {found['median']:.0f} ms, "
                f"p99 {found['p99']:.0f} ms, {found['held']:.0f}/s held, {found['errors']} errors {found['statuses']}"
            )
        return slow + (1 if found["errors"] else 0)


def _environ(home: Path, engine: str, stack: ExitStack) -> dict[str, str]:
    (home / "home").mkdir()
    told = "telemetry: {enabled: false}\n"
    store, dagster = f"sqlite:///{home}/store.sqlite", f"sqlite:///{home}/home/history/runs.db"
    if engine == "postgres":
        store = stack.enter_context(database("api"))
        dagster = stack.enter_context(database("dagster"))
        told += f"storage: {{postgres: {{postgres_url: '{dagster}'}}}}\n"
    (home / "home" / "dagster.yaml").write_text(told)
    (home / "workspace.yaml").write_text("load_from: []\n")
    return {
        **os.environ, "DAGSTER_HOME": str(home / "home"), "ELT_DAGSTER_STORE": store, "PYTHONPATH": str(REPOSITORY),
        "ELT_DAGSTER_API_REQUESTS_PER_MINUTE": "10000000", "BENCH_DAGSTER": dagster,
    }  # fmt: skip


# --- what there is -----------------------------------------------------------------------------------------------------------------


def fill(home: Path, size: Size) -> None:
    """Syncs in the store, and runs of them in the instance, the newest with events as a real one has."""
    import pyarrow as pa

    from elt_dagster.model import ConnectionSpec, Stream, SyncSpec
    from elt_dagster.store import open_store

    schema = pa.schema([("id", pa.int64()), ("updated_at", pa.timestamp("us", "UTC")), *((f"c{i}", pa.string()) for i in range(13))])  # fmt: skip
    streams = {
        name: Stream(
            name=name, schema=schema, primary_key=("id",), cursor_field="updated_at", cursor_fields=("updated_at",)
        )
        for name in STREAMS
    }
    store = open_store()
    store.init()
    store.api_keys.create(workspace="default", name="bench", key=KEY)
    with store.transaction() as tx:
        files = {"url": str(home), "streams": [{"name": name, "glob": f"{name}.csv"} for name in STREAMS]}
        tx.put_connection(ConnectionSpec(name="files", connector="files", config=files))
        tx.put_connection(ConnectionSpec(name="warehouse", connector="duckdb", config={"path": str(home / "w.duckdb")}))
        for number in range(size.syncs):
            sync = {
                "slug": f"shop-{number:04}", "name": f"Shop {number}", "connection": "files", "destination": "warehouse", "schema": f"raw_{number:04}",
                "schedule": {"cron": "0 6 * * *"}, "streams": [{"name": name} for name in STREAMS],
            }  # fmt: skip
            tx.put_sync(SyncSpec.model_validate(sync), streams)
    _runs([s.id for s in store.syncs()], size)


def _runs(sync_ids: list[str], size: Size) -> None:
    import uuid

    import dagster as dg

    from elt_dagster.orchestration.tags import SYNC_ID_TAG, SYNC_TAG

    with dg.DagsterInstance.get() as instance:
        # which keeps a connection: with one for each statement this takes ten minutes
        instance.optimize_for_webserver(statement_timeout=20_000, pool_recycle=3600, max_overflow=1)
        for number in range(size.runs):
            at = number % len(sync_ids)
            tags = {
                SYNC_ID_TAG: sync_ids[at],
                SYNC_TAG: f"shop-{at:04}",
                "elt/triggered_by": "schedule",
                "elt/run_mode": "incremental",
            }
            status = dg.DagsterRunStatus.FAILURE if number % 20 == 0 else dg.DagsterRunStatus.SUCCESS
            keys = frozenset(dg.AssetKey([f"raw_{at:04}", name]) for name in STREAMS)
            run = dg.DagsterRun(
                job_name=f"sync_shop_{at:04}", run_id=str(uuid.uuid4()), status=status, tags=tags, asset_selection=keys
            )
            instance.add_run(run)
            if number >= size.runs - 300:
                for key in keys:
                    metadata: dict[str, Any] = {"elt/rows": 1000, "elt/bytes": 100_000, "elt/stream": key.path[-1]}
                    event = dg.AssetMaterialization(key, metadata=metadata)
                    instance.report_dagster_event(_materialized(dg, run, event), run.run_id)
    _times(os.environ["BENCH_DAGSTER"])


def _times(url: str) -> None:
    """Runs that began and ended an hour ago: written into Dagster's own table, for events of 10,000 runs take minutes."""
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    ended = time.time() - 3600
    with engine.begin() as conn:
        conn.execute(
            sa.text("UPDATE runs SET start_time = :start, end_time = :ended"), {"start": ended - 60, "ended": ended}
        )
    engine.dispose()


def _materialized(dg: Any, run: Any, event: Any) -> Any:
    """As a step reports it: the public way, `report_runless_asset_event`, belongs to no run."""
    return dg.DagsterEvent(
        event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value, job_name=run.job_name,
        event_specific_data=dg._core.events.StepMaterializationData(event),
    )  # fmt: skip


# --- asking ------------------------------------------------------------------------------------------------------------------------


@contextmanager
def _server(home: Path, environ: dict[str, str]) -> Iterator[tuple[str, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "elt_dagster.cli", "serve", "--port", str(port), "-w", "workspace.yaml"]
    with (home / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=home, env=environ, stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                httpx.get(f"{url}/healthz")
                break
            except httpx.TransportError:
                assert process.poll() is None, (home / "serve.log").read_text()
                time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def _questions(url: str) -> dict[str, str]:
    """What is asked, by a name for it."""
    with httpx.Client(base_url=url, headers={"x-api-key": KEY}, timeout=60) as http:
        page = http.get("/api/v1/syncs", params={"limit": 100}).json()["syncs"]
        sync = page[len(page) // 2]["id"]
        run = next(r["id"] for s in page for r in http.get(f"/api/v1/syncs/{s['id']}/runs").json()["runs"])
        stream = http.get("/elt_streams", params={"elt_sync_id": sync}).json()["data"][0]["id"]
        account = http.get("/elt_syncs").json()["data"][0]["account_id"]
    loaders = f"/api/v1/workspaces/{account}/loaders"
    return {
        "Connect: 10 syncs": "/elt_syncs", "Connect: 100 syncs": "/elt_syncs?limit=100", "Connect: a sync": f"/elt_syncs/{sync}",
        "Connect: its status": f"/elt_syncs/{sync}/status", "Connect: 10 streams": "/elt_streams", "Connect: a stream": f"/elt_streams/{stream}",
        "Connect: its runs": f"/elt_stream_runs?elt_stream_id={stream}", "Connect: connections": "/connections",
        "Syncs: 50 syncs": "/api/v1/syncs", "Syncs: the last 100": "/api/v1/syncs?limit=100&offset=900", "Syncs: searched": "/api/v1/syncs?q=shop-07",
        "Syncs: a sync": f"/api/v1/syncs/{sync}", "Syncs: its runs": f"/api/v1/syncs/{sync}/runs", "Syncs: a run": f"/api/v1/syncs/runs/{run}",
        "Loaders: 20 loaders": f"{loaders}?page=1", "Loaders: a loader": f"{loaders}/{sync}", "Loaders: its runs": f"{loaders}/{sync}/runs",
    }  # fmt: skip


def _alone(table: Table, url: str, pid: int) -> int:
    slow = 0
    with httpx.Client(base_url=url, headers={"x-api-key": KEY}, timeout=60) as http:
        for name, path in _questions(url).items():
            for _ in range(3):
                answer = http.get(path)
                assert answer.status_code == 200, (path, answer.text[:500])
            times: list[float] = []
            before = _processor_seconds(pid)
            for _ in range(ASKED):
                start = time.perf_counter()
                http.get(path)
                times.append((time.perf_counter() - start) * 1000)
            busy = (_processor_seconds(pid) - before) / ASKED * 1000
            median = statistics.median(times)
            slow += median > LIMIT_MS
            table.add_row(
                name, f"{median:.1f}{' !' if median > LIMIT_MS else ''}", f"{_p99(times):.1f}", f"{busy:.1f}", f"{len(answer.content) / 1000:.1f}"
            )  # fmt: skip
    return slow


def _mix(url: str) -> list[str]:
    """What many people ask: each list with its usual page, and single things, another sync, stream or run each time."""
    with httpx.Client(base_url=url, headers={"x-api-key": KEY}, timeout=60) as http:
        syncs = [
            s["id"]
            for at in (0, 300, 900)
            for s in http.get("/api/v1/syncs", params={"limit": 100, "offset": at}).json()["syncs"]
        ]
        streams = [s["id"] for s in http.get("/elt_streams", params={"limit": 100}).json()["data"]]
        runs = [r["id"] for s in syncs[:50] for r in http.get(f"/api/v1/syncs/{s}/runs").json()["runs"]]
        account = http.get("/elt_syncs").json()["data"][0]["account_id"]
    loaders = f"/api/v1/workspaces/{account}/loaders"
    lists = ("/elt_syncs", "/connections", "/elt_streams", "/api/v1/syncs", f"{loaders}?page=1")
    of_a_sync = (
        "/elt_syncs/{}",
        "/elt_syncs/{}/status",
        "/api/v1/syncs/{}",
        "/api/v1/syncs/{}/runs",
        loaders + "/{}",
        loaders + "/{}/runs",
    )
    chosen = random.Random(1)  # noqa: S311 - the same questions every time
    asked: list[str] = []
    for _ in range(200):
        asked += lists
        asked += [text.format(chosen.choice(syncs)) for text in of_a_sync]
        asked += [
            text.format(chosen.choice(streams)) for text in ("/elt_streams/{}", "/elt_stream_runs?elt_stream_id={}")
        ]
        asked.append(f"/api/v1/syncs/runs/{chosen.choice(runs)}")
    return asked


class Lines:
    """As many connections as there may be, kept open. httpx takes more of a processor for a request than the server for its answer."""

    def __init__(self, url: str, most: int) -> None:
        self._host, self._port = url.removeprefix("http://").split(":")
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._turns = asyncio.Semaphore(most)

    async def get(self, path: str) -> str:
        """The status of the answer, once all of it is here; or the name of what went wrong."""
        async with self._turns:
            try:
                reader, writer = await self._line()
                writer.write(f"GET {path} HTTP/1.1\r\nhost: {self._host}\r\nx-api-key: {KEY}\r\n\r\n".encode())
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = re.search(r"content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
            except (OSError, asyncio.IncompleteReadError) as error:
                return type(error).__name__
            self._idle.append((time.monotonic(), reader, writer))
            return head.split()[1]

    async def _line(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            since, reader, writer = self._idle.pop()
            if time.monotonic() - since < IDLE_SECONDS:
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)

    def close(self) -> None:
        """Let go of all that are idle."""
        for _, _, writer in self._idle:
            writer.close()


async def _load(url: str, size: Size) -> dict[str, Any]:
    """Send requests when their time has come, whether or not those before them were answered."""
    paths = _mix(url)
    times: list[float] = []
    statuses: Counter[str] = Counter()
    lines = Lines(url, most=100)

    async def ask(path: str, due: float) -> None:
        statuses[await lines.get(path)] += 1
        times.append((time.perf_counter() - due) * 1000)

    async def send(total: int) -> float:
        start = time.perf_counter()
        tasks: list[asyncio.Task[None]] = []
        for number in range(total):
            due = start + number / size.rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(ask(paths[number % len(paths)], due)))
        await asyncio.gather(*tasks)
        return total / (time.perf_counter() - start)

    await send(size.rate * WARM_SECONDS)
    times.clear()
    statuses.clear()
    held = await send(size.rate * size.seconds)
    lines.close()
    return {
        "answers": len(times), "median": statistics.median(times), "p99": _p99(times), "errors": len(times) - statuses["200"],
        "statuses": dict(statuses), "held": held,
    }  # fmt: skip


def _wrk(url: str, home: Path, seconds: int) -> str:
    """How many requests a second there can be at most, with 16 connections that ask again at once; one worker answers."""
    if shutil.which("wrk") is None:
        return "wrk is not installed (Debian: apt-get install wrk), so the most that can be asked was not measured."
    paths = ", ".join(json.dumps(path) for path in _mix(url))
    script = home / "mix.lua"
    script.write_text(
        f"local paths, at = {{{paths}}}, 0\n"
        f"function request() at = at % #paths + 1 return wrk.format('GET', paths[at], {{['x-api-key'] = '{KEY}'}}) end\n"
    )
    command = ["wrk", "-t1", "-c16", f"-d{seconds}s", "--latency", "--timeout", "30s", "-s", str(script), url]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    wanted = ("Requests/sec", "50%", "99%", "Non-2xx", "Socket errors")
    return "wrk, 16 connections: " + ", ".join(
        " ".join(line.split()) for line in told.splitlines() if line.strip().startswith(wanted)
    )


def _p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
