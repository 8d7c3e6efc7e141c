"""The desk and the runs of a server elsewhere, over `elt_dagster.client`: the same commands, with ``--url``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import nlargest
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
    find_stream,
    find_sync,
)
from elt_dagster.errors import ConfigError

if TYPE_CHECKING:
    from elt_dagster.client import Client, Connection, Run, Stream, StreamSnapshot, Sync
    from elt_dagster.control.runs import RunEvents, RunView, StreamRun
    from elt_dagster.model import RunMode, TriggeredBy, Window

NEWEST = 100
"""How many runs of each sync a list of the runs of all looks at: one page."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class RemoteDesk:
    """See `desk.Desk`."""

    client: "Client"

    # --- connections -----------------------------------------------------------------------------------------------------------

    def connections(self) -> Sequence[ConnectionRow]:
        """See `desk.Desk`."""
        return [_connection(c) for c in self.client.connections.list()]

    def create_connection(
        self, connector: str, config: Mapping[str, Any], *, label: str, verify: bool
    ) -> ConnectionRow:
        """Never: a server takes credentials from a person on its own page only."""
        raise ConfigError(
            "A server takes credentials on its own page only.",
            fix=f"Run: elt-dagster connections authorize {connector} --label {label or connector}.",
        )

    def delete_connection(self, connection_id: str) -> None:
        """See `desk.Desk`."""
        self.client.connections.delete(connection_id)

    def settings(self, connection_id: str, partial: Mapping[str, Any]) -> dict[str, Any]:
        """See `desk.Desk`."""
        return self.client.connections.settings(connection_id, partial)

    def authorize(
        self, connector: str, *, label: str, redirect_uri: str, connection_id: str | None, state: str | None
    ) -> tuple[str, str, datetime]:
        """See `desk.Desk`."""
        bridge = self.client.connections.authorize(
            connector, label=label, redirect_uri=redirect_uri, connection_id=connection_id, state=state
        )
        return bridge.id, bridge.authorize_url, bridge.expires_at

    def bridges(self) -> Sequence[BridgeRow]:
        """See `desk.Desk`."""
        return [
            BridgeRow(
                id=b.id, connector=b.integration_id, label=b.label, redirect_uri=b.redirect_uri, connection_id=b.connection_id,
                expires_at=b.expires_at,
            )
            for b in self.client.connections.bridges()
        ]  # fmt: skip

    # --- syncs -----------------------------------------------------------------------------------------------------------------

    def syncs(self) -> Sequence[SyncRow]:
        """See `desk.Desk`."""
        return [_sync(s) for s in self.client.syncs.list()]

    def create_sync(self, wish: SyncWish) -> SyncRow:
        """See `desk.Desk`."""
        destination = {"connectionId": wish.destination_id, "schema": wish.schema}
        more: dict[str, Any] = {
            "slug": wish.slug,
            "destination_config": _given(destination) or None,
            "execution_mode": wish.execution_mode,
            "freshness_sla_seconds": wish.freshness_sla_seconds,
            "source_config": dict(wish.settings) or None,
            "entities": list(wish.streams) or None,
        }
        if wish.cron is not None:
            more |= {"schedule": {"cron": wish.cron, "timezone": wish.timezone}, "trigger_mode": "scheduled"}
        made = self.client.syncs.create(
            connection_id=wish.connection_id, name=wish.name, status=wish.status, **_given(more)
        )
        return _sync(made)

    def change_sync(self, sync_id: str, change: SyncChange) -> SyncRow:
        """See `desk.Desk`."""
        before = self.client.syncs.get(sync_id)
        wanted: dict[str, Any] = _given(
            {
                "name": change.name,
                "execution_mode": change.execution_mode,
                "freshness_sla_seconds": change.freshness_sla_seconds,
            }
        )
        if change.schema is not None:
            wanted["destination_config"] = {**before.destination_config, "schema": change.schema}
        if change.settings:
            wanted["source_config"] = {**before.source_config, **change.settings}
        return _sync(self.client.syncs.update(sync_id, **wanted, **_schedule(before, change)))

    def delete_sync(self, sync_id: str, *, tables: bool) -> None:
        """See `desk.Desk`."""
        self.client.syncs.delete(sync_id, remove_tables=tables)

    def set_enabled(self, sync_id: str, enabled: bool) -> None:
        """See `desk.Desk`."""
        (self.client.syncs.enable if enabled else self.client.syncs.disable)(sync_id)

    def start(self, sync_id: str) -> str | None:
        """See `desk.Desk`; the server tells no id, so it is that of the newest run."""
        self.client.syncs.start(sync_id)
        newest = next(iter(self.client.runs.list(sync_id)), None)
        return newest.id if newest else None

    # --- streams ---------------------------------------------------------------------------------------------------------------

    def streams(self, sync_id: str) -> Sequence[StreamRow]:
        """See `desk.Desk`."""
        order = {name: at for at, name in enumerate(self.client.syncs.get(sync_id).entities)}
        rows = [_stream(s) for s in self.client.streams.list(sync_id)]
        return sorted(rows, key=lambda row: order.get(row.name, len(order)))

    def available(self, sync_id: str) -> Sequence[Offer]:
        """See `desk.Desk`; the server takes either at this address."""
        return [
            Offer(name=s.name, sub_streams=s.sub_streams, selectable=s.is_selectable)
            for s in self.client.connections.available(sync_id)
        ]

    def states(self, sync_id: str) -> Sequence[StreamStateRow]:
        """See `desk.Desk`."""
        return [_state(s.name, s.active_sync, s.latest_sync) for s in self.client.syncs.status(sync_id)]

    def stream_runs(self, row: StreamRow, limit: int) -> Sequence[StreamRunRow]:
        """See `desk.Desk`."""
        return [
            StreamRunRow(
                run_id=run.run_id,
                status=run.status.lower(),
                rows=run.rows_synced,
                started_at=run.started_at,
                ended_at=run.finished_at,
            )
            for run in _first(self.client.streams.runs(row.id), limit)
        ]

    def put_streams(self, sync_id: str, streams: Sequence[Mapping[str, Any]]) -> None:
        """See `desk.Desk`."""
        self.client.streams.put(sync_id, [_spelled(s) for s in streams])

    def remove_stream(self, stream_id: str) -> None:
        """See `desk.Desk`."""
        self.client.streams.delete(stream_id)

    def request_run(self, row: StreamRow) -> str:
        """See `desk.Desk`."""
        return self.client.streams.request_run(row.id)

    def request_full_refresh(self, stream_id: str, *, reset_history: bool) -> None:
        """See `desk.Desk`."""
        self.client.streams.request_full_refresh(stream_id, reset_history_table=reset_history)

    def cancel_full_refresh(self, stream_id: str) -> None:
        """See `desk.Desk`."""
        self.client.streams.cancel_full_refresh(stream_id)


