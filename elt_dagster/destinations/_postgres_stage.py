"""Rows on their way into PostgreSQL: encoded here, kept in a table that nobody else reads, one table per shape of rows.

Each COPY is a statement of its own, so a load that takes hours holds no transaction open. One is on the wire while the next is encoded.
Rows that PostgreSQL refuses whatever the column (text with a NUL, text that is no JSON, a date before its first) are kept in a table of their own.
"""

import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa

from elt_dagster.destinations._postgres_encode import HEADER, TRAILER, encoded
from elt_dagster.destinations._postgres_errors import column_at_fault, is_about_values
from elt_dagster.destinations._postgres_refuse import (
    NUL_IN_JSON,
    loosened,
    may_be_refused,
    reason,
    reasons,
    spared,
    unstorable,
)
from elt_dagster.destinations._postgres_session import Session, lock, qualified
from elt_dagster.destinations._postgres_types import DIALECT, representable, representable_schema
from elt_dagster.destinations.base import DELETED_AT, TableRef
from elt_dagster.destinations.drift import OURS
from elt_dagster.destinations.files import ARRIVAL
from elt_dagster.destinations.sql import quote
from elt_dagster.model.compute import pc
from elt_dagster.model.types import JSON
from elt_dagster.sdk.arrow import canonical_schema, split

STAGE_PREFIX = "_elt_stage_"
_TEMPORARY = "pg_temp"
_FLUSH_BYTES = 8 * 1024 * 1024
_PIECE_BYTES = 4 * 1024 * 1024  # what is encoded at a time; more leaves the processor's cache
_REASON = "_elt_reason"


@dataclass(frozen=True, slots=True)
class Part:
    """Staged rows of one shape: ``schema`` has representable types, ``table`` is quoted."""

    schema: pa.Schema
    table: str


