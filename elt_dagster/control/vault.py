"""Secrets of a stored connection that its source replaces while we use them, such as single-use refresh tokens.

A lease in the store keeps two processes from spending the same token; what the source gave last is written before it is used, and
never over one that somebody else wrote in between.
"""

import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from elt_dagster.errors import ConflictError, TransientError
from elt_dagster.model.secret import is_reference, resolve
from elt_dagster.store import Store
from elt_dagster.store.config import value_at

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
        self._seen: dict[str, Any] = {}

    def current(self, setting: str) -> SecretStr | None:
        """As the store has it now; a reference is followed."""
        vault = self._vault
        found = vault.store.connection(vault.connection, workspace=vault.workspace)
        value = self._seen[setting] = value_at(vault.store.open_config(found), setting)
        if is_reference(value):
            value = resolve(value, os.environ, where=f"connection {vault.connection}")
        return SecretStr(value) if isinstance(value, str) else None

    def keep(self, setting: str, secret: SecretStr) -> None:
        """Sealed, in the connection's row; a reference that stood there has had its day.

        What somebody else wrote since `current` stays: a person who authorised the connection anew, or a process that had the drawer after us.
        """
        if setting not in self._seen:
            self.current(setting)
        vault, seen = self._vault, self._seen[setting]
        try:
            with vault.store.transaction(vault.workspace) as transaction:
                transaction.rotate_secret(vault.connection, setting, secret.get_secret_value(), seen=seen)
        except ConflictError:
            text = f"The {setting} of connection {vault.connection!r} was replaced while a token was fetched with the old one."
            raise TransientError(text, fix="The next try takes the new one.") from None
        self._seen[setting] = secret.get_secret_value()


class HeldVault:
    """Implements `elt_dagster.sdk.vault.Vault` over settings that are kept nowhere yet, while they are tried."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._lock = threading.RLock()
        self.replaced: dict[str, SecretStr] = {}
        """What the source put in the place of which setting, by dotted path."""

    @contextmanager
    def exclusive(self) -> Iterator["HeldVault"]:
        """One thread at a time."""
        with self._lock:
            yield self

    def current(self, setting: str) -> SecretStr | None:
        """What came last, else what stands in the settings."""
        value = value_at(self._config, setting)
        return self.replaced.get(setting) or (SecretStr(value) if isinstance(value, str) else None)

    def keep(self, setting: str, secret: SecretStr) -> None:
        """Remember it for whoever keeps the settings."""
        self.replaced[setting] = secret