@dataclass(frozen=True)
class RemoteRuns:
    """The part of `control.runs.Runs` that the commands use."""

    client: "Client"

    def launch(
        self,
        sync: str,
        *,
        streams: Sequence[str] | None = None,
        run_mode: "RunMode | None" = None,
        reset_history_table: bool = False,
        window: "Window | None" = None,
        triggered_by: "TriggeredBy | None" = None,
        trigger_ref: str = "",
    ) -> str:
        """Start a run. Raises ConfigError for what the REST API has no word for: windows, several streams but not all."""
        mode = run_mode.value if run_mode is not None else "incremental"
        if window is not None:
            raise ConfigError("A server takes no window.", fix="Run it where the store is, or `elt-dagster backfill`.")
        desk = RemoteDesk(self.client)
        row = find_sync(desk, sync)
        if not streams and not reset_history_table:
            return self.client.runs.trigger(row.id, run_mode=mode).id
        if not streams or len(streams) != 1:
            raise ConfigError(
                "A server runs one stream of a sync, or all of them, and begins one history table at a time.",
                fix="Name one stream, or none.",
            )
        stream = find_stream(desk, row, streams[0])
        if mode == "full_refresh":
            desk.request_full_refresh(stream.id, reset_history=reset_history_table)
        return desk.request_run(stream)

    def get(self, run_id: str) -> "RunView":
        """One run with its streams."""
        run = self.client.runs.get(run_id)
        return _view(run, self.client.syncs.get(run.sync_id).slug)

    def list(self, sync: str | None = None, *, limit: int = 20) -> "list[RunView]":
        """The latest runs of one sync, or of all: then the server is asked once for each, for its newest."""
        desk = RemoteDesk(self.client)
        rows = [find_sync(desk, sync)] if sync is not None else desk.syncs()
        each = limit if sync is not None else min(limit, NEWEST)
        views = [_view(run, row.slug) for row in rows for run in _first(self.client.runs.list(row.id), each)]
        return nlargest(limit, views, key=lambda v: v.created_at or EPOCH)

    def retry(self, run_id: str, *, run_mode: "RunMode | None" = None, trigger_ref: str = "") -> str:
        """Another attempt."""
        return self.client.runs.retry(run_id, run_mode=run_mode.value if run_mode is not None else None).id

    def attempts(self, run_id: str) -> "tuple[RunView, ...]":
        """All runs of its retry group, oldest first."""
        views = [self.get(run_id)]
        while views[0].parent_id:
            views.insert(0, self.get(views[0].parent_id))
        while views[-1].next_id:
            views.append(self.get(views[-1].next_id))
        return tuple(views)

    def cancel(self, run_id: str, reason: str = "", *, requested_by: str = "") -> None:
        """Ask a run to stop."""
        self.client.runs.cancel(run_id, reason or None)

    def events(self, run_id: str, *, after: str | None = None) -> "RunEvents":
        """None: the API tells of the streams of a run, not of its log."""
        from elt_dagster.control.runs import RunEvents

        return RunEvents(cursor=after)


def _connection(answer: "Connection") -> ConnectionRow:
    return ConnectionRow(
        id=answer.id, name=answer.label, label=answer.label, connector=answer.integration_id, status=answer.status.lower(),
        created_at=answer.created_at, updated_at=answer.updated_at,
    )  # fmt: skip


