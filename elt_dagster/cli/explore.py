"""``connectors``, ``check``, ``discover``, ``preview``: what can be read, and whether it can be reached. Nothing is written."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from elt_dagster.cli.session import Session, command, steering
from elt_dagster.cli.show import cell, table

if TYPE_CHECKING:
    from elt_dagster.control.validate import Kinds
    from elt_dagster.model import Catalog, Stream


@click.command()
@click.argument("name", required=False)
@steering
def connectors(session: Session, name: str | None) -> None:
    """List connectors and warehouses, or show the settings of one, with an example. A server tells of its own: of a source also its streams."""
    if session.url and name is not None:
        _answer_catalog(session, session.client.syncs.catalog(name))
        return
    if name is None:
        rows = _listed_there(session) if session.url else list(_listed())
        shown = [(r["name"], r["title"], ", ".join(r["roles"]), r["note"] or r["description"]) for r in rows]
        session.answer(rows, table(("name", "title", "is a", "description"), shown))
        return
    from elt_dagster.control.validate import find_kinds

    described = [_described(kind, role) for role, kind in _roles(find_kinds(name))]
    session.answer(described if len(described) > 1 else described[0], *(p for d in described for p in _page(d)))


def _listed_there(session: Session) -> list[dict[str, Any]]:
    roles = {"EltSource": "source", "EltDestination": "warehouse"}
    return [
        {"name": i.id, "title": i.name, "roles": [roles.get(a, a) for a in i.abilities], "description": "", "note": ""}
        for i in session.client.integrations()
    ]


def _answer_catalog(session: Session, catalog: dict[str, Any]) -> None:
    settings = catalog["configSchema"].get("properties", {})
    resources = [
        (r["entityKey"], r["loadMode"], r["cursorField"] or "", cell(r["description"])) for r in catalog["resources"]
    ]
    parts: list[Any] = [f"{catalog['displayName']} ({catalog['provider']})"]
    if settings:
        rows = [(cell(name), cell(told.get("description", ""))) for name, told in settings.items()]
        parts.append(table(("setting", "description"), rows, title="Settings of a sync"))
    parts.append(
        table(("stream", "load mode", "cursor", "description"), resources)
        if resources
        else "Its streams are those of the account: elt-dagster streams available --connection."
    )
    session.answer(catalog, *parts)


def _listed() -> Iterator[dict[str, Any]]:
    from elt_dagster.control.validate import find_kinds
    from elt_dagster.errors import EltError
    from elt_dagster.registry import connector_names, destination_names, require_driver

    for name in sorted({*connector_names(), *destination_names()}):
        row: dict[str, Any] = {"name": name, "title": name, "roles": [], "description": "", "note": ""}
        try:
            for role, kind in _roles(find_kinds(name)):
                row |= {"title": kind.title, "description": row["description"] or _description(kind)}
                row["roles"].append(role)
                require_driver(kind)
        except EltError as error:
            row["note"] = str(error)
        except ImportError as error:
            row["note"] = f"It cannot be imported: {error.name or type(error).__name__} is missing."
        yield row


def _roles(kinds: "Kinds") -> list[tuple[str, Any]]:
    return [(role, kind) for role, kind in (("source", kinds.source), ("warehouse", kinds.warehouse)) if kind]


def _description(kind: Any) -> str:
    import inspect

    return " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())


def _described(kind: Any, role: str) -> dict[str, Any]:
    from elt_dagster.control.secrets import setting_rows

    settings_type = getattr(kind, "settings_type", None)
    return {
        "name": kind.name,
        "title": kind.title,
        "role": role,
        "description": _description(kind),
        "docs_url": kind.docs_url,
        "settings": setting_rows(kind.config_type),
        "sync_settings": setting_rows(settings_type) if settings_type is not None else [],
        "streams": [endpoint.name for endpoint in getattr(kind, "endpoints", ())],
        "example": _example(kind),
    }


def _page(described: dict[str, Any]) -> Iterator[Any]:
    yield f"{described['title']} ({described['name']}, a {described['role']})\n{described['description']}\n{described['docs_url']}\n"
    for title, key in (("Settings of the connection", "settings"), ("Settings of a sync", "sync_settings")):
        if described[key]:
            rows = [_setting(row) for row in described[key]]
            yield table(("setting", "type", "", "description"), rows, title=title)
    if described["streams"]:
        yield f"Streams: {', '.join(described['streams'])}\n"
    yield f"Example:\n{described['example']}"


def _setting(row: dict[str, Any]) -> tuple[str, str, str, str]:
    marks = ["required" if row["required"] else "", "secret" if row["secret"] else ""]
    default = "" if row["default"] in (None, [], {}, "") else f" Default: {row['default']}."
    return row["name"], row["type"], " ".join(filter(None, marks)), f"{row['description']}{default}"


def _example(kind: Any) -> str:
    import yaml

    from elt_dagster.control.secrets import setting_rows

    needed = [
        row for row in setting_rows(kind.config_type) if row["required"] or (row["secret"] and row["type"] == "text")
    ]
    config = {row["name"]: _sample(kind.name, row) for row in needed}
    text = {"connections": [{"name": f"my-{kind.name.replace('_', '-')}", "connector": kind.name, "config": config}]}
    return yaml.safe_dump(text, sort_keys=False)


def _sample(connector: str, row: dict[str, Any]) -> Any:
    if row["secret"] and row["type"] == "text":
        return {"env": f"{connector}_{row['name']}".upper()}
    if row["examples"]:
        return row["examples"][0]
    samples = {"whole number": 1, "number": 1.0, "true | false": True, "mapping": {}}
    kind = row["type"]
    return samples.get(kind, [] if kind.startswith("list") else kind.partition(" | ")[0] if "|" in kind else "...")


@click.command()
@click.argument("connection")
@command
def check(session: Session, connection: str) -> int:
    """Try a connection's credentials with one cheap call. Exits with 1 when it is refused."""
    result = session.workspace.check(connection)
    mark = "ok" if result.ok else "refused"
    session.answer({"connection": connection, "ok": result.ok, "message": result.message}, f"{mark}: {result.message}")
    return 0 if result.ok else 1


