"""The two sources of connections: rows of the store, and specs that stand in a ``defs.yaml``."""

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from elt_dagster.control.vault import StoreVault
from elt_dagster.errors import ConfigError, ConflictError, NotFoundError, TransientError, nearest
from elt_dagster.model import ConnectionSpec
from elt_dagster.model.secret import resolve
from elt_dagster.sdk.budget import Ledger, LocalLedger, Turns
from elt_dagster.sdk.vault import Vault
from elt_dagster.store import FullRefresh, Lease, Store, open_store
from elt_dagster.store.location import sqlite_file, store_url

LEASE_SECONDS = 90
HEARTBEAT_SECONDS = 30


_process_ledgers: dict[str, LocalLedger] = {}


@dataclass(frozen=True, slots=True)
class StoreLedger:
    """The rate budget of one stored connection. A store out of reach slows nobody: reading goes on without it."""

    store: Store
    connection: str

    def take(self, per_second: float | None, patience: float) -> Turns:
        """Turns from the store; without it as if nobody else were there."""
        try:
            return self.store.take_turns(self.connection, per_second, patience)
        except TransientError:
            return Turns(0.0, 1 / per_second, 1) if per_second else Turns(0.0, 0.0, 0)

    def hold(self, seconds: float) -> None:
        """For all processes."""
        with suppress(TransientError):
            self.store.hold_requests(self.connection, seconds)

    def slow(self, per_second: float, seconds: float) -> None:
        """For all processes."""
        with suppress(TransientError):
            self.store.slow_requests(self.connection, per_second, seconds)


class StoreConnections:
    """Connections of one workspace of the store."""

    def __init__(self, store: Store, workspace: str = "default", environ: Mapping[str, str] | None = None) -> None:
        self._store, self._workspace = store, workspace
        self._environ = environ if environ is not None else os.environ
        self._kinds: dict[str, str] | None = None

    def kind(self, name: str) -> str:
        """The connector of a stored connection; one query answers for all of them."""
        if self._kinds is None or name not in self._kinds:
            self._kinds = {c.spec.name: c.spec.connector for c in self._store.connections(workspace=self._workspace)}
        if name not in self._kinds:
            raise NotFoundError(f"There is no connection {name!r}.", fix=nearest(name, list(self._kinds)))
        return self._kinds[name]

    def config(self, name: str) -> dict[str, Any]:
        """Its settings, decrypted and with references resolved."""
        stored = self._store.connection(name, workspace=self._workspace)
        opened: dict[str, Any] = resolve(self._store.open_config(stored), self._environ, where=f"connection {name}")
        return opened

    def identity(self, name: str) -> str:
        """Store, workspace and name."""
        return f"{self._store.url_shown}#{self._workspace}#{name}"

    def salt(self) -> bytes:
        """The workspace's own salt."""
        return self._store.workspace_salt(workspace=self._workspace)

    def ledger(self, name: str) -> Ledger:
        """A row of the store."""
        return StoreLedger(self._store, f"{self._workspace}/{name}")

    def vault(self, name: str) -> Vault | None:
        """The connection's row of the store."""
        return StoreVault(self._store, self._workspace, name)

    def full_refresh(self, binding_id: str) -> FullRefresh | None:
        """As the store says."""
        return self._store.full_refreshes.get(binding_id)

    def end_full_refresh(self, binding_id: str, mark_id: str) -> None:
        """In the store."""
        self._store.full_refreshes.end(binding_id, mark_id)

    def active_run(self, binding_id: str) -> str | None:
        """The run whose lease in the store is alive."""
        return self._store.active_run(binding_id)

    def end_lease(self, binding_id: str, run_id: str) -> None:
        """In the store."""
        self._store.end_lease(binding_id, run_id)

    has_leases = True

    @contextmanager
    def lease(self, binding_id: str, run_id: str) -> Iterator[int]:
        """A lease of 90 s in the store, renewed every 30 s by a thread while it is held."""
        holder = f"{os.uname().nodename}:{os.getpid()}:{threading.get_ident()}"
        lease = self._store.acquire_lease(binding_id, holder, run_id, seconds=LEASE_SECONDS)
        stop = threading.Event()
        beat = threading.Thread(target=_renew_until, args=(self._store, lease, stop), name="elt-lease", daemon=True)
        beat.start()
        try:
            yield lease.fence
        finally:
            stop.set()
            beat.join(timeout=5)
            self._store.release_lease(lease)


