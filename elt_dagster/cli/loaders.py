"""``loaders``: a connection and its sync as one thing; the same in the store at hand and behind a server."""

from collections.abc import Mapping
from typing import Any

import click

from elt_dagster.cli.app import Suggesting
from elt_dagster.cli.connections import named_values, read_settings
from elt_dagster.cli.desk import find_connection
from elt_dagster.cli.loader_desk import Row, find_loader, loader_desk
from elt_dagster.cli.session import Session, steering, workspace_option
from elt_dagster.cli.show import cell, table

_file = click.option(
    "-f",
    "--file",
    type=click.File("r"),
    metavar="FILE",
    help="JSON or YAML with the fields of the Loaders dialect; - reads stdin.",
)
_set = click.option(
    "--set", "pairs", multiple=True, metavar="NAME=VALUE", help="One of the fields; the value may be JSON. Repeat it."
)


@click.group(cls=Suggesting)
def loaders() -> None:
    """List, make, replace, run and delete loaders. A LOADER is named by its id or name; every sync is one.

    With --url, --workspace has to be that of the key.
    """


@loaders.command(name="list")
@steering
def list_loaders(session: Session) -> None:
    """All loaders, oldest first, never with credentials."""
    rows = loader_desk(session).loaders()
    shown = [
        (cell(r["name"]), r["loader_type"], r["target_schema"], r["status"], r["schedule"] or "", len(r["selected_streams"]), r["id"])
        for r in rows
    ]  # fmt: skip
    columns = ("loader", "type", "schema", "status", "schedule", "streams", "id")
    session.answer(list(rows), table(columns, shown, right=("streams",)))


@loaders.command()
@steering
def types(session: Session) -> None:
    """What a loader can read: every connector under each of its names; with --json also the JSON Schema of its config."""
    rows = loader_desk(session).types()
    shown = [(r["type"], r["name"], cell(r["description"]), len(r["streams"]) or "of the account") for r in rows]
    session.answer(list(rows), table(("type", "name", "description", "streams"), shown))


@loaders.command()
@click.argument("loader")
@steering
def show(session: Session, loader: str) -> None:
    """One LOADER with everything that is configured; secrets are masks."""
    _answer(session, find_loader(loader_desk(session), loader))


@loaders.command()
@_file
@_set
@steering
def create(session: Session, *, file: Any, pairs: tuple[str, ...]) -> None:
    """Make a connection and an active sync that reads it, or neither; the source is asked for the streams.

    The fields are name, loader_type, source_id (the warehouse: id, name or label), config, target_schema, selected_streams, sync_mode, schedule.
    """
    _answer(session, loader_desk(session).create(_fields(session, file, pairs)))


@loaders.command()
@click.argument("loader")
@_file
@_set
@steering
def replace(session: Session, loader: str, *, file: Any, pairs: tuple[str, ...]) -> None:
    """Another LOADER in its place: what is not given stays. The mask of a secret stands for the one that is kept."""
    fields = _fields(session, file, pairs)
    if not fields:
        raise click.UsageError("Name something to change: --file or --set.")
    desk = loader_desk(session)
    _answer(session, desk.replace(find_loader(desk, loader), fields))


@loaders.command()
@click.argument("loader")
@steering
def delete(session: Session, loader: str) -> None:
    """Remove LOADER, and its connection unless something else uses that; its tables stay."""
    desk = loader_desk(session)
    row = find_loader(desk, loader)
    desk.delete(row["id"])
    session.answer({"id": row["id"], "deleted": True}, f"Loader {row['name']} is deleted.")


@loaders.command()
@click.argument("loader")
@workspace_option
@steering
def trigger(session: Session, loader: str, *, workspace_file: str | None) -> None:
    """Run LOADER now, without watching. Without a server or webserver the run is this process's own, and is waited for."""
    desk = loader_desk(session, workspace_file)
    run = desk.trigger(find_loader(desk, loader)["id"])
    session.answer(run, f"Run {run['id']}: {run['status']}")


@loaders.command()
@click.argument("loader")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, newest first.")
@steering
def runs(session: Session, loader: str, *, limit: int) -> None:
    """The latest runs of LOADER."""
    desk = loader_desk(session)
    rows = desk.runs(find_loader(desk, loader)["id"], limit)
    shown = [(r["id"], r["status"], r["rows_loaded"], r["streams_failed"], r["started_at"] or "") for r in rows]
    session.answer(list(rows), table(("run", "status", "rows", "failed streams", "started"), shown, right=("rows",)))


def _fields(session: Session, file: Any, pairs: tuple[str, ...]) -> Mapping[str, Any]:
    found = {**read_settings(file), **named_values(pairs)}
    if isinstance(found.get("source_id"), str):
        found["source_id"] = find_connection(session.desk(), found["source_id"]).id
    return found


def _answer(session: Session, row: Row) -> None:
    shown = [(name, cell(_text(value))) for name, value in row.items() if value not in (None, "", [], {})]
    session.answer(row, table(("", ""), shown))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{s['name']} ({s['sync_mode']})" for s in value)
    return ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
