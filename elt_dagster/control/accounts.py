"""The use cases on connections: make one from plain settings, ask it for the settings of a sync, find the warehouse of a sync that names none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import SecretStr

from elt_dagster.control.apply import Applying, Wishes
from elt_dagster.control.configured import open_connector
from elt_dagster.control.connections import StoreConnections
from elt_dagster.control.kept_secrets import Update
from elt_dagster.control.problems import parse, raise_problems
from elt_dagster.control.secrets import fill_masks
from elt_dagster.control.validate import Kinds, find_kinds
from elt_dagster.control.vault import HeldVault
from elt_dagster.control.workspace import Workspace
from elt_dagster.errors import AuthError, ConfigError, ConflictError
from elt_dagster.model import ConnectionSpec, Project
from elt_dagster.model.names import slugify
from elt_dagster.model.secret import resolve
from elt_dagster.registry import destination_names
from elt_dagster.store import Place, StoredConnection, StoredSync, Transaction
from elt_dagster.store.config import with_secret

MAX_NAME = 63
Also = Callable[[Transaction, StoredConnection], None]
"""Writes something beside a connection, in the same transaction."""


@dataclass(frozen=True, slots=True)
class ConnectionPage:
    """Some connections, and how many there are."""

    items: tuple[StoredConnection, ...]
    total: int


@dataclass(frozen=True)
class Accounts:
    """Connections of one workspace. Methods raise EltError and nothing else on purpose."""

    workspace: Workspace

    def page(self, place: Place) -> ConnectionPage:
        """One page of all connections, without their secrets. Raises NotFoundError when the row it comes after is gone."""
        question = ("connection page", place)
        return self.workspace.store.recall(
            self.workspace.name,
            question,
            lambda reader: ConnectionPage(*reader.connection_page(place)),
            lambda page: len(page.items),
        )

    def get(self, connection_id: str) -> StoredConnection:
        """One connection. Raises NotFoundError."""
        return self.workspace.store.connection_by_id(connection_id, workspace=self.workspace.name)

    def masked_config(self, connection: StoredConnection) -> dict[str, Any]:
        """Its settings with a mask for every secret that is kept here; references show where theirs is."""
        return self.workspace.store.masked_config(connection)

    def create(
        self,
        connector: str,
        config: Mapping[str, Any],
        *,
        label: str,
        by: str = "",
        verify: bool = True,
        also: Also | None = None,
    ) -> StoredConnection:
        """A new connection; ``verify`` tries it against the source first. Its name is made of ``label``.

        Raises NotFoundError for an unknown connector, ConfigError for wrong settings, AuthError and others for what the source says.
        """
        kinds = find_kinds(connector)
        name = kinds.source.name if kinds.source else kinds.warehouse.name if kinds.warehouse else connector
        replaced = self.check(kinds, config) if verify else {}
        spec = _spec(self.free_name(label or name), name, _with_secrets(config, replaced))
        return self._write(spec, label or spec.name, kinds, also)

    def update(
        self,
        connection_id: str,
        config: Mapping[str, Any],
        *,
        label: str | None = None,
        verify: bool = True,
        also: Also | None = None,
    ) -> StoredConnection:
        """Other settings for a connection; a mask stands for the secret that is kept. Raises as `create` does, NotFoundError, and ConfigError
        for a secret that is kept, by a mask or as a reference, while the connection is to go elsewhere."""
        stored = self.get(connection_id)
        kinds = find_kinds(stored.spec.connector)
        opened = self.workspace.store.open_config(stored)
        filled = fill_masks(config, opened, kinds.secrets, what=f"connection {stored.spec.name!r}")
        raise_problems(Update(kinds=kinds, sent=config, filled=filled, stored=opened, references_too=True).problems())
        replaced = self.check(kinds, filled) if verify else {}
        spec = _spec(stored.spec.name, stored.spec.connector, _with_secrets(config, replaced))
        return self._write(spec, label, kinds, also)

    def check(self, kinds: Kinds, config: Mapping[str, Any]) -> dict[str, SecretStr]:
        """Try plain settings that are kept nowhere; the secrets that the source replaced meanwhile, by dotted path.

        Raises ConfigError with the path of each wrong field; what the source says as it says it.
        """
        wanted = resolve(dict(config), self.workspace.environ)
        kind = kinds.source or kinds.warehouse
        assert kind is not None  # noqa: S101 - find_kinds found one of them
        raise_problems(parse(kind.config_type, wanted, show=False)[1])
        # a refresh token may be good for one use, and this is one
        vault = HeldVault(wanted)
        result = kind.configured(wanted, replace(self.workspace.runtime, vault=vault)).check()
        if not result.ok:
            raise AuthError(result.message)
        return vault.replaced

    def delete(self, connection_id: str) -> None:
        """Remove a connection. Raises NotFoundError; ConflictError, with the id of one, while syncs use it."""
        with self.workspace.store.transaction(self.workspace.name) as transaction:
            transaction.delete_connection(transaction.connection_by_id(connection_id).spec.name)

    def settings_schema(self, connection_id: str, partial: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """JSON Schema of the settings that a sync of this connection has, with live options. ``partial`` is what was chosen so far.

        Raises ConfigError for a warehouse, AuthError or TransientError when the source cannot be asked.
        """
        stored = self.get(connection_id)
        connections = StoreConnections(self.workspace.store, self.workspace.name, self.workspace.environ)
        connector = open_connector(connections, stored.spec.name, self.workspace.runtime)
        schema = connector.settings_schema(dict(partial or {}))
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": f"{connector.title} settings",
            "required": [],
            **schema,
        }

    def default_destination(self) -> StoredConnection:
        """The warehouse of a sync that names none: the workspace's choice, else the one that is there or that was used first.

        Raises ConfigError when there is none, or when several could be meant.
        """
        with self.workspace.store.reading(self.workspace.name) as reader:
            chosen, everything = reader.default_destination_id(), reader.connections()
            syncs = [s for s in reader.syncs() if isinstance(s, StoredSync)] if chosen is None else []
        known = {c.id: c for c in everything}
        if chosen in known:
            return known[str(chosen)]
        warehouses = [c for c in everything if c.spec.connector in destination_names()]
        used = {s.destination_id for s in syncs}
        sources = {s.connection_id for s in syncs}
        for found in ([c for c in warehouses if c.id in used], [c for c in warehouses if c.id not in sources]):
            if len(found) == 1:
                return found[0]
        return _only(warehouses)

    def default_kind(self) -> str | None:
        """The connector of that warehouse; None where there is none."""
        try:
            return self.default_destination().spec.connector
        except ConfigError:
            return None

    def set_default_destination(self, name: str | None) -> None:
        """Choose it; None leaves the choice to the rule above. Raises NotFoundError, ConfigError for what is no warehouse."""
        with self.workspace.store.transaction(self.workspace.name) as transaction:
            if name is not None and transaction.connection(name).spec.connector not in destination_names():
                raise ConfigError(
                    f"The connection {name!r} is no warehouse.", fix=f"Allowed: {', '.join(destination_names())}."
                )
            transaction.set_default_destination(name)

    def _write(self, spec: ConnectionSpec, label: str | None, kinds: Kinds, also: Also | None) -> StoredConnection:
        written: list[StoredConnection] = []

        def labelled(transaction: Transaction) -> None:
            written.append(transaction.put_connection(spec, kinds.secrets, label=label))
            if also is not None:
                also(transaction, written[-1])

        it = self.workspace
        Applying(
            store=it.store, workspace=it.name, project=Project(connections=(spec,)), wishes=Wishes(verify=False),
            runtime=it.runtime, environ=it.environ, also=labelled,
        ).run()  # fmt: skip
        return written[-1]

    def free_name(self, label: str) -> str:
        """A name that no connection has yet, made of ``label``. Raises ConflictError when there are too many of the kind."""
        with self.workspace.store.reading(self.workspace.name) as reader:
            taken = set(reader.kinds())
        wished = slugify(label)[:MAX_NAME] or "connection"
        candidates = [wished, *(f"{wished[: MAX_NAME - 5]}-{n}" for n in range(2, 1000))]
        free = next((name for name in candidates if name not in taken), None)
        if free is None:
            raise ConflictError(f"There are too many connections called {label!r}.", fix="Choose another label.")
        return free


def _spec(name: str, connector: str, config: Mapping[str, Any]) -> ConnectionSpec:
    return ConnectionSpec(name=name, connector=connector, config=dict(config))


def _with_secrets(config: Mapping[str, Any], replaced: Mapping[str, SecretStr]) -> Mapping[str, Any]:
    for setting, secret in replaced.items():
        config = with_secret(config, setting, secret.get_secret_value())
    return config


def _only(warehouses: Sequence[StoredConnection]) -> StoredConnection:
    if len(warehouses) == 1:
        return warehouses[0]
    if not warehouses:
        raise ConfigError(
            "This workspace has no warehouse to load into.",
            fix="Create a connection of a warehouse, such as duckdb or postgres.",
        )
    names = ", ".join(f"{c.spec.name} ({c.id})" for c in warehouses[:10])
    raise ConfigError(
        f"This workspace has several warehouses: {names}.",
        fix="Name one of them, or set the default: elt-dagster workspaces default.",
    )
