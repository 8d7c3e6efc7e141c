"""The store of connections, syncs and leases, for everything above: SQLite or Postgres, one `Store` per process and URL."""

import base64
import json
import os
import secrets
import threading
import uuid
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Row

from elt_dagster.errors import ConfigError
from elt_dagster.sdk.budget import Turns
from elt_dagster.store import bridges as bridging
from elt_dagster.store import budgets
from elt_dagster.store import lease as leasing
from elt_dagster.store.api_keys import ApiKeys
from elt_dagster.store.bridges import Bridges
from elt_dagster.store.claims import Claims
from elt_dagster.store.config import mask_sealed, open_sealed, reseal_config
from elt_dagster.store.database import Database
from elt_dagster.store.full_refreshes import FullRefreshes
from elt_dagster.store.lease import LEASE_SECONDS, Lease
from elt_dagster.store.location import store_url
from elt_dagster.store.reading import Reader, find_workspace
from elt_dagster.store.records import AnySync, StoredConnection, StoredSync, Workspace, connection_from_row, whole
from elt_dagster.store.remembered import Memory
from elt_dagster.store.replies import Replies
from elt_dagster.store.schema import DEFAULT_WORKSPACE, connections, first_runs, workspaces
from elt_dagster.store.seal import SEALED, Keys
from elt_dagster.store.transaction import Transaction
from elt_dagster.store.upgrade import require_current, upgrade

T = TypeVar("T")
_SEEN = "SELECT id, revision FROM elt_workspaces WHERE name = {}"
_open_stores: dict[str, "Store"] = {}
_opening = threading.Lock()


def open_store(url: str | None = None) -> "Store":
    """The store at ``url``, else at ``$ELT_DAGSTER_STORE``, else in a SQLite file; nothing is connected before it is used.

    One object per process and URL. Raises ConfigError for a URL that is neither SQLite's nor Postgres'.
    """
    wanted = store_url(url)
    with _opening:
        return _open_stores.setdefault(wanted.render_as_string(hide_password=False), Store(wanted))


