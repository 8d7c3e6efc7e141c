"""Prefect's real server for tests, from an environment of its own (``make servers``), and what a test does there in a worker's place."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".prefect" / "bin" / "python"
AUTH = "admin:canary-55d1"
START_SECONDS = 90


@dataclass(frozen=True)
class PrefectServer:
    """A server that wants a password, with one deployment per flow name asked for."""

    api_url: str
    client: httpx.Client
    environ: Mapping[str, str]

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer to a GET, or with ``body`` to a POST."""
        answer = self.client.get(path) if body is None else self.client.post(path, json=body)
        return answer.raise_for_status().json()

    def deploy(self, flow: str, **settings: Any) -> str:
        """A deployment that nobody works for; its full name."""
        made = self.ask("flows/", {"name": flow})
        self.ask("deployments/", {"name": "prod", "flow_id": made["id"], "enforce_parameter_schema": False, **settings})
        return f"{flow}/prod"

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """The flow runs of ``flow``, oldest first."""
        found: list[dict[str, Any]] = self.ask("flow_runs/filter", {"flows": {"name": {"any_": [flow]}}})
        return sorted(found, key=lambda run: run["created"])

    def put(self, run_id: str, *states: str) -> None:
        """Move a flow run on, as its worker would. ``FAILED/TimedOut`` is a type and a name."""
        for state in states:
            kind, _, name = state.partition("/")
            said = {"type": kind, "name": name or kind.capitalize(), "message": "ValueError: canary-row-91"}
            answer = self.ask(f"flow_runs/{run_id}/set_state", {"state": said})
            assert answer["status"] == "ACCEPT", answer

    def report(self, run_id: str, row: Mapping[str, Any]) -> None:
        """The artifact that tells how many rows there were."""
        table = {"key": "elt-result", "type": "table", "data": json.dumps([row]), "flow_run_id": run_id}
        self.ask("artifacts/", table)


@contextmanager
def prefect_server(folder: Path) -> Iterator[PrefectServer]:
    """A server in ``folder``. Skips the test, or fails it under ``CI``, when Prefect is not installed."""
    if not PYTHON.exists() or not (ROOT / ".prefect" / ".ready").exists():
        reason = "No Prefect server: run `make servers`."
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    environ = {
        **{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": url,
        "PREFECT_API_AUTH_STRING": AUTH,
        "PREFECT_SERVER_API_AUTH_STRING": AUTH,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_UI_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command: list[str | Path] = [
        PYTHON,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-services",
    ]
    user, _, password = AUTH.partition(":")
    with (
        started(command, environ, folder / "server.log"),
        httpx.Client(base_url=url, auth=(user, password), timeout=30) as client,
    ):
        _wait_until_healthy(client, folder / "server.log")
        yield PrefectServer(url, client, environ)


@contextmanager
def started(command: "list[str | Path]", environ: Mapping[str, str], log: Path) -> Iterator[None]:
    """A process with all its children, for as long as the body runs."""
    with log.open("ab") as said:
        process = subprocess.Popen(command, env=dict(environ), stdout=said, stderr=said, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_healthy(client: httpx.Client, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            if client.get("health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-2000:])
