"""What can be connected: every source and every warehouse that is installed, as a list for people who choose."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from elt_dagster.control.validate import find_kinds
from elt_dagster.errors import EltError
from elt_dagster.registry import connector_names, destination_names
from elt_dagster.sdk.connector import Connector

START_DATE = "start_date"
"""The setting of a sync, where its connector has it, before which nothing is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Integration:
    """A connector of either kind, or one that is both."""

    name: str
    title: str
    is_source: bool
    is_warehouse: bool
    supports_start_date: bool


def integrations() -> tuple[Integration, ...]:
    """All of them, by name; those that cannot be imported are left out, for nobody could use them."""
    return tuple(_found(sorted({*connector_names(), *destination_names()})))


@cache
def integration(name: str) -> Integration:
    """The one called ``name``. Raises NotFoundError with the nearest match."""
    kinds = find_kinds(name)
    kind = kinds.source or kinds.warehouse
    assert kind is not None  # noqa: S101 - find_kinds found one of them
    return Integration(
        name=kind.name,
        title=kind.title,
        is_source=kinds.source is not None,
        is_warehouse=kinds.warehouse is not None,
        supports_start_date=supports_start_date(kinds.source),
    )


def supports_start_date(kind: type[Connector[Any]] | None) -> bool:
    """Whether a sync of this connector can say before which day nothing is read."""
    return kind is not None and kind.settings_type is not None and START_DATE in kind.settings_type.model_fields


def _found(names: list[str]) -> Iterator[Integration]:
    for name in names:
        try:
            yield integration(name)
        except (EltError, ImportError):
            continue