class Store:
    """Connections, syncs and leases of all workspaces. Threads may share it.

    Methods raise ConfigError when the store is not initialised or of another version, TransientError when it cannot be reached or
    stays busy, AuthError when it refuses the credentials.
    """

    def __init__(self, url: URL, environ: Mapping[str, str] = os.environ) -> None:
        self._database = Database(url)
        file = self._database.file
        self._keys = Keys(file.parent / "secret.key" if file is not None else None, environ)
        self._is_current = False
        self._memory: Memory | None = None

    def __repr__(self) -> str:
        return f"Store({self.url_shown!r})"

    @property
    def url_shown(self) -> str:
        """Where the store is, without password."""
        return self._database.shown

    def init(self) -> bool:
        """Make or upgrade the tables; whether anything changed. Safe when several processes start it at once."""
        changed = upgrade(self._database)
        self._is_current = True
        return changed

    def stay_open(self) -> None:
        """For a server, which is asked again and again and never forks: keep connections open, and what was read of syncs until it changes."""
        self._database.keep_open()
        self._memory = Memory()

    def ensure_current(self) -> None:
        """Raise ConfigError, with the command that helps, unless the tables are those of this version; asked once per process."""
        if not self._is_current:
            require_current(self._database)
            self._is_current = True

    # --- reading ---------------------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self, workspace: str = DEFAULT_WORKSPACE) -> Iterator[Reader]:
        """Several reads of one state of the workspace. Raises NotFoundError for an unknown workspace, as all methods do."""
        self.ensure_current()
        with self._database.read() as conn:
            yield Reader(conn, find_workspace(conn, workspace))

    def recall(
        self, workspace: str, question: Hashable, ask: Callable[[Reader], T], size: Callable[[T], int] = lambda _: 1
    ) -> T:
        """What ``ask`` reads, or read when the workspace was of this revision (`stay_open`): it reads only what moves the revision when it changes,
        ``question`` tells it from every other one, and nobody changes the answer. ``size`` is how many syncs that has. Raises what ``ask`` raises.
        """
        memory = self._memory
        if memory is not None:
            self.ensure_current()
            seen = self._database.glance(_SEEN, workspace)
            if seen is not None and (known := memory.recall(seen[0], seen[1], question)):
                answer: T = known[0]
                return answer
        with self.reading(workspace) as reader:
            found = ask(reader)
            if memory is not None:
                memory.keep(reader.workspace, question, found, size(found))
            return found

    def revision(self, workspace: str = DEFAULT_WORKSPACE) -> int:
        """A number that grows with every change in the workspace."""
        self.ensure_current()
        with self._database.read() as conn:
            return find_workspace(conn, workspace).revision

    def look(self, workspace: str = DEFAULT_WORKSPACE) -> int:
        """`revision`, for who watches: asks each time whether the store is still of this version, and raises as if just opened."""
        require_current(self._database)
        return self.revision(workspace)

    def connections(self, *, workspace: str = DEFAULT_WORKSPACE) -> tuple[StoredConnection, ...]:
        """All connections, by name."""
        with self.reading(workspace) as reader:
            return reader.connections()

    def connection(self, name: str, *, workspace: str = DEFAULT_WORKSPACE) -> StoredConnection:
        """The connection called ``name``. Raises NotFoundError with the nearest match."""
        with self.reading(workspace) as reader:
            return reader.connection(name)

    def connection_by_id(self, connection_id: str, *, workspace: str = DEFAULT_WORKSPACE) -> StoredConnection:
        """The connection with that id. Raises NotFoundError, also when it is in another workspace."""
        with self.reading(workspace) as reader:
            return reader.connection_by_id(connection_id)

    def shown_connections(
        self, ids: Iterable[str], *, workspace: str = DEFAULT_WORKSPACE
    ) -> dict[str, StoredConnection]:
        """Those with these ids that are there, by id, `masked`: without its secrets a connection can be remembered, for a source that replaces
        one does not move the revision."""
        wanted = frozenset(ids)
        return self.recall(workspace, ("connections", wanted), lambda reader: reader.shown_connections(wanted), len)

    def syncs(self, *, workspace: str = DEFAULT_WORKSPACE) -> tuple[AnySync, ...]:
        """All syncs by slug; one whose row cannot be understood is a `BrokenSync` among them."""
        with self.reading(workspace) as reader:
            return reader.syncs()

    def sync(self, slug: str, *, workspace: str = DEFAULT_WORKSPACE) -> StoredSync:
        """The sync with that slug. Raises NotFoundError with the nearest match; ConfigError when its row is broken."""
        with self.reading(workspace) as reader:
            return reader.sync(slug)

    def sync_by_id(self, sync_id: str, *, workspace: str = DEFAULT_WORKSPACE) -> StoredSync:
        """The sync with that id. Raises NotFoundError, also when it is in another workspace; ConfigError when its row is broken."""
        return whole(self.any_sync_by_id(sync_id, workspace=workspace))

    def any_sync_by_id(self, sync_id: str, *, workspace: str = DEFAULT_WORKSPACE) -> AnySync:
        """The sync with that id, broken or not. Raises NotFoundError, also when it is in another workspace."""
        return self.recall(workspace, ("sync", sync_id), lambda reader: reader.any_sync_by_id(sync_id))

    # --- writing ---------------------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, workspace: str = DEFAULT_WORKSPACE) -> Iterator[Transaction]:
        """One write: committed when the block ends, undone by any exception; the revision moves once if anything changed.

        Writers of a workspace come one after the other (up to 30 s of waiting, then TransientError), so what was read inside is still true
        when it is committed. Do not open a second one inside; do nothing slow in it.
        """
        self.ensure_current()
        with self._database.write() as conn:
            transaction = Transaction(conn, find_workspace(conn, workspace, lock=True), self._keys)
            yield transaction
            transaction.finish()

    def workspaces(self) -> tuple[Workspace, ...]:
        """All workspaces, by name."""
        self.ensure_current()
        with self._database.read() as conn:
            rows = conn.execute(sa.select(workspaces)).all()
        return tuple(sorted((Workspace(r.id, r.name, r.revision, r.created_at) for r in rows), key=lambda w: w.name))

    def create_workspace(self, name: str) -> Workspace:
        """The workspace called ``name``, made if there is none."""
        self.ensure_current()
        with self._database.write() as conn:
            insert = leasing.insert_for(conn)
            values = {"id": str(uuid.uuid4()), "name": name, "revision": 0, "created_at": datetime.now(UTC)}
            conn.execute(insert(workspaces).values(values).on_conflict_do_nothing())
            return find_workspace(conn, name)

    # --- secrets ---------------------------------------------------------------------------------------------------------------

    def open_config(self, connection: StoredConnection) -> dict[str, Any]:
        """The configuration with sealed literals opened; references stay (`elt_dagster.model.secret.resolve` opens those).

        Only for the process that connects. Raises ConfigError naming the connection when no key fits.
        """
        if connection.error is not None:
            raise ConfigError(connection.error)
        opened: dict[str, Any] = open_sealed(
            connection.spec.config, self._keys, what=f"connection {connection.spec.name!r}"
        )
        return opened

    def masked_config(self, connection: StoredConnection) -> dict[str, Any]:
        """The configuration with `elt_dagster.model.secret.MASK` for each sealed literal: what people may see, and may send back."""
        masked: dict[str, Any] = mask_sealed(connection.spec.config)
        return masked

    def workspace_salt(self, workspace: str = DEFAULT_WORKSPACE) -> bytes:
        """32 random bytes that salt the hashed columns of this workspace: made once, sealed at rest, the same for ever."""
        self.ensure_current()
        with self._database.read() as conn:
            token = _salt_token(conn, find_workspace(conn, workspace).id)
        if token is None:
            with self._database.write() as conn:
                found = find_workspace(conn, workspace, lock=True)
                token = _salt_token(conn, found.id) or self._make_salt(conn, found.id)
        return base64.b64decode(self._keys.open(token, what=f"the salt of workspace {workspace!r}"))

    def reseal(self) -> int:
        """Seal every secret of every workspace again with the first key; how many were under another one.

        After that the other keys can go. All or nothing: raises ConfigError naming the connection that no key opens.
        """
        self.ensure_current()
        with self._database.write() as conn:
            found = conn.execute(sa.select(workspaces).order_by(workspaces.c.id).with_for_update()).all()
            return sum(self._reseal_workspace(conn, row) for row in found)

    def _reseal_workspace(self, conn: Connection, workspace: Row[Any]) -> int:
        total = 0
        for row in conn.execute(sa.select(connections).where(connections.c.workspace_id == workspace.id)).all():
            found = connection_from_row(row)
            if found.error is not None:
                continue  # nothing in it can be opened, and it must not hold up the others
            config, changed = reseal_config(found.spec.config, self._keys, what=f"connection {row.name!r}")
            if changed:
                new = {"config": json.dumps(config), "revision": workspace.revision + 1}
                conn.execute(sa.update(connections).where(connections.c.id == row.id).values(new))
            total += changed
        total += bridging.reseal(conn, self._keys, workspace.id)
        sealed = {"salt": {SEALED: workspace.salt}} if workspace.salt else {}
        salt, changed = reseal_config(sealed, self._keys, what=f"workspace {workspace.name!r}")
        if total + changed:
            new = {"revision": workspace.revision + 1, **{k: str(v[SEALED]) for k, v in salt.items()}}
            conn.execute(sa.update(workspaces).where(workspaces.c.id == workspace.id).values(new))
        return total + changed

    def _make_salt(self, conn: Connection, workspace_id: str) -> str:
        token = self._keys.seal(base64.b64encode(secrets.token_bytes(32)).decode())[SEALED]
        conn.execute(sa.update(workspaces).where(workspaces.c.id == workspace_id).values(salt=str(token)))
        return token

    # --- what the API keeps ----------------------------------------------------------------------------------------------------

    @property
    def api_keys(self) -> ApiKeys:
        """The keys of the REST API."""
        return ApiKeys(self._ready())

    @property
    def replies(self) -> Replies:
        """The answers to requests with an Idempotency-Key."""
        return Replies(self._ready(), self._keys)

    @property
    def bridges(self) -> Bridges:
        """Connection bridges and OAuth clients."""
        return Bridges(self._ready(), self._keys)

    @property
    def full_refreshes(self) -> FullRefreshes:
        """The bindings whose next run reads everything again."""
        return FullRefreshes(self._ready())

    @property
    def claims(self) -> Claims:
        """Who is starting runs now."""
        return Claims(self._ready())

    def _ready(self) -> Database:
        self.ensure_current()
        return self._database

    # --- first runs ------------------------------------------------------------------------------------------------------------

    def without_first_run(self, sync_ids: Collection[str]) -> set[str]:
        """Those of ``sync_ids`` of which `note_first_run` was never told."""
        self.ensure_current()
        with self._database.read() as conn:
            known = set(conn.scalars(sa.select(first_runs.c.sync_id).where(first_runs.c.sync_id.in_(sync_ids))))
        return set(sync_ids) - known

    def note_first_run(self, sync_id: str, run_id: str) -> None:
        """Remember for ever that the run which a sync's creation starts was started. This is no change: the revision stays."""
        self.ensure_current()
        with self._database.write() as conn:
            values = {"sync_id": sync_id, "run_id": run_id, "seen_at": datetime.now(UTC)}
            conn.execute(leasing.insert_for(conn)(first_runs).values(values).on_conflict_do_nothing())

    # --- rate budgets ----------------------------------------------------------------------------------------------------------

    def take_turns(self, connection: str, per_second: float | None, patience: float) -> Turns:
        """Turns to ask the source behind ``connection``; see `elt_dagster.sdk.budget`. Without a rate nothing is written, unless the
        vendor's own limit is nearly used up."""
        self.ensure_current()
        if per_second is None:
            with self._database.read() as conn:
                wait = budgets.pause(conn, connection)
            if wait is not None:
                return Turns(wait, 0.0, 0)
        with self._database.write() as conn:
            return budgets.take(conn, connection, per_second, patience)

    def hold_requests(self, connection: str, seconds: float) -> None:
        """Nobody asks the source behind ``connection`` for so long."""
        self.ensure_current()
        with self._database.write() as conn:
            budgets.hold(conn, connection, seconds)

    def slow_requests(self, connection: str, per_second: float, seconds: float) -> None:
        """Nobody asks it faster than this for so long."""
        self.ensure_current()
        with self._database.write() as conn:
            budgets.slow(conn, connection, per_second, seconds)

    # --- leases ----------------------------------------------------------------------------------------------------------------

    def acquire_lease(self, binding_id: str, holder: str, run_id: str, seconds: float = LEASE_SECONDS) -> Lease:
        """The right to load ``binding_id``, for ``seconds`` unless renewed. ``holder`` is one process working on one step.

        Raises ConflictError with the active run's id while another holder has it.
        """
        self.ensure_current()
        with self._database.write() as conn:
            return leasing.acquire(conn, binding_id, holder, run_id, seconds)

    def active_run(self, binding_id: str) -> str | None:
        """The run that loads ``binding_id`` now, if there is one."""
        self.ensure_current()
        with self._database.read() as conn:
            return leasing.active_run(conn, binding_id)

    def end_lease(self, binding_id: str, run_id: str) -> None:
        """Free the lease that ``run_id`` has on ``binding_id``, for a run that is over and whose process may be dead."""
        self.ensure_current()
        with self._database.write() as conn:
            leasing.end(conn, binding_id, run_id)

    def renew_lease(self, lease: Lease) -> Lease:
        """``lease`` for another ``lease.seconds`` from now. Raises ConflictError when it is lost: stop working then."""
        self.ensure_current()
        with self._database.write() as conn:
            return leasing.renew(conn, lease)

    def release_lease(self, lease: Lease) -> None:
        """Give ``lease`` back at once; nothing happens when it was lost already."""
        self.ensure_current()
        with self._database.write() as conn:
            leasing.release(conn, lease)

    def close(self, *, inherited: bool = False) -> None:
        """Close idle connections; the store stays usable. ``inherited``: only forget them, for they are a parent process's."""
        self._database.close(inherited=inherited)


def _salt_token(conn: Connection, workspace_id: str) -> str | None:
    token: str | None = conn.scalar(sa.select(workspaces.c.salt).where(workspaces.c.id == workspace_id))
    return token


def _after_fork() -> None:
    global _opening  # noqa: PLW0603 - the parent's lock may have been held by a thread that does not exist here
    _opening = threading.Lock()
    for store in _open_stores.values():
        store.close(inherited=True)


os.register_at_fork(after_in_child=_after_fork)
