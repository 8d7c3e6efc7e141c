"""The use cases on one workspace: what the command line and the API do, without either of them and without Dagster."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from elt_dagster.control.apply import Applying, Wishes
from elt_dagster.control.changes import Changes
from elt_dagster.control.configured import ConfiguredSync, open_connector, open_warehouse
from elt_dagster.control.connections import StoreConnections
from elt_dagster.control.problems import Path
from elt_dagster.control.validate import find_kinds
from elt_dagster.destinations.base import State, TableRef
from elt_dagster.errors import NotFoundError, nearest
from elt_dagster.model import Catalog, CheckResult, ConnectionSpec, Project, TableBinding
from elt_dagster.sdk.connector import Runtime
from elt_dagster.store import DEFAULT_WORKSPACE, BrokenSync, Store, StoredSync


@dataclass(frozen=True, slots=True)
class BindingState:
    """Where one stream of a sync stands in the warehouse; ``state`` is None before its first commit."""

    binding: TableBinding
    table: TableRef
    state: State | None


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Connections and syncs of one workspace. Making one costs nothing; methods raise EltError and nothing else on purpose."""

    store: Store
    name: str = DEFAULT_WORKSPACE
    runtime: Runtime = field(default_factory=Runtime)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    # --- syncs -----------------------------------------------------------------------------------------------------------------

    def configured_syncs(self) -> list[ConfiguredSync | BrokenSync]:
        """Every sync, by slug, ready to become assets; three queries whatever their number, no secret, no network."""
        connections = self._connections()
        rows = self.store.syncs(workspace=self.name)
        return [row if isinstance(row, BrokenSync) else self._configured(row, connections) for row in rows]

    def configured(self, slug: str) -> ConfiguredSync:
        """The sync called ``slug``. Raises NotFoundError with the nearest match."""
        return self._configured(self.store.sync(slug, workspace=self.name), self._connections())

    def preview(self, slug: str, stream: str, rows: int = 10) -> pa.Table:
        """The first ``rows`` of a stream as they would be loaded, hashes and exclusions applied; nothing is loaded."""
        batches: list[pa.RecordBatch] = []
        missing = rows
        reading = self.configured(slug).read(stream, run_id="preview").batches(at_most=rows)
        try:
            for batch in reading:
                batches.append(batch.slice(0, missing))
                missing -= batches[-1].num_rows
                if missing <= 0:
                    break
        finally:
            reading.close()  # type: ignore[attr-defined]  # a generator: closing it ends the source's connection
        return (
            pa.concat_tables([pa.Table.from_batches([b]) for b in batches], promote_options="permissive")
            if batches
            else pa.table({})
        )

    def states(self, slug: str) -> list[BindingState]:
        """Where each stream of a sync stands, as the warehouse itself says. Raises TransientError when it cannot be asked."""
        sync = self.configured(slug)
        found = {s.binding_id: s for s in sync.open_destination().states(sync.spec.dataset)}
        return [
            BindingState(b, TableRef(sync.spec.dataset, b.table_name), found.get(sync.binding_ids[b.name]))
            for b in sync.spec.streams
        ]

    def history(self, slug: str, stream: str) -> list[State]:
        """The last 20 commits of one stream, newest first. Raises NotFoundError for a stream the sync does not load."""
        sync = self.configured(slug)
        if stream not in sync.binding_ids:
            raise NotFoundError(f"Sync {slug!r} has no stream {stream!r}.", fix=nearest(stream, list(sync.binding_ids)))
        return sync.open_destination().history(sync.spec.dataset, sync.binding_ids[stream])

    # --- connections -----------------------------------------------------------------------------------------------------------

    def check(self, connection: str) -> CheckResult:
        """Try a connection, in every role that syncs use it in: a refusal is an answer, not an exception."""
        results = [opened.check() for opened in self._opened(connection)]
        return CheckResult(all(r.ok for r in results), " ".join(r.message for r in results))

    def discover(self, connection: str, settings: Mapping[str, Any] | None = None) -> Catalog:
        """What a source connection offers under a sync's ``settings``."""
        return open_connector(self._connections(), connection, self.runtime).discover(settings or {})

    def _opened(self, connection: str) -> list[Any]:
        connections = self._connections()
        kinds = find_kinds(connections.kind(connection))
        syncs = [s.spec for s in self.store.syncs(workspace=self.name) if isinstance(s, StoredSync)]
        is_source = kinds.source is not None and any(s.connection == connection for s in syncs)
        is_warehouse = kinds.warehouse is not None and any(s.destination == connection for s in syncs)
        opened: list[Any] = []
        if is_source or (kinds.source is not None and not is_warehouse):
            opened.append(open_connector(connections, connection, self.runtime))
        if is_warehouse or kinds.source is None:
            opened.append(open_warehouse(connections, connection, self.runtime))
        return opened

    # --- projects --------------------------------------------------------------------------------------------------------------

    def apply(
        self,
        project: Project,
        *,
        dry_run: bool = False,
        prune: bool = False,
        verify: bool = True,
        refresh: bool = False,
        locate: Callable[[Path], str] = lambda path: "",
    ) -> Changes:
        """Make the store say what ``project`` says: all of it, in one transaction, or nothing. Applying twice changes nothing.

        ``prune`` deletes connections and syncs that the project does not name (their tables stay). Without ``verify`` no source is asked and no
        secret needed: streams stay unknown until the next apply. ``refresh`` asks every source again, also for unchanged syncs.
        ``locate`` turns a path such as ``("syncs", 0, "slug")`` into a place for messages. Raises ConfigError (AuthError, TransientError ...
        when that is all that is wrong) that lists every problem.
        """
        wishes = Wishes(dry_run=dry_run, prune=prune, verify=verify, refresh=refresh)
        return Applying(
            store=self.store, workspace=self.name, project=project, wishes=wishes, locate=locate,
            runtime=self.runtime, environ=self.environ,
        ).run()  # fmt: skip

    def export(self) -> Project:
        """The whole workspace as a project: references as they are, sealed secrets as masks, which stand for themselves when applied again.

        A sync that cannot be read is left out; `configured_syncs` says which and why.
        """
        connections = [
            ConnectionSpec(name=c.spec.name, connector=c.spec.connector, config=self.store.masked_config(c))
            for c in self.store.connections(workspace=self.name)
        ]
        syncs = [s.spec for s in self.store.syncs(workspace=self.name) if isinstance(s, StoredSync)]
        return Project(connections=tuple(connections), syncs=tuple(syncs))

    def _connections(self) -> StoreConnections:
        return StoreConnections(self.store, self.name, self.environ)

    def _configured(self, row: StoredSync, connections: StoreConnections) -> ConfiguredSync:
        return ConfiguredSync(
            id=row.id,
            spec=row.spec,
            streams=row.streams,
            binding_ids=row.binding_ids,
            connections=connections,
            runtime=self.runtime,
        )
