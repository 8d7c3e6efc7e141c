"""A deployment in PostgreSQL, as `deploy/docker-compose` has it: the instance's folder, its variables, a store with a source and a warehouse."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography.fernet import Fernet

from elt_dagster.model import ConnectionSpec, SyncSpec
from elt_dagster.store import Store, open_store
from tests.dagster_connectors.scripted import STREAMS
from tests.integration.dagster_project import CANARY, CONNECTORS, REPOSITORY, shop

COMPOSE = REPOSITORY / "deploy" / "docker-compose"


def put(store: Store, slug: str, items: Mapping[str, Any] | None = None, executor: str = "celery") -> None:
    """Write a sync that fans out by ``executor``; ``items`` is more about that stream."""
    execution = {"executor": executor, "max_retries": 0}
    streams = [{"name": "public.orders"}, {"name": "public.customers"}, {"name": "public.items", **(items or {})}]
    sync = shop(slug=slug, schema=slug, execution_mode="fan_out_entity", execution=execution, streams=streams)
    with store.transaction() as tx:
        tx.put_sync(SyncSpec.model_validate(sync), {s.name: s for s in STREAMS})


def environ(folder: Path, url: str, broker: str) -> dict[str, str]:
    """What compose.yaml gives its services, with the secrets in place."""
    parts = urlsplit(url)
    return {
        "DAGSTER_HOME": str(folder / "home"),
        "DAGSTER_LOGS": str(folder / "logs"),
        "DAGSTER_PG_HOST": str(parts.hostname),
        "DAGSTER_PG_PORT": str(parts.port),
        "DAGSTER_PG_USER": str(parts.username),
        "DAGSTER_PG_DB": parts.path.removeprefix("/"),
        "PGPASSWORD": str(parts.password),
        "ELT_DAGSTER_STORE": f"postgresql://{parts.username}@{parts.hostname}:{parts.port}{parts.path}",
        "ELT_DAGSTER_CONNECTORS": str(CONNECTORS),
        "ELT_DAGSTER_CELERY_BROKER": f"{broker}/0",
        "ELT_DAGSTER_CELERY_BACKEND": f"{broker}/1",
        "ELT_DAGSTER_SECRET_KEY": Fernet.generate_key().decode(),
        "SHOP_PASSWORD": CANARY,
    }


def prepare(folder: Path, url: str) -> Store:
    """The instance's folder, and a store with a source and a warehouse."""
    (folder / "home").mkdir()
    shutil.copy(COMPOSE / "dagster.yaml", folder / "home")
    for name in ("definitions.py", "workspace.yaml"):
        shutil.copy(REPOSITORY / name, folder)
    parts = urlsplit(url)
    warehouse = {"host": parts.hostname, "port": parts.port, "database": parts.path.removeprefix("/"),
                 "user": parts.username, "password": {"env": "PGPASSWORD"}}  # fmt: skip
    source = {"folder": str(folder), "password": {"env": "SHOP_PASSWORD"}}
    store = open_store(url)
    store.init()
    with store.transaction() as tx:
        tx.put_connection(ConnectionSpec(name="shop-db", connector="scripted", config=source), frozenset({"password"}))
        tx.put_connection(
            ConnectionSpec(name="warehouse", connector="postgres", config=warehouse), frozenset({"password"})
        )
    return store
