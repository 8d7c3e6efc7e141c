"""What every SQL source shares: describing tables, planning the SELECT of a read, following the cursor.

A connector for a database subclasses `SqlConnector` and gives it a `SqlSession`: one consistent snapshot of the source that lists tables,
runs a planned query into Arrow batches, and says how far a cursor can be trusted. Everything else is here, and none of it knows a dialect
beyond `SqlConnector.quote` and `SqlConnector.literal`.
"""

import math
import re
from abc import abstractmethod
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar, Protocol, TypeVar

import pyarrow as pa
from pydantic import Field

from elt_dagster.errors import ConfigError, NotFoundError, nearest
from elt_dagster.model import ESTIMATED_ROWS, Batch, Catalog, Checkpoint, CursorValue, ReadRequest, Stream, SyncMode
from elt_dagster.model.types import column as arrow_field
from elt_dagster.model.types import is_orderable, type_name
from elt_dagster.sdk.arrow import highest, null_rows
from elt_dagster.sdk.connector import Config, Connector, parse_config

# The preference for a cursor, best first: what changes with every write, then what is set once.
_CHANGED = re.compile(
    r"(^|_)(updated?|modified|changed?|lastmod|mtime)(_|$)|(updated|modified|changed)(at|on|date|time)?$", re.I
)
_CREATED = re.compile(r"(^|_)(created?|inserted|ctime)(_|$)|(created|inserted)(at|on|date|time)?$", re.I)
_SIZES = ((10_000, "xs"), (1_000_000, "s"), (20_000_000, "m"), (200_000_000, "l"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a source table, as it is read.

    ``kind`` is its canonical type. ``expression`` is SQL with ``{}`` for the quoted name, where the plain column would not arrive in a
    form that the reader understands. ``cursor_expression`` makes the source compare as Arrow and Python do; None when it cannot,
    and then the column is no cursor.
    """

    name: str
    kind: pa.DataType
    expression: str = "{}"
    cursor_expression: str | None = None
    nullable: bool = True
    growing: bool = False
    """The database numbers new rows with it (identity, serial, auto-increment)."""
    description: str = ""

    @property
    def can_be_cursor(self) -> bool:
        """Whether reading on from a value of this column is safe."""
        return self.cursor_expression is not None and is_orderable(self.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table, view or the like. ``rows`` is the database's own estimate; ``details`` is the session's business."""

    schema: str
    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    description: str = ""
    rows: int = 0
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def stream_name(self) -> str:
        """What the catalog calls it."""
        return f"{self.schema}.{self.name}"

    def column(self, name: str) -> Column:
        """The column called ``name``. Raises NotFoundError with the nearest match."""
        for column in self.columns:
            if column.name == name:
                return column
        raise NotFoundError(
            f"{self.stream_name} has no column {name!r} that this role can read.",
            fix=nearest(name, [c.name for c in self.columns]),
        )

    def stream(self, *, ordered: bool) -> Stream:
        """This table as a stream of the catalog."""
        cursors = tuple(c.name for c in self.columns if c.can_be_cursor)
        return Stream(
            name=self.stream_name,
            schema=arrow_schema(self.columns),
            primary_key=self.primary_key,
            cursor_field=best_cursor(self),
            cursor_fields=cursors,
            ordered=ordered and bool(cursors),
            description=self.description,
            size_class=next((size for limit, size in _SIZES if self.rows < limit), "xl"),
            metadata={"schema": self.schema, "table": self.name},
        )


def arrow_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """The Arrow schema in which ``columns`` are read; comments ride along as descriptions."""
    return pa.schema(arrow_field(c.name, c.kind, nullable=c.nullable, description=c.description) for c in columns)


def best_cursor(table: Table) -> str | None:
    """The column most likely to grow with every change: updated-like, then created-like times, then a numbered primary key."""
    times = [
        c for c in table.columns if c.can_be_cursor and (pa.types.is_timestamp(c.kind) or pa.types.is_date(c.kind))
    ]
    for wanted in (_CHANGED, _CREATED):
        for column in times:
            if wanted.search(column.name):
                return column.name
    numbered = [c.name for c in table.columns if c.growing and c.can_be_cursor and table.primary_key == (c.name,)]
    return numbered[0] if numbered else None


@dataclass(frozen=True, slots=True)
class Condition:
    """``column operator value``; operator is ``>=`` or ``<``."""

    column: Column
    operator: str
    value: CursorValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A planned SELECT: ``columns`` in order, the last one hidden when ``hides_cursor``."""

    table: Table
    columns: tuple[Column, ...]
    conditions: tuple[Condition, ...] = ()
    cursor: Column | None = None
    ordered: bool = False
    hides_cursor: bool = False

    @property
    def schema(self) -> pa.Schema:
        """What its batches look like. Every column may be NULL: a value that Arrow cannot hold becomes that."""
        return pa.schema([f.with_nullable(True) for f in arrow_schema(self.columns)])


class SqlSession(Protocol):
    """One connection's consistent view of a database. `close` cancels what runs and may be called at any time."""

    def tables(self, stream: Stream | None = None) -> list[Table]:
        """The readable tables, sorted by name, or only the one behind ``stream``."""
        ...

    def batches(self, query: Query, batch_bytes: int) -> Generator[tuple[pa.RecordBatch, Mapping[str, int]]]:
        """Rows of ``query`` in ``query.schema``, with counters. Closing it ends the query."""
        ...

    def safe_bound(self, column: Column) -> CursorValue | None:
        """Transactions still open may yet commit rows with cursor values from here on; None when there is no telling."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class SqlSettings(Config):
    """What a sync may choose for any SQL source."""

    ordered: bool = False
    """Read in cursor order, so that a load can be resumed in the middle. Costs a sort at the source unless the cursor has an index."""
    cursor_overlap: int = Field(default=0, ge=0)
    """Read again this many values below the checkpoint of an integer cursor, for rows whose transaction commits late."""


C = TypeVar("C", bound=Config)


class SqlConnector(Connector[C]):
    """A source that speaks SQL. Subclasses give `open`, and their dialect in `quote` and `literal`."""

    settings_type: ClassVar[type[Config] | None] = SqlSettings
    nulls_first: ClassVar[str] = ""
    """What ORDER BY needs for NULLs to come first, in dialects where they do not by themselves."""

    @abstractmethod
    def open(self, settings: Any) -> SqlSession:
        """Connect and begin one read-only snapshot; ``settings`` is a parsed `settings_type`."""

    @abstractmethod
    def literal(self, value: CursorValue, column: Column) -> str:
        """``value`` as SQL of the column's type, made of harmless characters only, or as a placeholder."""

    def quote(self, name: str) -> str:
        """``name`` as an identifier; the SQL standard's double quotes unless a dialect says otherwise."""
        return '"' + name.replace('"', '""') + '"'

    def settings(self, given: Mapping[str, Any] | None) -> Any:
        """``given`` as a `settings_type`. Raises ConfigError that names each wrong field."""
        return parse_config(self.settings_type or SqlSettings, given or {}, what=f"a sync from {self.name}")

    def discover(self, settings: Mapping[str, Any] | None = None) -> Catalog:
        chosen = self.settings(settings)
        with closing(self.open(chosen)) as session:
            tables = session.tables()
        return Catalog(tuple(t.stream(ordered=chosen.ordered) for t in tables))

    def read(self, request: ReadRequest) -> Iterator[Batch]:
        chosen = self.settings(request.settings)
        if request.mode is SyncMode.CDC:
            raise ConfigError(f"{self.title} cannot be read in mode cdc.", fix="Use incremental or full_refresh.")
        with closing(self.open(chosen)) as session:
            query = plan_query(self._table(session, request.stream), request, chosen)
            follow = query.cursor is not None and request.window is None
            bound = session.safe_bound(query.cursor) if follow and query.cursor else None
            with closing(session.batches(query, request.batch_bytes)) as rows:
                since = request.since if follow else None
                yield from with_checkpoints(_with_estimate(rows, query), query, since, bound, follow=follow)

    def select(self, query: Query, *extra: str) -> str:
        """``query`` as SQL; ``extra`` are further conditions, such as a range of row addresses."""
        listed = ", ".join(c.expression.format(self.quote(c.name)) for c in query.columns)
        where = [*(self._condition(c) for c in query.conditions), *extra]
        sql = f"SELECT {listed} FROM {self.quote(query.table.schema)}.{self.quote(query.table.name)}"
        if where:
            sql += f" WHERE {' AND '.join(where)}"
        if query.ordered and query.cursor is not None:
            # rows without a cursor must be out before the first checkpoint
            nulls = self.nulls_first if query.cursor.nullable and not query.conditions else ""
            sql += f" ORDER BY {self._comparable(query.cursor)}{nulls}"
        return sql

    def _condition(self, condition: Condition) -> str:
        value = self.literal(condition.value, condition.column)
        return f"{self._comparable(condition.column)} {condition.operator} {value}"

    def _comparable(self, column: Column) -> str:
        return (column.cursor_expression or "{}").format(self.quote(column.name))

    def _table(self, session: SqlSession, stream: Stream) -> Table:
        found = session.tables(stream)
        if not found:
            raise NotFoundError(
                f"{stream.name} does not exist in the source, or this role may not read it.",
                fix="Run discover to see what there is.",
            )
        return found[0]


def plan_query(table: Table, request: ReadRequest, settings: SqlSettings) -> Query:
    """What to ask ``table`` for. Raises NotFoundError for unknown columns, ConfigError for a cursor or position that cannot work."""
    wanted = _wanted(table, request)
    columns = tuple(table.column(name) for name in wanted)
    if not columns:
        raise ConfigError(f"No column of {table.stream_name} is left to read.", fix="Exclude fewer columns.")
    if request.cursor_field is None:
        if request.window is not None:
            raise ConfigError(
                f"{table.stream_name} cannot be read by window without a cursor.", fix="Set cursor_field."
            )
        return Query(table=table, columns=columns)
    cursor = table.column(request.cursor_field)
    if not cursor.can_be_cursor:
        usable = [c.name for c in table.columns if c.can_be_cursor]
        raise ConfigError(
            f"Column {cursor.name!r} of {table.stream_name} is of type {type_name(cursor.kind)} and cannot be a cursor.",
            fix=f"Usable here: {', '.join(usable) or 'none'}.",
        )
    hides = cursor.name not in wanted
    return Query(
        table=table,
        columns=(*columns, cursor) if hides else columns,
        conditions=_conditions(cursor, request, settings),
        cursor=cursor,
        ordered=settings.ordered and request.window is None,
        hides_cursor=hides,
    )


def _wanted(table: Table, request: ReadRequest) -> tuple[str, ...]:
    """The columns asked for that are still there, then those the table has got since it was discovered: schema drift is for the load to judge."""
    present = [c.name for c in table.columns]
    if request.columns is None:
        return tuple(present)
    if request.stream.schema is None:
        return request.columns
    known = set(request.stream.schema.names)
    kept = [
        name for name in request.columns if name in present or name not in known or name in request.stream.primary_key
    ]
    if not kept:
        return request.columns  # nothing of it is there: to be told, and not to be passed over
    return (*kept, *(name for name in present if name not in known and name not in kept))


def _conditions(cursor: Column, request: ReadRequest, settings: SqlSettings) -> tuple[Condition, ...]:
    if request.window is not None:
        if not _is_time(cursor.kind):
            raise ConfigError(f"Windows need a cursor that is a point in time; {cursor.name!r} is not.")
        start, end = (_as_kind(v, cursor.kind) for v in (request.window.start, request.window.end))
        return Condition(cursor, ">=", start), Condition(cursor, "<", end)
    if request.since is None or request.since.cursor is None:
        return ()
    return (Condition(cursor, ">=", _resume_from(request.since.cursor, cursor, request, settings)),)


def _resume_from(value: CursorValue, cursor: Column, request: ReadRequest, settings: SqlSettings) -> CursorValue:
    if not _fits(value, cursor.kind):
        raise ConfigError(
            f"The checkpoint of {request.stream.name} is of type {type(value).__name__}, but its cursor column "
            f"{cursor.name!r} is now {type_name(cursor.kind)}.",
            fix="Run a full refresh.",
        )
    if isinstance(value, datetime):
        return value - timedelta(seconds=request.lookback_seconds)
    if isinstance(value, date):
        return value - timedelta(days=math.ceil(request.lookback_seconds / 86400))
    if request.lookback_seconds:
        raise ConfigError(
            f"lookback_seconds needs a cursor that is a point in time; {cursor.name!r} is not.",
            fix="Remove it; for integers there is the setting cursor_overlap.",
        )
    return value - settings.cursor_overlap if isinstance(value, int) else value


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _as_kind(value: datetime, kind: pa.DataType) -> datetime:
    """An end of a window for a column that knows no zone, or only one; a naive end is UTC. For a date it is the day in the window's own zone."""
    if pa.types.is_date(kind):
        return value.replace(tzinfo=None)
    aware = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    return aware if pa.types.is_timestamp(kind) and kind.tz else aware.replace(tzinfo=None)


def _fits(value: CursorValue, kind: pa.DataType) -> bool:
    """Whether a checkpoint's value can be compared with a column of ``kind``."""
    t = pa.types
    if isinstance(value, datetime):
        zoned = value.tzinfo is not None
        return t.is_timestamp(kind) and (getattr(kind, "tz", None) is not None) is zoned
    if isinstance(value, date):
        return bool(t.is_date(kind))
    if isinstance(value, str):
        return bool(t.is_string(kind))
    return bool(t.is_floating(kind) or (not isinstance(value, float) and (t.is_integer(kind) or t.is_decimal(kind))))


def _with_estimate(
    rows: Iterator[tuple[pa.RecordBatch, Mapping[str, int]]], query: Query
) -> Iterator[tuple[pa.RecordBatch, Mapping[str, int]]]:
    """``rows``, of which the first tell how many there are about when the whole table is read."""
    expected = {ESTIMATED_ROWS: query.table.rows} if query.table.rows and not query.conditions else {}
    for data, counts in rows:
        yield data, {**counts, **expected}
        expected = {}


def with_checkpoints(
    rows: Iterator[tuple[pa.RecordBatch, Mapping[str, int]]],
    query: Query,
    since: Checkpoint | None,
    bound: CursorValue | None,
    *,
    follow: bool,
) -> Iterator[Batch]:
    """``rows`` as batches: the last carries the checkpoint, and in an ordered read every one. Rows without a cursor are counted.

    A checkpoint never runs past ``bound`` (rows may still appear there) and never falls behind ``since``. One batch is held back.
    """
    seen: CursorValue | None = None
    held: Batch | None = None
    name = query.cursor.name if query.cursor else None
    for data, counts in rows:
        totals = dict(counts)
        if name is not None:
            seen = highest(data, name, seen)
            if missing := null_rows(data, name):
                totals["null_cursor_rows"] = missing
        if held is not None:
            # in no order, only the whole read covers its largest value
            yield held if query.ordered else replace(held, checkpoint=None)
        visible = data.select(data.schema.names[:-1]) if query.hides_cursor else data
        held = Batch(visible, _checkpoint(seen, since, bound) if follow else None, totals)
    if held is not None:
        yield held


def _checkpoint(seen: CursorValue | None, since: Checkpoint | None, bound: CursorValue | None) -> Checkpoint | None:
    before = since.cursor if since else None
    values: Any = seen if bound is None or seen is None else min(seen, bound)
    if before is not None:
        values = before if values is None else max(values, before)
    return None if values is None else Checkpoint(values)
