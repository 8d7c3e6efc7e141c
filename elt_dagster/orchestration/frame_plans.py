"""How a frame that a user's asset returns is written, and which rows of a table another asset is handed: what their metadata says.

```python
@dg.asset(key=["marts", "daily"], io_manager_key="warehouse_io", partitions_def=days, metadata={"partition_expr": "day"})
@dg.asset(key=["marts", "log"], io_manager_key="warehouse_io", metadata={"load_mode": "append"})
@dg.asset(key=["marts", "people"], io_manager_key="warehouse_io", metadata={"load_mode": "merge", "primary_key": ["id"]})
```

Without any of these the table is replaced. ``partition_expr`` is the word of Dagster's own IO managers.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from elt_dagster.control.tables import TableWrite, WindowRows, owner_of, table_ref
from elt_dagster.destinations.base import TableRef
from elt_dagster.errors import ConfigError, nearest
from elt_dagster.model import LoadMode, Window
from elt_dagster.orchestration.metadata import TABLE_NAME

MODE = "load_mode"
"""replace (the default), append or merge."""
PRIMARY_KEY = "primary_key"
"""A list of columns, for merge."""
PARTITION_COLUMN = "partition_expr"
"""The time column that tells which partition a row belongs to."""


def table_write(context: dg.OutputContext) -> TableWrite:
    """What becomes of the asset's table in this run. Raises ConfigError for metadata that contradicts itself."""
    metadata, asset = context.definition_metadata, context.asset_key.to_user_string()
    mode = _mode(metadata, asset)
    rows = _written_rows(context, metadata) if mode is LoadMode.REPLACE and context.has_asset_partitions else None
    return TableWrite(
        table=table_of(context.asset_key, metadata),
        owner=owner_of(*context.asset_key.path),
        mode=mode,
        primary_key=_columns(metadata.get(PRIMARY_KEY)),
        once=context.run_id,
        rows=rows,
        part=_part(context) if rows is not None or mode is LoadMode.APPEND else "",
    )


def rows_read(context: dg.InputContext, metadata: Mapping[str, Any]) -> WindowRows | None:
    """The partition of the upstream asset that belongs to this run; None for all rows."""
    column = _plain(metadata.get(PARTITION_COLUMN))
    if column is None or not context.has_asset_partitions:
        return None
    if not isinstance(context.asset_partitions_def, dg.TimeWindowPartitionsDefinition):
        return None
    found = context.asset_partitions_time_window
    return WindowRows(str(column), Window(found.start, found.end))


def table_of(key: dg.AssetKey, metadata: Mapping[str, Any]) -> TableRef:
    """The table of an asset: what ``dagster/table_name`` says, else the last two parts of its key. Raises ConfigError."""
    named = _plain(metadata.get(TABLE_NAME))
    if named is None and len(key.path) >= 2:
        return TableRef(*key.path[-2:])
    try:
        return table_ref(str(named or ""))
    except ConfigError:
        raise ConfigError(
            f"The asset {key.to_user_string()!r} does not say which table it is.",
            fix=f"Give it a key [schema, table], or metadata {{'{TABLE_NAME}': 'schema.table'}}.",
        ) from None


def _mode(metadata: Mapping[str, Any], asset: str) -> LoadMode:
    wanted = str(_plain(metadata.get(MODE, LoadMode.REPLACE.value)))
    known = [m.value for m in LoadMode]
    if wanted not in known:
        raise ConfigError(
            f"The asset {asset!r} has metadata {MODE}={wanted!r}, which is none.", fix=nearest(wanted, known)
        )
    return LoadMode(wanted)


def _written_rows(context: dg.OutputContext, metadata: Mapping[str, Any]) -> WindowRows:
    """Replacing the whole table by one of its partitions would lose all others, hence the questions."""
    column, asset = _plain(metadata.get(PARTITION_COLUMN)), context.asset_key.to_user_string()
    if not isinstance(context.asset_partitions_def, dg.TimeWindowPartitionsDefinition):
        raise ConfigError(
            f"The asset {asset!r} has partitions that are no spans of time, so none can be replaced by itself.",
            fix=f"Give it metadata {{'{MODE}': 'merge', '{PRIMARY_KEY}': [...]}}, or append.",
        )
    if column is None:
        raise ConfigError(
            f"The asset {asset!r} has partitions and does not say which column tells them.",
            fix=f"Give it metadata {{'{PARTITION_COLUMN}': 'a date or timestamp column'}}.",
        )
    found = context.asset_partitions_time_window
    return WindowRows(str(column), Window(found.start, found.end))


def _part(context: dg.OutputContext) -> str:
    """The partition, or the first and the last of a range that one run writes."""
    keys = context.asset_partition_keys if context.has_asset_partitions else []
    return "/".join(dict.fromkeys([*keys[:1], *keys[-1:]]))


def _columns(value: object) -> tuple[str, ...]:
    named = _plain(value)
    if named is None:
        return ()
    return (named,) if isinstance(named, str) else tuple(str(name) for name in named)


def _plain(value: Any) -> Any:
    """Dagster wraps metadata in some places and not in others."""
    for attribute in ("value", "data"):
        if isinstance(value, dg.MetadataValue) and hasattr(value, attribute):
            return getattr(value, attribute)
    return value
