"""ELT syncs as Dagster assets. See README.md; connectors are found with `load_connector`."""

from typing import TYPE_CHECKING

from elt_dagster.errors import EltError
from elt_dagster.lazy import lazily

if TYPE_CHECKING:
    from elt_dagster.orchestration.component import SyncComponent
    from elt_dagster.orchestration.connected import SourceResource, WarehouseResource
    from elt_dagster.orchestration.definitions import build_definitions
    from elt_dagster.orchestration.standalone import sync_assets, sync_definitions
    from elt_dagster.orchestration.translator import SyncTranslator
    from elt_dagster.registry import connector_names, load_connector

# Dagster and pyarrow take seconds to import, so what needs them is imported when it is first asked for.
_LAZY = {
    "SourceResource": "elt_dagster.orchestration.connected",
    "SyncComponent": "elt_dagster.orchestration.component",
    "SyncTranslator": "elt_dagster.orchestration.translator",
    "WarehouseResource": "elt_dagster.orchestration.connected",
    "build_definitions": "elt_dagster.orchestration.definitions",
    "connector_names": "elt_dagster.registry",
    "load_connector": "elt_dagster.registry",
    "sync_assets": "elt_dagster.orchestration.standalone",
    "sync_definitions": "elt_dagster.orchestration.standalone",
}

__all__ = [
    "EltError",
    "SourceResource",
    "SyncComponent",
    "SyncTranslator",
    "WarehouseResource",
    "build_definitions",
    "connector_names",
    "load_connector",
    "sync_assets",
    "sync_definitions",
]

if not TYPE_CHECKING:
    __getattr__ = lazily(__name__, _LAZY)


def __dir__() -> list[str]:
    return sorted(__all__)
