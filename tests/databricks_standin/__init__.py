"""A small Databricks workspace for tests: Statement Execution, Files, OAuth and external links over plain http, in a process of its own.

LakeSail (`pysail`: Spark SQL and real Delta tables, without Java) executes the SQL. What it does not know is emulated in `engine`, and proves nothing about
the vendor: ALTER TABLE, COMMENT ON, CREATE OR REPLACE TABLE, CREATE VOLUME, DESCRIBE ... AS JSON, BEGIN ATOMIC ... END, read_files, privileges. Catalogs: ``main`` has
transactions, ``legacy`` refuses them. `Workspace` is what a test holds; it can be told to fail.
"""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

TOKEN, GUEST, CLIENT_ID, CLIENT_SECRET, REFRESH = (
    "dapi-standin",
    "dapi-guest",
    "principal-1",
    "s3cret-of-principal",
    "refresh-1",
)
WAREHOUSE = "abc123"


@dataclass(frozen=True, slots=True)
class Workspace:
    """A running stand-in."""

    host: str

    def config(self, **more: Any) -> dict[str, Any]:
        """Settings of a destination that signs in with a token."""
        return {"host": self.host, "warehouse_id": WAREHOUSE, "catalog": "main", "token": TOKEN, **more}

    def fail(self, match: str, **how: Any) -> None:
        """Make what matches the regular expression ``match`` fail; ``how`` is a fault of `web`."""
        self._ask("POST", "/standin/faults", {"match": match, **how})

    def heal(self) -> None:
        """Forget all faults."""
        self._ask("DELETE", "/standin/faults")

    def sql(self, statement: str) -> list[dict[str, Any]]:
        """Execute a statement without our code; values as JSON."""
        found: list[dict[str, Any]] = self._ask("POST", "/standin/sql", {"statement": statement})
        return found

    def seen(self, what: str = "statements") -> list[str]:
        """What arrived so far: ``statements``, ``requests`` (method and path), ``cancelled`` statements or ``refusals``."""
        found: list[str] = self._ask("GET", f"/standin/{what}")
        return found

    def files(self) -> list[str]:
        """The paths of all staged files and folders."""
        found: list[str] = self._ask("GET", "/standin/files")
        return found

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.host + path, data=data, method=method)  # noqa: S310 - our own server
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            text = answer.read()
        found = json.loads(text) if text else None
        if isinstance(found, dict) and "error" in found:
            raise RuntimeError(found["error"])
        return found


@contextmanager
def running() -> Iterator[Workspace]:
    """A stand-in, started now and ended afterwards; it also ends when this process does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.databricks_standin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "RUST_LOG": "off"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield Workspace(process.stdout.readline().strip())
    finally:
        process.kill()
        process.wait()
