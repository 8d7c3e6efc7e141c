"""``connections``: accounts at sources and warehouses; the same in the store at hand and behind a server."""

import json
from typing import TYPE_CHECKING, Any

import click

from elt_dagster.cli.app import Suggesting
from elt_dagster.cli.desk import find_connection, plain
from elt_dagster.cli.session import Session, steering
from elt_dagster.cli.show import cell, clock, table

if TYPE_CHECKING:
    from collections.abc import Mapping

PATIENCE_SECONDS = 900.0
"""For how long `authorize` waits for a person."""


@click.group(cls=Suggesting)
def connections() -> None:
    """List, make, authorise and delete connections. A CONNECTION is named by its id, name or label."""


@connections.command(name="list")
@steering
def list_connections(session: Session) -> None:
    """All connections, never with credentials."""
    rows = sorted(session.desk().connections(), key=lambda r: r.name)
    shown = [(r.name, cell(r.label), r.connector, r.status, r.id, clock(r.updated_at)) for r in rows]
    session.answer([plain(r) for r in rows], table(("name", "label", "connector", "status", "id", "changed"), shown))


@connections.command()
@click.argument("connection")
@steering
def show(session: Session, connection: str) -> None:
    """One CONNECTION. Of the store at hand with its settings, secrets masked."""
    row = find_connection(session.desk(), connection)
    data = plain(row) | ({} if session.url else {"config": _masked(session, row.id)})
    rows = [(name, cell(json.dumps(value) if isinstance(value, dict) else value)) for name, value in data.items()]
    session.answer(data, table(("", ""), rows))


def _masked(session: Session, connection_id: str) -> dict[str, Any]:
    from elt_dagster.control.accounts import Accounts

    accounts = Accounts(session.workspace)
    return accounts.masked_config(accounts.get(connection_id))


@connections.command()
@click.argument("connector")
@click.option("--label", default="", help="What people call it; the connector's name by default.")
@click.option(
    "--config",
    "config_file",
    type=click.File("r"),
    metavar="FILE",
    help="JSON or YAML with its settings; - reads stdin. A secret is {env: NAME}, {file: PATH}, or kept encrypted.",
)
@click.option(
    "--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A setting; the value may be JSON. Repeat it."
)
@click.option("--offline", is_flag=True, help="Do not try it against the source first.")
@steering
def create(
    session: Session, connector: str, *, label: str, config_file: Any, pairs: tuple[str, ...], offline: bool
) -> None:
    """Make a connection of CONNECTOR and try it. A server takes credentials on its own page only: see `authorize`.

    `elt-dagster connectors CONNECTOR` shows its settings.
    """
    config = {**read_settings(config_file), **named_values(pairs)}
    row = session.desk().create_connection(connector, config, label=label, verify=not offline)
    session.answer(plain(row), f"Connection {row.name} ({row.id}) of {row.connector}.")


def read_settings(file: Any) -> dict[str, Any]:
    """What a JSON or YAML file says; nothing where there is none. Raises ConfigError, without a word of the file."""
    import yaml

    from elt_dagster.errors import ConfigError

    if file is None:
        return {}
    try:
        found = yaml.safe_load(file.read())
    except (yaml.YAMLError, UnicodeError):
        # its message repeats the text, which holds secrets
        raise ConfigError(f"{file.name} is neither JSON nor YAML.", fix="Correct it.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{file.name} holds no settings.", fix="Write a name and a value for each.")
    return found


