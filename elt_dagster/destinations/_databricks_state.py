"""The state table: one row per commit of a binding, numbered by ``position``; the highest is the state, the last twenty are its history.

A commit is one MERGE that adds position p + 1 only where p is still the highest: compare-and-swap in a single Delta commit. The table is partitioned
by binding, so that bindings never conflict, and its isolation is Serializable, so that of two MERGEs of one binding the second fails or finds the first's row.
``pending`` is set between the claim and the end of a load that is committed without a transaction; see docs/adr/0006.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from elt_dagster.destinations._databricks_errors import StatementFailedError
from elt_dagster.destinations._databricks_session import Session
from elt_dagster.destinations._databricks_sql import instant, properties, qualified, text
from elt_dagster.destinations.base import HISTORY_LENGTH, STATE_TABLE, State, TableRef
from elt_dagster.model import Checkpoint

_COLUMNS = "binding_id, position, table_name, checkpoint, load_id, run_id, fence, unix_micros(committed_at), pending"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the state table; ``pending`` is the work of a claim that has not ended, as JSON."""

    state: State
    position: int
    pending: str | None


def state_table(catalog: str, schema: str) -> str:
    """The quoted name of a schema's state table."""
    return qualified(catalog, TableRef(schema, STATE_TABLE))


def create_statement(catalog: str, schema: str, *, transactional: bool) -> str:
    """DDL of the state table."""
    values = {"delta.isolationLevel": "Serializable"}
    if transactional:
        values["delta.feature.catalogManaged"] = "supported"
    return (
        f"CREATE TABLE IF NOT EXISTS {state_table(catalog, schema)} (binding_id STRING NOT NULL, position BIGINT NOT NULL, "
        "table_name STRING, checkpoint STRING, load_id STRING, run_id STRING, fence BIGINT, committed_at TIMESTAMP, pending STRING, "
        f"superseded BOOLEAN) PARTITIONED BY (binding_id){properties(values)}"
    )


def read_rows(session: Session, schema: str) -> list[Row] | None:
    """The newest committed row of every binding, and newer ones that are pending, by table; None when there is no state table."""
    table = state_table(session.config.catalog, schema)
    newest = "max(position) OVER (PARTITION BY binding_id)"
    committed = "max(CASE WHEN pending IS NULL THEN position END) OVER (PARTITION BY binding_id)"
    return _rows(
        session,
        schema,
        f"SELECT {_COLUMNS} FROM (SELECT *, {newest} AS newest, {committed} AS committed FROM {table}) AS s "
        "WHERE position = newest OR position = committed ORDER BY table_name, binding_id, position",
    )


def read_history(session: Session, schema: str, binding_id: str) -> list[State]:
    """The last states of a binding, newest first."""
    table = state_table(session.config.catalog, schema)
    where = f"binding_id = {text(binding_id)} AND pending IS NULL"
    sql = f"SELECT {_COLUMNS} FROM {table} WHERE {where} ORDER BY position DESC LIMIT {HISTORY_LENGTH}"
    return [row.state for row in _rows(session, schema, sql) or ()]


def committed(rows: Sequence[Row] | None) -> list[State]:
    """The states among ``rows``."""
    return [row.state for row in rows or () if row.pending is None]


def position_of(rows: Sequence[Row] | None, binding_id: str) -> int:
    """The highest position of a binding; 0 when it has none."""
    return max((row.position for row in rows or () if row.state.binding_id == binding_id), default=0)


def pending_of(rows: Sequence[Row] | None, binding_id: str) -> Row | None:
    """The claim of a binding that has not ended."""
    return next((row for row in rows or () if row.state.binding_id == binding_id and row.pending is not None), None)


