"""The contract of a destination: what every warehouse class promises.

A load goes: `Destination.begin` (checks the table, takes no lock) → `Load.stage` per batch (takes no lock) → `Load.commit` (one
transaction: rows and state row). Nothing is visible before `commit`; an `abort`, a crash or a kill before it leaves no trace.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from types import TracebackType
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa

from elt_dagster.errors import ConfigError
from elt_dagster.model import Checkpoint, CheckResult, DeleteMode, LoadMode, SchemaDrift
from elt_dagster.model.run import SchemaChange
from elt_dagster.sdk.connector import Config, Runtime, parse_config

STATE_TABLE = "_elt_state"
HISTORY_LENGTH = 20
DELETED_AT = "_elt_deleted_at"
VALID_FROM, VALID_TO, IS_CURRENT = "_valid_from", "_valid_to", "_is_current"
"""UTC timestamp of when a row was found deleted; NULL for a living one."""


@dataclass(frozen=True, slots=True)
class TableRef:
    """A table in a warehouse; names are unquoted."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class State:
    """One row of ``_elt_state``: where a binding's committed data ends."""

    binding_id: str
    table: TableRef
    checkpoint: Checkpoint
    load_id: str
    run_id: str
    fence: int
    committed_at: datetime


@dataclass(frozen=True, slots=True)
class StateMove:
    """A state set by hand: ``state`` in the place of the one that the load ``after_load`` left."""

    state: State
    after_load: str


@dataclass(frozen=True, slots=True)
class RowRange:
    """The rows of a table whose ``column`` is in the half-open span ``[start, end)``; bounds are dates for a date column, naive for a naive one."""

    column: str
    start: datetime | date
    end: datetime | date


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What a load does to its table.

    ``columns`` are warehouse names with canonical types, in table order; descriptions ride in field metadata. Batches may bring further columns
    (schema drift), and `DELETED_AT`, which is a column of the table only when it is among ``columns``.
    """

    table: TableRef
    columns: pa.Schema
    mode: LoadMode
    binding_id: str
    load_id: str
    run_id: str
    fence: int = 0
    """Refuse to commit when the state row already carries a higher one: a stopped process woke up too late."""
    after_load: str | None = None
    """Load id of the state this plan was made from (None: there was no state). `Load.commit` raises TransientError when the state has moved on since:
    another run loaded the same rows in the meantime."""
    primary_key: tuple[str, ...] = ()
    cursor_field: str | None = None
    deduplicate: bool = False
    """Keep one row per primary key: the highest cursor, then the last to arrive. Merge always does."""
    boundary: Checkpoint | None = None
    """For append: rows from this cursor value on may be in the table already and must not be doubled."""
    replaces: RowRange | None = None
    """For append and merge: these rows go in the same transaction before the staged ones come, as one partition of the table's history."""
    deletes: DeleteMode = DeleteMode.HARD
    """For merge and replace: what becomes of rows whose staged version carries `DELETED_AT`, and of those that a replace does not find again.

    hard removes them, and the table has no such column; soft keeps their values and sets the column, which is among ``columns``; ignore keeps them as
    they were (no staged row carries the mark). soft and ignore need a primary key, and a replace then takes no column away."""
    history: bool = False
    """For merge and replace with a primary key: keep versions of rows in ``<table>__history``, see `elt_dagster.destinations.history`."""
    reset_history: bool = False
    """Begin the history table anew with this commit."""
    drift: SchemaDrift = SchemaDrift.EVOLVE
    description: str = ""


@dataclass(frozen=True, slots=True)
class Committed:
    """What one `Load.commit` did, in rows; ``table_rows`` is the table's size afterwards.

    ``rejected`` rows held a value that its column cannot take; they are in ``<table>__rejected`` (`elt_dagster.destinations.rejected`), the others in the table.
    ``deleted`` are those removed or newly marked.
    """

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    rejected: int = 0
    table_rows: int = 0
    columns: pa.Schema | None = None
    schema_changes: tuple[SchemaChange, ...] = ()


