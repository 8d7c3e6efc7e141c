"""The two open configs of the Syncs dialect. What we know of them is spread over the words of `SyncSpec`; the rest is kept in the envelope, with
whatever was said of what we know, so that an answer repeats what was sent.

``data`` is a sync as plain data that leaves out what is as usual, as `Syncs.update` hands it out.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from elt_dagster.errors import ConfigError
from elt_dagster.model import BackendSettings, ExecutionBackend, ExecutionMode, Slicing, SyncSpec
from elt_dagster.model.secret import is_reference
from elt_dagster.model.sync import Execution

EXECUTION, DESTINATION = "execution_config", "destination_config"
"""Where the envelope keeps them."""
_SECRET = re.compile(r"(?i)(passw(or)?d|passphrase|secret|token|api_?key|private_?key|credential)s?$")


@dataclass(frozen=True, slots=True)
class _Part:
    """Words of a config that are one part of a sync, by how they are written."""

    field: str
    kind: type[BaseModel]
    names: Mapping[str, str]

    def applies(self, data: Mapping[str, Any]) -> bool:
        """Whether a sync of this kind has the part at all; else its words are kept for the day it has."""
        if self.field == "slicing":
            return data.get("execution_mode") == ExecutionMode.FAN_OUT_WINDOW
        if self.field == "backend":
            return data.get("execution_backend") in (ExecutionBackend.PREFECT, ExecutionBackend.TEMPORAL)
        return True

    def usual(self, name: str) -> Any:
        """What the part has where nothing is said."""
        return self.kind.model_fields[name].get_default(call_default_factory=True)


def _camel(kind: type[BaseModel]) -> dict[str, str]:
    return {to_camel(name): name for name in kind.model_fields}


SLICING = {
    "window": "window",
    "from": "start",
    "to": "end",
    "timezone": "timezone",
    "includeCurrent": "include_current",
}
PARTS = (
    _Part("execution", Execution, _camel(Execution)),
    _Part("slicing", Slicing, SLICING),
    _Part("backend", BackendSettings, _camel(BackendSettings)),
)
_IN_DESTINATION = {"schemaDrift": "schema_drift", "addMetadataColumns": "add_metadata_columns"}


# --- executionConfig ---------------------------------------------------------------------------------------------------------


def shown_execution(data: Mapping[str, Any], envelope: Mapping[str, Any]) -> dict[str, Any]:
    """``executionConfig`` of a sync: what was sent, as it is now, and what is not as usual."""
    whole: dict[str, Any] = dict(envelope.get(EXECUTION) or {})
    for part in PARTS:
        current: Mapping[str, Any] = data.get(part.field) or {}
        applies = part.applies(data)
        for written, name in part.names.items():
            if name in current:
                whole[written] = current[name]
            elif applies and written in whole:
                whole[written] = part.usual(name)
    return {name: value for name, value in whole.items() if value is not None}


def write_execution(data: dict[str, Any], envelope: dict[str, Any], whole: Mapping[str, Any]) -> None:
    """Make it ``whole``. Raises ConfigError for a secret among what we do not know."""
    kept = {name: value for name, value in whole.items() if value is not None}
    ours: set[str] = set()
    for part in PARTS:
        data.pop(part.field, None)
        if part.applies(data):
            ours |= part.names.keys()
            found = {name: kept[written] for written, name in part.names.items() if written in kept}
            if found or part.field == "slicing":
                data[part.field] = found
    refuse_secrets({k: v for k, v in kept.items() if k not in ours}, "executionConfig")
    _keep(envelope, EXECUTION, kept)


# --- destinationConfig -------------------------------------------------------------------------------------------------------


def shown_destination(data: Mapping[str, Any], envelope: Mapping[str, Any], connection_id: str) -> dict[str, Any]:
    """``destinationConfig`` of a sync."""
    whole: dict[str, Any] = {
        "connectionId": connection_id,
        "schema": data["schema"],
        **(envelope.get(DESTINATION) or {}),
    }
    for written, name in _IN_DESTINATION.items():
        if name in data:
            whole[written] = data[name]
        elif written in whole:
            whole[written] = SyncSpec.model_fields[name].default
    return whole


def write_destination(
    data: dict[str, Any], envelope: dict[str, Any], sent: Mapping[str, Any], name: str | None
) -> None:
    """Change what ``sent`` names; ``name`` is the connection that its ``connectionId`` means. Raises ConfigError for a secret."""
    if name is not None:
        data["destination"] = name
    if sent.get("schema") is not None:
        data["schema"] = sent["schema"]
    for written, field in _IN_DESTINATION.items():
        if written in sent:
            _set(data, field, sent[written])
    rest = {k: v for k, v in sent.items() if k not in ("connectionId", "schema")}
    refuse_secrets({k: v for k, v in rest.items() if k not in _IN_DESTINATION}, "destinationConfig")
    _keep(envelope, DESTINATION, merged(envelope.get(DESTINATION) or {}, rest))


# --- both --------------------------------------------------------------------------------------------------------------------


def merged(before: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, Any]:
    """``before`` with what ``sent`` names; null takes away."""
    return {name: value for name, value in {**before, **sent}.items() if value is not None}


def refuse_secrets(config: Any, *path: str | int) -> None:
    """Raise ConfigError for anything in ``config`` that is called like a secret and is no reference: it would be shown to everybody."""
    for where in _secrets(config, path):
        error = ConfigError(
            f"{where[-1]!r} looks like a secret.", fix="Secrets belong to the connection, where they are kept sealed."
        )
        error.details = [(where, str(error))]
        raise error


def _secrets(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, Mapping) and not is_reference(value):
        for key, below in value.items():
            if isinstance(below, str) and _SECRET.search(str(key)):
                yield (*path, str(key))
            yield from _secrets(below, (*path, str(key)))
    elif isinstance(value, list):
        for i, below in enumerate(value):
            yield from _secrets(below, (*path, i))


def _set(data: dict[str, Any], name: str, value: Any) -> None:
    if value is None:
        data.pop(name, None)
    else:
        data[name] = value


def _keep(envelope: dict[str, Any], key: str, kept: Mapping[str, Any]) -> None:
    if kept:
        envelope[key] = dict(kept)
    else:
        envelope.pop(key, None)
