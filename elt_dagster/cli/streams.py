"""``streams``: what a sync loads, one stream at a time; the same in the store at hand and behind a server."""

from typing import Any

import click

from elt_dagster.cli.app import Suggesting
from elt_dagster.cli.desk import StreamRow, find_connection, find_stream, find_sync, plain
from elt_dagster.cli.session import Session, steering, workspace_option
from elt_dagster.cli.show import cell, clock, table

_FLAGS = (
    "full_sync_always", "full_sync_at_midnight", "protected_from_full_sync", "enabled_history_table", "full_refresh_requested",
)  # fmt: skip


@click.group(cls=Suggesting)
def streams() -> None:
    """List, add, remove and run streams of a SYNC, which is named by its slug or id."""


@streams.command(name="list")
@click.argument("sync")
@steering
def list_streams(session: Session, sync: str) -> None:
    """The streams that SYNC loads."""
    desk = session.desk()
    rows = desk.streams(find_sync(desk, sync).id)
    session.answer([plain(r) for r in rows], _table(rows))


def _table(rows: Any) -> Any:
    shown = [
        (r.name, ", ".join(r.primary_key), r.cursor_field, ", ".join(f for f in _FLAGS if getattr(r, f)), r.id)
        for r in rows
    ]
    return table(("stream", "primary key", "cursor", "flags", "id"), shown)


@streams.command()
@click.argument("sync", required=False)
@click.option("--connection", metavar="CONNECTION", help="What this connection offers, before there is a sync of it.")
@steering
def available(session: Session, sync: str | None, *, connection: str | None) -> None:
    """What the source of SYNC offers; it is asked."""
    if (sync is None) is (connection is None):
        raise click.UsageError("Name a SYNC, or a --connection.")
    desk = session.desk()
    row = find_sync(desk, sync) if sync is not None else None
    loaded = row.streams if row is not None else ()
    offers = desk.available(row.id if row is not None else find_connection(desk, connection or "").id)
    data = [{**plain(o), "added": o.name in loaded} for o in offers]
    shown = [(cell(o.name), ", ".join(o.sub_streams), "added" if o.name in loaded else "") for o in offers]
    session.answer(data, table(("stream", "substreams", ""), shown))


@streams.command()
@click.argument("sync")
@steering
def status(session: Session, sync: str) -> None:
    """Where each stream of SYNC is: what is being loaded, and what was loaded last."""
    desk = session.desk()
    rows = desk.states(find_sync(desk, sync).id)
    shown = [
        (r.name, r.active_status or "", r.latest_status or "", r.rows, r.full_sync_trigger, clock(r.started_at), cell(r.error or r.details))
        for r in rows
    ]  # fmt: skip
    columns = ("stream", "now", "last", "rows", "full because", "started", "")
    session.answer([plain(r) for r in rows], table(columns, shown, right=("rows",)))


@streams.command()
@click.argument("sync")
@click.argument("stream")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, newest first.")
@steering
def runs(session: Session, sync: str, stream: str, *, limit: int) -> None:
    """The runs that loaded STREAM of SYNC, alone or with others."""
    desk, row = _named(session, sync, stream)
    rows = desk.stream_runs(row, limit)
    shown = [
        (r.run_id, r.status, "" if r.rows is None else r.rows, clock(r.started_at), clock(r.ended_at)) for r in rows
    ]
    session.answer(
        [plain(r) for r in rows], table(("run", "status", "rows", "started", "ended"), shown, right=("rows",))
    )


@streams.command()
@click.argument("sync")
@click.argument("names", nargs=-1, required=True, metavar="STREAM...")
@click.option("--cursor", "cursor_field", metavar="COLUMN", help="The column that grows with every change.")
@click.option("--exclude", "excluded_columns", multiple=True, metavar="COLUMN", help="Never leaves the source.")
@click.option(
    "--hash", "hashed_columns", multiple=True, metavar="COLUMN", help="Hashed before it reaches the warehouse."
)
@click.option(
    "--exclude-substream", "excluded_substreams", multiple=True, metavar="STREAM", help="A child stream that stays out."
)
@click.option("--full-sync-always/--no-full-sync-always", default=None, help="Every run reads everything.")
@click.option("--full-sync-at-midnight/--no-full-sync-at-midnight", default=None, help="Once a day everything is read.")
@click.option(
    "--protected-from-full-sync/--no-protected-from-full-sync", default=None, help="No full refresh by any route."
)
@click.option("--enabled-history-table/--no-enabled-history-table", default=None, help="Keep every version of a row.")
@steering
def add(session: Session, sync: str, names: tuple[str, ...], **options: Any) -> None:
    """Add streams to SYNC, or change those that are there: what no option names stays as it is."""
    desk = session.desk()
    row = find_sync(desk, sync)
    wanted = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items() if v not in (None, ())}
    desk.put_streams(row.id, [{"name": name, **wanted} for name in names])
    rows = [r for r in desk.streams(row.id) if r.name in names]
    session.answer([plain(r) for r in rows], _table(rows))


@streams.command()
@click.argument("sync")
@click.argument("stream")
@steering
def remove(session: Session, sync: str, stream: str) -> None:
    """Take STREAM out of SYNC; its table stays."""
    desk, row = _named(session, sync, stream)
    desk.remove_stream(row.id)
    session.answer({"id": row.id, "name": row.name, "removed": True}, f"Stream {row.name} is removed.")


@streams.command(name="request-run")
@click.argument("sync")
@click.argument("stream")
@workspace_option
@steering
def request_run(session: Session, sync: str, stream: str, *, workspace_file: str | None) -> None:
    """Run STREAM of SYNC alone, without watching; see `run` for that.

    Without a server or webserver the run is this process's own, and is waited for.
    """
    desk, row = _named(session, sync, stream, workspace_file)
    run_id = desk.request_run(row)
    session.answer({"id": row.id, "name": row.name, "run_id": run_id}, f"Stream {row.name}: run {run_id}.")


@streams.command()
@click.argument("sync")
@click.argument("stream")
@click.option("--reset-history-table", is_flag=True, help="Begin the history table anew as well.")
@steering
def refresh(session: Session, sync: str, stream: str, *, reset_history_table: bool) -> None:
    """Have the next run of STREAM read everything again. It starts nothing."""
    desk, row = _named(session, sync, stream)
    desk.request_full_refresh(row.id, reset_history=reset_history_table)
    session.answer(
        {"id": row.id, "name": row.name, "full_refresh_requested": True},
        f"The next run of {row.name} reads everything.",
    )


@streams.command(name="cancel-refresh")
@click.argument("sync")
@click.argument("stream")
@steering
def cancel_refresh(session: Session, sync: str, stream: str) -> None:
    """Take `refresh` back."""
    desk, row = _named(session, sync, stream)
    desk.cancel_full_refresh(row.id)
    session.answer(
        {"id": row.id, "name": row.name, "full_refresh_requested": False},
        f"The next run of {row.name} goes on from where it is.",
    )


def _named(session: Session, sync: str, stream: str, workspace_file: str | None = None) -> tuple[Any, StreamRow]:
    desk = session.desk(workspace_file)
    return desk, find_stream(desk, find_sync(desk, sync), stream)
