"""What the store hands out, and how rows become that.

A sync whose row no longer makes sense (written by another version, or damaged) is a `BrokenSync` beside the good ones: one broken
sync is one broken asset, and never a code location that does not load.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy.engine import Row

from elt_dagster.errors import ConfigError, EltError
from elt_dagster.model import ConnectionSpec, Stream, SyncSpec, TableBinding
from elt_dagster.store.config import hide_tokens, mask_sealed

LISTED_SYNCS, LISTED_STREAMS = 2048, 50
"""How many syncs a process remembers for lists, each of at most so many streams: some tens of megabytes."""
_seen: dict[bytes, tuple[SyncSpec, dict[str, Stream]]] = {}


@dataclass(frozen=True, slots=True)
class Workspace:
    """What an API key belongs to; nothing in one workspace sees another. ``revision`` moves with every change in it."""

    id: str
    name: str
    revision: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoredConnection:
    """A connection with its literal secrets still sealed: `Store.open_config` opens them, `Store.masked_config` hides them.

    ``error`` says why a damaged row cannot be used; its spec then has an empty config.
    """

    id: str
    spec: ConnectionSpec
    created_at: datetime
    updated_at: datetime
    revision: int
    error: str | None = None
    label: str = ""
    """What people call it; never empty."""


def masked(connection: StoredConnection) -> StoredConnection:
    """``connection`` with a mask in the place of every secret: for showing it, and for nothing else."""
    spec = connection.spec.model_copy(update={"config": mask_sealed(connection.spec.config)})
    return replace(connection, spec=spec)


@dataclass(frozen=True, slots=True)
class StoredSync:
    """A configured sync. ``streams`` and ``binding_ids`` have one entry per binding of ``spec``, by stream name.

    ``revision`` is the workspace's revision that its last change made. ``error`` is always None: see `BrokenSync`.
    """

    id: str
    spec: SyncSpec
    streams: dict[str, Stream] = field(repr=False)
    """Each stream as the source described it when the sync was written."""
    binding_ids: dict[str, str]
    created_at: datetime
    updated_at: datetime
    revision: int
    error: None = None
    connection_id: str = ""
    destination_id: str = ""
    created_by: str = ""
    """The id of an API key or a name; empty for what a file says."""
    updated_by: str = ""
    envelope: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """What the REST dialects keep of it that is no word of the model."""
    binding_times: Mapping[str, tuple[datetime, datetime]] = field(
        default_factory=dict[str, tuple[datetime, datetime]], repr=False
    )
    """When each binding was made and last changed, by stream name."""

    @property
    def slug(self) -> str:
        """The sync's short name, as in `BrokenSync`."""
        return self.spec.slug


@dataclass(frozen=True, slots=True)
class BrokenSync:
    """A sync whose stored row cannot be understood; ``error`` says what is wrong with it. Writing or deleting it still works."""

    id: str
    slug: str
    error: str
    created_at: datetime
    updated_at: datetime
    revision: int
    title: str = ""
    connection_id: str = ""


AnySync = StoredSync | BrokenSync
"""What a listing holds; tell them apart with ``isinstance`` or by ``error``."""


def whole(sync: AnySync) -> StoredSync:
    """``sync``. Raises ConfigError, with what is wrong, where its row could not be understood."""
    if isinstance(sync, BrokenSync):
        raise ConfigError(sync.error)
    return sync


def connection_from_row(row: Row[Any]) -> StoredConnection:
    """The connection in a row of ``elt_connections``."""
    config: dict[str, Any] = {}
    try:
        config = hide_tokens(_mapping(row.config))
        spec, error = ConnectionSpec(name=row.name, connector=row.connector, config=config), None
    except (ValueError, TypeError) as problem:
        spec = ConnectionSpec.model_construct(name=row.name, connector=row.connector, config={})
        error = f"The stored connection {row.name!r} cannot be read: {_reason(problem)}. Write it again."
    label = row.label or row.name
    return StoredConnection(row.id, spec, row.created_at, row.updated_at, row.revision, error, label)


