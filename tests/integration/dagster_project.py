"""A store, a scripted source and a DuckDB file for the Dagster tests, in this process and in commands."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb

from elt_dagster.model import ConnectionSpec, SyncSpec
from elt_dagster.orchestration.definitions import build_definitions
from elt_dagster.store import Store, open_store
from tests.dagster_connectors.scripted import STREAMS

REPOSITORY = Path(__file__).parents[2]
CONNECTORS = REPOSITORY / "tests" / "dagster_connectors"
WARM_DEFINITIONS = Path(__file__).with_name("warm_definitions.py")
"""To be copied as ``definitions.py`` by tests of many runs: see there."""
CANARY = "canary-7f3a"  # the literal password of the source: it may not appear anywhere
ORDERS = dg.AssetKey(["raw_shop", "orders"])
CUSTOMERS = dg.AssetKey(["raw_shop", "customers"])
ITEMS = dg.AssetKey(["raw_shop", "items"])


def shop(**changes: Any) -> dict[str, Any]:
    """The sync most tests use; ``changes`` replace fields."""
    streams = [{"name": "public.orders"}, {"name": "public.customers"}, {"name": "public.items"}]
    quick = {"max_retries": 2, "retry_delay_seconds": 0.1}
    sync = {"slug": "shop", "connection": "shop-db", "destination": "warehouse", "schema": "raw_shop"}
    return {**sync, "streams": streams, "execution": quick, **changes}


@dataclass(frozen=True)
class ShopProject:
    """A folder with everything in it."""

    folder: Path
    store: Store

    @classmethod
    def make(cls, folder: Path) -> "ShopProject":
        """A store with the two connections."""
        (folder / "home").mkdir()
        (folder / "home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        store = open_store(f"sqlite:///{folder}/store.sqlite")
        store.init()
        project = cls(folder, store)
        with store.transaction() as tx:
            source = {"folder": str(folder), "password": CANARY}
            tx.put_connection(
                ConnectionSpec(name="shop-db", connector="scripted", config=source), frozenset({"password"})
            )
            tx.put_connection(
                ConnectionSpec(name="warehouse", connector="duckdb", config={"path": str(project.file)}), frozenset()
            )
        return project

    @property
    def file(self) -> Path:
        """The warehouse."""
        return self.folder / "warehouse.duckdb"

    @property
    def url(self) -> str:
        """The store."""
        return f"sqlite:///{self.folder}/store.sqlite"

    def put(self, sync: Mapping[str, Any]) -> None:
        """Write a sync."""
        with self.store.transaction() as tx:
            tx.put_sync(SyncSpec.model_validate(sync), {s.name: s for s in STREAMS})

    def say(self, name: str, text: object) -> None:
        """Tell the source how to behave: ``orders.fail``, ``.busy``, ``.slow`` (seconds), ``.slow_from`` (a row), ``rows``."""
        (self.folder / name).write_text(str(text))

    def defs(self, **options: Any) -> dg.Definitions:
        """Definitions of the store."""
        return build_definitions(self.url, **options)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query on the warehouse answers."""
        with duckdb.connect(str(self.file)) as connection:
            return connection.execute(query).fetchall()

    def environ(self) -> dict[str, str]:
        """For commands."""
        return {
            **os.environ,
            "DAGSTER_HOME": str(self.folder / "home"),
            "ELT_DAGSTER_STORE": self.url,
            "ELT_DAGSTER_CONNECTORS": str(CONNECTORS),
        }

    def command(self, *words: str, ok: bool = True, timeout: float = 120) -> str:
        """What ``words`` (a command of this environment) prints, both channels; run in the folder."""
        program = str(Path(sys.executable).parent / words[0])
        done = subprocess.run(
            [program, *words[1:]],
            cwd=self.folder,
            env=self.environ(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        said = done.stdout + done.stderr
        assert (done.returncode == 0) is ok, said
        return said
