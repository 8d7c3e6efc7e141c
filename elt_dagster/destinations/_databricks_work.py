"""What a commit does, as plain data: a `Work` is kept in the state table while its commit is under way, so that anybody can finish it.

It holds names and conditions that were made from names, never statements or rows.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from elt_dagster.destinations._databricks_sql import qualified
from elt_dagster.destinations.base import TableRef
from elt_dagster.destinations.history import history_table
from elt_dagster.destinations.rejected import rejected_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """All that a commit does to tables, as plain data: what is kept in the state table while it is under way."""

    schema: str
    table: str
    commit: str
    run_id: str
    load_id: str
    at: str
    """SQL literal of the commit's time."""
    mode: str
    columns: tuple[str, ...]
    variants: tuple[str, ...] = ()
    """Columns that are compared by their JSON text."""
    key: tuple[str, ...] = ()
    marks: bool = False
    """Whether staged rows may carry `DELETED_AT`."""
    deletes: str = "hard"
    gone: str = ""
    """Condition on t for rows of the table that have to go when no staged row has their key; empty for none."""
    once: bool = False
    """Whether rows are tagged with the commit, so that they can be brought once only."""
    atomic: bool = False
    """Whether all statements are one transaction."""
    twins: bool = False
    """Whether some key is in the table several times."""
    resumed: tuple[str, ...] = ()
    """For an append that goes on where another ended: the columns that make two rows the same."""
    rebuild: Mapping[str, str] | None = None
    """For a replace that changes columns: the properties of the new table."""
    comment: str = ""
    rejects: bool = False
    versioned: tuple[str, ...] = ()
    """Columns that the history table has beyond those of the table."""
    versions: str = ""
    """What to do to the history table: nothing, `touched` keys only, `all`, or begin `anew`."""

    def to_json(self) -> str:
        """Text for the state table."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, data: str) -> "Work":
        """Work from what `to_json` gave."""
        values: dict[str, Any] = json.loads(data)
        lists = ("columns", "variants", "key", "resumed", "versioned")
        values.update({name: tuple(values[name]) for name in lists})
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Names:
    """Quoted names of the tables that a commit of one load touches."""

    catalog: str
    schema: str
    table: str
    load_id: str

    def _of(self, name: str) -> str:
        return qualified(self.catalog, TableRef(self.schema, name))

    @property
    def target(self) -> str:
        """The table."""
        return self._of(self.table)

    @property
    def history(self) -> str:
        """Its versions."""
        return self._of(history_table(TableRef(self.schema, self.table)).name)

    @property
    def rejected(self) -> str:
        """Its rejected rows."""
        return self._of(rejected_table(TableRef(self.schema, self.table)).name)

    @property
    def staged(self) -> str:
        """The rows of the commit that is under way."""
        return self._of(f"_elt_staged_{self.load_id}")

    @property
    def seen(self) -> str:
        """For an append: what was in the table before the load and was not read again so far."""
        return self._of(f"_elt_seen_{self.load_id}")


def names_of(catalog: str, work: Work) -> Names:
    """The names of a `Work`'s tables."""
    return Names(catalog, work.schema, work.table, work.load_id)
