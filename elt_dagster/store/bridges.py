"""Connection bridges (a person's way to a new connection) and the OAuth clients that they use."""

import hmac
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from elt_dagster.errors import ConflictError, NotFoundError
from elt_dagster.store.api_keys import digest
from elt_dagster.store.database import Database
from elt_dagster.store.lease import insert_for
from elt_dagster.store.schema import UtcDateTime, bridges, oauth_clients, workspaces
from elt_dagster.store.seal import SEALED, Keys

LIFE = timedelta(seconds=86_400)


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge. ``sealed``, opened, is what it keeps between two requests: settings that are known, and of an OAuth round the PKCE verifier."""

    id: str
    workspace: str
    workspace_id: str
    connector: str
    label: str
    redirect_uri: str
    caller_state: str | None
    connection_id: str | None
    created_by: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    sealed: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)

    @property
    def is_open(self) -> bool:
        """Whether it can still be crossed."""
        return self.used_at is None and datetime.now(UTC) < self.expires_at


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """A workspace's own OAuth client of one connector."""

    connector: str
    client_id: str
    client_secret: str | None = field(repr=False)
    settings: Mapping[str, Any]


class Bridges:
    """The bridges of all workspaces. Tokens and states are kept as digests only. Methods raise TransientError as `Store` does."""

    def __init__(self, database: Database, keys: Keys) -> None:
        self._database, self._keys = database, keys

    def create(
        self,
        workspace_id: str,
        *,
        connector: str,
        label: str,
        redirect_uri: str,
        token: str,
        caller_state: str | None = None,
        connection_id: str | None = None,
        sealed: Mapping[str, Any] | None = None,
        created_by: str = "",
    ) -> Bridge:
        """A bridge that is open for `LIFE`; ``token`` opens its page. Those of the workspace that ended long ago are removed."""
        now = datetime.now(UTC)
        values = {
            "id": str(uuid.uuid4()), "workspace_id": workspace_id, "connector": connector, "label": label,
            "redirect_uri": redirect_uri, "caller_state": caller_state, "connection_id": connection_id,
            "token_digest": digest(token), "sealed": self._sealed(sealed), "created_by": created_by, "created_at": now, "expires_at": now + LIFE,
        }  # fmt: skip
        with self._database.write() as conn:
            ended = (bridges.c.workspace_id == workspace_id) & (bridges.c.expires_at < now - LIFE)
            conn.execute(sa.delete(bridges).where(ended))
            conn.execute(sa.insert(bridges).values(values))
        return self._one(bridges.c.id == values["id"])

    def open_page(self, workspace_id: str, *, limit: int, after: str | None = None) -> tuple[list[Bridge], bool]:
        """Those of a workspace that can still be crossed, newest first, ``after`` one of them; and whether there are more.

        Raises NotFoundError when there is no bridge ``after`` in the workspace.
        """
        mine = bridges.c.workspace_id == workspace_id
        wanted = _select().where(mine, bridges.c.used_at.is_(None), bridges.c.expires_at > datetime.now(UTC))
        if after is not None:
            last = self._one(mine & (bridges.c.id == after))
            key = sa.tuple_(bridges.c.created_at, bridges.c.id)
            wanted = wanted.where(key < sa.tuple_(sa.literal(last.created_at, UtcDateTime), sa.literal(last.id)))
        newest_first = wanted.order_by(bridges.c.created_at.desc(), bridges.c.id.desc()).limit(limit + 1)
        with self._database.read() as conn:
            rows = conn.execute(newest_first).all()
        return [self._bridge(row) for row in rows[:limit]], len(rows) > limit

    def by_token(self, token: str) -> Bridge:
        """The bridge whose page ``token`` opens, ended or not. Raises NotFoundError."""
        return self._by_digest(bridges.c.token_digest, token)

    def by_state(self, state: str) -> Bridge:
        """The bridge whose OAuth round ``state`` is out now. Raises NotFoundError, also for a state that was used."""
        return self._by_digest(bridges.c.state_digest, state)

    def start_round(self, bridge_id: str, state: str, sealed: Mapping[str, Any]) -> None:
        """Begin an OAuth round: from now on only ``state`` brings its answer. Raises ConflictError for a bridge that has ended."""
        values = {"state_digest": digest(state), "sealed": self._sealed(sealed)}
        with self._database.write() as conn:
            _change(conn, bridge_id, _still_open(), values)

    def end_round(self, bridge_id: str, state: str, sealed: Mapping[str, Any]) -> None:
        """Use the state up, before its code is exchanged: whoever comes second with it has lost. Raises ConflictError then."""
        values = {"state_digest": None, "sealed": self._sealed(sealed)}
        with self._database.write() as conn:
            _change(conn, bridge_id, bridges.c.state_digest == digest(state), values)

    def _sealed(self, value: Mapping[str, Any] | None) -> str | None:
        return str(self._keys.seal(dict(value))[SEALED]) if value else None

    def _by_digest(self, column: sa.Column[Any], secret: str) -> Bridge:
        wanted = digest(secret)
        with self._database.read() as conn:
            row = conn.execute(_select().add_columns(column.label("found")).where(column == wanted)).one_or_none()
        # the index has found it already; what is compared once more takes the same time whatever differs
        if row is None or not hmac.compare_digest(row.found, wanted):
            raise _none_such()
        return self._bridge(row)

    def _one(self, which: sa.ColumnElement[bool]) -> Bridge:
        with self._database.read() as conn:
            row = conn.execute(_select().where(which)).one_or_none()
        if row is None:
            raise _none_such()
        return self._bridge(row)

    def _bridge(self, row: Row[Any]) -> Bridge:
        values = {name: row._mapping[name] for name in Bridge.__slots__}
        if row.sealed is not None:
            values["sealed"] = self._keys.open(row.sealed, what=f"connection bridge {row.id}")
        return Bridge(**{**values, "sealed": values["sealed"] or {}})

    # --- OAuth clients ---------------------------------------------------------------------------------------------------------

    def oauth_client(self, workspace_id: str, connector: str) -> OAuthClient | None:
        """The workspace's own client of a connector."""
        mine = (oauth_clients.c.workspace_id == workspace_id) & (oauth_clients.c.connector == connector)
        with self._database.read() as conn:
            row = conn.execute(sa.select(oauth_clients).where(mine)).one_or_none()
        if row is None:
            return None
        what = f"the OAuth client of {connector}"
        secret = self._keys.open(row.client_secret, what=what) if row.client_secret is not None else None
        return OAuthClient(connector, row.client_id, secret, json.loads(row.settings))

    def put_oauth_client(self, workspace_id: str, client: OAuthClient) -> None:
        """Keep a client, its secret sealed; an earlier one of the connector is replaced."""
        secret = str(self._keys.seal(client.client_secret)[SEALED]) if client.client_secret is not None else None
        owner = {"workspace_id": workspace_id, "connector": client.connector}
        values = {
            "client_id": client.client_id, "client_secret": secret, "settings": json.dumps(dict(client.settings)),
            "updated_at": datetime.now(UTC),
        }  # fmt: skip
        with self._database.write() as conn:
            insert = insert_for(conn)(oauth_clients).values(**owner, **values)
            conn.execute(insert.on_conflict_do_update(index_elements=list(owner), set_=values))

    def oauth_clients(self, workspace_id: str) -> list[OAuthClient]:
        """All clients of a workspace by connector, without their secrets."""
        mine = sa.select(oauth_clients).where(oauth_clients.c.workspace_id == workspace_id)
        with self._database.read() as conn:
            rows = conn.execute(mine.order_by(oauth_clients.c.connector)).all()
        return [OAuthClient(r.connector, r.client_id, None, json.loads(r.settings)) for r in rows]

    def delete_oauth_client(self, workspace_id: str, connector: str) -> bool:
        """Forget a client; whether there was one."""
        mine = (oauth_clients.c.workspace_id == workspace_id) & (oauth_clients.c.connector == connector)
        with self._database.write() as conn:
            return bool(conn.execute(sa.delete(oauth_clients).where(mine)).rowcount)


