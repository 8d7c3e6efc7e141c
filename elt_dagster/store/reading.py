"""What a connection to the database can read of one workspace."""

from collections import defaultdict
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from elt_dagster.errors import NotFoundError, nearest
from elt_dagster.store.pages import Place, SyncFilter, page_of, rows_of
from elt_dagster.store.records import (
    AnySync,
    StoredConnection,
    StoredSync,
    Workspace,
    connection_from_row,
    masked,
    sync_from_rows,
    whole,
)
from elt_dagster.store.schema import bindings, connections, syncs, workspaces
from elt_dagster.store.versions import versions_at


def find_workspace(conn: Connection, name: str, *, lock: bool = False) -> Workspace:
    """The workspace called ``name``; ``lock`` makes every other writer of it wait. Raises NotFoundError."""
    wanted = sa.select(workspaces).where(workspaces.c.name == name)
    row = conn.execute(wanted.with_for_update() if lock else wanted).one_or_none()
    if row is None:
        known = list(conn.scalars(sa.select(workspaces.c.name)))
        raise NotFoundError(f"There is no workspace {name!r}.", fix=nearest(name, known))
    return Workspace(row.id, row.name, row.revision, row.created_at)


class Reader:
    """Reads of one workspace through one connection: they all see the same state."""

    def __init__(self, conn: Connection, workspace: Workspace) -> None:
        self._conn = conn
        self._workspace = workspace

    @property
    def revision(self) -> int:
        """The workspace's revision that these reads see."""
        return self._workspace.revision

    def connections(self) -> tuple[StoredConnection, ...]:
        """All connections, by name."""
        rows = self._conn.execute(sa.select(connections).where(self._mine(connections)))
        # sorted here, for databases disagree about the order of text
        return tuple(sorted((connection_from_row(r) for r in rows), key=lambda c: c.spec.name))

    def shown_connections(self, ids: Collection[str]) -> dict[str, StoredConnection]:
        """Those with these ids, a page's at most, that are there, by id, and `masked`."""
        wanted = sa.select(connections).where(self._mine(connections) & connections.c.id.in_(ids))
        return {r.id: masked(connection_from_row(r)) for r in self._conn.execute(wanted)}

    def connection(self, name: str) -> StoredConnection:
        """The connection called ``name``. Raises NotFoundError with the nearest match."""
        row = self._one(connections, connections.c.name == name)
        if row is None:
            raise NotFoundError(f"There is no connection {name!r}.", fix=nearest(name, self._names(connections.c.name)))
        return connection_from_row(row)

    def connection_by_id(self, connection_id: str) -> StoredConnection:
        """The connection with that id, if it is in this workspace. Raises NotFoundError."""
        row = self._one(connections, connections.c.id == connection_id)
        if row is None:
            raise NotFoundError(f"There is no connection with the id {connection_id!r}.")
        return connection_from_row(row)

    def syncs(self, *, at_revision: int | None = None, slugs: Collection[str] | None = None) -> tuple[AnySync, ...]:
        """All syncs, broken ones among them, by slug; two queries whatever their number. ``slugs`` are the only ones wanted, a few at most.

        With ``at_revision``, those of an earlier revision, as far as their versions are still kept (`versions.KEPT_DAYS`).
        """
        if at_revision is not None and at_revision < self.revision:
            return tuple(s for s in self._earlier(at_revision) if slugs is None or s.slug in slugs)
        which = self._mine(syncs) if slugs is None else self._mine(syncs) & syncs.c.slug.in_(slugs)
        rows = self._conn.execute(sa.select(syncs).where(which)).all()
        parts: dict[str, list[Row[Any]]] = defaultdict(list)
        wanted = sa.select(bindings).join(syncs).where(which).order_by(bindings.c.position)
        for binding in self._conn.execute(wanted):
            parts[binding.sync_id].append(binding)
        return tuple(sync_from_rows(r, parts[r.id]) for r in sorted(rows, key=lambda r: r.slug))

    def sync_page(self, wanted: SyncFilter, at: Place) -> tuple[tuple[AnySync, ...], int]:
        """One page of the syncs that ``wanted`` names, and how many of these there are; three queries whatever their number.
        Their streams have no schema.

        Raises NotFoundError when ``at`` begins behind a sync that is not there.
        """
        which = self._mine(syncs) & wanted.clause()
        rows, total = page_of(self._conn, syncs, which, at)
        parts: dict[str, list[Row[Any]]] = defaultdict(list)
        chosen = bindings.c.sync_id.in_([r.id for r in rows])
        for binding in self._conn.execute(sa.select(bindings).where(chosen).order_by(bindings.c.position)):
            parts[binding.sync_id].append(binding)
        return tuple(sync_from_rows(r, parts[r.id], columns=False) for r in rows), total

    def binding_page(self, wanted: SyncFilter, at: Place, *, sync_id: str | None = None) -> list[tuple[str, AnySync]]:
        """One page of the bindings of the syncs that ``wanted`` names, or of one of them: their ids, and whose they are.

        Raises NotFoundError as `sync_page` does.
        """
        mine = self._mine(syncs) & wanted.clause() & (syncs.c.id == bindings.c.sync_id)
        # not joined: planners without statistics would sort all there is instead of going down the index
        which: sa.ColumnElement[bool] = sa.exists().where(mine).correlate(bindings)
        if sync_id is not None:
            which &= bindings.c.sync_id == sync_id
        rows = rows_of(self._conn, bindings, which, at)
        found = self._of_ids({row.sync_id for row in rows})
        return [(row.id, found[row.sync_id]) for row in rows]

    def _of_ids(self, ids: Collection[str]) -> dict[str, AnySync]:
        parts: dict[str, list[Row[Any]]] = defaultdict(list)
        for part in self._conn.execute(
            sa.select(bindings).where(bindings.c.sync_id.in_(ids)).order_by(bindings.c.position)
        ):
            parts[part.sync_id].append(part)
        rows = self._conn.execute(sa.select(syncs).where(syncs.c.id.in_(ids)))
        return {row.id: sync_from_rows(row, parts[row.id]) for row in rows}

    def connection_page(self, at: Place) -> tuple[tuple[StoredConnection, ...], int]:
        """One page of the connections, `masked`, and how many there are. Raises NotFoundError as `sync_page` does."""
        rows, total = page_of(self._conn, connections, self._mine(connections), at)
        return tuple(masked(connection_from_row(r)) for r in rows), total

    def connection_ids(self) -> dict[str, str]:
        """The names of all connections, by their ids."""
        wanted = sa.select(connections.c.id, connections.c.name).where(self._mine(connections))
        return {row.id: row.name for row in self._conn.execute(wanted)}

    def kinds(self) -> dict[str, str]:
        """The connector of every connection, by name."""
        wanted = sa.select(connections.c.name, connections.c.connector).where(self._mine(connections))
        return {row.name: row.connector for row in self._conn.execute(wanted)}

    def any_sync(self, slug: str) -> AnySync:
        """The sync with that slug, broken or not. Raises NotFoundError."""
        return self._any(syncs.c.slug == slug, f"There is no sync {slug!r}.")

    def any_sync_by_id(self, sync_id: str) -> AnySync:
        """The sync with that id, broken or not. Raises NotFoundError."""
        return self._any(syncs.c.id == sync_id, f"There is no sync with the id {sync_id!r}.")

    def _any(self, which: sa.ColumnElement[bool], otherwise: str) -> AnySync:
        row = self._one(syncs, which)
        if row is None:
            raise NotFoundError(otherwise)
        return sync_from_rows(row, self._bindings(row.id))

    def sync_of_binding(self, binding_id: str) -> AnySync:
        """The sync that has the binding. Raises NotFoundError, also when it is in another workspace."""
        wanted = sa.select(syncs).join(bindings).where(self._mine(syncs), bindings.c.id == binding_id)
        row = self._conn.execute(wanted).one_or_none()
        if row is None:
            raise NotFoundError(f"There is no stream with the id {binding_id!r}.")
        return sync_from_rows(row, self._bindings(row.id))

    def default_destination_id(self) -> str | None:
        """The workspace's own choice of a warehouse."""
        mine = workspaces.c.id == self._workspace.id
        chosen: str | None = self._conn.scalar(sa.select(workspaces.c.default_destination_id).where(mine))
        return chosen

    def slugs(self) -> list[str]:
        """The slugs of all syncs."""
        return self._names(syncs.c.slug)

    def tables(self, schemas: Collection[str]) -> dict[tuple[str, str], str]:
        """Schema and table of every binding in one of ``schemas``, a few at most, with the slug of its sync (of one, should several say so)."""
        columns = (syncs.c.dataset, bindings.c.table_name, syncs.c.slug)
        wanted = sa.select(*columns).join_from(syncs, bindings).where(self._mine(syncs), syncs.c.dataset.in_(schemas))
        return {(schema, table): slug for schema, table, slug in self._conn.execute(wanted)}

    def _earlier(self, revision: int) -> tuple[AnySync, ...]:
        found = [s for s in self.syncs() if s.revision <= revision]
        found += [sync_from_rows(row, parts) for row, parts in versions_at(self._conn, self._workspace.id, revision)]
        return tuple(sorted(found, key=lambda s: s.slug))

    def sync(self, slug: str) -> StoredSync:
        """The sync with that slug. Raises NotFoundError with the nearest match; ConfigError when its row is broken."""
        row = self._one(syncs, syncs.c.slug == slug)
        if row is None:
            raise NotFoundError(f"There is no sync {slug!r}.", fix=nearest(slug, self._names(syncs.c.slug)))
        return whole(sync_from_rows(row, self._bindings(row.id)))

    def sync_by_id(self, sync_id: str) -> StoredSync:
        """The sync with that id, if it is in this workspace. Raises NotFoundError; ConfigError when its row is broken."""
        return whole(self.any_sync_by_id(sync_id))

    @property
    def workspace(self) -> Workspace:
        """The workspace that is read."""
        return self._workspace

    def _bindings(self, sync_id: str) -> list[Row[Any]]:
        wanted = sa.select(bindings).where(bindings.c.sync_id == sync_id).order_by(bindings.c.position)
        return list(self._conn.execute(wanted))

    def _one(self, table: sa.Table, which: sa.ColumnElement[bool]) -> Row[Any] | None:
        return self._conn.execute(sa.select(table).where(self._mine(table), which)).one_or_none()

    def _names(self, column: sa.Column[Any]) -> list[str]:
        return list(self._conn.scalars(sa.select(column).where(self._mine(column.table))))

    def _mine(self, table: Any) -> sa.ColumnElement[bool]:
        mine: sa.ColumnElement[bool] = table.c.workspace_id == self._workspace.id
        return mine
