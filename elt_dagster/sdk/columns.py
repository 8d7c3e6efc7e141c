"""Columns put together: rows of two answers by their key, and several columns as one of JSON objects. No value passes through Python."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from elt_dagster.model.compute import pc
from elt_dagster.model.types import JSON
from elt_dagster.sdk.calculator import calculator
from elt_dagster.sdk.json_path import literal


def with_columns_of(batch: pa.RecordBatch, other: pa.RecordBatch, key: str, names: Sequence[str]) -> pa.RecordBatch:
    """``batch`` with the columns ``names`` of ``other``, row by row of the same ``key``; NULL where ``other`` has no such row."""
    at = pc.index_in(batch.column(key), value_set=other.column(key))
    for name in names:
        batch = with_column(batch, name, other.column(name).take(at))
    return batch


def with_column(batch: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    """``batch`` with ``column``, in the place of the one called ``name`` or at the end."""
    at = batch.schema.get_field_index(name)
    if at < 0:
        return batch.append_column(pa.field(name, column.type), column)
    return batch.set_column(at, pa.field(name, column.type), column)


def nested(columns: Mapping[str, pa.Array]) -> pa.Array:
    """One JSON object per row with the keys and values of ``columns``, of which there is at least one; NULL where all of them are."""
    names = [f"c{i}" for i in range(len(columns))]
    pairs = ", ".join(f"{literal(key)}, {name}" for key, name in zip(columns, names, strict=True))
    empty = " AND ".join(f"{name} IS NULL" for name in names)
    with calculator() as connection:
        rows = connection.from_arrow(pa.table(list(columns.values()), names=names))
        objects = rows.project(f"CASE WHEN {empty} THEN NULL ELSE CAST(json_object({pairs}) AS VARCHAR) END AS j")
        text = objects.to_arrow_table().column("j").combine_chunks()
    return pa.ExtensionArray.from_storage(JSON, text.cast(pa.string()))
