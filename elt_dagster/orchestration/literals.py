"""Literal secrets in a configuration that will lie in git. Found from the JSON Schema of the connector's settings."""

from collections.abc import Iterator, Mapping
from typing import Any

from elt_dagster.errors import ConfigError
from elt_dagster.model import ConnectionSpec
from elt_dagster.model.secret import is_reference
from elt_dagster.registry import destination_names, load_connector, load_destination


def refuse_literal_secrets(connection: ConnectionSpec) -> None:
    """Raise ConfigError when a secret of ``connection`` stands in the file itself. Also NotFoundError for an unknown connector."""
    kind: Any = (
        load_destination(connection.connector)
        if connection.connector in destination_names()
        else load_connector(connection.connector)
    )
    for path in secret_literals(connection.config, kind.config_type.model_json_schema()):
        field = path.rpartition(".")[2]
        variable = f"{connection.name}_{field}".upper().replace("-", "_")
        raise ConfigError(
            f"Connection {connection.name!r}: {path} is a secret and stands in the file.",
            fix=f"Write `{field}: {{env: {variable}}}` (or `{{file: PATH}}`) and set {variable} where the run executes.",
        )


def secret_literals(config: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    """Paths of values in ``config`` that ``schema`` calls secret and that are not references, such as ``auth.token``."""
    return _walk(config, [schema], schema.get("$defs", {}), "")


def _walk(value: Any, schemas: list[Any], definitions: Mapping[str, Any], path: str) -> Iterator[str]:
    known = [s for schema in schemas for s in _alternatives(schema, definitions)]
    if value is None or is_reference(value):
        return
    if any(s.get("writeOnly") or s.get("format") == "password" for s in known):
        yield path
    elif isinstance(value, Mapping):
        for key, below in value.items():
            inner = [s.get("properties", {}).get(key) or s.get("additionalProperties") for s in known]
            yield from _walk(below, inner, definitions, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _walk(below, [s.get("items") for s in known], definitions, f"{path}[{index}]")


def _alternatives(schema: Any, definitions: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """``schema`` and every alternative it names: one that calls a value secret is enough."""
    if not isinstance(schema, Mapping):
        return
    yield schema
    if "$ref" in schema:
        yield from _alternatives(definitions.get(str(schema["$ref"]).rpartition("/")[2]), definitions)
    for word in ("anyOf", "oneOf", "allOf"):
        for alternative in schema.get(word, ()):
            yield from _alternatives(alternative, definitions)
