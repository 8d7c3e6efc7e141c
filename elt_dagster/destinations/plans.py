"""Questions about a `LoadPlan` that have the same answer in every warehouse."""

from collections.abc import Sequence

import pyarrow as pa

from elt_dagster.destinations.base import (
    DELETED_AT,
    IS_CURRENT,
    STATE_TABLE,
    VALID_FROM,
    VALID_TO,
    LoadPlan,
    State,
    TableRef,
)
from elt_dagster.destinations.drift import OURS, Fold, by_name, differences
from elt_dagster.errors import ConfigError, DestinationError
from elt_dagster.model import DeleteMode, LoadMode
from elt_dagster.model.names import suffixed


def check_plan(plan: LoadPlan, fold: Fold) -> None:
    """Raise ConfigError for a plan that no table can take, whatever is in it."""
    if plan.mode is LoadMode.MERGE and not plan.primary_key:
        raise ConfigError(f"{plan.table} is to be merged and has no primary key.", fix="Set `primary_key`, or append.")
    if keeps_rows(plan) or plan.history:
        _check_keeping(plan)
    if plan.history:
        refuse_our_names(plan.columns, fold, plan.table)
    if fold(plan.table.name).startswith(STATE_TABLE):
        raise ConfigError(f"{plan.table} is the name of our own table.", fix="Give this stream another `table`.")
    known = by_name(plan.columns, fold)
    for name in (*plan.primary_key, *([plan.cursor_field] if plan.cursor_field else [])):
        if fold(name) not in known:
            raise ConfigError(
                f"{plan.table} has no column {name!r} for its key or cursor.", fix="Correct it, or stop excluding it."
            )


def _check_keeping(plan: LoadPlan) -> None:
    what = "have a history table" if plan.history else f"have deletes {plan.deletes.value}"
    if plan.mode is LoadMode.APPEND:
        raise ConfigError(f"{plan.table} is appended to and cannot {what}.", fix="Set load_mode merge or replace.")
    if not plan.primary_key:
        raise ConfigError(f"{plan.table} has no primary key and cannot {what}.", fix="Set `primary_key`.")


def refuse_our_names(columns: pa.Schema, fold: Fold, where: TableRef) -> None:
    """Raise ConfigError for columns that the history of their table could not hold beside its own of the same name."""
    ours = {VALID_FROM, VALID_TO, IS_CURRENT}
    if taken := [name for name in columns.names if fold(name) in ours]:
        raise ConfigError(
            f"{where} has columns that a history table needs for itself: {', '.join(taken)}.",
            fix="Put them in `excluded_columns`, or take `enabled_history_table` away.",
        )


def keeps_rows(plan: LoadPlan) -> bool:
    """Whether rows that are gone at the source stay in the table, marked or not."""
    return plan.deletes is not DeleteMode.HARD


def arriving(plan: LoadPlan, arrived: Sequence[pa.Schema]) -> list[pa.Schema]:
    """The shapes that arrived, without the deletion mark where the table has no such column."""
    if DELETED_AT in plan.columns.names:
        return list(arrived)
    return [pa.schema([f for f in schema if f.name != DELETED_AT]) for schema in arrived]


def companion(table: TableRef, suffix: str) -> TableRef:
    """A table of ours beside ``table``; no stream's table can have its name, for names we make have no two underscores in a row."""
    return TableRef(table.schema, suffixed(table.name, suffix))


def needs_arrival(plan: LoadPlan) -> bool:
    """Whether one row per key is to be kept, for which the order of arrival counts."""
    by_key = plan.deduplicate or keeps_rows(plan) or plan.history
    return plan.mode is LoadMode.MERGE or (by_key and bool(plan.primary_key))


def row_identity(plan: LoadPlan, table: pa.Schema, columns: pa.Schema, fold: Fold) -> list[str]:
    """What makes two rows of an append the same: key and cursor, else every column that the ``table`` had and the source has."""
    if plan.primary_key and plan.cursor_field:
        return [*plan.primary_key, plan.cursor_field]
    planned, had = by_name(plan.columns, fold), by_name(table, fold)
    return [
        f.name for f in columns
        if fold(f.name) in planned and fold(f.name) in had and not f.name.startswith(OURS)
    ]  # fmt: skip


def part_of_binding(binding_id: str, part: str) -> str:
    """The id under which a part of a binding's rows (a window) keeps its own state."""
    return f"{binding_id}@{part}"


def whole_binding(binding_id: str) -> str:
    """The binding whose rows a state is about, be it a part of them or all."""
    return binding_id.partition("@")[0]


def check_owner(plan: LoadPlan, states: Sequence[State], fold: Fold) -> State | None:
    """The state that names the plan's table, or None. Raises DestinationError when it is another binding's."""
    owner = next((s for s in states if fold(s.table.name) == fold(plan.table.name)), None)
    if owner is not None and whole_binding(owner.binding_id) != whole_binding(plan.binding_id):
        raise DestinationError(
            f"{plan.table} is loaded by another stream (binding {owner.binding_id}).",
            fix="Give one of the two another `table`.",
        )
    return owner


def check_adoption(plan: LoadPlan, found: pa.Schema, wanted: pa.Schema, fold: Fold) -> None:
    """Raise DestinationError for a table with columns ``found`` that nobody's state names and that could not have been ours."""
    if lines := differences(found, wanted, fold):
        raise DestinationError(
            f"The table {plan.table} exists, was not made by this sync, and has other columns: {'; '.join(lines)}.",
            fix="Give this stream another `table`, or drop that one.",
        )
