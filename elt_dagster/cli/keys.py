"""``elt-dagster keys``: the keys of the REST API."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from elt_dagster.cli.app import Suggesting
from elt_dagster.cli.session import Session, command
from elt_dagster.cli.show import cell, table

if TYPE_CHECKING:
    from elt_dagster.store import ApiKey


@click.group(cls=Suggesting)
def keys() -> None:
    """Make, list and revoke the keys of the REST API. A key opens one workspace; it is shown once and kept as a hash."""


@keys.command()
@click.option("--name", default="", help="What to call it; it stands in the audit log.")
@click.option("--key", metavar="VALUE", help="Take this key instead of a new one; at least 16 characters.")
@click.option("--requests-per-minute", type=click.IntRange(min=1), metavar="N", help="A rate limit of its own.")
@click.option("--expires", type=click.DateTime(), metavar="DATE", help="When it ends, in UTC.")
@command
def create(
    session: Session, *, name: str, key: str | None, requests_per_minute: int | None, expires: datetime | None
) -> None:
    """Make a key for the workspace and show it, this once. The workspace is made when there is none of that name."""
    from datetime import UTC

    session.store.create_workspace(session.workspace_name)
    made, text = session.store.api_keys.create(
        workspace=session.workspace_name, name=name, key=key, requests_per_minute=requests_per_minute,
        expires_at=expires.replace(tzinfo=UTC) if expires is not None else None,
    )  # fmt: skip
    shown = text if key is None else f"{made.hint}..."
    session.say(f"Key {made.name!r} of workspace {made.workspace!r} ({made.id}):")
    session.answer({**_data(made), **({"key": text} if key is None else {})}, shown)


@keys.command(name="list")
@command
def list_keys(session: Session) -> None:
    """The keys of the workspace, revoked ones too; of a key itself only its first characters."""
    found = session.store.api_keys.list(session.workspace_name)
    rows = [(cell(k.name), k.id, f"{k.hint}...", _state(k), _time(k.created_at), _time(k.last_used_at)) for k in found]
    session.answer([_data(k) for k in found], table(("name", "id", "key", "state", "made", "last used"), rows))


@keys.command()
@click.argument("key")
@command
def revoke(session: Session, key: str) -> None:
    """End the KEY with that name or id. A running server notices within seconds."""
    ended = session.store.api_keys.revoke(key, session.workspace_name)
    session.answer(_data(ended), f"Key {ended.name!r} ({ended.id}) opens nothing any more.")


def _data(key: "ApiKey") -> dict[str, Any]:
    return {name: getattr(key, name) for name in type(key).__slots__}


def _state(key: "ApiKey") -> str:
    return "valid" if key.is_valid else "revoked" if key.revoked_at is not None else "expired"


def _time(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%d %H:%M") if at is not None else ""
