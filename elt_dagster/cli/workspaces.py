"""``workspaces``: what an API key belongs to; only where the store is, for no key of the API may make another."""

import click

from elt_dagster.cli.app import Suggesting
from elt_dagster.cli.session import Session, command
from elt_dagster.cli.show import clock, table


@click.group(cls=Suggesting)
def workspaces() -> None:
    """List and make workspaces of the store, and choose their default warehouse."""


@workspaces.command(name="list")
@command
def list_workspaces(session: Session) -> None:
    """All workspaces."""
    rows = session.store.workspaces()
    data = [{"id": w.id, "name": w.name, "revision": w.revision, "created_at": w.created_at} for w in rows]
    session.answer(data, table(("name", "id", "made"), [(w.name, w.id, clock(w.created_at)) for w in rows]))


@workspaces.command()
@click.argument("name")
@command
def create(session: Session, name: str) -> None:
    """Make the workspace NAME; nothing happens when it is there."""
    made = session.store.create_workspace(name)
    session.answer({"id": made.id, "name": made.name}, f"Workspace {made.name} ({made.id}).")


@workspaces.command()
@click.argument("connection", required=False)
@click.option("--clear", is_flag=True, help="Leave the choice to the rule.")
@command
def default(session: Session, connection: str | None, *, clear: bool) -> None:
    """Choose CONNECTION as the warehouse of syncs that name none, or show which one it is.

    Without a choice it is the only one there is, or the only one that syncs load into.
    """
    from elt_dagster.cli.desk import find_connection
    from elt_dagster.control.accounts import Accounts

    accounts = Accounts(session.workspace)
    if connection is not None and clear:
        raise click.UsageError("A connection and --clear exclude each other.")
    if connection is not None or clear:
        accounts.set_default_destination(find_connection(session.desk(), connection).name if connection else None)
    if clear:
        session.answer({"workspace": session.workspace_name, "default": None}, "The default warehouse is by the rule.")
        return
    found = accounts.default_destination()
    session.answer(
        {"workspace": session.workspace_name, "default": found.id, "name": found.spec.name},
        f"{found.spec.name} ({found.id})",
    )
