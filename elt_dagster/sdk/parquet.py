"""Parquet files as Arrow batches of bounded size and canonical types."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from elt_dagster.errors import ConfigError, SourceError
from elt_dagster.model.types import JSON, canonical
from elt_dagster.sdk.opening import ROWS_ONLY, Decoding, File, refuse_duplicates
from elt_dagster.sdk.text import fits


def read_parquet(file: File, wanted: Decoding) -> Iterator[pa.RecordBatch]:
    with _parquet_file(file) as parquet:
        names = wanted.chosen(parquet.schema_arrow.names)
        if not names:  # no column is asked for, but the number of rows is
            yield from _bare_rows(parquet.metadata.num_rows)
            return
        for batch in parquet.iter_batches(_rows_per_batch(parquet, names, wanted.batch_bytes), columns=names):
            arrays = [_fitted(file.name, n, batch.column(n), wanted) for n in names]
            yield pa.RecordBatch.from_arrays(arrays, names)


def sample_parquet(file: File) -> pa.Schema:
    """The columns of a Parquet file by its footer, with canonical types."""
    with _parquet_file(file) as parquet:
        return pa.schema([(f.name, canonical(f.type)) for f in parquet.schema_arrow])


@contextmanager
def _parquet_file(file: File) -> Iterator[Any]:
    import pyarrow.parquet as pq

    # a buffer: pages are read one by one instead of whole column chunks, so that memory does not follow the row group's size
    with file.open() as raw, pq.ParquetFile(raw, buffer_size=1 << 20, coerce_int96_timestamp_unit="us") as parquet:
        names = parquet.schema_arrow.names
        refuse_duplicates(file.name, names)
        yield parquet


def _bare_rows(count: int, step: int = 1 << 20) -> Iterator[pa.RecordBatch]:
    for start in range(0, count, step):
        rows = pa.nulls(min(step, count - start))
        yield pa.RecordBatch.from_arrays([rows], [ROWS_ONLY])


def _rows_per_batch(parquet: Any, names: list[str], batch_bytes: int) -> int:
    meta = parquet.metadata
    encoded = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)) // max(1, meta.num_rows)
    # encoded sizes say little of dictionary columns: count at least the width that Arrow needs
    widths = (getattr(parquet.schema_arrow.field(n).type, "byte_width", 1) if _fixed(parquet, n) else 24 for n in names)
    share = max(1, encoded * len(names) // max(1, len(parquet.schema_arrow.names)))
    return int(min(max(batch_bytes // max(share, sum(widths), 1), 1), 1 << 20))


def _fixed(parquet: Any, name: str) -> bool:
    kind = parquet.schema_arrow.field(name).type
    return bool(pa.types.is_primitive(kind)) and not pa.types.is_boolean(kind)


def _fitted(file: str, name: str, column: pa.Array, wanted: Decoding) -> pa.Array:
    """A column in its canonical type, or in the wider one that is declared or known."""
    plain = to_canonical(column)
    declared = wanted.declared.get(name)
    aim = declared or wanted.known.get(name)
    if aim is None or plain.type == aim:
        return plain
    if declared is None and (not fits(plain.type, aim) or pa.types.is_string(aim) or aim == JSON):
        return plain
    try:
        return plain.cast(aim)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if declared is None:
            return plain
    raise SourceError(
        f"The column {name!r} of the file {file} holds {plain.type}, which does not fit the declared {aim}.",
        fix="Declare a wider type in the stream's schema.",
    )


def to_canonical(column: pa.Array) -> pa.Array:
    """``column`` in its canonical type; nested values become JSON documents. Raises ConfigError for what has none."""
    kind, aim = column.type, canonical(column.type)
    if kind == aim:
        return column
    if isinstance(kind, pa.BaseExtensionType):
        return to_canonical(column.storage)
    if pa.types.is_nested(kind):
        return pa.ExtensionArray.from_storage(JSON, _json_text(column))
    if pa.types.is_duration(kind):
        return _interval(column)
    try:
        return column.cast(aim)
    except pa.ArrowNotImplementedError as error:
        raise ConfigError(
            f"A column of type {kind} cannot be read.", fix="Leave it out with excluded_columns."
        ) from error


def _json_text(column: pa.Array) -> pa.Array:
    import duckdb

    with duckdb.connect() as memory:
        nested = memory.from_arrow(pa.table({"c": column}))
        text = nested.project("CASE WHEN c IS NOT NULL THEN to_json(c)::VARCHAR END AS c").to_arrow_table()
    return text.column("c").combine_chunks().cast(pa.string())


def _interval(column: pa.Array) -> pa.Array:
    """Durations as intervals of nanoseconds: 16 bytes each, of which months and days are zero."""
    import numpy as np

    nanos = column.cast(pa.duration("ns")).cast(pa.int64()).fill_null(0).to_numpy()
    wide = np.zeros((len(nanos), 2), dtype="<i8")
    wide[:, 1] = nanos
    kind = pa.month_day_nano_interval()
    whole = pa.Array.from_buffers(kind, len(nanos), [None, pa.py_buffer(wide.tobytes())])
    if not column.null_count:
        return whole
    validity = column.is_valid()
    return pa.Array.from_buffers(kind, len(nanos), [validity.buffers()[1], whole.buffers()[1]])
