"""A list of all streams, newest first, begins at an index and not at the whole table; so every binding has the time it was made."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Bindings of an older version get the times of their sync."""
    bindings = sa.table("elt_bindings", *map(sa.column, ("sync_id", "created_at", "updated_at")))
    syncs = sa.table("elt_syncs", *map(sa.column, ("id", "created_at", "updated_at")))
    for name in ("created_at", "updated_at"):
        column = bindings.c[name]
        of_sync = sa.select(syncs.c[name]).where(syncs.c.id == bindings.c.sync_id).scalar_subquery()
        op.execute(sa.update(bindings).where(column.is_(None)).values({name: of_sync}))
    op.create_index("ix_elt_bindings_created_at_id", "elt_bindings", ["created_at", "id"])
