"""A real OpenID provider for tests: npm's ``oidc-provider``, installed by ``make servers``, ended with the test."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLIENT_ID = "elt-dagster-test"
CLIENT_SECRET = "canary-oidc-secret-41d7"
_NOTHING_SAID = "no address"


@contextmanager
def oidc_server(redirect_uri: str) -> Iterator[str]:
    """Address of a provider with one client. Skips the test, or fails it under ``CI``, where it is not installed."""
    node, installed = shutil.which("node"), ROOT / ".oidc" / ".ready"
    if node is None or not installed.exists():
        reason = "No OpenID provider: run `make servers`, which needs npm."
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    program = ROOT / ".oidc" / "server.mjs"
    shutil.copy(ROOT / "tests" / "oidc" / "server.mjs", program)
    process = subprocess.Popen(
        [str(node), str(program), str(free_port()), redirect_uri],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = []
        while not (line := process.stdout.readline()).startswith("http"):
            said.append(line)
            assert line, "".join(said) or _NOTHING_SAID
        yield line.strip()
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port on which nobody listens at the moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