@click.command()
@click.argument("connection")
@click.option("--stream", metavar="NAME", help="Show this stream's columns.")
@click.option("--sync", "slug", metavar="SYNC", help="With the settings of this sync.")
@click.option("--settings", metavar="JSON", help="With these sync settings.")
@command
def discover(session: Session, connection: str, stream: str | None, slug: str | None, settings: str | None) -> None:
    """List what a source offers: streams with key and cursor, or the columns of one."""
    chosen = _settings(settings)
    if slug is not None:
        chosen = {**session.workspace.configured(slug).spec.settings, **chosen}
    catalog = session.workspace.discover(connection, chosen)
    if stream is not None:
        found = catalog[stream]
        session.answer(found.to_json(), *_stream_page(found))
        return
    session.answer([s.to_json() for s in catalog], _catalog_table(catalog))


def _settings(text: str | None) -> dict[str, Any]:
    from elt_dagster.errors import ConfigError

    try:
        data = json.loads(text or "{}")
    except ValueError as error:
        raise ConfigError(f"--settings is not JSON: {error}.", fix="""Write it as '{"key": "value"}'.""") from None
    if not isinstance(data, dict):
        raise ConfigError("--settings is not a JSON object.", fix="""Write it as '{"key": "value"}'.""")
    return data


def _catalog_table(catalog: "Catalog") -> Any:
    rows = [
        (
            cell(s.name),
            len(s.schema) if s.schema is not None else "?",
            ", ".join(s.primary_key),
            s.cursor_field or ", ".join(s.cursor_fields),
            cell(s.description),
        )
        for s in catalog
    ]
    return table(("stream", "columns", "primary key", "cursor", "description"), rows, right=("columns",))


def _stream_page(stream: "Stream") -> Iterator[Any]:
    from elt_dagster.model.types import canonical, description_of, type_name

    yield f"{stream.name}{f': {stream.description}' if stream.description else ''}"
    if stream.schema is None:
        yield "Its columns are known once it has been read."
        return
    cursors = {stream.cursor_field, *stream.cursor_fields}
    rows = [
        (
            cell(f.name),
            type_name(canonical(f.type)),
            "" if f.nullable else "not null",
            "key" if f.name in stream.primary_key else "",
            "default cursor" if f.name == stream.cursor_field else "cursor" if f.name in cursors else "",
            cell(description_of(f)),
        )
        for f in stream.schema
    ]
    yield table(("column", "type", "", "key", "cursor", "description"), rows)


@click.command()
@click.argument("sync")
@click.argument("stream")
@click.option("--rows", type=click.IntRange(1, 10_000), default=10, show_default=True, help="How many rows to show.")
@command
def preview(session: Session, sync: str, stream: str, rows: int) -> None:
    """Show the first rows of a stream as they would be loaded: names, types, exclusions and hashes applied. Nothing is loaded."""
    from elt_dagster.model.types import canonical, type_name

    found = session.workspace.preview(sync, stream, rows)
    columns = [{"name": f.name, "type": type_name(canonical(f.type))} for f in found.schema]
    values = found.to_pylist()
    data = {"sync": sync, "stream": stream, "columns": columns, "rows": values}
    shown = [[cell(value) for value in row.values()] for row in values]
    session.answer(
        data, table(found.column_names, shown), f"{len(values)} row{'' if len(values) == 1 else 's'} of {stream}"
    )
