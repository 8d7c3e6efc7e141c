"""What syncs were at an earlier revision: a run that was queued under it may still need that, whatever was changed or deleted since."""

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from elt_dagster.store.schema import sync_versions

KEPT_DAYS = 30
"""How long a version that ended is kept; no run waits longer."""
_BINDING = ("id", "stream", "table_name", "position", "spec", "discovered")


def keep_version(conn: Connection, sync: Row[Any], bindings: Iterable[Row[Any]], until: int, now: datetime) -> None:
    """Keep what the rows say as a version that ended with revision ``until``. A version nobody could have seen is not kept."""
    if sync.revision >= until:
        return
    values = {
        "sync_id": sync.id,
        "revision": sync.revision,
        "until_revision": until,
        "workspace_id": sync.workspace_id,
        "slug": sync.slug,
        "spec": sync.spec,
        "bindings": json.dumps([{name: b._mapping[name] for name in _BINDING} for b in bindings]),
        "created_at": sync.created_at,
        "updated_at": sync.updated_at,
        "ended_at": now,
    }
    conn.execute(sa.insert(sync_versions).values(values))
    conn.execute(sa.delete(sync_versions).where(sync_versions.c.ended_at < now - timedelta(days=KEPT_DAYS)))


def versions_at(conn: Connection, workspace_id: str, revision: int) -> list[tuple[Any, list[Any]]]:
    """Each sync of which another version was current at ``revision``, with its bindings, shaped like the rows they were."""
    then = (sync_versions.c.revision <= revision) & (sync_versions.c.until_revision > revision)
    mine = sync_versions.c.workspace_id == workspace_id
    rows = conn.execute(sa.select(sync_versions).where(mine, then)).all()
    return [
        (
            SimpleNamespace(id=row.sync_id, **{k: v for k, v in row._mapping.items() if k != "bindings"}),
            [SimpleNamespace(**binding) for binding in json.loads(row.bindings)],
        )
        for row in rows
    ]
