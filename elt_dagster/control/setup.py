"""Setting up a sync step by step, as the Connect dialect does: a draft without streams, then its streams, then the start; and the way back.

A draft is kept, but Dagster does not show it: it has nothing to load yet.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from elt_dagster.control.configured import open_warehouse
from elt_dagster.control.connections import StoreConnections
from elt_dagster.control.integrations import START_DATE, supports_start_date
from elt_dagster.control.meant import meant
from elt_dagster.control.running import Running
from elt_dagster.control.syncs import Syncs
from elt_dagster.control.validate import find_kinds
from elt_dagster.control.workspace import Workspace
from elt_dagster.errors import ConfigError, ConflictError, NotFoundError, nearest
from elt_dagster.model import Catalog, SyncStatus
from elt_dagster.store import StoredConnection, StoredSync

EXCLUDED = "excluded_substreams"
"""In a sync's envelope: the child streams, by stream, that are not to be loaded."""
ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a sync begins with."""

    source: StoredConnection
    destination: StoredConnection
    dataset: str
    cron: str
    settings: Mapping[str, Any]
    start_date: date | None = None


@dataclass(frozen=True)
class Setup:
    """Steps of one workspace. Methods raise EltError and nothing else on purpose; ids of other workspaces are not found."""

    workspace: Workspace
    running: Running

    @property
    def _syncs(self) -> Syncs:
        return Syncs(self.workspace)

    def draft(self, draft: Draft, *, by: str = "") -> StoredSync:
        """A sync without streams that nothing starts. Its slug is made of the connection's label and the schema.

        Raises as `Syncs.create` does, with the paths of `SyncSpec`; ConfigError for a start date where the connector knows none.
        """
        settings = dict(draft.settings)
        if draft.start_date is not None:
            self._check_start_date(draft.source)
            settings[START_DATE] = draft.start_date.isoformat()
        data: dict[str, Any] = {
            "name": draft.source.label,
            "connection": draft.source.spec.name,
            "destination": draft.destination.spec.name,
            "schema": draft.dataset,
            "schedule": {"cron": draft.cron},
            "status": SyncStatus.DRAFT.value,
            "settings": settings,
        }
        for attempt in range(1, ATTEMPTS + 1):
            slug = self._syncs.free_slug(f"{draft.source.label} {draft.dataset}")
            try:
                return self._syncs.create({"slug": slug, **data}, by=by)
            except ConflictError:
                # a draft has no tables, so it is the slug, which another one took in between
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError

    def _check_start_date(self, source: StoredConnection) -> None:
        kind = find_kinds(source.spec.connector).source
        if not supports_start_date(kind):
            error = ConfigError(
                f"The connector {source.spec.connector!r} has no start date for a sync.", fix="Leave it out."
            )
            error.details = [((START_DATE,), str(error))]
            raise error

    def available(self, some_id: str) -> Catalog:
        """See the function `available`."""
        return available(self._syncs, some_id)

    def put_streams(
        self,
        sync_id: str,
        streams: Sequence[Mapping[str, Any]],
        excluded: Mapping[str, Sequence[str]],
        *,
        revision: int | None = None,
        by: str = "",
    ) -> StoredSync:
        """Add or change streams as `Syncs.put_streams` does; ``excluded`` are child streams, by stream, that stay out.

        Names are taken as people write them (`meant`). Raises as it does, and ConfigError where a stream has no such child or the sync loads it.
        """
        try:
            return self._put_streams(sync_id, streams, excluded, revision=revision, by=by)
        except ConfigError as error:
            names = self._names_meant(sync_id, streams, error)
            if not names:
                raise
        renamed = [{**stream, "name": names.get(stream["name"], stream["name"])} for stream in streams]
        children = {names.get(n, n): c for n, c in excluded.items()}
        return self._put_streams(sync_id, renamed, children, revision=revision, by=by)

    def _names_meant(self, sync_id: str, streams: Sequence[Mapping[str, Any]], error: ConfigError) -> dict[str, str]:
        """Other names of ``streams``, after these were refused: the source has not all of them, or one of them is loaded under its own name."""
        if not any(path[:1] == ("streams",) for path, _ in error.details):
            return {}
        offered = [stream.name for stream in self._syncs.available(sync_id)]
        return {name: other for name, other in meant([s["name"] for s in streams], offered).items() if name != other}

    def _put_streams(
        self,
        sync_id: str,
        streams: Sequence[Mapping[str, Any]],
        excluded: Mapping[str, Sequence[str]],
        *,
        revision: int | None,
        by: str,
    ) -> StoredSync:
        if any(excluded.values()):
            _check_excluded(excluded, self._syncs.available(sync_id))

        def leave_out(data: dict[str, Any], envelope: dict[str, Any]) -> None:
            loaded = {stream["name"] for stream in data["streams"]}
            wanted = {**(envelope.pop(EXCLUDED, None) or {}), **excluded}
            kept = {name: list(children) for name, children in wanted.items() if children and name in loaded}
            _refuse_loaded(kept, loaded)
            if kept:
                envelope[EXCLUDED] = kept

        return self._syncs.put_streams(sync_id, streams, revision=revision, by=by, also=leave_out)

    def set_enabled(self, sync_id: str, enabled: bool, *, revision: int | None = None, by: str = "") -> StoredSync:
        """Switch the schedule of a sync. Raises ConfigError for one without streams, which has nothing to load; ChangedMeanwhileError."""
        return set_enabled(self._syncs, sync_id, enabled, revision=revision, by=by)

    def start(self, sync_id: str, *, revision: int | None = None, by: str = "") -> str:
        """Activate a sync and run it at once; the run's id. Raises ConfigError for one without streams, ConflictError while a run is active,
        ChangedMeanwhileError."""
        sync = self._syncs.get(sync_id, revision=revision)
        _refuse_empty(sync)
        self.running.refuse_second(sync)
        if sync.spec.status is not SyncStatus.ACTIVE:
            self._syncs.set_status(sync_id, SyncStatus.ACTIVE, revision=revision, by=by)
        return self.running.trigger(sync_id, by=by)

    def remove(self, sync_id: str, *, tables: bool = False, revision: int | None = None) -> None:
        """Remove a sync, and its ``tables`` in the warehouse if asked. Raises ChangedMeanwhileError; ConflictError while a run is loading them;
        whatever the warehouse says, and then the sync is there still."""
        if not tables:
            self._syncs.delete(sync_id, revision=revision)
            return
        sync = self._syncs.get(sync_id, revision=revision)
        with self.running.alone(sync):
            self._drop_tables(sync)
            self._syncs.delete(sync_id, revision=revision)

    def _drop_tables(self, sync: StoredSync) -> None:
        connections = StoreConnections(self.workspace.store, self.workspace.name, self.workspace.environ)
        warehouse = open_warehouse(connections, sync.spec.destination, self.workspace.runtime)
        warehouse.drop(sync.spec.dataset, sorted(sync.binding_ids.values()))


def available(syncs: Syncs, some_id: str) -> Catalog:
    """What the source of a sync offers, or of a connection under no settings. Raises NotFoundError; what the source says as it says it."""
    try:
        return syncs.available(some_id)
    except NotFoundError:
        pass
    try:
        name = syncs.connection_name(some_id)
    except NotFoundError:
        raise NotFoundError(f"There is neither a sync nor a connection with the id {some_id!r}.") from None
    return syncs.workspace.discover(name)


def set_enabled(syncs: Syncs, sync_id: str, enabled: bool, *, revision: int | None = None, by: str = "") -> StoredSync:
    """Switch the schedule of a sync, for which no run is asked. Raises ConfigError for one without streams, which has nothing to load;
    ChangedMeanwhileError."""
    sync = syncs.get(sync_id, revision=revision)
    if not enabled and sync.spec.status is SyncStatus.DRAFT:
        return sync
    _refuse_empty(sync)
    wanted = SyncStatus.ACTIVE if enabled else SyncStatus.PAUSED
    return syncs.set_status(sync_id, wanted, revision=revision, by=by)


def excluded_substreams(sync: StoredSync) -> dict[str, list[str]]:
    """The child streams that are kept out of a sync, by stream."""
    return {name: list(children) for name, children in (sync.envelope.get(EXCLUDED) or {}).items()}


def substreams(catalog: Catalog) -> dict[str, list[str]]:
    """The child streams of each stream of ``catalog``: those that are read out of it."""
    found: dict[str, list[str]] = {stream.name: [] for stream in catalog}
    for stream in catalog:
        for parent in stream.depends_on:
            found.setdefault(parent, []).append(stream.name)
    return found


def _check_excluded(excluded: Mapping[str, Sequence[str]], catalog: Catalog) -> None:
    known = substreams(catalog)
    for name, children in excluded.items():
        for child in children:
            if child not in known.get(name, []):
                raise _misfit(
                    name, f"stream {name!r} has no substream {child!r}.", fix=nearest(child, known.get(name, []))
                )


def _refuse_loaded(excluded: Mapping[str, Sequence[str]], loaded: Collection[str]) -> None:
    for name, children in excluded.items():
        for child in children:
            if child in loaded:
                raise _misfit(
                    name, f"{child!r} is excluded from stream {name!r}, and loaded.", fix="Choose one of the two."
                )


def _misfit(stream: str, what: str, *, fix: str) -> ConfigError:
    error = ConfigError(what, fix=fix)
    error.details = [((EXCLUDED, stream), str(error))]
    return error


def _refuse_empty(sync: StoredSync) -> None:
    if not sync.spec.streams:
        raise ConfigError(f"The sync {sync.slug!r} has no streams.", fix="Add source_streams first.")
