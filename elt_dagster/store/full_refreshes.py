"""Streams whose next run reads everything again. A mark starts nothing; the run that honoured it takes it away after its commit."""

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from elt_dagster.store.database import Database
from elt_dagster.store.lease import insert_for
from elt_dagster.store.schema import full_refreshes


@dataclass(frozen=True, slots=True)
class FullRefresh:
    """A mark on one binding. ``mark_id`` is another one for each request, so that a run ends only the one it has honoured."""

    binding_id: str
    mark_id: str
    reset_history: bool
    requested_by: str
    requested_at: datetime


class FullRefreshes:
    """The marks of all workspaces; binding ids are unique over all of them. Methods raise TransientError as `Store` does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def mark(self, binding_id: str, *, reset_history: bool = False, requested_by: str = "") -> FullRefresh:
        """Mark a binding; an earlier mark is replaced."""
        made = FullRefresh(binding_id, str(uuid.uuid4()), reset_history, requested_by, datetime.now(UTC))
        values = {name: getattr(made, name) for name in FullRefresh.__slots__}
        with self._database.write() as conn:
            insert = insert_for(conn)(full_refreshes).values(values)
            conn.execute(insert.on_conflict_do_update(index_elements=["binding_id"], set_=values))
        return made

    def get(self, binding_id: str) -> FullRefresh | None:
        """The mark of one binding."""
        return self.of([binding_id]).get(binding_id)

    def of(self, binding_ids: Collection[str]) -> dict[str, FullRefresh]:
        """The marks among ``binding_ids``."""
        if self._database.glance("SELECT 1 FROM elt_full_refreshes LIMIT 1") is None:
            return {}  # as it is nearly all the time
        wanted = sa.select(full_refreshes).where(full_refreshes.c.binding_id.in_(binding_ids))
        with self._database.read() as conn:
            return {row.binding_id: FullRefresh(*row) for row in conn.execute(wanted)}

    def end(self, binding_id: str, mark_id: str | None = None) -> bool:
        """Take a mark away, or only this one; whether there was one."""
        which = full_refreshes.c.binding_id == binding_id
        if mark_id is not None:
            which &= full_refreshes.c.mark_id == mark_id
        with self._database.write() as conn:
            return bool(conn.execute(sa.delete(full_refreshes).where(which)).rowcount)
