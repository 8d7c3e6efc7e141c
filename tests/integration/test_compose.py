"""The processes of `deploy/docker-compose`, started on this machine as compose.yaml says: the same commands, variables, entry point, health checks.

What Docker would add are the hosts' names and their ports; here these are put in their place.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from elt_dagster.control.runs import RunStatus
from elt_dagster.errors import EltError
from elt_dagster.orchestration.runs import open_runs
from tests.integration.dagster_project import CANARY, CONNECTORS, REPOSITORY
from tests.integration.deployed import COMPOSE, environ, prepare, put
from tests.integration.test_live_syncs import free_port
from tests.prefect_server import started
from tests.servers import database

pytestmark = [
    pytest.mark.slow,
    pytest.mark.again("the commands of compose.yaml, each of which other tests run as well"),
]
PATIENCE_SECONDS = 120.0
PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True)
class Composed:
    """compose.yaml on this machine."""

    folder: Path
    services: dict[str, Any]
    ports: dict[str, str]
    own: dict[str, str]
    """Variables of the test itself, and the places that compose.yaml takes from .env."""

    def here(self, text: str) -> str:
        """``text`` with the places that exist here."""
        text = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)
        for there, here in self.ports.items():
            text = text.replace(there, here)
        return text

    def environ(self, name: str) -> dict[str, str]:
        """The variables of a service, and nothing of this shell but where programs are."""
        given = {key: self.here(str(value)) for key, value in self.services[name]["environment"].items()}
        machine = {
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "PYTHONPATH": str(REPOSITORY),
        }
        return {**machine, **given, **self.own}

    def words(self, words: list[str]) -> list[str | Path]:
        """A command, through the entry point of the image."""
        return ["sh", COMPOSE / "entrypoint.sh", *(self.here(word) for word in words)]

    def run(self, name: str, words: list[str]) -> "subprocess.CompletedProcess[str]":
        """A command in a service, to its end."""
        return subprocess.run(
            self.words(words),
            cwd=self.folder,
            env=self.environ(name),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def healthy(self, name: str) -> bool:
        """What its health check says."""
        kind, *words = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        return self.run(name, words).returncode == 0

    def wait_until_healthy(self, name: str) -> None:
        """As ``depends_on`` does."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not self.healthy(name):
            assert time.monotonic() < end, (self.folder / f"{name}.log").read_text()[-3000:]
            time.sleep(0.5)


@pytest.fixture
def composed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Composed]:
    with database("compose") as url:
        outside = environ(tmp_path, url, "redis://127.0.0.1:1")
        monkeypatch.chdir(tmp_path)
        put(prepare(tmp_path, url), "shop", executor="threads")
        (tmp_path / "secrets").mkdir()
        (tmp_path / "secrets" / "postgres_password").write_text(outside["PGPASSWORD"] + "\n")
        (tmp_path / "secrets" / "elt_secret_key").write_text(outside["ELT_DAGSTER_SECRET_KEY"] + "\n")
        parts = urlsplit(url)
        ports = {
            "@postgres:5432/elt": f"@127.0.0.1:{parts.port}{parts.path}",
            "postgresql://elt@": f"postgresql://{parts.username}@",
            "/run/secrets": str(tmp_path / "secrets"),
            "/opt/dagster/home": str(tmp_path / "home"),
            "/opt/dagster/logs": str(tmp_path / "logs"),
            "webserver:3000": f"127.0.0.1:{(web := free_port())}",
            "0.0.0.0": "127.0.0.1",  # noqa: S104 - the one that is replaced
            "3000": str(web),
            "4000": str(free_port()),
        }
        own = {
            "SECRETS_FOLDER": str(tmp_path / "secrets"),
            "ELT_DAGSTER_CONNECTORS": str(CONNECTORS),
            "SHOP_PASSWORD": CANARY,
            **{
                name: outside[name]
                for name in ("DAGSTER_PG_HOST", "DAGSTER_PG_PORT", "DAGSTER_PG_USER", "DAGSTER_PG_DB")
            },
        }
        services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
        found = Composed(tmp_path, services, ports, own)
        workspace = (COMPOSE / "workspace.yaml").read_text().replace("host: code", "host: 127.0.0.1")
        (tmp_path / "home" / "workspace.yaml").write_text(found.here(workspace))
        yield found


def test_a_sync_runs_through_the_queue_of_what_compose_starts(composed: Composed) -> None:
    made = composed.run("init", composed.services["init"]["command"])
    assert made.returncode == 0, made.stderr
    with ExitStack() as stack:
        for name in ("code", "webserver", "daemon"):
            for needed in composed.services[name]["depends_on"]:
                if needed != "init":
                    composed.wait_until_healthy(needed)
            words = composed.words(composed.services[name]["command"])
            stack.enter_context(started(words, composed.environ(name), composed.folder / f"{name}.log"))
        composed.wait_until_healthy("webserver")
        url = composed.environ("webserver")["ELT_DAGSTER_WEBSERVER_URL"]
        with open_runs(webserver_url=url) as runs:
            run_id = _launch(runs)
            end = time.monotonic() + PATIENCE_SECONDS
            while not (view := runs.get(run_id)).status.is_final:
                assert time.monotonic() < end, view
                time.sleep(0.5)
        assert view.status is RunStatus.COMPLETED, view
        assert {s.rows for s in view.streams} == {3}
        composed.wait_until_healthy("daemon")
        assert composed.healthy("code")
    assert not composed.healthy("webserver")
    logs = "".join((composed.folder / f"{name}.log").read_text() for name in ("code", "webserver", "daemon"))
    assert CANARY not in logs
    assert composed.run("code", ["printenv", "PGPASSWORD"]).stdout.strip() not in logs


def _launch(runs: Any) -> str:
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            run_id: str = runs.launch("shop")
        except EltError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
        else:
            return run_id
