"""Is a primary key what it says? Counted by DuckDB over the key's columns alone, as they come out of any warehouse."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elt_dagster.destinations.base import Destination, TableRef
from elt_dagster.destinations.sql import quote, quoted

_MEMORY = "512MB"


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """Counts of a table's keys: ``nulls`` rows whose key is not complete, ``repeated`` keys that more than one row has, ``surplus`` rows beyond the first of each."""

    rows: int
    nulls: int
    repeated: int
    surplus: int


def key_facts(destination: Destination[Any], table: TableRef, key: Sequence[str]) -> KeyFacts:
    """What is wrong with the ``key`` columns of ``table``. Raises NotFoundError for a missing table or column.

    Only these columns are read. DuckDB needs memory for the distinct keys, and puts on disk what is beyond 512 MB.
    """
    from elt_dagster.destinations._duckdb_instances import Settings, take  # DuckDB, which only who checks has need of

    missing = " OR ".join(f"{quote(name)} IS NULL" for name in key)
    query = (
        f"SELECT coalesce(sum(n), 0)::BIGINT, coalesce(sum(n) FILTER (WHERE {missing}), 0)::BIGINT, "
        f"count(*) FILTER (WHERE n > 1 AND NOT ({missing})), coalesce(sum(n - 1) FILTER (WHERE NOT ({missing})), 0)::BIGINT "
        f"FROM (SELECT {quoted(key)}, count(*) AS n FROM keys GROUP BY {quoted(key)})"
    )
    with tempfile.TemporaryDirectory(prefix="elt-keys-") as folder:
        used, clean = take(Settings(_MEMORY, threads=1), Path(folder)), False
        try:
            used.connection.register("keys", destination.read(table, list(key)))
            row = used.connection.execute(query).fetchone()
            clean = True
        finally:
            used.leave(clean=clean)
    rows, nulls, repeated, surplus = row or (0, 0, 0, 0)
    return KeyFacts(rows, nulls, repeated, surplus)