def named_values(pairs: tuple[str, ...]) -> "Mapping[str, Any]":
    """``NAME=VALUE`` options; a value that is JSON is what it says, any other is text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise click.UsageError(f"Expected NAME=VALUE, and there is no = after {name[:40]!r}.")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


@connections.command()
@click.argument("connection")
@steering
def delete(session: Session, connection: str) -> None:
    """Forget a CONNECTION and its credentials. Refused while a sync uses it."""
    desk = session.desk()
    row = find_connection(desk, connection)
    desk.delete_connection(row.id)
    session.answer({"id": row.id, "deleted": True}, f"Connection {row.name} is deleted.")


@connections.command()
@click.argument("connection")
@click.option(
    "--set", "pairs", multiple=True, metavar="NAME=VALUE", help="What was chosen so far, for options that depend on it."
)
@steering
def settings(session: Session, connection: str, *, pairs: tuple[str, ...]) -> None:
    """What a sync of CONNECTION has to be told: a JSON Schema, with options that the source is asked for."""
    desk = session.desk()
    schema = desk.settings(find_connection(desk, connection).id, named_values(pairs))
    required = schema.get("required", [])
    rows = [
        (name, "required" if name in required else "", cell(part.get("title", "")), cell(_options(part)))
        for name, part in schema.get("properties", {}).items()
    ]
    session.answer(schema, table(("setting", "", "title", "options"), rows))


def _options(part: "Mapping[str, Any]") -> str:
    inner = part.get("items") if isinstance(part.get("items"), dict) else part
    listed = [o for o in (inner or {}).get("anyOf", part.get("anyOf", [])) if isinstance(o, dict) and "const" in o]
    return ", ".join(str(o["const"]) for o in listed) or ", ".join(map(str, part.get("enum", ())))


@connections.command()
@click.argument("connector")
@click.option("--label", default="", help="What people call it; the connector's name by default.")
@click.option("--connection", metavar="CONNECTION", help="Authorise this one anew.")
@click.option(
    "--redirect-uri",
    metavar="URL",
    help="Where to send the person afterwards; by default back to this command, which waits.",
)
@click.option("--no-browser", is_flag=True, help="Print the address only.")
@steering
def authorize(
    session: Session, connector: str, *, label: str, connection: str | None, redirect_uri: str | None, no_browser: bool
) -> int:
    """Have a person connect an account of CONNECTOR: on its vendor's consent page, or on a page with its settings.

    The page is of the server at --url, else of the one at $ELT_DAGSTER_BASE_URL over this store, which has to run.
    """
    desk = session.desk()
    known = find_connection(desk, connection).id if connection else None
    if redirect_uri is not None:
        bridge = desk.authorize(
            connector, label=label or connector, redirect_uri=redirect_uri, connection_id=known, state=None
        )
        return _told(session, bridge, no_browser, None)
    from elt_dagster.cli.landing import Landing

    with Landing() as landing:
        bridge = desk.authorize(
            connector, label=label or connector, redirect_uri=landing.address, connection_id=known, state=landing.state
        )
        session.say(f"Open {bridge[1]}")
        return _told(
            session, bridge, no_browser, landing.wait(bridge[1], browser=not no_browser, patience=PATIENCE_SECONDS)
        )


@connections.command()
@steering
def bridges(session: Session) -> None:
    """The links of `authorize` that nobody has used yet, newest first; their addresses were shown once."""
    rows = session.desk().bridges()
    shown = [
        (r.connector, cell(r.label), cell(r.redirect_uri), r.connection_id or "", r.id, clock(r.expires_at))
        for r in rows
    ]
    columns = ("connector", "label", "leads back to", "connection", "id", "until")
    session.answer([plain(r) for r in rows], table(columns, shown))


def _told(session: Session, bridge: tuple[str, str, Any], no_browser: bool, came: "Mapping[str, str] | None") -> int:
    from elt_dagster.errors import AuthError

    bridge_id, address, expires_at = bridge
    if came is None:
        if not no_browser and not session.as_json:
            click.launch(address)
        session.answer({"id": bridge_id, "authorize_url": address, "expires_at": expires_at}, address)
        return 0
    if "connection_id" not in came:
        raise AuthError(
            f"The connection was not made: {cell(came.get('error_description') or came.get('error') or 'refused')}."
        )
    connection_id = came["connection_id"]
    session.answer({"id": bridge_id, "connection_id": connection_id}, f"Connection {connection_id}.")
    return 0
