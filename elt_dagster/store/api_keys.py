"""Keys of the REST API. A key is shown once, when it is made; what is kept is its SHA-256, which is enough because keys are long and random."""

import hashlib
import hmac
import secrets
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from elt_dagster.errors import ConfigError, ConflictError, NotFoundError, nearest
from elt_dagster.store.database import Database
from elt_dagster.store.reading import find_workspace
from elt_dagster.store.schema import DEFAULT_WORKSPACE, api_keys, workspaces

PREFIX = "elt_"
MIN_CHARACTERS = 16
"""Of a key that somebody brings along; shorter ones can be guessed."""
_HINT_CHARACTERS = 8
_NOTED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: its workspace, its name, and enough of it to recognise it."""

    id: str
    workspace: str
    workspace_id: str
    name: str
    hint: str
    requests_per_minute: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    @property
    def is_valid(self) -> bool:
        """Whether it opens anything now."""
        now = datetime.now(UTC)
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class ApiKeys:
    """The keys of all workspaces. Methods raise TransientError as `Store` does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        *,
        workspace: str = DEFAULT_WORKSPACE,
        name: str = "",
        key: str | None = None,
        requests_per_minute: int | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key, or ``key``, which somebody brings along; it and its text, which is kept nowhere.

        Raises NotFoundError for an unknown workspace, ConfigError for a ``key`` that is too short, ConflictError for one that is known.
        """
        text = _new_key() if key is None else _usable(key)
        with self._database.write() as conn:
            found = find_workspace(conn, workspace, lock=True)
            limits = {"requests_per_minute": requests_per_minute, "expires_at": expires_at}
            return _insert(conn, found.id, text, {"name": name, **limits}), text

    def create_first(self) -> tuple[ApiKey, str] | None:
        """A key of the default workspace, unless there ever was any key; of two servers that start at once one makes it."""
        with self._database.write() as conn:
            found = find_workspace(conn, DEFAULT_WORKSPACE, lock=True)
            if conn.scalar(sa.select(sa.func.count()).select_from(api_keys)):
                return None
            text = _new_key()
            return _insert(conn, found.id, text, {"name": "first"}), text

    def list(self, workspace: str = DEFAULT_WORKSPACE) -> list[ApiKey]:
        """All keys of a workspace, the revoked ones too, oldest first."""
        with self._database.read() as conn:
            found = find_workspace(conn, workspace)
            wanted = _select().where(api_keys.c.workspace_id == found.id)
            return [_key(row) for row in conn.execute(wanted.order_by(api_keys.c.created_at, api_keys.c.id))]

    def revoke(self, key: str, workspace: str = DEFAULT_WORKSPACE) -> ApiKey:
        """End the key with that id or name; it opens nothing from now on. Raises NotFoundError."""
        known = self.list(workspace)
        found = next((k for k in known if k.id == key), None) or _named(known, key)
        if found is None:
            raise NotFoundError(f"There is no key {key!r}.", fix=nearest(key, [k.name for k in known]))
        mine = api_keys.c.id == found.id
        with self._database.write() as conn:
            still = mine & api_keys.c.revoked_at.is_(None)
            conn.execute(sa.update(api_keys).where(still).values(revoked_at=datetime.now(UTC)))
            return _one(conn, mine)

    def find(self, text: str) -> ApiKey | None:
        """The valid key whose text this is."""
        wanted = digest(text)
        with self._database.read() as conn:
            row = conn.execute(
                _select().add_columns(api_keys.c.digest).where(api_keys.c.digest == wanted)
            ).one_or_none()
        # the index has found it already; what is compared once more takes the same time whatever differs
        if row is None or not hmac.compare_digest(row.digest, wanted):
            return None
        found = _key(row)
        return found if found.is_valid else None

    def note_use(self, key: ApiKey) -> None:
        """Remember that it was used, once a minute at most."""
        now = datetime.now(UTC)
        old = api_keys.c.last_used_at.is_(None) | (api_keys.c.last_used_at < now - _NOTED_EVERY)
        with self._database.write() as conn:
            conn.execute(sa.update(api_keys).where((api_keys.c.id == key.id) & old).values(last_used_at=now))


def digest(text: str) -> str:
    """What is kept of a secret that only has to be recognised: SHA-256 in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _new_key() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def _insert(conn: Connection, workspace_id: str, text: str, given: Mapping[str, Any]) -> ApiKey:
    if conn.scalar(sa.select(api_keys.c.id).where(api_keys.c.digest == digest(text))) is not None:
        raise ConflictError("This key is there already.", fix="Revoke it, or take another one.")
    key_id = str(uuid.uuid4())
    values = {
        "id": key_id, "workspace_id": workspace_id, "digest": digest(text), "hint": text[:_HINT_CHARACTERS],
        "created_at": datetime.now(UTC), **given, "name": given["name"] or f"key-{key_id[:8]}",
    }  # fmt: skip
    conn.execute(sa.insert(api_keys).values(values))
    return _one(conn, api_keys.c.id == key_id)


def _usable(key: str) -> str:
    if len(key) < MIN_CHARACTERS or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"A key of your own needs at least {MIN_CHARACTERS} printable ASCII characters without spaces; this one has {len(key)} characters.",
            fix="Leave --key out to have one made.",
        )
    return key


def _named(keys: Iterable[ApiKey], name: str) -> ApiKey | None:
    named = [k for k in keys if k.name == name]
    if len(named) > 1:
        raise ConflictError(f"{len(named)} keys are called {name!r}.", fix="Give the id of one.")
    return named[0] if named else None


def _select() -> sa.Select[tuple[object, ...]]:
    columns = [api_keys.c[name] for name in ApiKey.__slots__ if name != "workspace"]
    return sa.select(*columns, workspaces.c.name.label("workspace")).join_from(api_keys, workspaces)


def _one(conn: Connection, which: sa.ColumnElement[bool]) -> ApiKey:
    return _key(conn.execute(_select().where(which)).one())


def _key(row: Row[tuple[object, ...]]) -> ApiKey:
    return ApiKey(**{name: row._mapping[name] for name in ApiKey.__slots__})
