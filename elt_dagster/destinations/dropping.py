"""What goes when bindings are dropped: only what a state says is theirs, and beside it what has the marks of our own tables."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from elt_dagster.destinations.base import State, TableRef
from elt_dagster.destinations.history import VALIDITY, history_table
from elt_dagster.destinations.plans import whole_binding
from elt_dagster.destinations.rejected import REJECTED, rejected_table

Marks = Mapping[TableRef, frozenset[str]]
"""Tables, and the columns that each must have to be ours."""


def states_of(states: Iterable[State], binding_ids: Collection[str]) -> list[State]:
    """The states of some bindings, those of their windows among them."""
    return [state for state in states if whole_binding(state.binding_id) in binding_ids]


def theirs(states: Iterable[State]) -> Marks:
    """The tables behind ``states`` with their histories and rejected rows, in a stable order: of two that drop, none waits for the other."""
    found: dict[TableRef, frozenset[str]] = {}
    for table in sorted({state.table for state in states}, key=str):
        found[table] = frozenset()
        found[history_table(table)] = frozenset(VALIDITY.names)
        found[rejected_table(table)] = frozenset(REJECTED.names)
    return found


def is_ours(columns: Iterable[str], marks: frozenset[str]) -> bool:
    """Whether a table with these columns may go; a stranger's that only has the name of one of ours may not."""
    return marks <= {name.lower() for name in columns}


def forget_statements(state: str, history: str, gone: Sequence[State]) -> list[tuple[str, list[str]]]:
    """Statements, with their parameters, that remove states and their past from the two state tables (names already quoted)."""
    ids = sorted({s.binding_id for s in gone})
    return [(f"DELETE FROM {table} WHERE binding_id = ?", [one]) for one in ids for table in (state, history)]
