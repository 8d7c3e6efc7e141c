"""Arrow on the way through: canonical batches, bounded batch sizes, the largest cursor of a column."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from elt_dagster.errors import ContractError
from elt_dagster.model import CursorValue
from elt_dagster.model.compute import pc
from elt_dagster.model.types import canonical


def canonical_schema(schema: pa.Schema) -> pa.Schema:
    """``schema`` with every type made canonical; names, nullability and metadata stay."""
    return pa.schema([f.with_type(canonical(f.type)) for f in schema])


def split(batch: pa.RecordBatch, max_bytes: int) -> Iterator[pa.RecordBatch]:
    """``batch`` in slices of about ``max_bytes`` each, at least one row, without copying."""
    size = batch.nbytes
    if size <= max_bytes or batch.num_rows <= 1:
        yield batch
        return
    rows = max(1, batch.num_rows * max_bytes // size)
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def highest(batch: pa.RecordBatch, column: str, floor: CursorValue | None = None) -> CursorValue | None:
    """The largest non-null value of ``column`` in ``batch`` and ``floor``, as a Python value; None if there is none.

    Raises ContractError when the column is not there.
    """
    index = batch.schema.get_field_index(column)
    if index < 0:
        raise ContractError(f"A batch has no cursor column {column!r}.")
    found: Any = pc.max(batch.column(index)).as_py()
    if found is None:
        return floor
    value: CursorValue = found.to_pydatetime() if hasattr(found, "to_pydatetime") else found
    return value if floor is None else max(value, floor)


def null_rows(batch: pa.RecordBatch, column: str) -> int:
    """How many rows of ``batch`` have no value in ``column``."""
    return int(batch.column(batch.schema.get_field_index(column)).null_count)


def text_column(values: list[bytes]) -> pa.Array:
    """UTF-8 documents as one string column. Built from buffers, for ``pa.array`` on a list would import pandas."""
    import array

    offsets, total = array.array("q", [0]), 0
    for value in values:
        total += len(value)
        offsets.append(total)
    return pa.LargeStringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(values)))
