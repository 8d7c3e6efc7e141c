"""Tables that no source stands behind: what a user's own asset or script writes into a warehouse and reads from it.

A write is one transaction, as every load is: readers see the table before or after, a failure leaves it as it was. It goes through
`Destination.begin` with a state row of its own, which is also how an append is recognised that was done already.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa

from elt_dagster.control.configured import derived_id
from elt_dagster.destinations.base import Committed, Destination, LoadPlan, RowRange, TableRef
from elt_dagster.destinations.plans import part_of_binding
from elt_dagster.engine.transform import canonical_batch
from elt_dagster.engine.windows import bound
from elt_dagster.errors import ConfigError, nearest
from elt_dagster.model import LoadMode, Window
from elt_dagster.model.compute import pc
from elt_dagster.model.types import type_name

Told = Callable[[int, int], None]
"""Told of rows and Arrow bytes staged so far, after each batch."""


@dataclass(frozen=True, slots=True)
class WindowRows:
    """The rows of a table whose time ``column`` is in ``window``: one partition."""

    column: str
    window: Window

    def range_in(self, schema: pa.Schema) -> RowRange:
        """As bounds of the column's own kind of time. Raises ConfigError where ``schema`` has no such column, or it is no time."""
        if self.column not in schema.names:
            raise ConfigError(
                f"There is no column {self.column!r} to tell partitions by.", fix=nearest(self.column, schema.names)
            )
        kind = schema.field(self.column).type
        if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
            raise ConfigError(
                f"Partitions cannot be told by the column {self.column!r}: it is {type_name(kind)}, not a time.",
                fix="Name a date or timestamp column.",
            )
        return RowRange(self.column, bound(self.window.start, kind), bound(self.window.end, kind))


@dataclass(frozen=True, slots=True, kw_only=True)
class TableWrite:
    """What is to become of a table.

    ``owner`` says whose table it is: two owners are two states. ``once`` names an append: when the owner's last commit had the same name,
    nothing is written again. ``rows`` limits what is replaced to one partition, whose old rows go in the same transaction. ``part``
    names a part of the table with a state of its own, so that parts can be written side by side.
    """

    table: TableRef
    owner: str
    mode: LoadMode = LoadMode.REPLACE
    primary_key: tuple[str, ...] = ()
    once: str = ""
    rows: WindowRows | None = None
    part: str = ""

    @property
    def binding_id(self) -> str:
        """Under which id the state is kept."""
        return part_of_binding(self.owner, self.part) if self.part else self.owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What one write did. ``rows`` and ``bytes`` are those handed over, also where they were in the table already (``repeated``)."""

    committed: Committed
    columns: pa.Schema
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    repeated: bool = False


def owner_of(*key: str) -> str:
    """The owner that stands for an asset's key."""
    return derived_id("asset", *key)


def table_ref(text: str) -> TableRef:
    """``schema.table``, also after a database's name. Raises ConfigError for anything else."""
    parts = text.split(".")[-2:]
    if len(parts) != 2 or not all(parts):
        raise ConfigError(f"{text!r} is no table.", fix="Write schema.table.")
    return TableRef(parts[0], parts[1])


def write_table(
    destination: Destination[Any], write: TableWrite, batches: Iterable[pa.RecordBatch], tell: Told | None = None
) -> Written:
    """Stage and commit ``batches``, one at a time. The columns are those of a reader's schema, else of the first batch.

    Raises ConfigError (no such column, rows of another partition), DestinationError, TransientError; the table is then as it was.
    """
    started = time.monotonic()
    state = destination.state(write.table.schema, write.binding_id)
    schema, batches = _opened(batches)
    empty = canonical_batch(pa.RecordBatch.from_pylist([], schema))
    if write.mode is LoadMode.APPEND and write.once and state is not None and state.run_id == write.once:
        return Written(
            committed=Committed(table_rows=destination.count(write.table)), columns=empty.schema, repeated=True
        )
    plan = _plan(write, empty.schema, state.load_id if state is not None else None)
    rows, size = 0, 0
    with destination.begin(plan) as load:
        for batch in _checked(batches, plan.replaces, write.table):
            load.stage(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
            if tell is not None:
                tell(rows, size)
        done = load.commit(None)
    return Written(
        committed=done,
        columns=done.columns if done.columns is not None else empty.schema,
        rows=rows,
        bytes=size,
        seconds=time.monotonic() - started,
    )


def read_table(
    destination: Destination[Any], table: TableRef, columns: list[str] | None = None, rows: WindowRows | None = None
) -> pa.RecordBatchReader:
    """``table`` as a lazy reader; the warehouse picks the columns and the partition. Raises NotFoundError, ConfigError."""
    found = destination.columns(table) if rows is not None else None
    if rows is None or found is None:
        return destination.read(table, columns)
    wanted = rows.range_in(found)
    return destination.read(table, columns, {wanted.column: (wanted.start, wanted.end)})


def _opened(batches: Iterable[pa.RecordBatch]) -> tuple[pa.Schema, Iterable[pa.RecordBatch]]:
    """The columns to begin with, and all batches."""
    schema = getattr(batches, "schema", None)
    if schema is not None:
        return schema, batches
    rest = iter(batches)
    first = next(rest, None)
    if first is None:
        return pa.schema([]), ()
    return first.schema, chain([first], rest)


def _plan(write: TableWrite, columns: pa.Schema, after_load: str | None) -> LoadPlan:
    replaces = write.rows.range_in(columns) if write.rows is not None else None
    # A partition is replaced by appending where its rows were; the rest of the table stays.
    is_part = replaces is not None and write.mode is LoadMode.REPLACE
    return LoadPlan(
        table=write.table,
        columns=columns,
        mode=LoadMode.APPEND if is_part else write.mode,
        binding_id=write.binding_id,
        load_id=uuid.uuid4().hex,
        run_id=write.once or uuid.uuid4().hex,
        after_load=after_load,
        primary_key=write.primary_key,
        replaces=replaces if is_part else None,
    )


def _checked(batches: Iterable[pa.RecordBatch], rows: RowRange | None, table: TableRef) -> Iterator[pa.RecordBatch]:
    """Canonical batches; those of a partition must not bring rows that its next replacement would not find again."""
    for batch in batches:
        found = canonical_batch(batch)
        if rows is not None and found.num_rows:
            times = found.column(rows.column)
            start, end = (pa.scalar(at, times.type) for at in (rows.start, rows.end))
            inside = pc.and_(pc.greater_equal(times, start), pc.less(times, end))
            if not pc.all(pc.fill_null(inside, False)).as_py():
                raise ConfigError(
                    f"{table}: rows of the partition {rows.start} to {rows.end} have a {rows.column!r} outside of it, or none.",
                    fix="Return the rows of this partition only.",
                )
        yield found
