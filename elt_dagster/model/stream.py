"""What a source offers: streams, in a catalog."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from elt_dagster.errors import NotFoundError, nearest
from elt_dagster.model.types import schema_from_json, schema_to_json
from elt_dagster.model.words import SyncMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A table-like thing a source offers (Airbyte, Singer: stream; dlt: resource).

    ``schema`` has canonical types (`elt_dagster.model.types`) and the source's own column names; None when only reading can
    tell. ``cursor_field`` is the source's best column for incremental reading; ``cursor_fields`` lists every column that may serve.
    """

    name: str
    schema: pa.Schema | None = None
    primary_key: tuple[str, ...] = ()
    cursor_field: str | None = None
    cursor_fields: tuple[str, ...] = ()
    deleted_field: str | None = None
    """The source's own delete feed: a column that is true (or, if it is not boolean, not NULL) for a row that is no more.

    Such a row needs its key and cursor, not its other values."""
    ordered: bool = False
    """Batches come in cursor order, so that every batch may carry a checkpoint."""
    depends_on: tuple[str, ...] = ()
    """Streams that must have landed first (parents)."""
    description: str = ""
    selected: bool = True
    """Whether a form preselects it."""
    size_class: str = "s"
    """xs, s, m, l or xl: a hint for step resources."""
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    """Plain data only this stream's connector understands."""

    @property
    def sync_modes(self) -> tuple[SyncMode, ...]:
        """How this stream can be read."""
        if self.cursor_field is None and not self.cursor_fields:
            return (SyncMode.FULL_REFRESH,)
        return (SyncMode.FULL_REFRESH, SyncMode.INCREMENTAL)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the store; `from_json` is the inverse."""
        return {
            "name": self.name,
            "schema": schema_to_json(self.schema) if self.schema is not None else None,
            "primary_key": list(self.primary_key),
            "cursor_field": self.cursor_field,
            "cursor_fields": list(self.cursor_fields),
            "deleted_field": self.deleted_field,
            "ordered": self.ordered,
            "depends_on": list(self.depends_on),
            "description": self.description,
            "selected": self.selected,
            "size_class": self.size_class,
            "metadata": self.metadata,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Stream":
        """A stream from what `to_json` gave."""
        lists = {k: tuple(data.get(k, ())) for k in ("primary_key", "cursor_fields", "depends_on")}
        schema = data.get("schema")
        return cls(**{**data, **lists, "schema": schema_from_json(schema) if schema is not None else None})

    def with_schema(self, schema: pa.Schema) -> "Stream":
        """The same stream with ``schema``."""
        return replace(self, schema=schema)


@dataclass(frozen=True)
class Catalog:
    """All streams a configured source offers, in a stable order."""

    streams: tuple[Stream, ...]

    @cached_property
    def _by_name(self) -> dict[str, Stream]:
        return {s.name: s for s in self.streams}

    def __iter__(self) -> Iterator[Stream]:
        return iter(self.streams)

    def __len__(self) -> int:
        return len(self.streams)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Stream:
        """The stream called ``name``. Raises NotFoundError with the nearest match."""
        try:
            return self._by_name[name]
        except KeyError:
            raise NotFoundError(f"The source has no stream {name!r}.", fix=nearest(name, list(self._by_name))) from None
