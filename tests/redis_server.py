"""A throw-away Redis for the tests of Celery: the system's own server program, ended with the test."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import redis

URL_VARIABLE = "ELT_DAGSTER_TEST_REDIS_URL"
PASSWORD = "canary-redis-91c2"
START_SECONDS = 30.0


@contextmanager
def redis_url(folder: Path) -> Iterator[str]:
    """URL, without a database, of an empty server that wants a password. Skips the test, or fails it under ``CI``, without a server."""
    if url := os.environ.get(URL_VARIABLE):
        yield url.rstrip("/")
        return
    program = shutil.which("redis-server") or _no_server()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"port": port, "bind": "127.0.0.1", "save": "", "dir": folder, "requirepass": PASSWORD}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen([program, *words], stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_ready(port, folder / "redis.log")
        yield f"redis://:{PASSWORD}@127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _no_server() -> NoReturn:
    reason = f"No redis-server: run `make servers`, or set {URL_VARIABLE}."
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _wait_until_ready(port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    with redis.Redis(port=port, password=PASSWORD) as client:
        while time.monotonic() < end:
            try:
                client.ping()
            except redis.ConnectionError:
                time.sleep(0.05)
            else:
                return
    raise AssertionError(log.read_text()[-2000:])
