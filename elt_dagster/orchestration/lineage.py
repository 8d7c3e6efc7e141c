"""Where a table's columns come from: the source's columns, through renaming and hashing.

It is told with each load and not in the definitions: the UI reads it there, and loading definitions stays as cheap as it was. The source's table is
named and is no dependency, for an automation condition would wait for it forever: nobody materializes it.
"""

import dagster as dg
import pyarrow as pa

from elt_dagster.engine import ResolvedBinding
from elt_dagster.model.names import snake_case

SOURCE = "source"
COLUMN_LINEAGE = "dagster/column_lineage"
MAX_COLUMNS = 1000
"""Wider tables go without: an event log is no place for them."""


def source_key(connection: str, stream: str) -> dg.AssetKey:
    """The key of a table at the source: ``source/<connection>/<each part of the stream's name>``."""
    parts = [snake_case(part) for part in stream.split(".") if part]
    return dg.AssetKey([SOURCE, snake_case(connection), *parts])


def column_lineage(columns: pa.Schema, resolved: ResolvedBinding, source: dg.AssetKey) -> dg.TableColumnLineage | None:
    """Which column of ``source`` each of ``columns`` (warehouse names) comes from; None where nothing is known.

    Columns of our own, such as ``_elt_loaded_at``, come from nowhere.
    """
    if len(columns) > MAX_COLUMNS:
        return None
    origins = {warehouse: original for original, warehouse in resolved.names.items()}
    deps = {
        name: [dg.TableColumnDep(asset_key=source, column_name=origins[name])]
        for name in columns.names
        if name in origins
    }
    return dg.TableColumnLineage(deps) if deps else None
