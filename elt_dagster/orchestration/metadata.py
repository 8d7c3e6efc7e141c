"""What an asset says about itself: before a run from its configuration, after a run from its `StreamResult`.

The keys are constants; the values are plain numbers and texts, so that the UI plots them and other programs read them.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
import pyarrow as pa

from elt_dagster.control.tables import Written
from elt_dagster.engine import ResolvedBinding
from elt_dagster.engine.plan import target_schema, warehouse_name
from elt_dagster.model import ESTIMATED_ROWS, Checkpoint, StreamResult, cursor_text
from elt_dagster.model.types import canonical, description_of, type_name
from elt_dagster.orchestration.lineage import COLUMN_LINEAGE, column_lineage

PREFIX = "elt/"

ROW_COUNT = "dagster/row_count"
PARTITION_ROW_COUNT = "dagster/partition_row_count"
COLUMN_SCHEMA = "dagster/column_schema"
TABLE_NAME = "dagster/table_name"
URI = "dagster/uri"
CODE_REFERENCES = "dagster/code_references"

SYNC = "elt/sync"
STREAM = "elt/stream"
SOURCE_TABLE = "elt/source"
"""The asset key that stands for the table at the source, in column lineage."""
ROWS_READ = "elt/rows_read"
ROWS_INSERTED = "elt/rows_inserted"
ROWS_UPDATED = "elt/rows_updated"
ROWS_DELETED = "elt/rows_deleted"
ROWS_REJECTED = "elt/rows_rejected"
BYTES_READ = "elt/bytes_read"
SECONDS = "elt/seconds"
SECONDS_SOURCE = "elt/seconds_source"
SECONDS_WAREHOUSE = "elt/seconds_warehouse"
ROWS_PER_SECOND = "elt/rows_per_second"
CURSOR_BEFORE = "elt/cursor_before"
CURSOR_AFTER = "elt/cursor_after"
CURSOR_LAG_SECONDS = "elt/cursor_lag_seconds"
SCHEMA_CHANGES = "elt/schema_changes"
LOAD_MODE = "elt/load_mode"
RUN_MODE = "elt/run_mode"
BATCHES = "elt/batches"
COMMITS = "elt/commits"
COUNTS = "elt/counts/"
"""Followed by the counter's name, such as ``elt/counts/null_cursor_rows``."""
EXPECTED = f"{COUNTS}{ESTIMATED_ROWS}"


def definition_metadata(
    resolved: ResolvedBinding,
    *,
    dataset: str,
    sync: str,
    add_metadata_columns: bool,
    source_file: str | None,
    source: dg.AssetKey | None = None,
) -> dict[str, Any]:
    """What is known before the first run: table name, columns (when the source told them), the YAML it came from."""
    metadata: dict[str, Any] = {
        TABLE_NAME: f"{dataset}.{resolved.binding.table_name}",
        SYNC: sync,
        STREAM: resolved.stream.name,
    }
    if source is not None:
        metadata[SOURCE_TABLE] = dg.MetadataValue.asset(source)
    if resolved.schema is not None:
        columns = target_schema(resolved, add_metadata=add_metadata_columns)
        metadata[COLUMN_SCHEMA] = table_schema(columns, resolved)
    if source_file is not None:
        metadata[CODE_REFERENCES] = _code_reference(source_file)
    return metadata


def result_metadata(
    result: StreamResult,
    resolved: ResolvedBinding,
    *,
    now: datetime,
    source: dg.AssetKey | None = None,
    is_partition: bool = False,
) -> dict[str, Any]:
    """What one load did. ``now`` (aware) dates the lag of a cursor that is a point in time.

    ``source`` is where columns come from. A load that ``is_partition`` replaced the rows of one window by those it brought.
    """
    metadata: dict[str, Any] = {
        ROW_COUNT: result.table_rows,
        COLUMN_SCHEMA: table_schema(result.columns, resolved),
        STREAM: result.stream,
        ROWS_READ: result.rows_read,
        ROWS_INSERTED: result.rows_inserted,
        ROWS_UPDATED: result.rows_updated,
        ROWS_DELETED: result.rows_deleted,
        ROWS_REJECTED: result.rows_rejected,
        BYTES_READ: result.bytes_read,
        SECONDS: round(result.seconds_total, 3),
        SECONDS_SOURCE: round(result.seconds_source, 3),
        SECONDS_WAREHOUSE: round(result.seconds_warehouse, 3),
        ROWS_PER_SECOND: round(result.rows_per_second, 1),
        LOAD_MODE: result.load_mode.value,
        RUN_MODE: result.run_mode.value,
        BATCHES: result.batches,
        COMMITS: result.commits,
        **{f"{COUNTS}{name}": count for name, count in result.counts.items()},
    }
    metadata |= _cursor_metadata(result.before, result.after, now)
    if source is not None and (lineage := column_lineage(result.columns, resolved, source)) is not None:
        metadata[COLUMN_LINEAGE] = lineage
    if is_partition:
        metadata[PARTITION_ROW_COUNT] = result.rows_inserted + result.rows_updated
    if result.schema_changes:
        metadata[SCHEMA_CHANGES] = dg.MetadataValue.md(_changes_table(result))
    return metadata


