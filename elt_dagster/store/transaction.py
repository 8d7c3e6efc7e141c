"""Writing one workspace: everything in a transaction happens, or nothing; writers of a workspace come one after the other."""

import json
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from elt_dagster.errors import ConflictError, ContractError, NotFoundError, nearest
from elt_dagster.model import ConnectionSpec, Stream, SyncSpec, SyncStatus, TableBinding
from elt_dagster.store.bridges import cross_bridge
from elt_dagster.store.config import open_sealed, seal_config, value_at, with_secret
from elt_dagster.store.reading import Reader
from elt_dagster.store.records import (
    StoredConnection,
    StoredSync,
    Workspace,
    binding_text,
    config_text,
    connection_from_row,
    same_json,
    sync_text,
)
from elt_dagster.store.request_ids import new_id
from elt_dagster.store.schema import bindings, connections, leases, syncs, workspaces
from elt_dagster.store.seal import Keys
from elt_dagster.store.versions import keep_version


class Transaction(Reader):
    """Reads and writes of one workspace. Made by `Store.transaction`, and valid inside its ``with`` block only."""

    def __init__(self, conn: Connection, workspace: Workspace, keys: Keys) -> None:
        super().__init__(conn, workspace)
        self._keys = keys
        self._changed = False
        self._now = datetime.now(UTC)
        self._connection_ids: dict[str, str] | None = None
        self._written: set[str] = set()

    def put_connection(
        self, spec: ConnectionSpec, secret_fields: frozenset[str] = frozenset(), *, label: str | None = None
    ) -> StoredConnection:
        """Make or change the connection of that name. Literals of secret fields are sealed (`elt_dagster.store.config`).

        ``label`` is what people call it; None leaves that as it is.

        Nothing changes when it is equal to what is stored. Raises ConfigError for a mask without a stored secret, or a missing key.
        """
        row = self._one(connections, connections.c.name == spec.name)
        stored = connection_from_row(row).spec.config if row is not None else {}
        what = f"connection {spec.name!r}"
        config = json.dumps(seal_config(config_text(spec), stored, secret_fields, self._keys, what=what))
        values = {"connector": spec.connector, "config": config, **({"label": label} if label is not None else {})}
        if row is None:
            self._insert(connections, {"name": spec.name, **values})
            self._connection_ids = None
        elif not _same_connection(row, values):
            self._update(connections, row.id, values)
        return self.connection(spec.name)

    def rotate_secret(self, connection: str, setting: str, secret: str, *, seen: Any) -> None:
        """Replace a secret that the source itself has replaced; ``setting`` is its dotted path. Nothing has changed for anybody who looks: the
        revision stays.

        ``seen`` is what was there, opened, when the old secret was read. Raises ConflictError when it is something else by now, NotFoundError.
        """
        found = self.connection(connection)
        if value_at(open_sealed(found.spec.config, self._keys, what=f"connection {connection!r}"), setting) != seen:
            raise ConflictError(f"The secret {setting!r} of connection {connection!r} was replaced by somebody else.")
        config = with_secret(found.spec.config, setting, self._keys.seal(secret))
        mine = connections.c.id == found.id
        self._conn.execute(sa.update(connections).where(mine).values(config=json.dumps(config)))

    def cross_bridge(self, bridge_id: str, connection_id: str) -> None:
        """End a connection bridge with the connection that came of it. Raises ConflictError when it had ended already."""
        cross_bridge(self._conn, bridge_id, connection_id)

    def put_sync(self, spec: SyncSpec, streams: Mapping[str, Stream], *, by: str = "") -> StoredSync:
        """Make or change the sync of that slug; bindings keep their ids as long as their stream stays selected.

        ``streams`` has the discovered `Stream` of each binding, ``by`` is who asks for it. Nothing changes when all of it is equal to what is stored.
        Raises NotFoundError for an unknown connection. That another sync loads one of the tables is a ConflictError, with the other's id,
        at the end of the transaction.
        """
        missing = [b.name for b in spec.streams if b.name not in streams]
        if missing:
            raise ContractError(f"Sync {spec.slug!r}: no discovered stream was given for {missing[0]!r}.")
        values = {
            "connection_id": self._connection_id(spec.connection, spec.slug),
            "destination_id": self._connection_id(spec.destination, spec.slug),
            "dataset": spec.dataset,
            "title": spec.title,
            "status": spec.status.value,
            "spec": sync_text(spec),
        }
        row = self._one(syncs, syncs.c.slug == spec.slug)
        before = self._bindings(row.id) if row else []
        made = {"slug": spec.slug, "created_by": by, "updated_by": by}
        sync_id = row.id if row else self._insert(syncs, {**made, **values})
        parts_changed = self._put_bindings(sync_id, before, spec.streams, streams)
        if row and (parts_changed or not _same_sync(row, values)):
            keep_version(self._conn, row, before, self._revision, self._now)
            self._update(syncs, sync_id, {**values, "updated_by": by})
        self._written.add(spec.slug)
        return self.sync(spec.slug)

    def rename_sync(self, slug: str, new: str) -> None:
        """Give a sync another slug; ids, bindings and tables stay. Raises NotFoundError; ConflictError is the caller's to raise."""
        if slug == new:
            return
        row = self._sync_row(slug)
        keep_version(self._conn, row, self._bindings(row.id), self._revision, self._now)
        self._update(syncs, row.id, {"slug": new, "spec": json.dumps({**json.loads(row.spec), "slug": new})})
        self._written.discard(slug)
        self._written.add(new)

    def put_envelope(self, slug: str, envelope: Mapping[str, Any], *, by: str = "") -> None:
        """Keep what the REST dialects know of a sync beside its spec. It changes the sync, and nothing that Dagster shows. Raises NotFoundError."""
        row = self._sync_row(slug)
        text = json.dumps(dict(envelope)) if envelope else None
        if not same_json(row.envelope or "{}", text or "{}"):
            keep_version(self._conn, row, self._bindings(row.id), self._revision, self._now)
            self._update(syncs, row.id, {"envelope": text, "updated_by": by})

    def set_default_destination(self, connection: str | None) -> None:
        """The warehouse of syncs that name none; None for the one that is there alone. Raises NotFoundError."""
        found = self.connection(connection).id if connection is not None else None
        mine = workspaces.c.id == self._workspace.id
        self._conn.execute(sa.update(workspaces).where(mine).values(default_destination_id=found))

    def delete_sync(self, slug: str) -> None:
        """Remove the sync, its bindings and their leases; the tables in the warehouse stay. Raises NotFoundError."""
        row = self._sync_row(slug)
        before = self._bindings(row.id)
        keep_version(self._conn, row, before, self._revision, self._now)
        self._delete_bindings([b.id for b in before])
        self._conn.execute(sa.delete(syncs).where(syncs.c.id == row.id))
        self._changed = True

    def delete_connection(self, name: str) -> None:
        """Remove the connection. Raises NotFoundError; ConflictError, naming them, while syncs use it."""
        found = self.connection(name)
        uses = (syncs.c.connection_id == found.id) | (syncs.c.destination_id == found.id)
        rows = self._conn.execute(sa.select(syncs.c.id, syncs.c.slug).where(uses).order_by(syncs.c.slug)).all()
        if rows:
            slugs = ", ".join(r.slug for r in rows[:10]) + (f" and {len(rows) - 10} more" if len(rows) > 10 else "")
            raise ConflictError(
                f"The connection {name!r} is used by: {slugs}.", fix="Delete or change them first.", with_id=rows[0].id
            )
        self._conn.execute(sa.delete(connections).where(connections.c.id == found.id))
        self._connection_ids = None
        self._changed = True

    def _sync_row(self, slug: str) -> Row[Any]:
        row = self._one(syncs, syncs.c.slug == slug)
        if row is None:
            raise NotFoundError(f"There is no sync {slug!r}.", fix=nearest(slug, self._names(syncs.c.slug)))
        return row

    def finish(self) -> None:
        """Move the workspace's revision, once, if anything changed. `Store.transaction` calls this.

        Raises ConflictError when a table is now loaded by two syncs.
        """
        if self._written:
            self._refuse_shared_tables()
        if self._changed:
            mine = workspaces.c.id == self._workspace.id
            self._conn.execute(sa.update(workspaces).where(mine).values(revision=self._revision))

    @property
    def _revision(self) -> int:
        return self._workspace.revision + 1

    def _connection_id(self, name: str, slug: str) -> str:
        if self._connection_ids is None:
            rows = self._conn.execute(sa.select(connections.c.name, connections.c.id).where(self._mine(connections)))
            self._connection_ids = {r.name: r.id for r in rows}
        if name not in self._connection_ids:
            known = list(self._connection_ids)
            raise NotFoundError(
                f"Sync {slug!r} uses the connection {name!r}, which does not exist.", fix=nearest(name, known)
            )
        return self._connection_ids[name]

    def _refuse_shared_tables(self) -> None:
        """Asked once at the end, so that two syncs may swap tables, or one take over those of a deleted one, in any order."""
        place = (syncs.c.destination_id, syncs.c.dataset, bindings.c.table_name)
        active = sa.select(syncs.c.id, syncs.c.slug, *place).join_from(bindings, syncs)
        active = active.where(self._mine(syncs), syncs.c.status != SyncStatus.ARCHIVED.value)
        shared = active.with_only_columns(*place).group_by(*place).having(sa.func.count() > 1).order_by(*place).limit(1)
        row = self._conn.execute(shared).one_or_none()
        if row is None:
            return
        owners = self._conn.execute(
            active.where(*(column == value for column, value in zip(place, row, strict=True)))
        ).all()
        new = next((o for o in owners if o.slug in self._written), owners[0])
        other = next(o for o in owners if o.id != new.id)
        raise ConflictError(
            f"Sync {new.slug!r} would load the table {row.dataset}.{row.table_name}, which sync {other.slug!r} loads.",
            fix="Give one of them another `schema` or `table`.",
            with_id=other.id,
        )

    def _put_bindings(
        self, sync_id: str, before: Iterable[Row[Any]], wanted: Iterable[TableBinding], streams: Mapping[str, Stream]
    ) -> bool:
        stored = {row.stream: row for row in before}
        new: list[dict[str, Any]] = []
        made = {"created_at": self._now, "updated_at": self._now}
        changed = False
        for position, binding in enumerate(wanted):
            values = {
                "table_name": binding.table_name,
                "position": position,
                "spec": binding_text(binding),
                "discovered": json.dumps(streams[binding.name].to_json()),
            }
            row = stored.pop(binding.name, None)
            if row is None:
                new.append({"id": str(uuid.uuid4()), "sync_id": sync_id, "stream": binding.name, **values, **made})
            elif not _same_binding(row, values):
                moved = {**values, "updated_at": self._now}
                self._conn.execute(sa.update(bindings).where(bindings.c.id == row.id).values(moved))
                changed = True
        self._delete_bindings([row.id for row in stored.values()])
        if new:
            self._conn.execute(sa.insert(bindings), new)
        return changed or bool(new) or bool(stored)

    def _delete_bindings(self, ids: list[str]) -> None:
        if ids:
            # a run that still loads them loses its lease with its next heartbeat; the row stays for its fence, because a run that was
            # queued under an earlier version may come yet
            self._conn.execute(sa.update(leases).where(leases.c.binding_id.in_(ids)).values(expires_at=0.0))
            self._conn.execute(sa.delete(bindings).where(bindings.c.id.in_(ids)))

    def _insert(self, table: sa.Table, values: dict[str, Any]) -> str:
        row_id, may_exist = new_id(table.name)
        if may_exist and self._conn.scalar(sa.select(table.c.id).where(table.c.id == row_id)) is not None:
            raise ConflictError(
                "This request was carried out before, and its answer was lost.",
                fix="Look at what it made.",
                with_id=row_id,
            )
        owner = {"id": row_id, "workspace_id": self._workspace.id, "created_at": self._now}
        self._conn.execute(sa.insert(table).values(**owner, updated_at=self._now, revision=self._revision, **values))
        self._changed = True
        return row_id

    def _update(self, table: sa.Table, row_id: str, values: dict[str, Any]) -> None:
        moved = {"updated_at": self._now, "revision": self._revision}
        self._conn.execute(sa.update(table).where(table.c.id == row_id).values(**moved, **values))
        self._changed = True


def _same_connection(row: Row[Any], values: Mapping[str, Any]) -> bool:
    plain = row.connector == values["connector"] and row.label == values.get("label", row.label)
    return plain and same_json(row.config, values["config"])


def _same_sync(row: Row[Any], values: Mapping[str, Any]) -> bool:
    plain = ("connection_id", "destination_id", "dataset", "status")
    return all(row._mapping[k] == values[k] for k in plain) and same_json(row.spec, values["spec"])


def _same_binding(row: Row[Any], values: Mapping[str, Any]) -> bool:
    plain = row.table_name == values["table_name"] and row.position == values["position"]
    return plain and same_json(row.spec, values["spec"]) and same_json(row.discovered, values["discovered"])
