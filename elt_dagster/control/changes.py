"""What an apply would do, or did: one `Change` per connection and sync, with the fields that differ. Secrets never get in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from elt_dagster.model import ConnectionSpec, Stream, SyncSpec
from elt_dagster.model.secret import MASK, is_reference


class Action(StrEnum):
    """What happens to one object."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field; None stands for "not there". A secret shows as a mask on both sides."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What happens to one object; ``kind`` is connection or sync, ``name`` its name or slug."""

    action: Action
    kind: str
    name: str
    fields: tuple[FieldChange, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data with stable keys."""
        fields = [{"field": f.field, "before": f.before, "after": f.after} for f in self.fields]
        return {"action": self.action.value, "kind": self.kind, "name": self.name, "fields": fields}


@dataclass(frozen=True, slots=True)
class Changes:
    """Every object of a project, connections first, in the file's order; deletions last."""

    items: tuple[Change, ...] = ()

    def __iter__(self) -> Iterator[Change]:
        return iter(self.items)

    def __bool__(self) -> bool:
        return any(c.action is not Action.UNCHANGED for c in self.items)

    def count(self, action: Action) -> int:
        """How many objects see ``action``."""
        return sum(c.action is action for c in self.items)

    @property
    def summary(self) -> str:
        """``2 created, 1 updated, 0 deleted, 7 unchanged``."""
        words = {"created": Action.CREATE, "updated": Action.UPDATE, "deleted": Action.DELETE}
        counted = [f"{self.count(action)} {word}" for word, action in words.items()]
        return ", ".join([*counted, f"{self.count(Action.UNCHANGED)} unchanged"])

    def to_json(self) -> dict[str, Any]:
        """Plain data with stable keys."""
        return {"changes": [c.to_json() for c in self.items], **{a.value: self.count(a) for a in Action}}


@dataclass(frozen=True, slots=True)
class Hidden:
    """A secret in a comparison: equal when the secrets are, and never shown."""

    value: Any = field(repr=False)


def connection_fields(spec: ConnectionSpec, config: Mapping[str, Any], secret_fields: frozenset[str]) -> dict[str, Any]:
    """A connection as flat fields; ``config`` has its secrets opened, and they come out `Hidden`."""
    return {"connector": spec.connector, **_flat(_hide(config, secret_fields), "config")}


def sync_fields(spec: SyncSpec) -> dict[str, Any]:
    """A sync as flat fields, streams by name; what equals its default is left out."""
    data = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    streams = data.pop("streams", [])
    del data["slug"]  # the object's own name
    fields = _flat(data)
    for binding, stream in zip(spec.streams, streams, strict=True):
        del stream["name"]
        fields |= _flat({"table": binding.table_name, **stream}, f"streams[{binding.name}]")
    return fields


def stream_fields(streams: Mapping[str, Stream]) -> dict[str, Any]:
    """What the source said of each stream as flat fields, columns by name; nothing for one that was never discovered."""
    fields: dict[str, Any] = {}
    for name, stream in streams.items():
        if stream == Stream(name=name):
            continue
        data = stream.to_json()
        columns = {c["name"]: c["type"] for c in data.pop("schema") or ()}
        known = {k: v for k, v in data.items() if k in ("primary_key", "cursor_field") and v}
        fields |= _flat({**known, "columns": columns}, f"source[{name}]")
    return fields


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[FieldChange, ...]:
    """The fields that differ, in the order of ``after``, then those that are gone."""
    names = [*after, *(name for name in before if name not in after)]
    return tuple(
        FieldChange(name, _shown(before.get(name)), _shown(after.get(name)))
        for name in names
        if before.get(name) != after.get(name)
    )


def _shown(value: Any) -> Any:
    return MASK if isinstance(value, Hidden) else value


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, Mapping) or not data or (is_reference(data) and prefix):
        return {prefix: dict(data) if isinstance(data, Mapping) else data} if data not in ({}, None) else {}
    fields: dict[str, Any] = {}
    for key, value in data.items():
        fields |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return fields


def _hide(config: Any, secret_fields: frozenset[str], path: str = "", secret: bool = False) -> Any:
    if is_reference(config):
        return config
    if isinstance(config, Mapping):
        return {k: _hide(v, secret_fields, p, secret or p in secret_fields)
                for k, v in config.items() for p in [f"{path}.{k}" if path else str(k)]}  # fmt: skip
    if isinstance(config, list):
        # a list that holds a secret somewhere is hidden as a whole: positions would tell little
        inner = [_hide(v, secret_fields, path, secret) for v in config]
        return Hidden(config) if inner != config else config
    return Hidden(config) if secret and config is not None else config