def reseal(conn: Connection, keys: Keys, workspace_id: str) -> int:
    """Seal the secrets of a workspace's bridges and OAuth clients again with the first key; how many were under another one."""
    total = 0
    places = ((bridges, bridges.c.sealed, ("id",)), (oauth_clients, oauth_clients.c.client_secret, ("connector",)))
    for table, column, (key,) in places:
        mine = (table.c.workspace_id == workspace_id) & column.is_not(None)
        for row in conn.execute(sa.select(table.c[key].label("key"), column.label("token")).where(mine)).all():
            what = f"{table.name.removeprefix('elt_')} {row.key!r}"
            if keys.is_latest(row.token, what=what):
                continue
            again = str(keys.seal(keys.open(row.token, what=what))[SEALED])
            conn.execute(sa.update(table).where(mine, table.c[key] == row.key).values({column.name: again}))
            total += 1
    return total


def cross_bridge(conn: Connection, bridge_id: str, connection_id: str) -> None:
    """End a bridge with the connection that came of it. Raises ConflictError when it had ended already."""
    values = {"used_at": datetime.now(UTC), "connection_id": connection_id, "state_digest": None, "sealed": None}
    _change(conn, bridge_id, _still_open(), values)


def _still_open() -> sa.ColumnElement[bool]:
    return bridges.c.used_at.is_(None) & (bridges.c.expires_at > datetime.now(UTC))


def _change(conn: Connection, bridge_id: str, still: sa.ColumnElement[bool], values: Mapping[str, Any]) -> None:
    if not conn.execute(sa.update(bridges).where(bridges.c.id == bridge_id, still).values(values)).rowcount:
        raise ConflictError("This connection bridge was used already.", fix="Create another one.", with_id=bridge_id)


def _none_such() -> NotFoundError:
    return NotFoundError("There is no such connection bridge.", fix="Create another one.")


def _select() -> sa.Select[Any]:
    columns = [bridges.c[name] for name in Bridge.__slots__ if name != "workspace"]
    return sa.select(*columns, workspaces.c.name.label("workspace")).join_from(bridges, workspaces)
