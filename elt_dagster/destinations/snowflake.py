"""Snowflake as a warehouse: every load commits its rows and its state in one transaction.

Rows go out as Parquet into a temporary stage (`_snowflake_stage`), COPY brings them into a temporary table, and SQL does the rest (`_snowflake_rows`); what is
done before the transaction, what in it, and why two loads cannot both win is written down in `_snowflake_load`.

- Tables and columns keep their lower-case names, so in your own SQL they are quoted: `SELECT "id" FROM "raw_shop"."orders"`.
- Snowflake has no unsigned, 32-bit floating, UUID and interval columns: they become the next larger number, FLOAT and text.
- JSON is VARIANT: the value is kept, not the text; Snowflake sorts the keys of an object.
- The role needs USAGE on warehouse and database and CREATE SCHEMA on the database, or, on schemas that are there, USAGE, CREATE TABLE and CREATE STAGE.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from elt_dagster.destinations._snowflake_check import answer
from elt_dagster.destinations._snowflake_errors import explaining
from elt_dagster.destinations._snowflake_load import SnowflakeLoad, Warehouse, check_names
from elt_dagster.destinations._snowflake_session import Session, qualified
from elt_dagster.destinations._snowflake_settings import SnowflakeConfig
from elt_dagster.destinations._snowflake_table import (
    Table,
    drop,
    find,
    lock_states,
    look,
    names_of,
    planned_evolution,
    read_history,
    read_states,
    save_state,
)
from elt_dagster.destinations._snowflake_types import DIALECT, as_canonical, bound_text, folded, readable
from elt_dagster.destinations.base import Destination, Load, LoadPlan, State, StateMove, TableRef
from elt_dagster.destinations.history import history_columns, history_table
from elt_dagster.destinations.plans import check_plan
from elt_dagster.destinations.sql import quote
from elt_dagster.destinations.state import check_moves
from elt_dagster.errors import DestinationError, EltError, NotFoundError, nearest
from elt_dagster.model import CheckResult


class Snowflake(Destination[SnowflakeConfig]):
    """Tables in a Snowflake database."""

    name = "snowflake"
    title = "Snowflake"
    docs_url = "https://docs.snowflake.com/"
    requires = ("snowflake.connector",)
    config_type = SnowflakeConfig

    def check(self) -> CheckResult:
        """Whether the account can be reached and loaded into; makes nothing, and does not wake the warehouse."""
        try:
            with explaining("checking the account", self.config), self._open() as session:
                return answer(session, self.config)
        except EltError as error:
            return CheckResult(ok=False, message=str(error))

    def begin(self, plan: LoadPlan) -> Load:
        """See `Destination.begin`."""
        check_plan(plan, folded)
        check_names(plan, plan.columns.names)
        doing = f"looking at {plan.table}"
        with explaining(doing, self.config):
            session = self._open()
        try:
            with explaining(doing, self.config):
                history = history_table(plan.table)
                found = find(session, plan, [history.name] if plan.history else [])
                evolution = planned_evolution(plan, found.columns, [])
                if plan.history and (known := found.companions.get(history.name)):
                    history_columns(evolution.columns, known.columns, folded, history)
        except BaseException:
            session.close()
            raise
        return SnowflakeLoad(plan, session, Warehouse(self.config, self.runtime, self._open), found)

    def state(self, schema: str, binding_id: str) -> State | None:
        """See `Destination.state`."""
        return next((s for s in self.states(schema) if s.binding_id == binding_id), None)

    def states(self, schema: str) -> list[State]:
        """See `Destination.states`."""
        with explaining(f"reading the state of {schema}", self.config), self._open() as session:
            return read_states(session, schema)

    def history(self, schema: str, binding_id: str) -> list[State]:
        """See `Destination.history`."""
        with explaining(f"reading the history of {schema}", self.config), self._open() as session:
            return read_history(session, schema, binding_id)

    def move_states(self, moves: Sequence[StateMove]) -> None:
        """See `Destination.move_states`."""
        if not moves:
            return
        schema = moves[0].state.table.schema
        with explaining(f"setting the state of {schema}", self.config), self._open() as session, session.transaction():
            check_moves(moves, lock_states(session, schema))
            for move in moves:
                save_state(session, move.state)

    def drop(self, schema: str, binding_ids: Collection[str]) -> tuple[TableRef, ...]:
        """See `Destination.drop`."""
        with explaining(f"removing tables of {schema}", self.config), self._open() as session:
            return drop(session, schema, binding_ids)

    def columns(self, table: TableRef) -> pa.Schema | None:
        """See `Destination.columns`. A view has columns too."""
        with explaining(f"looking at {table}", self.config), self._open() as session:
            found = look(session, table.schema, [table.name]).get(table.name)
            return found.columns if found is not None else None

    def count(self, table: TableRef) -> int:
        """The number of rows in ``table``. Raises NotFoundError for a missing table."""
        with explaining(f"counting {table}", self.config), self._open() as session:
            require(session, table)
            return int(session.value(f"SELECT COUNT(*) FROM {qualified(table)}"))

    def read(
        self, table: TableRef, columns: list[str] | None = None, where: Mapping[str, tuple[Any, Any]] | None = None
    ) -> pa.RecordBatchReader:
        """See `Destination.read`; a bound of None is open.

        The result is computed when this returns, and lies in Snowflake's own storage: batches are fetched one by one while the reader is
        read, over no connection, and stay readable for hours. What others commit meanwhile is not in it.
        """
        doing = f"reading {table}"
        with explaining(doing, self.config), self._open() as session:
            found = require(session, table)
            chosen = [_required(found, name) for name in columns] if columns is not None else list(found.columns)
            schema = pa.schema([(f.name, f.type) for f in chosen])
            terms = ", ".join(f"{readable(f.name, f.type)} AS C{n}" for n, f in enumerate(chosen)) or "NULL"
            condition, bounds = _condition(found, where or {})
            batches = session.result_batches(f"SELECT {terms} FROM {qualified(table)}{condition}", bounds)
        return pa.RecordBatchReader.from_batches(schema, self._fetched(batches, schema, doing))

    def uri(self, table: TableRef) -> str:
        """``snowflake://<account>/<database>/<schema>/<table>``."""
        return f"snowflake://{self.config.account}/{self.config.database}/{table.schema}/{table.name}"

    def _fetched(self, batches: Sequence[Any], schema: pa.Schema, doing: str) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.rowcount == 0:
                continue
            with explaining(doing, self.config):
                table = _canonical(batch.to_arrow(), schema, doing)
            yield from table.to_batches()

    def _open(self) -> Session:
        return Session(self.config)


