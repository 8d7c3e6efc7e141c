"""An asset of our own: it reads what dbt made, with the reader that the sync brought along."""

from typing import Any

import dagster as dg
import pandas as pd


@dg.asset(
    ins={"revenue": dg.AssetIn(key=["revenue_by_country"], input_manager_key="warehouse_io")},
    group_name="reports",
)
def best_country(revenue: pd.DataFrame) -> "dg.MaterializeResult[Any]":
    """The country that pays most."""
    best = revenue.sort_values("revenue", ascending=False).iloc[0]
    return dg.MaterializeResult(metadata={"country": str(best["country"]), "revenue": float(best["revenue"])})
