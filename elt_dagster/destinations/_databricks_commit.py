"""How a commit becomes one: in a transaction of several statements, or by a claim that anybody can finish. See docs/adr/0006.

A transaction may hold SELECT, INSERT, UPDATE, DELETE and MERGE on managed tables with catalog commits, and nothing else:
https://docs.databricks.com/aws/en/transactions
"""

from dataclasses import replace

from elt_dagster.destinations._databricks_errors import StatementFailedError, explained
from elt_dagster.destinations._databricks_rows import data_statements
from elt_dagster.destinations._databricks_session import Session
from elt_dagster.destinations._databricks_sql import text
from elt_dagster.destinations._databricks_state import (
    Row,
    add_statement,
    end_claim_statement,
    is_mine,
    prune_statement,
    retract_claim_statement,
    state_table,
)
from elt_dagster.destinations._databricks_work import Names, Work
from elt_dagster.destinations.base import LoadPlan, State
from elt_dagster.errors import DestinationError, TransientError

CLAIM_SECONDS = 300.0
"""A claim this old is finished by whoever needs the table; a younger one of a lease that is not over is waited for."""
_MOVED = "elt_dagster: the state has moved on"
_PRUNE_EVERY = 10


class StateMovedError(Exception):
    """The binding's state is no longer the one the commit was made for; nothing was committed."""


def commit_in_transaction(session: Session, work: Work, state: State, position: int) -> None:
    """Carry out ``work`` and add ``state`` after ``position``, all or nothing. Raises StateMovedError, or StatementFailedError."""
    table = state_table(session.config.catalog, work.schema)
    binding = text(state.binding_id)
    newest = f"(SELECT coalesce(max(position), 0) FROM {table} WHERE binding_id = {binding})"
    stop = f"SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{_MOVED}'; END IF"
    statements = [
        f"IF {newest} <> {position} THEN {stop}",
        *data_statements(session.config.catalog, work),
        add_statement(table, [(state, position)]),
        f"IF ({is_mine(table, state, position + 1)}) = 0 THEN {stop}",
    ]
    try:
        session.run("BEGIN ATOMIC\n" + ";\n".join(statements) + ";\nEND")
    except StatementFailedError as error:
        # an answer may have been lost, and the statement sent again: then the state that it finds is its own
        is_told_late = _MOVED in error.message or error.is_unsure
        if not (is_told_late and session.number(is_mine(table, state, position + 1))):
            if _MOVED in error.message:
                raise StateMovedError from None
            raise
    _prune(session, table, state, position + 1)


def commit_by_claim(session: Session, work: Work, state: State, position: int) -> None:
    """Claim the state, carry out ``work``, and end the claim. Raises StateMovedError, or StatementFailedError when nothing was done.

    Raises TransientError when it stopped half way: then the claim stays, and the next `settle` finishes it.
    """
    table = state_table(session.config.catalog, work.schema)
    row = Row(state, position + 1, work.to_json())
    session.run(add_statement(table, [(state, position)], row.pending))
    if not session.number(is_mine(table, state, row.position)):
        raise StateMovedError
    first, *rest = data_statements(session.config.catalog, work)
    try:
        session.run(first)
    except StatementFailedError as error:
        if error.is_unsure:
            raise unfinished(state) from None
        session.run(retract_claim_statement(table, row))
        raise
    _finish(session, table, row, rest)


def settle(session: Session, row: Row, plan: LoadPlan, now: float) -> None:
    """Finish a claim that another process left. Raises TransientError while that process may still be at work."""
    age = now - row.state.committed_at.timestamp()
    if plan.fence <= row.state.fence and age < CLAIM_SECONDS:
        raise TransientError(
            f"{plan.table} is being committed by run {row.state.run_id}.",
            fix="It is tried again; a commit that was interrupted is finished then.",
            retry_after=max(1.0, CLAIM_SECONDS - age),
        )
    work = Work.from_json(row.pending or "")
    # names come from the row's own columns, so that what is written into it cannot make us touch another binding's table
    work = replace(work, schema=row.state.table.schema, table=row.state.table.name, load_id=row.state.load_id)
    session.runtime.log.warning("%s: finishing a commit that run %s left behind.", row.state.table, row.state.run_id)
    table = state_table(session.config.catalog, work.schema)
    _finish(session, table, row, data_statements(session.config.catalog, work))
    drop_staged(session, Names(session.config.catalog, work.schema, work.table, work.load_id))


def unfinished(state: State) -> TransientError:
    """What is told when a commit stopped half way."""
    return TransientError(
        f"The commit of {state.table} was interrupted; its rows and its state are not complete yet.",
        fix="Run it again: the commit is finished first.",
        retry_after=CLAIM_SECONDS,
    )


def drop_staged(session: Session, names: Names, *, seen: bool = True) -> None:
    """Drop the tables of staged rows, and of rows that an append had ``seen``."""
    for table in (names.staged, names.seen) if seen else (names.staged,):
        session.run(f"DROP TABLE IF EXISTS {table}")


def _finish(session: Session, table: str, row: Row, statements: list[str]) -> None:
    try:
        for statement in statements:
            session.run(statement)
        session.run(end_claim_statement(table, row))
    except StatementFailedError as error:
        if error.is_conflict or error.is_unsure:
            raise unfinished(row.state) from None
        if error.is_missing:
            raise DestinationError(
                f"The commit of {row.state.table} that run {row.state.run_id} began cannot be finished: its staged rows or a table are gone.",
                fix="Set its state by hand with `elt-dagster state rewind`, which gives that commit up, then refresh the table.",
            ) from None
        raise explained(error, f"finishing the commit of {row.state.table}", session.config) from None
    _prune(session, table, row.state, row.position)


def _prune(session: Session, table: str, state: State, position: int) -> None:
    if position % _PRUNE_EVERY == 0:
        session.run(prune_statement(table, state.binding_id, position))