def add_statement(table: str, states: Sequence[tuple[State, int]], pending: str | None = None) -> str:
    """Add each state at the position after the given one, unless its binding has moved on; nothing is added unless all can be.

    The row before is touched as well: two of these then write the same row, which no isolation level lets both do.
    """
    bindings = ", ".join(text(state.binding_id) for state, _ in states)
    moved = " OR ".join(f"(binding_id = {text(s.binding_id)} AND position > {p})" for s, p in states)
    values = " UNION ALL ".join(_source(state, position, pending) for state, position in states)
    names = "binding_id, position, table_name, checkpoint, load_id, run_id, fence, committed_at, pending, superseded"
    return (
        f"MERGE INTO {table} AS t USING (SELECT * FROM ({values}) AS v WHERE (SELECT count(*) FROM {table} WHERE {moved}) = 0) AS s "
        f"ON t.binding_id = s.binding_id AND t.binding_id IN ({bindings}) AND t.position = s.position "
        "WHEN MATCHED AND s.superseded THEN UPDATE SET superseded = true "
        f"WHEN NOT MATCHED AND NOT s.superseded THEN INSERT ({names}) VALUES (s.{names.replace(', ', ', s.')})"
    )


def _source(state: State, position: int, pending: str | None) -> str:
    checkpoint = json.dumps(state.checkpoint.to_json(), sort_keys=True)
    values = [
        f"{text(state.binding_id)} AS binding_id", f"CAST({position + 1} AS BIGINT) AS position", f"{text(state.table.name)} AS table_name",
        f"{text(checkpoint)} AS checkpoint", f"{text(state.load_id)} AS load_id", f"{text(state.run_id)} AS run_id",
        f"CAST({state.fence} AS BIGINT) AS fence", f"{instant(state.committed_at)} AS committed_at",
        f"CAST({text(pending) if pending is not None else 'NULL'} AS STRING) AS pending", "false AS superseded",
    ]  # fmt: skip
    before = [
        f"{text(state.binding_id)} AS binding_id", f"CAST({position} AS BIGINT) AS position", "NULL AS table_name", "NULL AS checkpoint",
        "NULL AS load_id", "NULL AS run_id", "NULL AS fence", "NULL AS committed_at", "NULL AS pending", "true AS superseded",
    ]  # fmt: skip
    return f"SELECT {', '.join(values)} UNION ALL SELECT {', '.join(before)}"


def prune_statement(table: str, binding_id: str, position: int) -> str:
    """Forget the states that are too old for the history."""
    return f"DELETE FROM {table} WHERE binding_id = {text(binding_id)} AND position <= {position - HISTORY_LENGTH}"


def forget_statement(table: str, gone: Sequence[State]) -> str:
    """Remove every state of the bindings of ``gone``, and whatever they have claimed."""
    return f"DELETE FROM {table} WHERE binding_id IN ({', '.join(text(one) for one in sorted({s.binding_id for s in gone}))})"


def is_mine(table: str, state: State, position: int) -> str:
    """A query that counts whether ``state`` is the newest row of its binding, at ``position``."""
    mine = f"position = {position} AND load_id = {text(state.load_id)}"
    return (
        f"SELECT count(*) FROM {table} WHERE binding_id = {text(state.binding_id)} AND {mine} "
        f"AND (SELECT max(position) FROM {table} WHERE binding_id = {text(state.binding_id)}) = {position}"
    )


def end_claim_statement(table: str, row: Row) -> str:
    """Turn a claim whose work is done into the state."""
    return f"UPDATE {table} SET pending = CAST(NULL AS STRING) WHERE {_claim(row)}"


def retract_claim_statement(table: str, row: Row) -> str:
    """Take a claim back of which no work was done."""
    return f"DELETE FROM {table} WHERE {_claim(row)}"


def _claim(row: Row) -> str:
    state = row.state
    return f"binding_id = {text(state.binding_id)} AND position = {row.position} AND load_id = {text(state.load_id)} AND pending IS NOT NULL"


def _rows(session: Session, schema: str, sql: str) -> list[Row] | None:
    try:
        found = session.rows(sql)
    except StatementFailedError as error:
        if error.is_missing:
            return None
        raise
    return [_row(schema, values) for values in found]


def _row(schema: str, values: Sequence[Any]) -> Row:
    binding_id, position, table, checkpoint, load_id, run_id, fence, micros, pending = values
    at = _EPOCH + timedelta(microseconds=int(micros))
    where = Checkpoint.from_json(json.loads(checkpoint))
    return Row(
        State(binding_id, TableRef(schema, table), where, load_id, run_id, int(fence), at), int(position), pending
    )
