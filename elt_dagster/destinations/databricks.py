"""Databricks SQL as a warehouse: Unity Catalog tables in Delta, loaded through a SQL warehouse with databricks-sdk.

Rows go to a volume as Parquet while the source is read, from there into a table of staged rows, and from that into the table when all is there
(`_databricks_load`). Which promise a commit keeps depends on `transactions`:

- **In a transaction** (`atomic`, and `auto` where the workspace allows it): rows, history table, rejected rows and state are one `BEGIN ATOMIC ... END`. Readers see all of
  it or nothing, and so does whoever comes after a crash. It needs managed tables with catalog commits, which is how new tables are made; a table made earlier needs
  `ALTER TABLE ... SET TBLPROPERTIES ('delta.feature.catalogManaged' = 'supported')` once.
- **By claim** (`idempotent`, and `auto` where a transaction was refused): the state row is claimed first, then each table is changed by one atomic statement, then the claim
  becomes the state. Each row arrives exactly once here too, whatever crashes: a commit that was interrupted is finished by the next load of the same stream. But a reader may see
  the rows up to a few seconds before the state and the history table say so, and after a crash until that next load. Tables have one more column, `_elt_commit`, that `read` leaves out.

A full refresh that takes columns away or changes their types is always committed by claim, for it is DDL. Columns are added and widened before the rows come, in both modes;
a load that fails may leave an empty new table or empty new columns behind. Only one of two loads of a stream can commit, in both modes: the state row is compared and swapped.

Nanoseconds are cut to microseconds; times of day, UUIDs and intervals become text; unsigned integers the next wider type; JSON becomes VARIANT (setting `json_columns`). Names
are compared without regard to case, and Unity Catalog takes no dots, spaces or slashes in the names of schemas and tables. Counts of inserted and updated rows are taken
just before the commit. What dead processes left in the staging volume is removed after a day.
"""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from elt_dagster.destinations._databricks_commit import settle
from elt_dagster.destinations._databricks_errors import StatementFailedError, explaining
from elt_dagster.destinations._databricks_load import DatabricksLoad
from elt_dagster.destinations._databricks_session import Parameter, Session
from elt_dagster.destinations._databricks_settings import DatabricksConfig, Transactions
from elt_dagster.destinations._databricks_sql import check_names, folded, qualified, quote
from elt_dagster.destinations._databricks_stage import sweep
from elt_dagster.destinations._databricks_state import (
    add_statement,
    committed,
    forget_statement,
    is_mine,
    position_of,
    read_history,
    read_rows,
    state_table,
)
from elt_dagster.destinations._databricks_table import Described, describe, find, planned_evolution, table_names
from elt_dagster.destinations._databricks_types import column_kind, readable
from elt_dagster.destinations.base import Destination, Load, LoadPlan, State, StateMove, TableRef
from elt_dagster.destinations.dropping import is_ours, states_of, theirs
from elt_dagster.destinations.history import history_columns, history_table
from elt_dagster.destinations.plans import check_plan
from elt_dagster.destinations.state import check_moves, check_state
from elt_dagster.errors import DestinationError, EltError, NotFoundError, nearest
from elt_dagster.model import CheckResult
from elt_dagster.model.types import JSON
from elt_dagster.sdk.connector import Runtime


