"""Pages of CSV text from an API become Arrow batches: what `elt_dagster.sdk.json` is for JSON, column by column.

Each page begins with a header line. An empty field is NULL, quoted or not; everything else is a value, also the words NA and null. A value
that does not fit the declared type makes its column text from that batch on, so that nothing is lost.
"""

import csv
import io
from collections.abc import Sequence
from types import TracebackType

import pyarrow as pa
import pyarrow.csv as pa_csv

from elt_dagster.errors import SourceError
from elt_dagster.sdk.text import cast, infer


class CsvDocument:
    """One page of CSV; there is nothing in it that tells where the next one is."""

    non_finite = 0

    def __init__(self, content: bytes) -> None:
        self.content = content

    def at(self, path: str) -> None:
        """Nothing."""

    def has(self, path: str) -> bool:
        """Never."""
        return False

    def size(self, path: str) -> int:
        """1 when there is anything below the header line: to count rows means to parse them."""
        return int(b"\n" in self.content.strip())

    def last(self, path: str, field: str) -> None:
        """Nothing."""


class CsvParser:
    """Parses pages of one stream; remembers which columns became text, so that its schema only grows.

    ``schema``, ``columns`` and ``where`` are those of `elt_dagster.sdk.json.JsonParser`: columns of ``schema`` that are not in ``columns``
    are left out, columns in neither come last with a type that is found out.
    """

    def __init__(
        self, schema: pa.Schema | None = None, *, columns: Sequence[str] | None = None, where: str = "The source"
    ) -> None:
        self._fields: dict[str, pa.Field] = {f.name: f for f in schema} if schema is not None else {}
        self._left_out = set(self._fields) - set(columns) if columns is not None else set[str]()
        self._drifts = columns is None or schema is not None
        self._columns = list(columns) if columns is not None else list(self._fields)
        self._where = where

    def __enter__(self) -> "CsvParser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held."""

    def parse(self, pages: Sequence[bytes]) -> pa.RecordBatch:
        """All records of ``pages`` as one batch with canonical types. Raises SourceError when a page is not CSV."""
        return self.parse_with_origin(pages)[0]

    def parse_with_origin(self, pages: Sequence[bytes]) -> tuple[pa.RecordBatch, pa.Array]:
        """As `parse`, and for each row the position in ``pages`` it came from."""
        tables = [self._read(page) for page in pages]
        rows = [t.num_rows for t in tables]
        text = pa.concat_tables(tables, promote_options="default")
        for name in text.column_names:
            if self._drifts and name not in self._columns and name not in self._left_out:
                self._columns.append(name)
        arrays = [self._typed(name, text, sum(rows)) for name in self._columns]
        origin = pa.concat_arrays([pa.repeat(pa.scalar(i, pa.int32()), n) for i, n in enumerate(rows)])
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([self._fields[n] for n in self._columns])), origin

    def _read(self, page: bytes) -> pa.Table:
        if not page.strip():
            return pa.table({})
        try:
            names = next(csv.reader(io.TextIOWrapper(io.BytesIO(page), "utf-8-sig")), [])
            if self._fields and not set(names) & set(self._fields):
                raise self._refuse()
            return pa_csv.read_csv(
                pa.BufferReader(page),
                read_options=pa_csv.ReadOptions(block_size=len(page) + 1, use_threads=False),
                parse_options=pa_csv.ParseOptions(newlines_in_values=True),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True,
                    include_columns=[n for n in names if n not in self._left_out],
                ),
            )  # fmt: skip
        except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error):  # its own message shows the line
            raise self._refuse() from None

    def _refuse(self) -> SourceError:
        return SourceError(
            f"{self._where} sent something that is not CSV with the columns asked for.", fix="Try again later."
        )

    def _typed(self, name: str, text: pa.Table, rows: int) -> pa.Array:
        known = self._fields.setdefault(name, pa.field(name, pa.null()))
        if name not in text.column_names:
            return pa.nulls(rows, known.type)
        column = text.column(name).combine_chunks()
        kind = infer(column) if pa.types.is_null(known.type) else known.type
        found = cast(column, kind, exact=False)
        self._fields[name] = known.with_type(kind if found is not None else pa.string())
        return found if found is not None else column