def _renew_until(store: Store, lease: Lease, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        try:
            lease = store.renew_lease(lease)
        except ConflictError:
            return  # lost: the fence makes the commit fail, which tells the story better than this thread could
        except Exception:  # noqa: S112 - an unreachable store is tried again at the next beat; the fence protects the data
            continue


class InlineConnections:
    """Connections that stand beside the sync in a file. Without a store, two runs at once are told apart by the state row's load id alone."""

    def __init__(self, specs: Sequence[ConnectionSpec], environ: Mapping[str, str] | None = None) -> None:
        self._specs = {s.name: s for s in specs}
        self._environ = environ if environ is not None else os.environ

    def _spec(self, name: str) -> ConnectionSpec:
        if name not in self._specs:
            raise NotFoundError(f"There is no connection {name!r}.", fix=nearest(name, list(self._specs)))
        return self._specs[name]

    def kind(self, name: str) -> str:
        """The connector of a connection in the file."""
        return self._spec(name).connector

    def config(self, name: str) -> dict[str, Any]:
        """Its settings with references resolved."""
        opened: dict[str, Any] = resolve(self._spec(name).config, self._environ, where=f"connection {name}")
        return opened

    def identity(self, name: str) -> str:
        """The connection's whole text, whose secrets are references."""
        return self._spec(name).model_dump_json()

    def salt(self) -> bytes:
        """`ELT_DAGSTER_HASH_SALT`, for a file has no workspace row to keep one in."""
        return hashlib.sha256(self._environ.get("ELT_DAGSTER_HASH_SALT", "elt_dagster").encode()).digest()

    def ledger(self, name: str) -> Ledger:
        """One for all threads of this process."""
        return _process_ledgers.setdefault(self.identity(name), LocalLedger())

    def vault(self, name: str) -> Vault | None:
        """None: nobody writes into the user's file."""
        return None

    def full_refresh(self, binding_id: str) -> FullRefresh | None:
        """None: marks are set through the API, which does not know of files."""
        return None

    def end_full_refresh(self, binding_id: str, mark_id: str) -> None:
        """There are none."""

    def active_run(self, binding_id: str) -> str | None:
        """The run whose lease in the store is alive, where there is a store."""
        shared = self._shared()
        return shared.active_run(binding_id) if shared is not None else None

    def end_lease(self, binding_id: str, run_id: str) -> None:
        """In the store, where there is one."""
        shared = self._shared()
        if shared is not None:
            shared.end_lease(binding_id, run_id)

    @property
    def has_leases(self) -> bool:
        """Whether there is a store."""
        return self._shared() is not None

    def lease(self, binding_id: str, run_id: str) -> AbstractContextManager[int]:
        """A lease in the store; none where there is no store to ask."""
        shared = self._shared()
        return shared.lease(binding_id, run_id) if shared is not None else nullcontext(0)

    def _shared(self) -> StoreConnections | None:
        """The store of this deployment, when it has one that is ready: the file is the truth, but leases are kept there.

        Raises TransientError for one that is out of reach, because whoever holds the lease is then not known.
        """
        try:
            url = store_url(None, self._environ)
            file = sqlite_file(url)
            if file is not None and not file.is_file():
                return None
            store = open_store(url.render_as_string(hide_password=False))
            store.ensure_current()
        except ConfigError:
            return None
        return StoreConnections(store, environ=self._environ)
