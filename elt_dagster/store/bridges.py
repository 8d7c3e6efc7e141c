"""Connection bridges (a person's way to a new connection) and the OAuth clients that they use."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from elt_dagster.errors import ConflictError, NotFoundError
from elt_dagster.store.api_keys import digest
from elt_dagster.store.database import Database
from elt_dagster.store.lease import insert_for
from elt_dagster.store.schema import bridges, oauth_clients, workspaces
from elt_dagster.store.seal import SEALED, Keys

LIFE = timedelta(seconds=86_400)


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge. ``sealed`` is what its OAuth round keeps between two requests (PKCE verifier, settings), opened."""

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
        created_by: str = "",
    ) -> Bridge:
        """A bridge that is open for `LIFE`; ``token`` opens its page. Ended ones of the workspace are removed."""
        now = datetime.now(UTC)
        values = {
            "id": str(uuid.uuid4()), "workspace_id": workspace_id, "connector": connector, "label": label,
            "redirect_uri": redirect_uri, "caller_state": caller_state, "connection_id": connection_id,
            "token_digest": digest(token), "created_by": created_by, "created_at": now, "expires_at": now + LIFE,
        }  # fmt: skip
        with self._database.write() as conn:
            ended = (bridges.c.workspace_id == workspace_id) & (bridges.c.expires_at < now - LIFE)
            conn.execute(sa.delete(bridges).where(ended))
            conn.execute(sa.insert(bridges).values(values))
        return self._one(bridges.c.id == values["id"])

    def open_ones(self, workspace_id: str) -> list[Bridge]:
        """Those of a workspace that can still be crossed, newest first."""
        mine = (bridges.c.workspace_id == workspace_id) & bridges.c.used_at.is_(None)
        wanted = _select().where(mine, bridges.c.expires_at > datetime.now(UTC))
        with self._database.read() as conn:
            return [
                self._bridge(r) for r in conn.execute(wanted.order_by(bridges.c.created_at.desc(), bridges.c.id.desc()))
            ]

    def by_token(self, token: str) -> Bridge:
        """The bridge whose page ``token`` opens, ended or not. Raises NotFoundError."""
        return self._one(bridges.c.token_digest == digest(token))

    def by_state(self, state: str) -> Bridge:
        """The bridge whose OAuth round ``state`` is out now. Raises NotFoundError, also for a state that was used."""
        return self._one(bridges.c.state_digest == digest(state))

    def start_round(self, bridge_id: str, state: str, sealed: Mapping[str, Any]) -> None:
        """Begin an OAuth round: from now on only ``state`` brings its answer. Raises ConflictError for a bridge that was crossed."""
        values = {"state_digest": digest(state), "sealed": self._keys.seal(dict(sealed))[SEALED]}
        self._change(bridge_id, bridges.c.used_at.is_(None), values)

    def end_round(self, bridge_id: str, state: str) -> None:
        """Use the state up, before its code is exchanged: whoever comes second with it has lost. Raises ConflictError then."""
        self._change(bridge_id, bridges.c.state_digest == digest(state), {"state_digest": None, "sealed": None})

    def cross(self, bridge_id: str, connection_id: str) -> None:
        """End the bridge with the connection that came of it. Raises ConflictError when it was crossed already."""
        values = {"used_at": datetime.now(UTC), "connection_id": connection_id, "state_digest": None, "sealed": None}
        self._change(bridge_id, bridges.c.used_at.is_(None), values)

    def _change(self, bridge_id: str, still: sa.ColumnElement[bool], values: Mapping[str, Any]) -> None:
        with self._database.write() as conn:
            if not conn.execute(sa.update(bridges).where(bridges.c.id == bridge_id, still).values(values)).rowcount:
                raise ConflictError(
                    "This connection bridge was used already.", fix="Create another one.", with_id=bridge_id
                )

    def _one(self, which: sa.ColumnElement[bool]) -> Bridge:
        with self._database.read() as conn:
            row = conn.execute(_select().where(which)).one_or_none()
        if row is None:
            raise NotFoundError("There is no such connection bridge.", fix="Create another one.")
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

    def delete_oauth_client(self, workspace_id: str, connector: str) -> bool:
        """Forget a client; whether there was one."""
        mine = (oauth_clients.c.workspace_id == workspace_id) & (oauth_clients.c.connector == connector)
        with self._database.write() as conn:
            return bool(conn.execute(sa.delete(oauth_clients).where(mine)).rowcount)


def _select() -> sa.Select[Any]:
    columns = [bridges.c[name] for name in Bridge.__slots__ if name != "workspace"]
    return sa.select(*columns, workspaces.c.name.label("workspace")).join_from(bridges, workspaces)
