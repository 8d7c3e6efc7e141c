"""Is a primary key what it says? Counted by DuckDB over the key's columns alone, as they come out of any warehouse."""

from collections.abc import Sequence
from dataclasses import dataclass
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
    import duckdb

    missing = " OR ".join(f"{quote(name)} IS NULL" for name in key)
    query = (
        f"SELECT coalesce(sum(n), 0)::BIGINT, coalesce(sum(n) FILTER (WHERE {missing}), 0)::BIGINT, "
        f"count(*) FILTER (WHERE n > 1 AND NOT ({missing})), coalesce(sum(n - 1) FILTER (WHERE NOT ({missing})), 0)::BIGINT "
        f"FROM (SELECT {quoted(key)}, count(*) AS n FROM keys GROUP BY {quoted(key)})"
    )
    with duckdb.connect(config={"threads": 1, "memory_limit": _MEMORY}) as connection:
        connection.register("keys", destination.read(table, list(key)))
        row = connection.execute(query).fetchone()
    rows, nulls, repeated, surplus = row or (0, 0, 0, 0)
    return KeyFacts(rows, nulls, repeated, surplus)
