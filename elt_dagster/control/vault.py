"""Secrets of a stored connection that its source replaces while we use them, such as single-use refresh tokens.

A lease in the store keeps two processes from spending the same token; what the source gave last is written before it is used, and
never over one that somebody else wrote in between.
"""

import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pydantic import SecretStr

from elt_dagster.errors import ConflictError, TransientError
from elt_dagster.model.secret import is_reference, resolve
from elt_dagster.store import Store

HELD_SECONDS = 60.0
"""For how long one process may have the drawer: a request for a token takes less."""
PATIENCE_SECONDS = 90.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class StoreVault:
    """Implements `elt_dagster.sdk.vault.Vault` over one connection of the store."""

    store: Store
    workspace: str
    connection: str

    @contextmanager
    def exclusive(self) -> Iterator["StoreDrawer"]:
        """Hold a lease on the connection's secrets."""
        name = f"secrets:{self.store.connection(self.connection, workspace=self.workspace).id}"
        # a new holder each time: the same thread must not take what it has
        holder = f"{os.uname().nodename}:{os.getpid()}:{threading.get_ident()}:{uuid.uuid4()}"
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                lease = self.store.acquire_lease(name, holder, "token", seconds=HELD_SECONDS)
                break
            except ConflictError:
                if time.monotonic() >= until:
                    text = f"Another process has been fetching a token of connection {self.connection!r} for {PATIENCE_SECONDS:.0f} s."
                    raise TransientError(text, fix="Try again.") from None
                time.sleep(_POLL_SECONDS)
        try:
            yield StoreDrawer(self)
        finally:
            self.store.release_lease(lease)


class StoreDrawer:
    """Implements `elt_dagster.sdk.vault.Drawer`."""

    def __init__(self, vault: StoreVault) -> None:
        self._vault = vault

    def current(self, setting: str) -> SecretStr | None:
        """As the store has it now; a reference is followed."""
        vault = self._vault
        value: object = vault.store.open_config(vault.store.connection(vault.connection, workspace=vault.workspace))
        for step in setting.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if is_reference(value):
            value = resolve(value, os.environ, where=f"connection {vault.connection}")
        return SecretStr(value) if isinstance(value, str) else None

    def keep(self, setting: str, secret: SecretStr) -> None:
        """Sealed, in the connection's row; a reference that stood there has had its day."""
        with self._vault.store.transaction(self._vault.workspace) as transaction:
            transaction.rotate_secret(self._vault.connection, setting, secret.get_secret_value())
