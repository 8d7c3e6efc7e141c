"""Tables in the hands of users: what an asset of theirs may return, and what their parameters may be annotated with.

``pa.Table``, ``pa.RecordBatchReader``, ``pd.DataFrame``, ``pl.DataFrame``, ``pl.LazyFrame``, ``duckdb.DuckDBPyRelation``.
pandas and polars are optional and imported only when somebody names their classes.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from elt_dagster.errors import ConfigError

Open = Callable[[list[str] | None], pa.RecordBatchReader]
"""Opens the table, with these columns of it or all; may be called again."""

_ACCEPTED = "a pandas or polars frame, a pyarrow Table, RecordBatch or RecordBatchReader, or a DuckDB relation"


def to_reader(value: object) -> pa.RecordBatchReader:
    """The rows of ``value``, lazily where it is lazy. The index of a pandas frame is left out. Raises ConfigError for other things."""
    match class_name(type(value)):
        case "pandas.DataFrame":
            return pa.Table.from_pandas(value, preserve_index=False).to_reader()
        case "polars.LazyFrame":
            return pa.RecordBatchReader.from_stream(value.collect())  # type: ignore[attr-defined]
        case "pyarrow.RecordBatch":
            return pa.Table.from_batches([value]).to_reader()
    if isinstance(value, pa.RecordBatchReader):
        return value
    if hasattr(value, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(value)
    raise ConfigError(
        f"The asset returned a {class_name(type(value))}, which is not a table.",
        fix=f"Return {_ACCEPTED}, or give the asset another io_manager_key.",
    )


def from_reader(kind: object, open_table: Open, columns: list[str] | None) -> Any:
    """The table as ``kind``, a parameter's annotation; without one (None, Any) as a ``pa.Table``.

    ``pa.RecordBatchReader`` and ``pl.LazyFrame`` read when they are used; the others are whole in memory. Raises ConfigError.
    """
    make = _MAKERS.get(class_name(kind))
    if make is None:
        raise ConfigError(
            f"A table cannot be handed over as {class_name(kind)}.",
            fix=f"Annotate the parameter with one of: {', '.join(n for n in _MAKERS if '.' in n)}.",
        )
    return make(open_table, columns)


def class_name(kind: object) -> str:
    """Package and class, such as ``pandas.DataFrame``, wherever inside the package the class really lives."""
    if kind is None or kind is Any:
        return ""
    package = getattr(kind, "__module__", "").partition(".")[0].lstrip("_")
    return f"{package}.{getattr(kind, '__name__', kind)}"


def _arrow_table(open_table: Open, columns: list[str] | None) -> pa.Table:
    return open_table(columns).read_all()


def _reader(open_table: Open, columns: list[str] | None) -> pa.RecordBatchReader:
    return open_table(columns)


def _pandas(open_table: Open, columns: list[str] | None) -> Any:
    return open_table(columns).read_all().to_pandas()


def _polars(open_table: Open, columns: list[str] | None) -> Any:
    import polars as pl

    return pl.from_arrow(_plain(open_table(columns)).read_all())


def _polars_lazy(open_table: Open, columns: list[str] | None) -> Any:
    """A scan: polars asks for the columns and rows it needs when it collects."""
    import polars as pl
    from polars.io.plugins import register_io_source

    def scan(
        wanted: list[str] | None, predicate: Any, rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = rows
        for batch in _plain(open_table(wanted or columns)):
            frame: Any = pl.from_arrow(batch if left is None else batch.slice(0, left))
            if left is not None:
                left -= frame.height
            yield frame if predicate is None else frame.filter(predicate)
            if left is not None and left <= 0:
                return

    with open_table(columns) as reader:
        empty: Any = pl.from_arrow(_plain(reader).schema.empty_table())
    return register_io_source(scan, schema=empty.schema)


def _relation(open_table: Open, columns: list[str] | None) -> Any:
    import duckdb

    # A relation may be queried twice, a reader be read once: hence the table.
    return duckdb.connect().from_arrow(open_table(columns).read_all())


_MAKERS: dict[str, Callable[[Open, list[str] | None], Any]] = {
    "": _arrow_table,
    "pyarrow.Table": _arrow_table,
    "pyarrow.RecordBatchReader": _reader,
    "pandas.DataFrame": _pandas,
    "polars.DataFrame": _polars,
    "polars.LazyFrame": _polars_lazy,
    "duckdb.DuckDBPyRelation": _relation,
}


def _plain(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """``reader`` with extension types laid bare: polars knows neither Arrow's JSON nor its UUID."""
    fields = [
        f.with_type(f.type.storage_type) if isinstance(f.type, pa.BaseExtensionType) else f for f in reader.schema
    ]
    schema = pa.schema(fields)

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            arrays = [a.storage if isinstance(a.type, pa.BaseExtensionType) else a for a in batch.columns]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())