def _sync(answer: "Sync") -> SyncRow:
    schedule, destination = answer.schedule, answer.destination_config
    return SyncRow(
        id=answer.id, slug=answer.slug, name=answer.name, status=answer.status, connector=answer.provider_key,
        connection_id=answer.connection_id, destination_id=str(destination.get("connectionId") or ""),
        schema=str(destination.get("schema") or ""), trigger_mode=answer.trigger_mode, execution_mode=answer.execution_mode,
        cron=schedule.cron if schedule else None, timezone=schedule.timezone if schedule else "UTC",
        freshness_sla_seconds=answer.freshness_sla_seconds, settings=answer.source_config, streams=answer.entities,
        error=answer.last_error if answer.status == "error" else None, created_at=answer.created_at, updated_at=answer.updated_at,
    )  # fmt: skip


def _stream(answer: "Stream") -> StreamRow:
    return StreamRow(
        id=answer.id, sync_id=answer.elt_sync_id, name=answer.name, primary_key=answer.incremental_primary_key_name,
        cursor_field=answer.incremental_pointer_id, excluded_columns=answer.excluded_columns, hashed_columns=answer.hashed_columns,
        full_sync_always=answer.full_sync_always, full_sync_at_midnight=answer.full_sync_at_midnight,
        protected_from_full_sync=answer.protected_from_full_sync, enabled_history_table=answer.enabled_history_table,
        full_refresh_requested=answer.full_refresh_requested, excluded_substreams=answer.excluded_substreams,
    )  # fmt: skip


def _state(name: str, active: "StreamSnapshot | None", latest: "StreamSnapshot | None") -> StreamStateRow:
    shown = active or latest
    if shown is None:
        return StreamStateRow(name=name)
    return StreamStateRow(
        name=name, active_status=active.status.lower() if active else None,
        latest_status=latest.status.lower() if latest else None,
        rows=shown.records_synced, expected_rows=shown.estimated_total_count, full_sync_trigger=shown.full_sync_trigger.lower(),
        started_at=shown.started_at, ended_at=shown.finished_at, error=shown.error_message, details=shown.details,
    )  # fmt: skip


def _spelled(stream: Mapping[str, Any]) -> dict[str, Any]:
    """The Connect dialect's names for fields of the model. Raises ConfigError for a field it has no name for."""
    spelled = {"cursor_field": "incremental_pointer_id"}
    unknown = sorted(set(stream) & {"load_mode", "primary_key", "table"})
    if unknown:
        raise ConfigError(f"A server takes no {unknown[0]} of a stream this way.", fix="Leave it out.")
    return {spelled.get(name, name): value for name, value in stream.items()}


def _schedule(before: "Sync", change: SyncChange) -> dict[str, Any]:
    if change.cron == "":
        return {"schedule": None, "trigger_mode": "manual"}
    if change.cron is None and change.timezone is None:
        return {}
    kept = before.schedule.model_dump() if before.schedule else {}
    schedule = {**kept, **_given({"cron": change.cron, "timezone": change.timezone})}
    return {"schedule": schedule, **({"trigger_mode": "scheduled"} if change.cron else {})}


def _view(run: "Run", slug: str) -> "RunView":
    from elt_dagster.control.runs import RunStatus, RunView
    from elt_dagster.model import RunMode

    streams = run.summary.get("streams") or {}
    return RunView(
        id=run.id, sync=slug, sync_id=run.sync_id, status=RunStatus(run.status), run_mode=RunMode(run.run_mode),
        triggered_by=run.triggered_by, trigger_ref=run.trigger_ref or "", created_at=run.created_at, started_at=run.started_at,
        ended_at=run.completed_at, updated_at=run.updated_at, error=run.error, url=run.backend_run_url,
        root_id=run.attempt_root_run_id or run.id, parent_id=run.previous_attempt_run_id, attempt=run.attempt_number,
        next_id=run.next_attempt_run_id, max_retries=run.max_auto_resume_attempts or 0, cancel_reason=run.cancel_reason or "",
        end_reason=run.result_reason_code or "", heartbeat_at=run.last_heartbeat_at, executor_id=run.executor_id,
        streams=tuple(_stream_run(name, told, run) for name, told in streams.items()),
    )  # fmt: skip


def _stream_run(name: str, told: Mapping[str, Any], run: "Run") -> "StreamRun":
    """One stream of a run: it says itself how it is, or its rows and the whole run do."""
    from elt_dagster.control.runs import RunStatus, StreamRun

    status = told.get("status") or ("completed" if told.get("rows") is not None else run.status)
    metrics = {
        "cursor_before": told.get("cursorBefore"),
        "cursor_after": told.get("cursorAfter"),
        "schema_changes": told.get("schemaChanges"),
    }
    return StreamRun(
        stream=name, status=RunStatus(status), rows=told.get("rows"), bytes=told.get("bytes"), seconds=told.get("seconds"),
        error=told.get("error"), reason=told.get("reason"), metrics=_given(metrics),
    )  # fmt: skip


def _first(items: Any, limit: int) -> list[Any]:
    return [item for _, item in zip(range(limit), items, strict=False)]


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
