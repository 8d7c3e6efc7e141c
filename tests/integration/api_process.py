"""``elt-dagster serve`` as a process of its own, over a shop with a scripted source, so that tests can ask, read and kill it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from elt_dagster.client import Client
from tests.integration.dagster_project import REPOSITORY, WARM_DEFINITIONS, ShopProject

KEY = "elt_test_0123456789abcdef"
"""The key of the workspace `default`; imported, so that it is the same in every process."""
START_SECONDS = 60.0


@dataclass
class Served:
    """One folder with a store, a Dagster home and a server, which can be killed and started again."""

    project: ShopProject
    port: int
    environ: dict[str, str] = field(default_factory=dict[str, str])
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process."""
        return self._process.pid if self._process is not None else None

    @property
    def log(self) -> Path:
        """What it printed, both channels."""
        return self.project.folder / "serve.log"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "elt_dagster.cli", "serve", "--port", str(self.port), "-w", "workspace.yaml"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.project.folder, env={**self.project.environ(), **self.environ}, stdout=log, stderr=log, start_new_session=True
            )  # fmt: skip
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=2).is_success
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """SIGKILL to the server alone; what it started lives on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it and everything it started."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def client(self, key: str = KEY) -> Client:
        """A client with a key of the workspace."""
        return Client(self.url, key)


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(folder: Path, **environ: str) -> Iterator[Served]:
    """A server that has just started, with the connections ``shop-db`` and ``warehouse`` and without syncs."""
    project = ShopProject.make(folder)
    shutil.copy(REPOSITORY / "workspace.yaml", folder)
    shutil.copy(WARM_DEFINITIONS, folder / "definitions.py")
    project.store.api_keys.create(workspace="default", name="test", key=KEY)
    told = {"ELT_DAGSTER_API_REQUESTS_PER_MINUTE": "1000000", "PYTHONPATH": str(REPOSITORY), **environ}
    server = Served(project, free_port(), told)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        project.store.close()