class Databricks(Destination[DatabricksConfig]):
    """Tables in a Unity Catalog catalog, loaded through a Databricks SQL warehouse."""

    name = "databricks"
    title = "Databricks"
    docs_url = "https://docs.databricks.com/aws/en/sql/"
    requires = ("databricks.sdk",)
    config_type = DatabricksConfig

    def __init__(self, config: DatabricksConfig, runtime: Runtime | None = None) -> None:
        super().__init__(config, runtime)
        self._session = Session(config, self.runtime, is_idempotent=config.transactions is Transactions.IDEMPOTENT)
        self._swept: set[str] = set()
        self._lock = threading.Lock()

    def check(self) -> CheckResult:
        """Whether the warehouse answers and the catalog is there; makes nothing, and starts a warehouse that sleeps."""
        try:
            with explaining("checking the warehouse", self.config):
                ((user,),) = self._session.rows("SELECT current_user()")
                self._session.rows(f"SHOW SCHEMAS IN {quote(self.config.catalog)}")
        except EltError as error:
            return CheckResult(ok=False, message=str(error))
        where = f"the catalog {self.config.catalog} in {self.config.host}"
        return CheckResult(
            ok=True, message=f"Connected to {where} as {user}, through the SQL warehouse {self.config.warehouse_id}."
        )

    def begin(self, plan: LoadPlan) -> Load:
        """See `Destination.begin`. Finishes a commit of the same binding that was interrupted, and then raises TransientError when the plan was
        made from the state before."""
        check_plan(plan, folded)
        check_names(plan, plan.columns.names)
        session = self._session
        with explaining(f"looking at {plan.table}", self.config):
            found = find(session, plan)
            if found.pending is not None:
                settle(session, found.pending, plan, self.runtime.now().timestamp())
                found = find(session, plan)
                check_state(plan, found.state, first=True)
            evolution = planned_evolution(session, plan, found.columns, [])
            if plan.history and (history := describe(session, history_table(plan.table))) is not None:
                history_columns(evolution.columns, history.columns, folded, history.table)
            self._sweep(plan.table.schema, [row.state.load_id for row in found.rows or () if row.pending is not None])
        return DatabricksLoad(plan, session)

    def state(self, schema: str, binding_id: str) -> State | None:
        """See `Destination.state`."""
        return next((s for s in self.states(schema) if s.binding_id == binding_id), None)

    def states(self, schema: str) -> list[State]:
        """See `Destination.states`. A commit that was interrupted does not count until it is finished."""
        with explaining(f"reading the state of {schema}", self.config):
            return committed(read_rows(self._session, schema))

    def history(self, schema: str, binding_id: str) -> list[State]:
        """See `Destination.history`."""
        with explaining(f"reading the history of {schema}", self.config):
            return read_history(self._session, schema, binding_id)

    def move_states(self, moves: Sequence[StateMove]) -> None:
        """See `Destination.move_states`. A commit that was interrupted is given up by this: some of its rows may be in the table."""
        if not moves:
            return
        schema = moves[0].state.table.schema
        with explaining(f"setting the state of {schema}", self.config):
            rows = read_rows(self._session, schema)
            check_moves(moves, committed(rows))
            added = [(move.state, position_of(rows, move.state.binding_id)) for move in moves]
            table = state_table(self.config.catalog, schema)
            self._session.run(add_statement(table, added))
            if not all(self._session.number(is_mine(table, state, position + 1)) for state, position in added):
                raise DestinationError(
                    f"A state of {schema} was changed by a run in the meantime; nothing was changed.",
                    fix="Look at it with `elt-dagster state history`, and try again.",
                )

    def drop(self, schema: str, binding_ids: Collection[str]) -> tuple[TableRef, ...]:
        """See `Destination.drop`. The states go last; a commit that was interrupted goes with them. Unity Catalog can bring tables back for some days."""
        dropped: list[TableRef] = []
        with explaining(f"removing tables of {schema}", self.config):
            # an interrupted commit has made a table as well
            gone = states_of((row.state for row in read_rows(self._session, schema) or ()), binding_ids)
            for table, marks in theirs(gone).items():
                found = describe(self._session, table)
                if found is None or "VIEW" in found.kind or not is_ours(found.columns.names, marks):
                    continue
                self._session.run(f"DROP TABLE {qualified(self.config.catalog, table)}")
                dropped.append(table)
            if gone:
                self._session.run(forget_statement(state_table(self.config.catalog, schema), gone))
        return tuple(dropped)

    def columns(self, table: TableRef) -> pa.Schema | None:
        """See `Destination.columns`. A view has columns too."""
        with explaining(f"looking at {table}", self.config):
            found = describe(self._session, table)
            return found.columns if found is not None else None

    def count(self, table: TableRef) -> int:
        """The number of rows in ``table``. Raises NotFoundError for a missing table."""
        with explaining(f"counting {table}", self.config):
            try:
                return self._session.number(f"SELECT count(*) FROM {qualified(self.config.catalog, table)}")
            except StatementFailedError as error:
                if error.is_missing:
                    raise self._no_table(table) from None
                raise

    def read(
        self, table: TableRef, columns: list[str] | None = None, where: Mapping[str, tuple[Any, Any]] | None = None
    ) -> pa.RecordBatchReader:
        """See `Destination.read`; a bound of None is open.

        The result is as of this call. It is fetched in parts of at most 20 MiB as the reader is read, within the hours that Databricks keeps it.
        """
        with explaining(f"reading {table}", self.config):
            found = describe(self._session, table)
            if found is None:
                raise self._no_table(table)
            names = {folded(name): name for name in found.columns.names}
            chosen = [_known(found, names, name) for name in (columns if columns is not None else found.columns.names)]
            schema = pa.schema([(name, column_kind(found.types[name])) for name in chosen])
            terms = [f"{readable(name, found.types[name])} AS c{i}" for i, name in enumerate(chosen)] or ["NULL AS c0"]
            condition, parameters = _condition(found, names, where or {})
            sql = f"SELECT {', '.join(terms)} FROM {qualified(self.config.catalog, table)}{condition}"
            batches = self._session.batches(sql, parameters)
        return pa.RecordBatchReader.from_batches(schema, self._read(batches, schema, table))

    def uri(self, table: TableRef) -> str:
        """``databricks://<host>/<catalog>/<schema>/<table>``."""
        host = self.config.host.partition("://")[2]
        return f"databricks://{host}/{self.config.catalog}/{table.schema}/{table.name}"

    def _read(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema, table: TableRef) -> Iterator[pa.RecordBatch]:
        with explaining(f"reading {table}", self.config):
            for batch in batches:
                yield _as(batch, schema)

    def _no_table(self, table: TableRef) -> NotFoundError:
        return NotFoundError(
            f"There is no table {table}.", fix=nearest(table.name, table_names(self._session, table.schema))
        )

    def _sweep(self, schema: str, claimed: Sequence[str]) -> None:
        """Once for each schema: loads of one run need not all look for leftovers of others."""
        with self._lock:
            is_due = schema not in self._swept
            self._swept.add(schema)
        if is_due:
            sweep(self._session, schema, claimed)


