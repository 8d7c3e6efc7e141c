"""Earlier versions of syncs, for runs that were queued under them; and which syncs had their first run."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the two tables, empty."""
    op.create_table(
        "elt_sync_versions",
        sa.Column("sync_id", sa.String(36), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("until_revision", sa.BigInteger, nullable=False),
        sa.Column("workspace_id", sa.String(36), nullable=False),
        sa.Column("slug", sa.String(63), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("bindings", sa.Text, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.Column("ended_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("sync_id", "revision", name="pk_elt_sync_versions"),
    )
    op.create_index(
        "ix_elt_sync_versions_workspace_id_until_revision", "elt_sync_versions", ["workspace_id", "until_revision"]
    )
    op.create_table(
        "elt_first_runs",
        sa.Column("sync_id", sa.String(36), nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("seen_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("sync_id", name="pk_elt_first_runs"),
    )
