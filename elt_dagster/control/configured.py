"""A configured sync as the engine and Dagster need it, whichever way it was written down.

A sync from the store and one from a ``defs.yaml`` differ only in their `Connections`: where credentials, the hash salt and leases
come from. Nothing here holds an open secret; `Connections.config` opens them in the process that connects.
"""

import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from elt_dagster.destinations.base import Destination
from elt_dagster.engine import ResolvedBinding, StreamRead, resolve_binding
from elt_dagster.errors import ConfigError, NotFoundError, nearest
from elt_dagster.model import Overlap, RunMode, Stream, SyncSpec, TableBinding, Window
from elt_dagster.registry import connector_names, destination_names, load_connector, load_destination, require_driver
from elt_dagster.sdk.budget import Ledger
from elt_dagster.sdk.connector import Connector, Runtime
from elt_dagster.sdk.vault import Vault
from elt_dagster.store import FullRefresh

NAMESPACE = uuid.UUID("6f1c0f0e-5f0b-4d3e-9a77-0c1d6a1d3b52")


class Connections(Protocol):
    """Where a sync's credentials, salt and leases come from. Only `kind` and `identity` may be called while definitions load."""

    def kind(self, name: str) -> str:
        """The connector or warehouse of connection ``name``. Raises NotFoundError. No network, no secret."""
        ...

    def config(self, name: str) -> dict[str, Any]:
        """The settings of connection ``name`` with every secret opened. Raises ConfigError for a missing one."""
        ...

    def identity(self, name: str) -> str:
        """Equal for two connections that are the same one, whoever holds them. No network; never shown."""
        ...

    def salt(self) -> bytes:
        """What hashed columns are salted with; the same for the whole workspace."""
        ...

    def ledger(self, name: str) -> Ledger:
        """The rate budget of connection ``name``, shared with whoever else reads from it."""
        ...

    def vault(self, name: str) -> Vault | None:
        """Where the secrets of connection ``name`` are kept that the source replaces; None where they cannot be."""
        ...

    def full_refresh(self, binding_id: str) -> FullRefresh | None:
        """The mark that the binding's next run reads everything again."""
        ...

    def end_full_refresh(self, binding_id: str, mark_id: str) -> None:
        """Take that mark away, after its run has committed; a newer one stays."""
        ...

    def active_run(self, binding_id: str) -> str | None:
        """The run that loads the binding now, as far as can be known."""
        ...

    def end_lease(self, binding_id: str, run_id: str) -> None:
        """Free the binding for others when ``run_id``, which holds it, is over."""
        ...

    @property
    def has_leases(self) -> bool:
        """Whether `active_run` and `lease` know of other runs. Raises TransientError when that cannot be found out now."""
        ...

    def lease(self, binding_id: str, run_id: str) -> AbstractContextManager[int]:
        """Hold the binding for one run and yield the fence. Raises ConflictError with the active run's id."""
        ...


@dataclass(frozen=True, kw_only=True)
class ConfiguredSync:
    """A sync that is ready to become assets: its words, its streams as discovered, its ids, and its connections."""

    id: str
    spec: SyncSpec
    streams: Mapping[str, Stream]
    """By stream name; discovered when the sync was written, so that loading definitions asks no network."""
    binding_ids: Mapping[str, str]
    connections: Connections
    source_file: str | None = None
    """Path and line of the YAML it came from, as ``path:line``."""
    runtime: Runtime = field(default_factory=Runtime)
    revision: int | None = None
    """The store's revision that its last change made; None for a sync in a file."""

    def stream(self, name: str) -> Stream:
        """The stream called ``name`` as discovered, else one whose columns only reading can tell."""
        return self.streams.get(name) or Stream(name=name)

    def resolved(self, binding: TableBinding) -> ResolvedBinding:
        """``binding`` with its defaults filled in."""
        return resolve_binding(binding, self.stream(binding.name))

    def open_source(self) -> Connector[Any]:
        """The source connector with its secrets. Raises ConfigError."""
        return open_connector(self.connections, self.spec.connection, self.runtime)

    def open_destination(self) -> Destination[Any]:
        """The warehouse with its secrets. Raises ConfigError."""
        return open_warehouse(self.connections, self.spec.destination, self.runtime)

    def read(
        self,
        stream: str,
        *,
        run_id: str,
        run_mode: RunMode = RunMode.INCREMENTAL,
        window: Window | None = None,
        reset_history: bool = False,
    ) -> StreamRead:
        """A lazy read of ``stream`` for one run. Raises NotFoundError when the sync does not load it."""
        binding = self.spec.binding(stream)
        if binding is None:
            known = [b.name for b in self.spec.streams]
            raise NotFoundError(f"Sync {self.spec.slug!r} has no stream {stream!r}.", fix=nearest(stream, known))
        binding_id = self.binding_ids[stream]
        read = StreamRead(
            sync=self.spec,
            binding=binding,
            binding_id=binding_id,
            stream=self.stream(stream),
            open_source=self.open_source,
            open_destination=self.open_destination,
            run_id=run_id,
            run_mode=run_mode,
            window=window,
            reset_history=reset_history,
            salt=self.connections.salt,
        )
        return replace(
            read,
            lease=lambda: self.connections.lease(read.state_id, run_id),
            mark=lambda: self.connections.full_refresh(binding_id),
            end_mark=lambda mark_id: self.connections.end_full_refresh(binding_id, mark_id),
            waits_for_lease=window is not None or self.spec.execution.overlap is Overlap.WAIT,
        )


def open_connector(connections: Connections, name: str, runtime: Runtime | None = None) -> Connector[Any]:
    """The source connector behind connection ``name``. Raises NotFoundError, ConfigError."""
    connector = connections.kind(name)
    if connector in destination_names() and connector not in connector_names():
        raise ConfigError(
            f"Connection {name!r} is of connector {connector!r}, which is a warehouse and no source that can be read.",
            fix="Name a source connection.",
        )
    kind = load_connector(connector)
    require_driver(kind)
    shared = replace(runtime or Runtime(), ledger=connections.ledger(name), vault=connections.vault(name))
    return kind.configured(connections.config(name), shared)


def open_warehouse(connections: Connections, name: str, runtime: Runtime | None = None) -> Destination[Any]:
    """The warehouse behind connection ``name``. Raises NotFoundError, ConfigError."""
    kind = load_destination(connections.kind(name))
    require_driver(kind)
    return kind.configured(connections.config(name), runtime)


def derived_id(*parts: str) -> str:
    """A stable id for things that have no row in a store."""
    return str(uuid.uuid5(NAMESPACE, "/".join(parts)))
