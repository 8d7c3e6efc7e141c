"""Rows on their way into Snowflake: Parquet in memory, uploaded as it fills, then copied into one temporary table per shape of rows.

Stage and tables are temporary: they go with the session, and nobody else sees them. Columns are called C0, C1, ... on the way, so that the names
of a source meet the rules of Parquet and COPY nowhere.
"""

import io
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from elt_dagster.destinations._snowflake_session import Session
from elt_dagster.destinations._snowflake_types import staged_type, travels_as_number
from elt_dagster.destinations.base import TableRef
from elt_dagster.destinations.files import stored
from elt_dagster.destinations.sql import quote
from elt_dagster.errors import TransientError
from elt_dagster.model.compute import pc
from elt_dagster.model.types import JSON, UUID
from elt_dagster.sdk.arrow import canonical_schema, split

ARRIVAL = "ARRIVAL"
"""A staged column with the row's position in the load, for "the last one wins"."""
_FILE_BYTES = 32 * 1024 * 1024
_PIECE_BYTES = 8 * 1024 * 1024
_FORMAT = "FILE_FORMAT = (TYPE = PARQUET BINARY_AS_TEXT = FALSE) MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE"


@dataclass(frozen=True, slots=True)
class Part:
    """Staged rows of one shape: ``schema`` has canonical types, ``table`` is quoted."""

    schema: pa.Schema
    table: str
    rows: int

    def column(self, name: str) -> str:
        """The staged name of a column of ``schema``."""
        return f"C{self.schema.names.index(name)}"


