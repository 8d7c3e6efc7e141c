"""Rejected rows: what a column cannot take is set aside in ``<table>__rejected``, whole and with the reason; the rest is loaded.

A value is rejected when it fits its column's type neither as it is nor by a lossless conversion: an integer out of a narrow column's range, text that
is no JSON, a date before the warehouse's first. The table is made when the first row is rejected. A row that is read and rejected again
is listed once. When nothing of a replace fits, the load fails instead: an empty table would be worse than an old one.
"""

from collections.abc import Sequence

import pyarrow as pa

from elt_dagster.destinations.base import LoadPlan, TableRef
from elt_dagster.destinations.plans import companion
from elt_dagster.errors import RejectedError
from elt_dagster.model.types import JSON, TIMESTAMP_UTC, column

REJECTED_AT, REASON, ROW = "_elt_rejected_at", "_elt_reason", "_elt_row"
REJECTED = pa.schema(
    [
        column(REJECTED_AT, TIMESTAMP_UTC, description="When the load that could not take this row was committed."),
        column("_elt_run_id", pa.string(), description="The Dagster run that read this row."),
        column("_elt_load_id", pa.string(), description="The load that could not take it."),
        column(REASON, pa.string(), description="The columns whose values do not fit, and their types."),
        column(ROW, JSON, description="The row as it arrived, without our own columns."),
    ]
)  # fmt: skip


def rejected_table(table: TableRef) -> TableRef:
    """The table beside ``table`` that holds what it could not take."""
    return companion(table, "__rejected")


def check_something_fits(plan: LoadPlan, *, staged: int, rejected: int, columns: Sequence[str]) -> None:
    """Raise RejectedError for a replace of which nothing is left; ``columns`` are those whose values do not fit."""
    if plan.mode.value == "replace" and staged and rejected >= staged:
        raise RejectedError(
            f"{plan.table}: no row of {staged} fits: values of {', '.join(columns)} do not fit the column's type. Nothing was committed.",
            fix="Set schema_drift to evolve, or exclude the column.",
            rejected=rejected,
            columns=columns,
        )