class Load(ABC):
    """One load of one table. Use as a context manager: leaving it without `commit` aborts and removes what was staged."""

    @abstractmethod
    def stage(self, batch: pa.RecordBatch) -> None:
        """Keep ``batch`` where nobody reads it. Its schema may have further columns than the plan's (schema drift)."""

    @abstractmethod
    def commit(self, checkpoint: Checkpoint | None) -> Committed:
        """Make everything staged since the last commit visible, with ``checkpoint``, in one transaction.

        A load with mode append or merge may commit several times; a replace once. Also correct when nothing was staged: a replace
        then leaves an empty table. Rows whose values do not fit are set aside and counted, and fail nothing. Raises DestinationError (fence passed, table changed, type conflict) or TransientError (busy, or the state has moved on).
        """

    @abstractmethod
    def abort(self) -> None:
        """Throw away what was staged since the last commit. Idempotent."""

    def __enter__(self) -> "Load":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


C = TypeVar("C", bound=Config)


class Destination(ABC, Generic[C]):
    """One warehouse. Making one costs nothing; every method opens what it needs and closes it again."""

    name: ClassVar[str]
    title: ClassVar[str]
    docs_url: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    config_type: ClassVar[type[Config]]

    def __init__(self, config: C, runtime: Runtime | None = None) -> None:
        self.config = config
        self.runtime = runtime or Runtime()

    @classmethod
    def configured(cls, config: Mapping[str, Any], runtime: Runtime | None = None) -> "Destination[C]":
        """A destination from plain settings with secrets already resolved. Raises ConfigError that names each wrong field."""
        return cls(parse_config(cls.config_type, config, what=f"destination {cls.name}"), runtime)  # type: ignore[arg-type]

    @abstractmethod
    def check(self) -> CheckResult:
        """Whether the warehouse can be reached and written to; a refusal is an answer, not an exception."""

    @abstractmethod
    def begin(self, plan: LoadPlan) -> Load:
        """Start a load. Raises DestinationError at once when the table cannot take it (another owner's table, a view, a frozen
        schema that differs), before the source is asked for anything."""

    @abstractmethod
    def state(self, schema: str, binding_id: str) -> State | None:
        """The committed state of a binding, or None before its first commit (also when schema or file do not exist yet)."""

    @abstractmethod
    def states(self, schema: str) -> list[State]:
        """Every binding's state in a schema, ordered by table; empty when there is none."""

    @abstractmethod
    def history(self, schema: str, binding_id: str) -> list[State]:
        """The last 20 committed states of a binding, newest first."""

    @abstractmethod
    def move_states(self, moves: Sequence[StateMove]) -> None:
        """Set states of one schema, newest of their histories, all in one transaction; no table is touched.

        A load that is under way cannot commit afterwards. Raises DestinationError, and changes nothing, when a binding has no state, or one of
        another load than `StateMove.after_load` or with a higher fence.
        """

    def drop(self, schema: str, binding_ids: Collection[str]) -> tuple[TableRef, ...]:
        """Remove all that these bindings have loaded: their tables with history and rejected rows, and their states. Returns the tables that were there.

        Only what a state says is theirs goes, so that nobody else's table can; a load that is under way cannot commit afterwards. Calling it again does
        nothing. In one transaction where the warehouse has such for tables, else states go last. Raises ConfigError where it cannot be done.
        """
        raise ConfigError(
            f"{self.title} cannot remove tables from here.", fix="Leave removeDataReferences out, and drop them there."
        )

    @abstractmethod
    def columns(self, table: TableRef) -> pa.Schema | None:
        """The table's columns with canonical types, or None if there is no such table."""

    @abstractmethod
    def count(self, table: TableRef) -> int:
        """The number of rows in ``table``."""

    @abstractmethod
    def read(
        self, table: TableRef, columns: list[str] | None = None, where: Mapping[str, tuple[Any, Any]] | None = None
    ) -> pa.RecordBatchReader:
        """Rows of ``table`` as a lazy reader; ``columns`` and the half-open ranges in ``where`` are applied by the warehouse.

        Raises NotFoundError for a missing table or column.
        """

    @abstractmethod
    def uri(self, table: TableRef) -> str:
        """Where the table is, without credentials: becomes ``dagster/uri``."""