class Staging:
    """The staged rows of one load, in the order they came. Use from one thread; errors of the driver come out as they are."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._token = uuid.uuid4().hex[:12].upper()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="snowflake-put")
        self._uploading: Future[None] | None = None
        self._shapes: list[pa.Schema] = []
        self._counts: list[int] = []
        self._files = 0
        self._buffer = io.BytesIO()
        self._writer: pq.ParquetWriter | None = None
        self._has_stage = False
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Keep ``batch``; an error of an upload may be told by a later call."""
        shape = canonical_schema(batch.schema)
        if not self._shapes or not shape.equals(self._shapes[-1]):
            self._end_file()
            self._shapes.append(shape)
            self._counts.append(0)
        for piece in split(_staged(batch, shape), _PIECE_BYTES):
            table = pa.Table.from_batches([_with_arrival(piece, self.rows)])
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._buffer, table.schema, compression="snappy", use_dictionary=False)
            self._writer.write_table(table)
            self.rows += piece.num_rows
            self._counts[-1] += piece.num_rows
            if self._buffer.tell() >= _FILE_BYTES:
                self._end_file()

    def parts(self) -> list[Part]:
        """Everything staged, in order, each part in a table of its own."""
        self._end_file()
        self._settle()
        return [self._copied(number, shape) for number, shape in enumerate(self._shapes)]

    def clear(self) -> None:
        """Forget everything staged; the next file replaces the stage, and so removes what is in it."""
        self._settle()
        self._shapes, self._counts, self._files, self._has_stage, self.rows = [], [], 0, False, 0

    def close(self) -> None:
        """Stop uploading; the session may be closed afterwards."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def _stage(self) -> str:
        return f"_ELT_STAGE_{self._token}"

    def _end_file(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        content, self._writer, self._buffer = self._buffer, None, io.BytesIO()
        content.seek(0)
        self._settle()
        if not self._has_stage:
            self._session.run(f"CREATE OR REPLACE TEMPORARY STAGE {self._stage}")
            self._has_stage = True
        folder = f"@{self._stage}/part_{len(self._shapes) - 1}/"
        self._files += 1
        self._uploading = self._pool.submit(self._session.put, folder, f"{self._files:06d}.parquet", content)

    def _settle(self) -> None:
        uploading, self._uploading = self._uploading, None
        if uploading is not None:
            uploading.result()

    def _copied(self, number: int, shape: pa.Schema) -> Part:
        table = f'"_elt_part_{number}"'
        columns = [f"C{n} {_column_type(f.type)}" for n, f in enumerate(shape) if not pa.types.is_null(f.type)]
        self._session.run(
            f"CREATE OR REPLACE TEMPORARY TABLE {table} ({', '.join([*columns, f'{ARRIVAL} NUMBER(19,0)'])})"
        )
        copied = self._session.named(f"COPY INTO {table} FROM @{self._stage}/part_{number}/ {_FORMAT}")
        loaded = sum(int(row.get("rows_loaded") or 0) for row in copied)
        if (
            loaded != self._counts[number]
        ):  # a file that is missing, or thought to be loaded already, is no error to COPY
            raise TransientError(
                f"Snowflake took {loaded} of {self._counts[number]} staged rows; nothing was committed.",
                fix="Run it again.",
            )
        return Part(shape, table, self._counts[number])


def use_schema(session: Session, table: TableRef) -> None:
    """Make the schema of ``table`` the one that temporary tables and stages are made in."""
    session.run(f"USE SCHEMA {quote(table.schema)}")


def _staged(batch: pa.RecordBatch, shape: pa.Schema) -> pa.RecordBatch:
    """``batch`` as it is uploaded: columns without a value are left out, the others in types that Parquet and Snowflake agree on."""
    known = stored(batch)
    fields, columns = [], []
    for number, field in enumerate(shape):
        if not pa.types.is_null(field.type):
            column = _plain(known.column(known.schema.get_field_index(field.name)), field.type)
            fields.append(pa.field(f"C{number}", column.type))
            columns.append(column)
    if not fields:  # a batch needs a column to have rows
        fields, columns = [pa.field("NOTHING", pa.bool_())], [pa.nulls(batch.num_rows, pa.bool_())]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def _plain(column: pa.Array, kind: pa.DataType) -> pa.Array:
    t = pa.types
    if t.is_interval(kind):
        return _interval_text(column)
    if kind == UUID:
        return column.storage.cast(pa.binary())
    if t.is_uint64(kind):
        return column.cast(pa.decimal128(20, 0))
    if t.is_float32(kind):
        return column.cast(pa.float64())
    if travels_as_number(kind):
        return column.view(pa.int32() if t.is_date(kind) else pa.int64())
    return column


def _interval_text(parts: pa.StructArray) -> pa.Array:
    """Months, days and microseconds as ISO 8601 writes them, such as ``P14M-3DT0.000001S``."""
    months, days = (parts.field(name).cast(pa.string()) for name in ("months", "days"))
    micros = parts.field("micros")
    whole = pc.divide(micros, 1_000_000)
    rest = pc.abs(pc.subtract(micros, pc.multiply(whole, 1_000_000)))
    sign = pc.if_else(pc.and_(pc.equal(whole, 0), pc.less(micros, 0)), "-", "")
    fraction = pc.utf8_lpad(rest.cast(pa.string()), 6, "0")
    text = pc.binary_join_element_wise(
        pa.scalar("P"), months, pa.scalar("M"), days, pa.scalar("DT"), sign, whole.cast(pa.string()), pa.scalar("."), fraction,
        pa.scalar("S"), pa.scalar(""),
    )  # fmt: skip
    return pc.if_else(parts.is_valid(), text, pa.scalar(None, pa.string()))


def _column_type(kind: pa.DataType) -> str:
    if kind == UUID:
        return "BINARY"
    if pa.types.is_interval(kind) or kind == JSON:
        return "VARCHAR"
    if pa.types.is_uint64(kind):
        return "NUMBER(20,0)"
    return staged_type(pa.float64() if pa.types.is_floating(kind) else kind)


def _with_arrival(batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    ones = pa.repeat(pa.scalar(1, pa.int64()), batch.num_rows)
    return batch.append_column(ARRIVAL, pc.cumulative_sum(ones, start=first - 1))
