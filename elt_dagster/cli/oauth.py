"""``elt-dagster oauth-clients``: how we are known at vendors whose accounts people let us into by consent."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from elt_dagster.cli.app import Suggesting
from elt_dagster.cli.session import Session, command
from elt_dagster.cli.show import cell, table
from elt_dagster.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    from elt_dagster.store import OAuthClient


@click.group(name="oauth-clients", cls=Suggesting)
def oauth_clients() -> None:
    """Keep, list and forget the OAuth clients of a workspace: what connection bridges show a vendor.

    A connector that has none here uses $ELT_DAGSTER_OAUTH_<CONNECTOR>_CLIENT_ID and _CLIENT_SECRET. Register <base URL>/connection_bridges/callback as the
    redirect address at the vendor.
    """


@oauth_clients.command(name="set")
@click.argument("connector")
@click.option("--client-id", required=True, help="The client's id at the vendor.")
@click.option(
    "--client-secret-stdin",
    is_flag=True,
    help="Read the secret from stdin; else it is asked for on a terminal. Empty for none.",
)
@click.option(
    "--setting", "settings", multiple=True, metavar="NAME=VALUE",
    help="A setting that every connection of this client gets, such as is_sandbox=true; people are not asked for settings then.",
)  # fmt: skip
@command
def set_client(
    session: Session, *, connector: str, client_id: str, client_secret_stdin: bool, settings: tuple[str, ...]
) -> None:
    """Keep the client of CONNECTOR, in the place of an earlier one. Its secret is sealed."""
    from elt_dagster.control.oauth import put_client
    from elt_dagster.store import OAuthClient

    secret = _secret(from_stdin=client_secret_stdin)
    session.store.create_workspace(session.workspace_name)
    kept = put_client(
        session.store,
        session.workspace_name,
        OAuthClient(connector, client_id, secret or None, dict(map(_setting, settings))),
    )
    session.answer(_data(kept), f"Connection bridges of {kept.connector!r} use the client {kept.client_id!r}.")


@oauth_clients.command(name="list")
@command
def list_clients(session: Session) -> None:
    """The clients of the workspace, without their secrets."""
    found = session.store.bridges.oauth_clients(_workspace_id(session))
    rows = [
        (cell(c.connector), cell(c.client_id), cell(json.dumps(dict(c.settings)) if c.settings else "")) for c in found
    ]
    session.answer([_data(c) for c in found], table(("connector", "client id", "settings"), rows))


@oauth_clients.command()
@click.argument("connector")
@command
def delete(session: Session, *, connector: str) -> None:
    """Forget the client of CONNECTOR. Connections that were made with it keep what they have."""
    if not session.store.bridges.delete_oauth_client(_workspace_id(session), connector):
        raise NotFoundError(f"There is no OAuth client of {connector!r}.", fix="See: elt-dagster oauth-clients list.")
    session.answer({"connector": connector}, f"The OAuth client of {connector!r} is forgotten.")


def _secret(*, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise ConfigError(
            "The client's secret is asked for on a terminal.", fix="Give --client-secret-stdin and write it to stdin."
        )
    secret: str = click.prompt(
        "Client secret (empty for none)", default="", hide_input=True, show_default=False, err=True
    )
    return secret


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"The setting {text[:60]!r} is not NAME=VALUE.", fix="Write --setting is_sandbox=true.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _workspace_id(session: Session) -> str:
    found = next((w.id for w in session.store.workspaces() if w.name == session.workspace_name), None)
    if found is None:
        raise NotFoundError(f"There is no workspace {session.workspace_name!r}.")
    return found


def _data(client: "OAuthClient") -> dict[str, Any]:
    return {"connector": client.connector, "client_id": client.client_id, "settings": dict(client.settings)}