def written_metadata(done: Written) -> dict[str, Any]:
    """What a write of a user's own frame did."""
    return {
        ROW_COUNT: done.committed.table_rows,
        COLUMN_SCHEMA: table_schema(done.columns),
        ROWS_READ: done.rows,
        ROWS_INSERTED: done.committed.inserted,
        ROWS_UPDATED: done.committed.updated,
        ROWS_DELETED: done.committed.deleted,
        ROWS_REJECTED: done.committed.rejected,
        BYTES_READ: done.bytes,
        SECONDS: round(done.seconds, 3),
    }


def table_schema(columns: pa.Schema, resolved: ResolvedBinding | None = None) -> dg.TableSchema:
    """``columns`` (warehouse names) as Dagster shows them: type, nullability, description, key."""
    key = _warehouse_names(resolved, resolved.primary_key) if resolved else ()
    hashed = _warehouse_names(resolved, resolved.binding.hashed_columns) if resolved else ()
    return dg.TableSchema(
        columns=[_table_column(field, key, hashed) for field in columns],
        constraints=dg.TableConstraints(other=[f"primary key ({', '.join(key)})"]) if key else None,
    )


def _table_column(field: pa.Field, key: tuple[str, ...], hashed: tuple[str, ...]) -> dg.TableColumn:
    in_key = field.name in key
    return dg.TableColumn(
        name=field.name,
        type=type_name(canonical(field.type)),
        description=description_of(field) or None,
        constraints=dg.TableColumnConstraints(
            nullable=field.nullable and not in_key,
            unique=key == (field.name,),
            other=["primary key"] if in_key else [],
        ),
        tags={"elt/hashed": ""} if field.name in hashed else None,
    )


def _warehouse_names(resolved: ResolvedBinding, columns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(warehouse_name(resolved.names, c) for c in columns)


def _cursor_metadata(before: Checkpoint | None, after: Checkpoint | None, now: datetime) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    if before is not None and before.cursor is not None:
        metadata[CURSOR_BEFORE] = cursor_text(before.cursor)
    if after is not None and after.cursor is not None:
        metadata[CURSOR_AFTER] = cursor_text(after.cursor)
        if (moment := _moment(after.cursor)) is not None:
            metadata[CURSOR_LAG_SECONDS] = round((now - moment).total_seconds(), 3)
    return metadata


def _moment(cursor: object) -> datetime | None:
    """A cursor as a point in time; naive ones are taken for UTC, days for their midnight."""
    if isinstance(cursor, datetime):
        return cursor if cursor.tzinfo else cursor.replace(tzinfo=UTC)
    if isinstance(cursor, date):
        return datetime(cursor.year, cursor.month, cursor.day, tzinfo=UTC)
    return None


def _changes_table(result: StreamResult) -> str:
    rows = [f"| {c.column} | {c.kind} | {c.before or ''} | {c.after or ''} |" for c in result.schema_changes]
    return "\n".join(["| column | change | before | after |", "|---|---|---|---|", *rows])


def _code_reference(source_file: str) -> dg.CodeReferencesMetadataValue:
    path, _, line = source_file.rpartition(":")
    if not path or not line.isdigit():
        path, line = source_file, "1"
    reference = dg.LocalFileCodeReference(file_path=path, line_number=int(line), label="the sync")
    return dg.CodeReferencesMetadataValue(code_references=[reference])


def plain_metrics(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The ``elt/`` entries of a materialization without their prefix, and the table's row count as ``table_rows``."""
    metrics = {key.removeprefix(PREFIX): value for key, value in entries.items() if key.startswith(PREFIX)}
    if ROW_COUNT in entries:
        metrics["table_rows"] = entries[ROW_COUNT]
    return metrics