def sync_from_rows(row: Any, bindings: Iterable[Any], *, columns: bool = True) -> AnySync:
    """The sync in a row of ``elt_syncs`` and its rows of ``elt_bindings``, in order; without ``columns`` its streams have no schema, for lists,
    where the schemas would take most of the time."""
    try:
        rows = list(bindings)
        spec, streams = _parsed(row, rows) if columns else _listed(row, rows)
        ids = {b.stream: b.id for b in rows}
        whole = _whole(row)
        if spec.slug != row.slug or [b.name for b in spec.streams] != list(ids):
            raise ConfigError("its names contradict each other")
    except (ValueError, TypeError, KeyError, AttributeError, EltError) as problem:
        error = f"The stored sync {row.slug!r} cannot be read: {_reason(problem)}. Write it again."
        places = {
            "title": getattr(row, "title", None) or "",
            "connection_id": getattr(row, "connection_id", None) or "",
        }
        return BrokenSync(row.id, row.slug, error, row.created_at, row.updated_at, row.revision, **places)
    return StoredSync(
        row.id,
        spec,
        streams,
        ids,
        row.created_at,
        row.updated_at,
        row.revision,
        **whole,
        binding_times=_times(row, rows),
    )


def _parsed(row: Any, bindings: Sequence[Any], *, columns: bool = True) -> tuple[SyncSpec, dict[str, Stream]]:
    spec = SyncSpec.model_validate({**_mapping(row.spec), "streams": [json.loads(b.spec) for b in bindings]})
    without = {} if columns else {"schema": None}
    return spec, {b.stream: Stream.from_json({**_mapping(b.discovered), **without}) for b in bindings}


def _listed(row: Any, bindings: Sequence[Any]) -> tuple[SyncSpec, dict[str, Stream]]:
    """The same without columns. Lists show the same syncs again and again, so that what their text said is remembered; another text is
    another sync, whoever wrote it."""
    if len(bindings) > LISTED_STREAMS:
        return _parsed(row, bindings, columns=False)
    text = "\0".join([row.spec, *(part for b in bindings for part in (b.stream, b.spec, b.discovered))])
    key = hashlib.sha256(text.encode()).digest()
    known = _seen.get(key)
    if known is None:
        known = _parsed(row, bindings, columns=False)
        if len(_seen) >= LISTED_SYNCS:
            _seen.clear()
        _seen[key] = known
    return known[0], dict(known[1])


def _whole(row: Any) -> dict[str, Any]:
    """What only the current version of a sync has."""
    if not hasattr(row, "envelope"):
        return {}
    people = {"created_by": row.created_by or "", "updated_by": row.updated_by or ""}
    places = {"connection_id": row.connection_id, "destination_id": row.destination_id}
    return {**people, **places, "envelope": _mapping(row.envelope) if row.envelope else {}}


def _times(row: Any, bindings: Iterable[Any]) -> dict[str, tuple[datetime, datetime]]:
    made = {b.stream: (getattr(b, "created_at", None), getattr(b, "updated_at", None)) for b in bindings}
    return {name: (first or row.created_at, last or row.updated_at) for name, (first, last) in made.items()}


def config_text(spec: ConnectionSpec) -> dict[str, Any]:
    """The configuration as plain JSON data. Raises ConfigError when it holds what JSON cannot."""
    config: dict[str, Any] = _plain(spec, f"connection {spec.name!r}")["config"]
    return config


def sync_text(spec: SyncSpec) -> str:
    """The sync without its streams, as kept."""
    data = _plain(spec, f"sync {spec.slug!r}")
    del data["streams"]
    return json.dumps(data)


def binding_text(binding: TableBinding) -> str:
    """The binding, as kept."""
    return json.dumps(_plain(binding, f"stream {binding.name!r}"))


def same_json(stored: str, new: str) -> bool:
    """Whether two JSON texts say the same; the order of keys does not count, the types of values do."""
    try:
        return stored == new or json.dumps(json.loads(stored), sort_keys=True) == json.dumps(
            json.loads(new), sort_keys=True
        )
    except ValueError:
        return False


def _plain(part: ConnectionSpec | SyncSpec | TableBinding, what: str) -> dict[str, Any]:
    try:
        return part.model_dump(mode="json", by_alias=True)
    except ValueError:
        # the message of pydantic would show the value
        raise ConfigError(
            f"The settings of {what} hold a value that JSON cannot.", fix="Use text, numbers, lists, maps."
        ) from None


def _mapping(text: str) -> dict[str, Any]:
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    return data


def _reason(problem: Exception) -> str:
    if isinstance(problem, ValidationError):
        found = problem.errors(include_input=False, include_url=False, include_context=False)
        return "; ".join(f"{'.'.join(str(p) for p in e['loc']) or 'it'}: {e['msg']}" for e in found[:3])
    if isinstance(problem, json.JSONDecodeError):
        return f"it is not JSON ({problem.msg}, character {problem.pos})"
    return str(problem) if isinstance(problem, EltError | ValueError) else f"{type(problem).__name__} in its JSON"
