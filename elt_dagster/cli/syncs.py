"""``syncs``: one sync at a time; the same in the store at hand and behind a server. Whole files are `apply`'s."""

from typing import Any

import click

from elt_dagster.cli.app import Suggesting
from elt_dagster.cli.connections import named_values
from elt_dagster.cli.desk import SyncChange, SyncRow, SyncWish, find_connection, find_sync, plain
from elt_dagster.cli.session import Session, steering, workspace_option
from elt_dagster.cli.show import cell, table

MODES = click.Choice(["sequential", "fan_out_entity", "fan_out_window"])
_set = click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of the source; the value may be JSON. Repeat it.",
)


@click.group(cls=Suggesting)
def syncs() -> None:
    """List, make, change and start syncs. A SYNC is named by its slug or id."""


@syncs.command(name="list")
@steering
def list_syncs(session: Session) -> None:
    """All syncs, broken ones too."""
    rows = sorted(session.desk().syncs(), key=lambda r: r.slug)
    shown = [(r.slug, cell(r.name), r.status, r.connector, r.schema, r.cron or "", len(r.streams), r.id) for r in rows]
    columns = ("sync", "name", "status", "connector", "schema", "cron", "streams", "id")
    session.answer([plain(r) for r in rows], table(columns, shown, right=("streams",)))


@syncs.command()
@click.argument("sync")
@steering
def show(session: Session, sync: str) -> None:
    """One SYNC with everything that is configured."""
    _answer(session, find_sync(session.desk(), sync))


def _answer(session: Session, row: SyncRow) -> None:
    data = plain(row)
    shown = [(k, cell(", ".join(v) if isinstance(v, tuple) else v)) for k, v in data.items() if v not in (None, (), {})]
    session.answer(data, table(("", ""), shown))


@syncs.command()
@click.argument("name")
@click.option("--connection", required=True, help="The source: id, name or label.")
@click.option("--destination", help="The warehouse; by default the workspace's.")
@click.option("--schema", help="The schema that gets the tables; by default the slug.")
@click.option("--slug", help="Its short name; by default made of NAME.")
@click.option("--cron", help="When it runs, such as '0 */6 * * *'.")
@click.option("--timezone", default="UTC", show_default=True, help="The zone of --cron.")
@click.option("--stream", "streams", multiple=True, metavar="NAME", help="What to load; may be repeated.")
@click.option("--execution-mode", type=MODES, help="How streams are run.")
@click.option("--freshness", "freshness_sla_seconds", type=int, metavar="SECONDS", help="How old tables may get.")
@click.option("--active", is_flag=True, help="Let it run at once; else it is a draft until `enable` or `start`.")
@_set
@steering
def create(
    session: Session,
    name: str,
    *,
    connection: str,
    destination: str | None,
    active: bool,
    pairs: tuple[str, ...],
    **more: Any,
) -> None:
    """Make a sync called NAME. Everything is checked, streams against the source."""
    desk = session.desk()
    wish = SyncWish(
        name=name,
        connection_id=find_connection(desk, connection).id,
        destination_id=find_connection(desk, destination).id if destination else None,
        status="active" if active else "draft",
        settings=named_values(pairs),
        **more,
    )
    _answer(session, desk.create_sync(wish))


@syncs.command(name="set")
@click.argument("sync")
@click.option("--name", help="Another display name.")
@click.option("--schema", help="Another schema for its tables.")
@click.option("--cron", help="Another schedule; '' takes it away.")
@click.option("--timezone", help="The zone of the schedule.")
@click.option("--execution-mode", type=MODES, help="How streams are run.")
@click.option("--freshness", "freshness_sla_seconds", type=int, metavar="SECONDS", help="How old tables may get.")
@_set
@steering
def set_sync(session: Session, sync: str, *, pairs: tuple[str, ...], **more: Any) -> None:
    """Change what is named of SYNC; the rest stays."""
    change = SyncChange(settings=named_values(pairs), **more)
    if change == SyncChange():
        raise click.UsageError("Name something to change.")
    desk = session.desk()
    _answer(session, desk.change_sync(find_sync(desk, sync).id, change))


@syncs.command()
@click.argument("sync")
@click.option("--remove-tables", is_flag=True, help="Drop its tables in the warehouse as well.")
@steering
def delete(session: Session, sync: str, *, remove_tables: bool) -> None:
    """Remove SYNC and its streams; its tables stay unless asked."""
    desk = session.desk()
    row = find_sync(desk, sync)
    desk.delete_sync(row.id, tables=remove_tables)
    session.answer({"id": row.id, "slug": row.slug, "deleted": True}, f"Sync {row.slug} is deleted.")


@syncs.command()
@click.argument("sync")
@steering
def enable(session: Session, sync: str) -> None:
    """Switch the schedule of SYNC on."""
    _switched(session, sync, True)


@syncs.command()
@click.argument("sync")
@steering
def disable(session: Session, sync: str) -> None:
    """Switch the schedule of SYNC off; it runs only when it is asked to."""
    _switched(session, sync, False)


def _switched(session: Session, sync: str, enabled: bool) -> None:
    desk = session.desk()
    row = find_sync(desk, sync)
    desk.set_enabled(row.id, enabled)
    word = "enabled" if enabled else "disabled"
    session.answer({"id": row.id, "slug": row.slug, "enabled": enabled}, f"Sync {row.slug} is {word}.")


@syncs.command()
@click.argument("sync")
@workspace_option
@steering
def start(session: Session, sync: str, *, workspace_file: str | None) -> None:
    """Switch the schedule of SYNC on and run it once, without watching; see `run` for that.

    Without a server or webserver the run is this process's own, and is waited for.
    """
    desk = session.desk(workspace_file)
    row = find_sync(desk, sync)
    run_id = desk.start(row.id)
    session.answer({"id": row.id, "slug": row.slug, "run_id": run_id}, f"Sync {row.slug} is started: run {run_id}.")
