"""The first tables: workspaces, connections, syncs, bindings, leases."""

import uuid
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create everything, and the workspace ``default``."""
    workspaces = op.create_table(
        "elt_workspaces",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("salt", sa.Text),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_elt_workspaces"),
        sa.UniqueConstraint("name", name="uq_elt_workspaces_name"),
    )
    op.create_table(
        "elt_connections",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("workspace_id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("connector", sa.String(255), nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_elt_connections"),
        sa.ForeignKeyConstraint(["workspace_id"], ["elt_workspaces.id"], name="fk_elt_connections_workspace_id"),
        sa.UniqueConstraint("workspace_id", "name", name="uq_elt_connections_workspace_id_name"),
    )
    _create_syncs()
    op.create_table(
        "elt_leases",
        sa.Column("binding_id", sa.String(255), nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("binding_id", name="pk_elt_leases"),
    )
    first = {"id": str(uuid.uuid4()), "name": "default", "revision": 0, "created_at": datetime.now(UTC)}
    op.bulk_insert(workspaces, [first])


def _create_syncs() -> None:
    op.create_table(
        "elt_syncs",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("workspace_id", sa.String(36), nullable=False),
        sa.Column("slug", sa.String(63), nullable=False),
        sa.Column("connection_id", sa.String(36), nullable=False),
        sa.Column("destination_id", sa.String(36), nullable=False),
        sa.Column("dataset", sa.String(63), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_elt_syncs"),
        sa.ForeignKeyConstraint(["workspace_id"], ["elt_workspaces.id"], name="fk_elt_syncs_workspace_id"),
        sa.ForeignKeyConstraint(["connection_id"], ["elt_connections.id"], name="fk_elt_syncs_connection_id"),
        sa.ForeignKeyConstraint(["destination_id"], ["elt_connections.id"], name="fk_elt_syncs_destination_id"),
        sa.UniqueConstraint("workspace_id", "slug", name="uq_elt_syncs_workspace_id_slug"),
    )
    op.create_index("ix_elt_syncs_connection_id", "elt_syncs", ["connection_id"])
    op.create_index("ix_elt_syncs_destination_id_dataset", "elt_syncs", ["destination_id", "dataset"])
    op.create_table(
        "elt_bindings",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("sync_id", sa.String(36), nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("table_name", sa.String(63), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("discovered", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_elt_bindings"),
        sa.ForeignKeyConstraint(["sync_id"], ["elt_syncs.id"], name="fk_elt_bindings_sync_id", ondelete="CASCADE"),
        sa.UniqueConstraint("sync_id", "stream", name="uq_elt_bindings_sync_id_stream"),
    )
