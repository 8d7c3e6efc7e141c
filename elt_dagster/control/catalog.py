"""What a connector offers as far as it can be told without asking the source: its settings, and the streams that every account has.

Sources whose streams are found by discovery (databases, files, APIs with objects of one's own) are dynamic: ask a sync of theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from elt_dagster.control.validate import find_kinds
from elt_dagster.engine import defaults
from elt_dagster.errors import EltError, NotFoundError
from elt_dagster.model import LoadMode, Stream, SyncMode, TableBinding
from elt_dagster.registry import connector_names, load_connector
from elt_dagster.sdk.connector import Connector
from elt_dagster.sdk.rest import RestConnector

NO_SETTINGS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A stream that every account has."""

    name: str
    description: str
    load_mode: LoadMode
    cursor_field: str | None
    depends_on: tuple[str, ...]
    selected: bool
    size_class: str
    sync_modes: tuple[SyncMode, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A connector that can be read from."""

    name: str
    title: str
    description: str
    aliases: tuple[str, ...]
    settings_schema: Mapping[str, Any] = field(repr=False)
    """JSON Schema of a sync's own settings."""
    connection_schema: Mapping[str, Any] = field(repr=False)
    """JSON Schema of the connection's."""
    setting_names: frozenset[str]
    """The settings that belong to a sync, and not to the connection."""
    settings: Mapping[str, Any] = field(repr=False)
    """The defaults of a sync's settings."""
    resources: tuple[Resource, ...]

    @property
    def is_dynamic(self) -> bool:
        """Whether only the source itself knows its streams."""
        return not self.resources

    @property
    def whole_schema(self) -> dict[str, Any]:
        """JSON Schema of the connection's settings and a sync's in one object."""
        own, more = self.connection_schema, self.settings_schema
        both = {**more.get("properties", {}), **own.get("properties", {})}
        needed = [*own.get("required", ()), *more.get("required", ())]
        whole = {**own, "properties": both, "required": list(dict.fromkeys(needed))}
        parts = {**more.get("$defs", {}), **own.get("$defs", {})}
        return {**whole, "$defs": parts} if parts else whole


def provider(name: str) -> Provider:
    """The connector called ``name`` or by an alias. Raises NotFoundError that lists the known ones; also for a warehouse that is no source."""
    try:
        kind = find_kinds(name).source
    except NotFoundError:
        kind = None
    if kind is None:
        raise NotFoundError(f"There is no provider {name[:60]!r}.", fix=f"Known: {', '.join(connector_names())}.")
    return _provider(kind)


def providers() -> tuple[Provider, ...]:
    """All of them, by name; those that cannot be imported are left out, for nobody could use them."""
    return tuple(_provider(kind) for name in connector_names() if (kind := _loaded(name)) is not None)


def canonical(name: str) -> str:
    """The connector that is meant by a name or an alias; the name itself where none is."""
    kind = _loaded(name)
    return kind.name if kind is not None else name


def _loaded(name: str) -> type[Connector[Any]] | None:
    try:
        return load_connector(name)
    except (EltError, ImportError):
        return None


@lru_cache(maxsize=256)  # classes do not change, and a JSON Schema takes a millisecond to make
def _provider(kind: type[Connector[Any]]) -> Provider:
    settings = kind.settings_type
    names = frozenset(settings.model_fields) if settings is not None else frozenset[str]()
    return Provider(
        name=kind.name,
        title=kind.title,
        description=" ".join(kind.description().split()),
        aliases=kind.aliases,
        settings_schema=settings.model_json_schema() if settings is not None else NO_SETTINGS,
        connection_schema=kind.spec(),
        setting_names=names - frozenset(kind.config_type.model_fields),
        settings=_defaults(settings) if settings is not None else {},
        resources=tuple(_resource(stream) for stream in _streams(kind)),
    )


def _defaults(settings: type[BaseModel]) -> dict[str, Any]:
    given = {
        n: f.get_default(call_default_factory=True) for n, f in settings.model_fields.items() if not f.is_required()
    }
    dumped: dict[str, Any] = settings.model_construct(**given).model_dump(mode="json", include=set(given))
    return {name: value for name, value in dumped.items() if value is not None}


def _streams(kind: type[Connector[Any]]) -> list[Stream]:
    """Those a REST connector has whatever the account."""
    if not issubclass(kind, RestConnector):
        return []
    found: list[Stream] = []
    for endpoint in kind.endpoints:
        cursor = endpoint.cursor.field if endpoint.cursor else None
        parents = (endpoint.parent.stream,) if endpoint.parent else ()
        found.append(
            Stream(
                name=endpoint.name, primary_key=endpoint.primary_key, cursor_field=cursor, depends_on=parents,
                description=endpoint.description,
            )
        )  # fmt: skip
    return found


def _resource(stream: Stream) -> Resource:
    mode, _, cursor = defaults(TableBinding(name=stream.name), stream)
    return Resource(
        name=stream.name,
        description=stream.description,
        load_mode=mode,
        cursor_field=cursor,
        depends_on=stream.depends_on,
        selected=stream.selected,
        size_class=stream.size_class,
        sync_modes=stream.sync_modes,
    )
