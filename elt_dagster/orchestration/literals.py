"""Literal secrets in a configuration that will lie in git."""

from collections.abc import Iterator, Mapping
from typing import Any

from elt_dagster.control.secrets import secret_fields
from elt_dagster.errors import ConfigError
from elt_dagster.model import ConnectionSpec
from elt_dagster.model.secret import is_reference
from elt_dagster.registry import destination_names, load_connector, load_destination


def refuse_literal_secrets(connection: ConnectionSpec) -> None:
    """Raise ConfigError when a secret of ``connection`` stands in the file itself. Also NotFoundError for an unknown connector."""
    is_warehouse = connection.connector in destination_names()
    kind: Any = load_destination(connection.connector) if is_warehouse else load_connector(connection.connector)
    for path in secret_literals(connection.config, secret_fields(kind.config_type)):
        field = path.rpartition(".")[2]
        variable = f"{connection.name}_{field}".upper().replace("-", "_")
        raise ConfigError(
            f"Connection {connection.name!r}: {path} is a secret and stands in the file.",
            fix=f"Write `{field}: {{env: {variable}}}` (or `{{file: PATH}}`) and set {variable} where the run executes.",
        )


def secret_literals(config: Any, secrets: frozenset[str], path: str = "", secret: bool = False) -> Iterator[str]:
    """Dotted paths of texts in ``config`` that are in or below one of the ``secrets`` and are not references."""
    secret = secret or path in secrets
    if is_reference(config):
        return
    if isinstance(config, Mapping):
        for key, below in config.items():
            yield from secret_literals(below, secrets, f"{path}.{key}".lstrip("."), secret)
    elif isinstance(config, list):
        for below in config:
            yield from secret_literals(below, secrets, path, secret)
    elif secret and isinstance(config, str) and config:
        yield path
