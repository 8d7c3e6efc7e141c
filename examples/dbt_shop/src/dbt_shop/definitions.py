"""Everything in the folder ``defs``, as ``create-dagster project`` writes it, and where the warehouse is."""

import os
from pathlib import Path

import dagster as dg

PROJECT = Path(__file__).parents[2]
# Both writers name the file through this: Dagster runs dbt in a copy of its project, where a relative path leads elsewhere.
os.environ.setdefault("SHOP_WAREHOUSE", str(PROJECT / "warehouse.duckdb"))


@dg.definitions
def defs() -> dg.Definitions:
    """The sync, the dbt models and the report."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