destination = Databricks
_KINDS: dict[type, str] = {bool: "BOOLEAN", date: "DATE", float: "DOUBLE"}


def _known(found: Described, names: Mapping[str, str], name: str) -> str:
    if folded(name) not in names:
        raise NotFoundError(f"{found.table} has no column {name!r}.", fix=nearest(name, list(names.values())))
    return names[folded(name)]


def _condition(
    found: Described, names: Mapping[str, str], where: Mapping[str, tuple[Any, Any]]
) -> tuple[str, list[Parameter]]:
    terms: list[str] = []
    parameters: list[Parameter] = []
    for name, bounds in where.items():
        column = _known(found, names, name)
        for bound, compare in zip(bounds, (">=", "<"), strict=True):
            if bound is not None:
                parameters.append(_parameter(f"p{len(parameters)}", bound, column_kind(found.types[column])))
                terms.append(f"{quote(column)} {compare} :{parameters[-1].name}")
    return (f" WHERE {' AND '.join(terms)}" if terms else ""), parameters


def _parameter(name: str, bound: Any, column: pa.DataType) -> Parameter:
    """A bound as a parameter; a naive time in a column with a zone is UTC, and the other way around."""
    if isinstance(bound, datetime):
        if pa.types.is_timestamp(column) and column.tz:
            return Parameter(name, (bound if bound.tzinfo else bound.replace(tzinfo=UTC)).isoformat(), "TIMESTAMP")
        return Parameter(name, bound.replace(tzinfo=None).isoformat(), "TIMESTAMP_NTZ")
    for python, kind in _KINDS.items():
        if isinstance(bound, python):
            return Parameter(name, str(bound).lower() if python is bool else str(bound), kind)
    if isinstance(bound, int):
        return Parameter(name, str(bound), "BIGINT" if abs(bound) < 2**63 else "DECIMAL(38,0)")
    if isinstance(bound, Decimal):
        return Parameter(name, f"{bound:f}", f"DECIMAL(38,{max(0, -int(bound.as_tuple().exponent))})")
    return Parameter(name, str(bound), "STRING")


def _as(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """``batch`` under exactly the canonical ``schema``, by position."""
    columns = []
    for array, field in zip(batch.columns, schema, strict=False):
        if field.type == JSON:
            columns.append(pa.ExtensionArray.from_storage(JSON, array.cast(pa.string())))
        else:
            columns.append(array if array.type == field.type else array.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
