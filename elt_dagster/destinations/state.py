"""The state tables: where each binding's committed data ends, in the schema of the data itself.

``_elt_state`` has one row per binding, ``_elt_state_history`` the last 20, numbered by ``position``. Both are written in the transaction that
writes the rows, so that data and checkpoint can never disagree.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from elt_dagster.destinations.base import HISTORY_LENGTH, STATE_TABLE, LoadPlan, State, StateMove, TableRef
from elt_dagster.errors import DestinationError, TransientError
from elt_dagster.model import Checkpoint, LoadMode

HISTORY_TABLE = f"{STATE_TABLE}_history"
COLUMNS = "binding_id, table_name, checkpoint, load_id, run_id, fence, committed_at"
# As text, for not every driver can make a Python datetime with a zone without a further package.
SELECTED = COLUMNS.replace("committed_at", "CAST(committed_at AS VARCHAR)")
_TYPES = (
    "binding_id VARCHAR NOT NULL, table_name VARCHAR NOT NULL, checkpoint VARCHAR NOT NULL, load_id VARCHAR NOT NULL, "
    "run_id VARCHAR NOT NULL, fence BIGINT NOT NULL, committed_at {instant} NOT NULL"
)


def create_statements(state: str, history: str, instant: str) -> list[str]:
    """DDL of both tables (names already quoted); ``instant`` is the warehouse's type for a point in time."""
    types = _TYPES.format(instant=instant)
    return [
        f"CREATE TABLE IF NOT EXISTS {state} ({types})",
        f"CREATE TABLE IF NOT EXISTS {history} ({types}, position BIGINT NOT NULL)",
    ]


def save_statements(state: str, history: str, row: State) -> list[tuple[str, list[Any]]]:
    """Statements, with their parameters, that make ``row`` the state of its binding and the newest of its history."""
    binding = [row.binding_id]
    return [
        (f"DELETE FROM {state} WHERE binding_id = ?", binding),
        (f"INSERT INTO {state} ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", _values(row)),
        (
            f"INSERT INTO {history} ({COLUMNS}, position) SELECT {COLUMNS}, "
            f"(SELECT coalesce(max(position), 0) + 1 FROM {history} WHERE binding_id = ?) FROM {state} WHERE binding_id = ?",
            binding * 2,
        ),
        (
            f"DELETE FROM {history} WHERE binding_id = ? AND position <= "
            f"(SELECT max(position) - {HISTORY_LENGTH} FROM {history} WHERE binding_id = ?)",
            binding * 2,
        ),
    ]


def _values(state: State) -> list[Any]:
    checkpoint = json.dumps(state.checkpoint.to_json(), sort_keys=True)
    where = (state.load_id, state.run_id, state.fence, state.committed_at)
    return [state.binding_id, state.table.name, checkpoint, *where]


def from_row(schema: str, row: Sequence[Any]) -> State:
    """The state in a row that was selected with `SELECTED`, in a session whose zone is UTC."""
    binding_id, table, checkpoint, load_id, run_id, fence, committed_at = row
    return State(
        binding_id=binding_id,
        table=TableRef(schema, table),
        checkpoint=Checkpoint.from_json(json.loads(checkpoint)),
        load_id=load_id,
        run_id=run_id,
        fence=fence,
        committed_at=datetime.fromisoformat(committed_at).astimezone(UTC),
    )


def check_state(plan: LoadPlan, found: State | None, *, first: bool) -> None:
    """Refuse the commit unless ``found``, read inside its transaction, is the state this load goes on from; see docs/adr/0004.

    ``first`` is True for a load's first commit; later ones find its own row. Raises TransientError when the state has moved on, for a
    new load goes on from there; DestinationError when a newer lease was given out, for this process has no business here any more.
    """
    if found is not None and found.fence > plan.fence:
        raise DestinationError(
            f"{plan.table} was loaded by a newer run ({found.run_id}) while this one was away.",
            fix="Nothing to do: the newer run's rows are there, this one's were not committed.",
        )
    expected = plan.after_load if first else plan.load_id
    if (found.load_id if found is not None else None) != expected:
        by = f"run {found.run_id}" if found is not None else "somebody who reset its state"
        raise TransientError(
            f"{plan.table} was changed by {by} while this load was reading; nothing of this load was committed.",
            fix="Run it again: it goes on from what is there now.",
        )


def check_moves(moves: Sequence[StateMove], found: Sequence[State]) -> None:
    """Raise DestinationError unless each move starts from the state in ``found``, read inside the transaction that carries it out."""
    states = {state.binding_id: state for state in found}
    for move in moves:
        state = states.get(move.state.binding_id)
        if state is None or state.load_id != move.after_load or state.fence > move.state.fence:
            by = f"run {state.run_id}" if state is not None else "somebody who removed its state"
            raise DestinationError(
                f"The state of {move.state.table} was changed by {by} in the meantime; nothing was changed.",
                fix="Look at it with `elt-dagster state history`, and try again.",
            )


def next_state(plan: LoadPlan, before: State | None, checkpoint: Checkpoint | None, now: datetime) -> State:
    """The state after a commit.

    Without a new checkpoint the old one stays true, except after a replace: what was read from scratch owes nothing to the past.
    """
    if checkpoint is None:
        keeps = before is not None and plan.mode is not LoadMode.REPLACE
        checkpoint = before.checkpoint if before is not None and keeps else Checkpoint()
    return State(plan.binding_id, plan.table, checkpoint, plan.load_id, plan.run_id, plan.fence, now)