class Staging:
    """The staged rows of one load, in the order they came. Use from one thread; errors of the driver come out as they are."""

    def __init__(
        self, session: Session, unlogged_in: str | None, *, number_rows: bool, remove_nul: bool,
        keys_that_delete: Sequence[str] | None,
    ) -> None:  # fmt: skip
        """``keys_that_delete``: of rows with `DELETED_AT`, only these columns matter."""
        self._session = session
        self._unlogged_in = unlogged_in
        self._token = uuid.uuid4().hex[:12]
        self._number_rows = number_rows
        self._remove_nul = remove_nul
        self._keys_that_delete = keys_that_delete
        self._parts: list[tuple[Part, TableRef]] = []
        self._shape: pa.Schema | None = None
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0
        self._sent: tuple[Future[Any], list[pa.RecordBatch]] | None = None
        self._arrived = 0
        self.rows = 0
        self.refused = 0
        """How many rows are not among ``rows`` but in `refused_table`."""
        self.removed = 0
        """How many values lost a character that PostgreSQL cannot hold."""
        self._has_refused = False
        if unlogged_in is not None:  # tells `sweep` that these tables have an owner
            lock(session, f"stage {self._token}", "session")

    def add(self, batch: pa.RecordBatch) -> None:
        """Keep ``batch``."""
        shape = representable_schema(batch.schema)
        if self._shape is None or not shape.equals(self._shape):
            self._flush()
            self._begin_part(shape)
        kept = _storable(batch)
        for piece in split(kept, _PIECE_BYTES):
            numbered = _with_arrival(piece, self._arrived) if self._number_rows else piece
            self._pending.append(numbered)
            self._pending_bytes += numbered.nbytes
            self._arrived += piece.num_rows
            self.rows += piece.num_rows
            if self._pending_bytes >= _FLUSH_BYTES:
                self._flush()

    def parts(self) -> list[Part]:
        """Everything staged, in order, once all of it has arrived."""
        self._flush()
        self._settle()
        return [part for part, _ in self._parts]

    def clear(self) -> None:
        """Forget and remove everything staged; the session must be open."""
        self._settle()
        self.drop()
        self._parts, self._shape, self._pending, self._pending_bytes = [], None, [], 0
        self.rows = self.removed = self.refused = self._arrived = 0

    def drop(self) -> None:
        """Remove the staging tables, whatever was going on."""
        sent, self._sent = self._sent, None
        if sent is not None:
            sent[0].cancel()
        for part, _ in self._parts:
            self._session.run(f"DROP TABLE IF EXISTS {part.table}")
        if self._has_refused:
            self._session.run(f"DROP TABLE IF EXISTS {qualified(self._table('refused'))}")
            self._has_refused = False

    def refused_table(self) -> str:
        """The quoted name of a table for refused rows (reason: text, row: jsonb), made if it is not there."""
        table = qualified(self._table("refused"))
        self._session.run(f"CREATE {self._kind} TABLE IF NOT EXISTS {table} (reason text, row jsonb)")
        self._has_refused = True
        return table

    def _begin_part(self, shape: pa.Schema) -> None:
        self._settle()
        table = self._table(str(len(self._parts)))
        columns = pa.schema([f for f in shape if not pa.types.is_null(f.type)])
        lines = [f"{quote(f.name)} {DIALECT.column_type(f.type)}" for f in columns]
        if self._number_rows:
            lines.append(f"{ARRIVAL} bigint")
        lines = lines or [f"{ARRIVAL}_none boolean"]
        self._session.run(f"CREATE {self._kind} TABLE {qualified(table)} ({', '.join(lines)})")
        self._parts.append((Part(shape, qualified(table)), table))
        self._shape = shape

    def _table(self, name: str) -> TableRef:
        return TableRef(self._unlogged_in or _TEMPORARY, f"{STAGE_PREFIX}{self._token}_{name}")

    @property
    def _kind(self) -> str:
        return "UNLOGGED" if self._unlogged_in is not None else "TEMPORARY"

    def _flush(self) -> None:
        """Encode what is pending while the previous COPY runs, then send it."""
        if not self._pending:
            return
        batches = _combined(self._pending)
        self._pending, self._pending_bytes = [], 0
        try:
            pieces = _encoded(batches)
        except pa.ArrowInvalid:
            self._settle()
            self._sift(batches)
            return
        self._settle()
        self._sent = (self._start(pieces), batches)

    def _settle(self) -> None:
        """Wait for the COPY on the wire; when it met a value that no column takes, send its rows again without."""
        sent, self._sent = self._sent, None
        if sent is None:
            return
        try:
            sent[0].result()
        except Exception as error:
            if not is_about_values(error):
                raise
            self._sift(sent[1])

    def _start(self, pieces: Sequence[memoryview]) -> Future[Any]:
        table = self._parts[-1][1]
        return self._session.start_copy(table.schema, table.name, pieces)

    def _sift(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Stage of ``batches`` what can be staged, and refuse the rest."""
        for batch in batches:
            if self._remove_nul:
                batch, removed = _without_nul(batch)  # noqa: PLW2901
                self.removed += removed
            wrong = unstorable(batch)
            if self._keys_that_delete is not None and DELETED_AT in batch.schema.names:
                batch, wrong = spared(batch, wrong, self._keys_that_delete)  # noqa: PLW2901
            if wrong:
                refused = reduce(pc.or_, wrong.values())
                masks = {name: mask.filter(refused) for name, mask in wrong.items()}
                self._refuse(batch.filter(refused), reasons(masks, batch.schema), wrong)
                batch = batch.filter(pc.invert(refused))  # noqa: PLW2901
            self._halve(batch)

    def _halve(self, batch: pa.RecordBatch) -> None:
        """What the server refuses and nobody foresaw: by halves, down to the rows it is about."""
        if not batch.num_rows:
            return
        try:
            self._start(_encoded([batch])).result()
        except Exception as error:
            if not is_about_values(error):
                raise
            if batch.num_rows == 1:
                self._refuse_last(batch, error)
                return
            half = batch.num_rows // 2
            self._halve(batch.slice(0, half))
            self._halve(batch.slice(half))

    def _refuse_last(self, batch: pa.RecordBatch, error: Exception) -> None:
        suspects = [f for f in batch.schema if may_be_refused(f.type)]
        named = [f for f in suspects if f.name == column_at_fault(error)] or suspects
        why = pa.array(["; ".join(reason(f) for f in named)])
        self._refuse(batch, why, {f.name: None for f in suspects})

    def _refuse(self, batch: pa.RecordBatch, why: pa.Array, names: Mapping[str, Any]) -> None:
        """Keep rows as JSON; the columns ``names``, of which some value is at fault, as text."""
        loose, refused = self._table("loose"), self.refused_table()
        rows = loosened(batch, names).append_column(_REASON, why)
        columns = ", ".join(f"{quote(f.name)} {DIALECT.column_type(representable(f.type))}" for f in rows.schema)
        self._session.run(f"CREATE {self._kind} TABLE {qualified(loose)} ({columns})")
        self._session.start_copy(loose.schema, loose.name, _encoded([rows])).result()
        self._session.run(
            f"INSERT INTO {refused} SELECT {_REASON}, {row_as_json('_elt_refused')} FROM {qualified(loose)} AS _elt_refused"
        )
        self._session.run(f"DROP TABLE {qualified(loose)}")
        self.refused += batch.num_rows
        self.rows -= batch.num_rows


def row_as_json(alias: str) -> str:
    """SQL for a staged row without our own columns; ``alias`` is its table's, and no column's name."""
    return (
        f"(SELECT coalesce(jsonb_object_agg(f.key, f.value), '{{}}') FROM jsonb_each(to_jsonb({alias})) AS f "
        f"WHERE NOT starts_with(f.key, '{OURS}'))"
    )


def sweep(session: Session, schema: str) -> int:
    """Drop unlogged staging tables whose load is gone; returns how many. Those of running loads are left alone."""
    rows = session.rows(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = $1 AND c.relkind = 'r' AND c.relpersistence = 'u' AND starts_with(c.relname::text, $2) "
        "AND pg_has_role(c.relowner, 'USAGE')",
        schema, STAGE_PREFIX,
    )  # fmt: skip
    swept = 0
    for (name,) in rows:
        owner = f"elt_dagster stage {name.removeprefix(STAGE_PREFIX).partition('_')[0]}"
        with session.transaction():
            if session.value("SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))", owner):
                session.run(f"DROP TABLE IF EXISTS {qualified(TableRef(schema, name))}")
                swept += 1
    return swept


def _storable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """``batch`` with canonical types and without null columns; a table needs a column to have rows."""
    fields, columns = [], []
    for field, values in zip(canonical_schema(batch.schema), batch.columns, strict=True):
        if not pa.types.is_null(field.type):
            fields.append(pa.field(field.name, field.type))
            columns.append(values if values.type == field.type else values.cast(field.type))
    if not fields:
        fields, columns = [pa.field(f"{ARRIVAL}_none", pa.bool_())], [pa.nulls(batch.num_rows, pa.bool_())]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def _combined(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Many small batches as few larger ones; large ones stay as they are."""
    if len(batches) < 2 or batches[0].nbytes >= _PIECE_BYTES // 2:
        return batches
    combined: list[pa.RecordBatch] = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return combined


def _encoded(batches: Sequence[pa.RecordBatch]) -> list[memoryview]:
    return [memoryview(HEADER), *(encoded(batch) for batch in batches), memoryview(TRAILER)]


def _with_arrival(batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    numbers = pc.cumulative_sum(pa.repeat(pa.scalar(1, pa.int64()), batch.num_rows), start=first - 1)
    none = batch.schema.names == [f"{ARRIVAL}_none"]
    return pa.RecordBatch.from_arrays([numbers], [ARRIVAL]) if none else batch.append_column(ARRIVAL, numbers)


def _without_nul(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, int]:
    """``batch`` without NUL characters in text and JSON, and how many values had one."""
    removed, columns = 0, []
    for values in batch.columns:
        cleaned = values
        if pa.types.is_string(values.type):
            removed += _count(pc.match_substring(values, "\0"))
            cleaned = pc.replace_substring(values, "\0", "")
        elif values.type == JSON:
            text = values.storage
            removed += _count(pc.match_substring_regex(text, NUL_IN_JSON))
            cleaned = JSON.wrap_array(pc.replace_substring_regex(text, NUL_IN_JSON, r"\1"))
        columns.append(cleaned)
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema), removed


def _count(found: pa.Array) -> int:
    return int(pc.sum(found).as_py() or 0)
