"""The desk over the store at hand, through the same use cases as the REST API."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from elt_dagster.cli.desk import (
    BridgeRow,
    ConnectionRow,
    Offer,
    StreamRow,
    StreamRunRow,
    StreamStateRow,
    SyncChange,
    SyncRow,
    SyncWish,
)

if TYPE_CHECKING:
    from elt_dagster.cli.session import Session
    from elt_dagster.control.accounts import Accounts
    from elt_dagster.control.runs import RunView, StreamRun
    from elt_dagster.control.snapshots import StreamState
    from elt_dagster.control.syncs import Syncs
    from elt_dagster.store import AnySync, StoredConnection, StoredSync

BASE_URL_VARIABLE = "ELT_DAGSTER_BASE_URL"
BASE_URL = "http://127.0.0.1:8000"
EXCLUDED = "excluded_substreams"
PAGE = 100
BY = "cli"
"""What is noted as the author of a change."""


@dataclass(frozen=True)
class LocalDesk:
    """See `desk.Desk`."""

    session: "Session"
    workspace_file: str | None = None

    @property
    def _accounts(self) -> "Accounts":
        from elt_dagster.control.accounts import Accounts

        return Accounts(self.session.workspace)

    @property
    def _syncs(self) -> "Syncs":
        from elt_dagster.control.syncs import Syncs

        return Syncs(self.session.workspace)

    # --- connections -----------------------------------------------------------------------------------------------------------

    def connections(self) -> Sequence[ConnectionRow]:
        """See `desk.Desk`."""
        return [_connection(c) for c in self.session.store.connections(workspace=self.session.workspace_name)]

    def create_connection(
        self, connector: str, config: Mapping[str, Any], *, label: str, verify: bool
    ) -> ConnectionRow:
        """See `desk.Desk`."""
        return _connection(self._accounts.create(connector, config, label=label, by=BY, verify=verify))

    def delete_connection(self, connection_id: str) -> None:
        """See `desk.Desk`."""
        self._accounts.delete(connection_id)

    def settings(self, connection_id: str, partial: Mapping[str, Any]) -> dict[str, Any]:
        """See `desk.Desk`."""
        return self._accounts.settings_schema(connection_id, partial)

    def authorize(
        self, connector: str, *, label: str, redirect_uri: str, connection_id: str | None, state: str | None
    ) -> tuple[str, str, datetime]:
        """See `desk.Desk`. The page is of the server at $ELT_DAGSTER_BASE_URL, which has to run."""
        import os

        from elt_dagster.control.bridges import Bridges

        bridges = Bridges(self.session.workspace, os.environ.get(BASE_URL_VARIABLE, BASE_URL).rstrip("/"))
        bridge, address = bridges.create(
            connector, label=label, redirect_uri=redirect_uri, connection_id=connection_id, state=state, by=BY
        )
        return bridge.id, address, bridge.expires_at

    def bridges(self) -> Sequence[BridgeRow]:
        """See `desk.Desk`."""
        from elt_dagster.control.bridges import Bridges

        desk, found, after = Bridges(self.session.workspace, ""), list[BridgeRow](), None
        while True:
            page, more = desk.open_page(limit=PAGE, after=after)
            found += [
                BridgeRow(
                    id=b.id, connector=b.connector, label=b.label, redirect_uri=b.redirect_uri, connection_id=b.connection_id,
                    expires_at=b.expires_at,
                )
                for b in page
            ]  # fmt: skip
            if not more:
                return found
            after = page[-1].id

    # --- syncs -----------------------------------------------------------------------------------------------------------------

    def syncs(self) -> Sequence[SyncRow]:
        """See `desk.Desk`."""
        kinds = self._syncs.kinds()
        return [_sync(s, kinds) for s in self.session.store.syncs(workspace=self.session.workspace_name)]

    def create_sync(self, wish: SyncWish) -> SyncRow:
        """See `desk.Desk`."""
        accounts, syncs = self._accounts, self._syncs
        source = accounts.get(wish.connection_id)
        destination = accounts.get(wish.destination_id) if wish.destination_id else accounts.default_destination()
        slug = wish.slug or syncs.free_slug(wish.name)
        data: dict[str, Any] = {
            "slug": slug, "name": wish.name, "connection": source.spec.name, "destination": destination.spec.name,
            "schema": wish.schema or slug.replace("-", "_"), "status": wish.status, "settings": dict(wish.settings),
            "streams": [{"name": name} for name in wish.streams],
        }  # fmt: skip
        if wish.cron is not None:
            data["schedule"] = {"cron": wish.cron, "timezone": wish.timezone}
        if wish.execution_mode is not None:
            data["execution_mode"] = wish.execution_mode
        if wish.freshness_sla_seconds is not None:
            data["freshness_sla_seconds"] = wish.freshness_sla_seconds
        return _sync(syncs.create(data, by=BY), syncs.kinds())

    def change_sync(self, sync_id: str, change: SyncChange) -> SyncRow:
        """See `desk.Desk`."""

        def changed(data: dict[str, Any], envelope: dict[str, Any]) -> None:
            for name in ("name", "schema", "execution_mode", "freshness_sla_seconds"):
                value = getattr(change, name)
                if value is not None:
                    data[name] = value
            if change.settings:
                data["settings"] = {**data.get("settings", {}), **change.settings}
            _reschedule(data, change)

        return _sync(self._syncs.update(sync_id, changed, by=BY), self._syncs.kinds())

    def delete_sync(self, sync_id: str, *, tables: bool) -> None:
        """See `desk.Desk`."""
        from elt_dagster.control.running import Running
        from elt_dagster.control.setup import Setup

        if not tables:
            self._syncs.delete(sync_id)
            return
        with self.session.past_runs() as runs:
            it = self.session.workspace
            Setup(it, Running(it, runs)).remove(sync_id, tables=True)

    def set_enabled(self, sync_id: str, enabled: bool) -> None:
        """See `desk.Desk`."""
        from elt_dagster.control.setup import set_enabled

        set_enabled(self._syncs, sync_id, enabled, by=BY)

    def start(self, sync_id: str) -> str | None:
        """See `desk.Desk`. Without a webserver the run is this process's own, and is waited for."""
        from elt_dagster.control.running import Running
        from elt_dagster.control.setup import Setup

        with self.session.runs(self.workspace_file) as runs:
            it = self.session.workspace
            return Setup(it, Running(it, runs)).start(sync_id, by=BY)

    # --- streams ---------------------------------------------------------------------------------------------------------------

    def streams(self, sync_id: str) -> Sequence[StreamRow]:
        """See `desk.Desk`."""
        from elt_dagster.control.setup import excluded_substreams

        sync = self._syncs.get(sync_id)
        marks, excluded = self._syncs.marks(sync), excluded_substreams(sync)
        return [_stream(sync, name, marks, excluded.get(name, ())) for name in sync.binding_ids]

    def available(self, sync_id: str) -> Sequence[Offer]:
        """See `desk.Desk`."""
        from elt_dagster.control.setup import available, substreams

        catalog = available(self._syncs, sync_id)
        children = substreams(catalog)
        return [Offer(name=s.name, sub_streams=tuple(children[s.name])) for s in catalog]

    def states(self, sync_id: str) -> Sequence[StreamStateRow]:
        """See `desk.Desk`."""
        from elt_dagster.control.running import Running

        with self.session.past_runs() as runs:
            found = Running(self.session.workspace, runs).states(self._syncs.get(sync_id))
        return [_state(state) for state in found]

    def stream_runs(self, row: StreamRow, limit: int) -> Sequence[StreamRunRow]:
        """See `desk.Desk`."""
        from elt_dagster.control.running import Running

        with self.session.past_runs() as runs:
            sync = self._syncs.get(row.sync_id)
            found = Running(self.session.workspace, runs).stream_page(sync, row.name, limit=limit)
        return [_stream_run(view, part) for view, part in found]

    def put_streams(self, sync_id: str, streams: Sequence[Mapping[str, Any]]) -> None:
        """See `desk.Desk`."""
        from elt_dagster.control.running import Running
        from elt_dagster.control.setup import Setup

        excluded = {s["name"]: s[EXCLUDED] for s in streams if EXCLUDED in s}
        if not excluded:
            self._syncs.put_streams(sync_id, streams, by=BY)
            return
        data = [{name: value for name, value in s.items() if name != EXCLUDED} for s in streams]
        with self.session.past_runs() as runs:
            it = self.session.workspace
            Setup(it, Running(it, runs)).put_streams(sync_id, data, excluded, by=BY)

    def remove_stream(self, stream_id: str) -> None:
        """See `desk.Desk`."""
        self._syncs.remove_stream(stream_id, by=BY)

    def request_run(self, row: StreamRow) -> str:
        """See `desk.Desk`. Without a webserver the run is this process's own, and is waited for."""
        from elt_dagster.control.running import Running

        with self.session.runs(self.workspace_file) as runs:
            return Running(self.session.workspace, runs).trigger(row.sync_id, streams=[row.name], by=BY)

    def request_full_refresh(self, stream_id: str, *, reset_history: bool) -> None:
        """See `desk.Desk`."""
        self._syncs.request_full_refresh(stream_id, reset_history=reset_history, by=BY)

    def cancel_full_refresh(self, stream_id: str) -> None:
        """See `desk.Desk`."""
        self._syncs.cancel_full_refresh(stream_id)


