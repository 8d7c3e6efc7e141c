"""What the commands on connections, syncs and streams need, wherever the syncs are: in the store at hand (`local`) or behind a server (`remote`)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeVar

from elt_dagster.errors import ConflictError, NotFoundError, nearest

R = TypeVar("R", "ConnectionRow", "SyncRow", "StreamRow")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRow:
    """A connection without its credentials."""

    id: str
    name: str
    label: str
    connector: str
    status: str
    """active, or failed where its settings cannot be read."""
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What a person may call it."""
        return (self.id, self.name, self.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncRow:
    """A sync as lists show it. ``status`` is broken, with an ``error``, where its row cannot be read."""

    id: str
    slug: str
    name: str
    status: str
    connector: str = ""
    connection_id: str = ""
    destination_id: str = ""
    schema: str = ""
    trigger_mode: str = "manual"
    execution_mode: str = ""
    cron: str | None = None
    timezone: str = "UTC"
    freshness_sla_seconds: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    streams: tuple[str, ...] = ()
    error: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What a person may call it."""
        return (self.id, self.slug)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRow:
    """A stream of a sync."""

    id: str
    sync_id: str
    name: str
    primary_key: tuple[str, ...] = ()
    cursor_field: str | None = None
    excluded_columns: tuple[str, ...] = ()
    hashed_columns: tuple[str, ...] = ()
    full_sync_always: bool = False
    full_sync_at_midnight: bool = False
    protected_from_full_sync: bool = False
    enabled_history_table: bool = False
    full_refresh_requested: bool = False
    excluded_substreams: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What a person may call it, in its sync."""
        return (self.id, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeRow:
    """A bridge that nobody has crossed yet."""

    id: str
    connector: str
    label: str
    redirect_uri: str
    connection_id: str | None
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStateRow:
    """What a stream is doing and what it did last."""

    name: str
    active_status: str | None = None
    latest_status: str | None = None
    rows: int = 0
    """Of what is being loaded, else of what was loaded last."""
    expected_rows: int | None = None
    full_sync_trigger: str = "none"
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = None
    details: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRunRow:
    """One stream of one run: running from the moment it was asked for, then completed or failed."""

    run_id: str
    status: str
    rows: int | None
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncWish:
    """A sync to make; what is None is left to the rules of `apply`."""

    name: str
    connection_id: str
    slug: str | None = None
    destination_id: str | None = None
    schema: str | None = None
    status: str = "draft"
    cron: str | None = None
    timezone: str = "UTC"
    execution_mode: str | None = None
    freshness_sla_seconds: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    streams: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncChange:
    """What becomes of a sync; what is None stays. An empty ``cron`` takes the schedule away; ``settings`` are added to those that are there."""

    name: str | None = None
    schema: str | None = None
    cron: str | None = None
    timezone: str | None = None
    execution_mode: str | None = None
    freshness_sla_seconds: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A stream that the source of a sync offers."""

    name: str
    sub_streams: tuple[str, ...] = ()
    selectable: bool = True


class Desk(Protocol):
    """Connections, syncs and streams of one workspace. Methods raise EltError and nothing else on purpose."""

    def connections(self) -> Sequence[ConnectionRow]:
        """All connections."""
        ...

    def create_connection(
        self, connector: str, config: Mapping[str, Any], *, label: str, verify: bool
    ) -> ConnectionRow:
        """A new connection, tried first if asked. Raises ConfigError where only a person may make one."""
        ...

    def delete_connection(self, connection_id: str) -> None:
        """Forget one. Raises ConflictError while a sync uses it."""
        ...

    def settings(self, connection_id: str, partial: Mapping[str, Any]) -> dict[str, Any]:
        """JSON Schema of the settings of a sync of it, with live options."""
        ...

    def authorize(
        self, connector: str, *, label: str, redirect_uri: str, connection_id: str | None, state: str | None
    ) -> tuple[str, str, datetime]:
        """A bridge for a person to cross: its id, its address, and when it ends."""
        ...

    def bridges(self) -> Sequence[BridgeRow]:
        """Bridges that nobody has crossed yet, newest first."""
        ...

    def syncs(self) -> Sequence[SyncRow]:
        """All syncs, broken ones too."""
        ...

    def create_sync(self, wish: SyncWish) -> SyncRow:
        """A new sync."""
        ...

    def change_sync(self, sync_id: str, change: SyncChange) -> SyncRow:
        """Change one."""
        ...

    def delete_sync(self, sync_id: str, *, tables: bool) -> None:
        """Remove one, with its tables if asked."""
        ...

    def set_enabled(self, sync_id: str, enabled: bool) -> None:
        """Switch its schedule."""
        ...

    def start(self, sync_id: str) -> str | None:
        """Switch the schedule on and run once; the run's id, where it is told."""
        ...

    def streams(self, sync_id: str) -> Sequence[StreamRow]:
        """The streams of a sync."""
        ...

    def available(self, sync_id: str) -> Sequence[Offer]:
        """What the source of a sync, or of a connection, offers; it is asked."""
        ...

    def states(self, sync_id: str) -> Sequence[StreamStateRow]:
        """Where each stream of a sync is."""
        ...

    def stream_runs(self, row: StreamRow, limit: int) -> Sequence[StreamRunRow]:
        """The newest runs that loaded one stream."""
        ...

    def put_streams(self, sync_id: str, streams: Sequence[Mapping[str, Any]]) -> None:
        """Add streams, or change those that are there: a ``name``, fields of the model, ``excluded_substreams``; what is not named stays."""
        ...

    def remove_stream(self, stream_id: str) -> None:
        """Take one out of its sync."""
        ...

    def request_run(self, row: StreamRow) -> str:
        """Run one stream alone; the run's id."""
        ...

    def request_full_refresh(self, stream_id: str, *, reset_history: bool) -> None:
        """Have its next run read everything again."""
        ...

    def cancel_full_refresh(self, stream_id: str) -> None:
        """Take that back."""
        ...


def find_connection(desk: Desk, name: str) -> ConnectionRow:
    """The connection with that id, name or label. Raises NotFoundError with the nearest one, ConflictError where several have the label."""
    return _find(desk.connections(), name, "connection")


def find_sync(desk: Desk, name: str) -> SyncRow:
    """The sync with that id or slug. Raises NotFoundError with the nearest one."""
    return _find(desk.syncs(), name, "sync")


def find_stream(desk: Desk, sync: SyncRow, name: str) -> StreamRow:
    """The stream with that id or name. Raises NotFoundError with the nearest one."""
    rows = desk.streams(sync.id)
    found = [r for r in rows if name in r.names]
    if not found:
        raise NotFoundError(f"Sync {sync.slug!r} has no stream {name!r}.", fix=nearest(name, [r.name for r in rows]))
    return found[0]


def plain(row: Any) -> dict[str, Any]:
    """A row as plain data with stable keys."""
    return asdict(row)


def _find(rows: Sequence[R], name: str, what: str) -> R:
    found = [row for row in rows if name in row.names]
    exact = [row for row in found if name in row.names[:2]] or found
    if len(exact) > 1:
        ids = ", ".join(row.id for row in exact[:5])
        raise ConflictError(f"Several are called {name!r}: {ids}.", fix="Give the id.")
    if not exact:
        known = sorted({row.names[1] for row in rows})
        raise NotFoundError(f"There is no {what} {name!r}.", fix=nearest(name, known))
    return exact[0]
