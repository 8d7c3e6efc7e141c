"""Write the generated pages of docs/: one per connector and warehouse, from their own definitions. `make docs`."""

import sys
from collections.abc import Iterator
from inspect import getdoc
from pathlib import Path
from typing import Any

import yaml

from elt_dagster.cli.reference import reference
from elt_dagster.registry import connector_names, destination_names, load_connector, load_destination
from scripts import capabilities

ROOT = Path(__file__).parent.parent
Schema = dict[str, Any]


def pages() -> Iterator[tuple[Path, str]]:
    """Every generated page: its path and what it should say."""
    for name in connector_names():
        connector = load_connector(name)
        own = connector.settings_type.model_json_schema() if connector.settings_type is not None else {}
        yield ROOT / "docs/connectors" / f"{name}.md", _page(connector, connector.spec(), connector.aliases, own)
    for name in destination_names():
        destination = load_destination(name)
        yield (
            ROOT / "docs/warehouses" / f"{name}.md",
            _page(destination, destination.config_type.model_json_schema(), ()),
        )
    yield ROOT / "docs/warehouses/index.md", capabilities.page()
    yield ROOT / "docs/sync.md", _sync_page()
    yield ROOT / "docs/cli.md", reference()


def main() -> int:
    """Write every page; print the ones that changed."""
    for path, text in pages():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    return 0


def _page(kind: Any, schema: Schema, aliases: tuple[str, ...], of_sync: Schema | None = None) -> str:
    module_doc = getdoc(sys.modules[kind.__module__]) or ""
    _, _, odd = module_doc.partition("\n\n")
    lines = [f"# {kind.title}", "", getdoc(kind) or "", ""]
    lines += [
        f"Name: `{kind.name}`"
        + "".join(f", also `{a}`" for a in aliases)
        + f". Vendor's documentation: <{kind.docs_url}>."
    ]
    if kind.requires:
        lines += [f"Install with `pip install 'elt-dagster[{kind.name}]'`."]
    lines += [
        "",
        "## Settings",
        "",
        *_tables(schema),
        "## Example",
        "",
        "```yaml",
        *_example(kind.name, schema),
        "```",
        "",
    ]
    if of_sync:
        lines += ["## Settings of a sync", "", "These go below `settings` of a sync.", "", *_tables(of_sync)]
    if odd:
        lines += ["## Good to know", "", odd, ""]
    return "\n".join(lines)


def _sync_page() -> str:
    from elt_dagster.model import Project

    schema = Project.model_json_schema(by_alias=True)
    lines = [
        "# The YAML of connections and syncs",
        "",
        "What `elt-dagster apply` reads and `elt_dagster.SyncComponent` takes.",
        "",
    ]
    return "\n".join([*lines, *_tables(schema)])


def _tables(schema: Schema, title: str | None = None) -> list[str]:
    lines: list[str] = []
    if schema.get("properties"):
        if title:
            text = (schema.get("description") or "").partition("\n\n")[0].replace("\n", " ")
            lines += [f"### {title}", "", text, ""]
        lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
        required = set(schema.get("required", ()))
        lines += [_row(name, definition, name in required) for name, definition in schema["properties"].items()] + [""]
    for name, part in sorted(schema.get("$defs", {}).items()):
        lines += _tables(part, name) if part.get("properties") else _enum(name, part)
    return lines


def _enum(name: str, part: Schema) -> list[str]:
    values = ", ".join(f"`{v}`" for v in part.get("enum", ()))
    text = (part.get("description") or "").partition("\n\n")[0].replace("\n", " ")
    return [f"### {name}", "", f"{text} One of: {values}.", ""] if values else []


def _row(name: str, definition: Schema, required: bool) -> str:
    default = "**required**" if required else _shown(definition.get("default"))
    meaning = definition.get("description", "").replace("\n", " ").replace("|", "\\|")
    secret = " *Secret.*" if "writeOnly" in str(definition) else ""
    return f"| `{name}` | {_type(definition)} | {default} | {meaning}{secret} |"


def _type(definition: Schema) -> str:
    if "$ref" in definition:
        return str(definition["$ref"].rpartition("/")[2])
    if "const" in definition:
        return f"`{definition['const']}`"
    if "enum" in definition:
        return " \\| ".join(f"`{v}`" for v in definition["enum"])
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in definition:
            return " \\| ".join(dict.fromkeys(_type(d) for d in definition[choice] if d.get("type") != "null"))
    if definition.get("type") == "array":
        return f"list of {_type(definition.get('items') or {})}"
    return str(definition.get("type", "any"))


def _shown(value: Any) -> str:
    return "" if value is None or value in ([], {}, "") else f"`{value}`"


def _example(name: str, schema: Schema) -> list[str]:
    required = {field: _sample(schema["properties"][field], field) for field in schema.get("required", ())}
    text = yaml.safe_dump(
        {"connections": [{"name": f"my-{name.replace('_', '-')}", "connector": name, "config": required}]},
        sort_keys=False,
    )
    return text.rstrip().splitlines()


def _sample(definition: Schema, field: str) -> Any:
    if "writeOnly" in str(definition):
        return {"env": field.upper()}
    if definition.get("examples"):
        return definition["examples"][0]
    return {"integer": 1, "boolean": True, "array": [], "object": {}}.get(str(definition.get("type")), f"<{field}>")


if __name__ == "__main__":
    sys.exit(main())