def _connection(stored: "StoredConnection") -> ConnectionRow:
    return ConnectionRow(
        id=stored.id, name=stored.spec.name, label=stored.label, connector=stored.spec.connector,
        status="failed" if stored.error else "active", created_at=stored.created_at, updated_at=stored.updated_at,
    )  # fmt: skip


def _sync(stored: "AnySync", kinds: Mapping[str, str]) -> SyncRow:
    from elt_dagster.store import BrokenSync

    made, changed = stored.created_at, stored.updated_at
    if isinstance(stored, BrokenSync):
        return SyncRow(
            id=stored.id,
            slug=stored.slug,
            name=stored.slug,
            status="broken",
            error=stored.error,
            created_at=made,
            updated_at=changed,
        )
    spec, schedule = stored.spec, stored.spec.schedule
    return SyncRow(
        id=stored.id, slug=spec.slug, name=spec.title, status=spec.status.value, connector=kinds.get(spec.connection, ""),
        connection_id=stored.connection_id, destination_id=stored.destination_id, schema=spec.dataset, trigger_mode=spec.trigger.value,
        execution_mode=spec.execution_mode.value, cron=schedule.cron if schedule else None, timezone=schedule.timezone if schedule else "UTC",
        freshness_sla_seconds=spec.freshness_sla_seconds, settings=spec.settings, streams=tuple(b.name for b in spec.streams), created_at=made, updated_at=changed,
    )  # fmt: skip


