"""Claims: who is starting a run of a sync at this moment, so that of several who look whether one is active only one starts one.

They stand among the leases, under names that no binding has, and end by the same clock. A claim guards a look and a launch and no data, so it has
no fence, and its row goes with it. It is short: when its process dies, the sync can be started again `CLAIM_SECONDS` later.
"""

import sqlalchemy as sa

from elt_dagster.store.database import Database
from elt_dagster.store.lease import LONGEST_SECONDS, insert_for
from elt_dagster.store.schema import database_now, leases

CLAIM_SECONDS = 8.0
"""How long a claim lasts that nobody renews."""


class Claims:
    """The claims on the syncs of all workspaces. Methods raise TransientError as `Store` does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, sync_id: str, holder: str, seconds: float = CLAIM_SECONDS) -> bool:
        """Claim a sync for so long, without waiting; whether it was free. ``holder`` is one attempt to start a run, and nothing else's name."""
        values = {
            "binding_id": _name(sync_id),
            "holder": holder,
            "run_id": "",
            "fence": 0,
            "expires_at": _later(seconds),
        }
        over = (leases.c.expires_at <= database_now()) | (leases.c.expires_at > _later(LONGEST_SECONDS))
        with self._database.write() as conn:
            insert = insert_for(conn)(leases).values(values)
            mine = {"holder": holder, "expires_at": _later(seconds)}
            taken = insert.on_conflict_do_update(index_elements=["binding_id"], set_=mine, where=over)
            return bool(conn.execute(taken).rowcount)

    def renew(self, sync_id: str, holder: str, seconds: float = CLAIM_SECONDS) -> bool:
        """Have it last so long from now on; False when it is another's by now."""
        with self._database.write() as conn:
            longer = sa.update(leases).where(_is(sync_id, holder)).values(expires_at=_later(seconds))
            return bool(conn.execute(longer).rowcount)

    def release(self, sync_id: str, holder: str) -> None:
        """Give it back; nothing happens when it is another's by now."""
        with self._database.write() as conn:
            conn.execute(sa.delete(leases).where(_is(sync_id, holder)))


def _name(sync_id: str) -> str:
    return f"start/{sync_id}"


def _later(seconds: float) -> sa.ColumnElement[float]:
    return database_now() + seconds


def _is(sync_id: str, holder: str) -> sa.ColumnElement[bool]:
    return (leases.c.binding_id == _name(sync_id)) & (leases.c.holder == holder)