destination = Snowflake


def require(session: Session, table: TableRef) -> Table:
    """The table or view. Raises NotFoundError with the nearest name of the schema."""
    found = look(session, table.schema, [table.name]).get(table.name)
    if found is None:
        raise NotFoundError(f"There is no table {table}.", fix=nearest(table.name, names_of(session, table.schema)))
    return found


def _required(found: Table, name: str) -> pa.Field:
    if name not in found.types:
        raise NotFoundError(f"{found.ref} has no column {name!r}.", fix=nearest(name, list(found.types)))
    return found.columns.field(name)


def _condition(found: Table, where: Mapping[str, tuple[Any, Any]]) -> tuple[str, list[str]]:
    terms: list[str] = []
    bounds: list[str] = []
    for name, (low, high) in where.items():
        kind = _required(found, name).type
        for bound, compare in ((low, ">="), (high, "<")):
            if bound is not None:
                terms.append(f"{quote(name)} {compare} CAST(CAST(? AS VARCHAR) AS {DIALECT.column_type(kind)})")
                bounds.append(bound_text(bound, kind))
    return (f" WHERE {' AND '.join(terms)}" if terms else ""), bounds


def _canonical(table: pa.Table, schema: pa.Schema, doing: str) -> pa.Table:
    """What the driver gave, as the canonical ``schema``."""
    columns = []
    for column, field in zip(table.columns, schema, strict=False):
        try:
            columns.append(as_canonical(column, field.type))
        except pa.ArrowInvalid:  # its text quotes the value
            raise DestinationError(
                f"A value of column {field.name!r} cannot be held by {field.type}, while {doing}.",
                fix="Leave the column out, or read it through a view that casts it.",
            ) from None
    return pa.Table.from_arrays(columns, schema=schema)