def _stream(sync: "StoredSync", name: str, marks: Mapping[str, Any], excluded: Sequence[str]) -> StreamRow:
    binding, stream = sync.spec.binding(name), sync.streams[name]
    assert binding is not None  # noqa: S101 - it has an id
    return StreamRow(
        id=sync.binding_ids[name], sync_id=sync.id, name=name, primary_key=tuple(binding.primary_key or stream.primary_key),
        cursor_field=binding.cursor_field or stream.cursor_field, excluded_columns=binding.excluded_columns,
        hashed_columns=binding.hashed_columns, full_sync_always=binding.full_sync_always,
        full_sync_at_midnight=binding.full_sync_at_midnight, protected_from_full_sync=binding.protected_from_full_sync,
        enabled_history_table=binding.enabled_history_table, full_refresh_requested=sync.binding_ids[name] in marks,
        excluded_substreams=tuple(excluded),
    )  # fmt: skip


_TRIGGERS = {"initial": "initial_sync", "always": "always_full"}


def _state(state: "StreamState") -> StreamStateRow:
    shown = state.active or state.latest
    if shown is None:
        return StreamStateRow(name=state.stream)
    return StreamStateRow(
        name=state.stream, active_status=state.active.situation.value if state.active else None,
        latest_status=state.latest.situation.value if state.latest else None, rows=shown.rows, expected_rows=shown.expected_rows,
        full_sync_trigger=_TRIGGERS.get(shown.trigger.value, shown.trigger.value), started_at=shown.started_at,
        ended_at=shown.ended_at, error=shown.error, details=shown.details,
    )  # fmt: skip


def _stream_run(view: "RunView", part: "StreamRun") -> StreamRunRow:
    over = part.status.is_final or view.status.is_final
    status = "completed" if part.status.value == "completed" else "failed" if over else "running"
    return StreamRunRow(
        run_id=view.id, status=status, rows=part.rows, started_at=view.started_at or view.created_at,
        ended_at=view.ended_at if over else None,
    )  # fmt: skip


def _reschedule(data: dict[str, Any], change: SyncChange) -> None:
    """With its schedule a sync that runs by one becomes one that is started by hand."""
    if change.cron == "":
        data.pop("schedule", None)
        data.pop("trigger_mode", None)
        return
    kept = data.get("schedule") or {}
    wanted = {"cron": change.cron, "timezone": change.timezone}
    if any(value is not None for value in wanted.values()):
        data["schedule"] = {**kept, **{k: v for k, v in wanted.items() if v is not None}}
        if change.cron is not None and data.get("trigger_mode") == "manual":
            data.pop("trigger_mode")
