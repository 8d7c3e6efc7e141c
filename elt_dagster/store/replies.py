"""What requests with an ``Idempotency-Key`` were answered, so that one that is sent again is not carried out again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from elt_dagster.errors import ConfigError, ConflictError
from elt_dagster.store.database import Database
from elt_dagster.store.lease import insert_for
from elt_dagster.store.schema import replies
from elt_dagster.store.seal import SEALED, Keys

KEPT = timedelta(hours=24)
_FERNET = "gAAAA"  # how its tokens begin, and no JSON does
ABANDONED = timedelta(seconds=120)
"""A request that has not been answered for so long was lost with its server."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the API."""

    status: int
    headers: Mapping[str, str]
    body: str


class Replies:
    """The answers of all workspaces, for a day. Methods raise TransientError as `Store` does."""

    def __init__(self, database: Database, keys: Keys) -> None:
        self._database, self._keys = database, keys

    def begin(self, workspace_id: str, key: str, request: str) -> Reply | None:
        """None: carry the request out, then `keep` its answer, or `drop` it. Else the answer it had. ``request`` is a digest of all of it.

        Raises ConflictError while the first one is still being carried out, ConfigError when the key came with another request.
        """
        now = datetime.now(UTC)
        mine = (replies.c.workspace_id == workspace_id) & (replies.c.idempotency_key == key)
        lost = replies.c.status.is_(None) & (replies.c.started_at < now - ABANDONED)
        with self._database.write() as conn:
            conn.execute(sa.delete(replies).where((replies.c.started_at < now - KEPT) | (mine & lost)))
            values = {"workspace_id": workspace_id, "idempotency_key": key, "request": request, "started_at": now}
            if conn.execute(insert_for(conn)(replies).values(values).on_conflict_do_nothing()).rowcount:
                return None
            row = conn.execute(sa.select(replies).where(mine)).one()
        if row.request != request:
            raise ConfigError(
                "This Idempotency-Key came with another request before.", fix="Make a new key for a new request."
            )
        if row.status is None:
            raise ConflictError(
                "The first request with this Idempotency-Key is still being carried out.", fix="Ask again in a moment."
            )
        return Reply(row.status, json.loads(row.headers), self._opened(row.body))

    def keep(self, workspace_id: str, key: str, reply: Reply) -> None:
        """Remember the answer."""
        values = {"status": reply.status, "headers": json.dumps(dict(reply.headers)), "body": self._sealed(reply.body)}
        self._write(sa.update(replies).values(values), workspace_id, key)

    def _sealed(self, body: str) -> str:
        """An answer may hold what opens something, such as the address of a bridge; a store that has no key keeps nothing secret anyway."""
        try:
            return str(self._keys.seal(body)[SEALED])
        except ConfigError:
            return body

    def _opened(self, body: str) -> str:
        return str(self._keys.open(body, what="an earlier answer")) if body.startswith(_FERNET) else body

    def drop(self, workspace_id: str, key: str) -> None:
        """Forget the request: it was not carried out, and may be sent again."""
        self._write(sa.delete(replies), workspace_id, key)

    def _write(self, statement: sa.Update | sa.Delete, workspace_id: str, key: str) -> None:
        mine = (replies.c.workspace_id == workspace_id) & (replies.c.idempotency_key == key)
        with self._database.write() as conn:
            conn.execute(statement.where(mine))
