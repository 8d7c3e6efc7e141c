"""What the REST API keeps: keys, replies, bridges, OAuth clients, marks for a full refresh, and who changed what."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add the columns, all of which may be NULL, and create the tables, empty."""
    _columns()
    _marks_and_keys()
    _replies()
    _bridges()


def _columns() -> None:
    op.add_column("elt_workspaces", sa.Column("default_destination_id", sa.String(36)))
    op.add_column("elt_connections", sa.Column("label", sa.String(255)))
    op.add_column("elt_syncs", sa.Column("title", sa.String(255)))
    _fill_titles()
    op.add_column("elt_syncs", sa.Column("created_by", sa.String(255)))
    op.add_column("elt_syncs", sa.Column("updated_by", sa.String(255)))
    op.add_column("elt_syncs", sa.Column("envelope", sa.Text))
    op.add_column("elt_bindings", sa.Column("created_at", _MOMENT))
    op.add_column("elt_bindings", sa.Column("updated_at", _MOMENT))
    for table in ("elt_connections", "elt_syncs"):
        op.create_index(f"ix_{table}_workspace_id_created_at_id", table, ["workspace_id", "created_at", "id"])


def _fill_titles() -> None:
    syncs = sa.table("elt_syncs", sa.column("id"), sa.column("slug"), sa.column("spec"), sa.column("title"))
    bind = op.get_bind()
    for row in bind.execute(sa.select(syncs.c.id, syncs.c.slug, syncs.c.spec)).all():
        try:
            title = str(json.loads(row.spec).get("name") or row.slug)
        except (ValueError, AttributeError):
            title = row.slug  # a damaged row stays as it is
        bind.execute(sa.update(syncs).where(syncs.c.id == row.id).values(title=title[:255]))


def _marks_and_keys() -> None:
    op.create_table(
        "elt_full_refreshes",
        sa.Column("binding_id", sa.String(255), nullable=False),
        sa.Column("mark_id", sa.String(36), nullable=False),
        sa.Column("reset_history", sa.Boolean, nullable=False),
        sa.Column("requested_by", sa.String(255), nullable=False),
        sa.Column("requested_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("binding_id", name="pk_elt_full_refreshes"),
    )
    op.create_table(
        "elt_api_keys",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("workspace_id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("hint", sa.String(16), nullable=False),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("expires_at", _MOMENT),
        sa.Column("revoked_at", _MOMENT),
        sa.Column("last_used_at", _MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_elt_api_keys"),
        sa.ForeignKeyConstraint(["workspace_id"], ["elt_workspaces.id"], name="fk_elt_api_keys_workspace_id"),
        sa.UniqueConstraint("digest", name="uq_elt_api_keys_digest"),
    )
    op.create_index("ix_elt_api_keys_workspace_id_created_at_id", "elt_api_keys", ["workspace_id", "created_at", "id"])


def _replies() -> None:
    op.create_table(
        "elt_replies",
        sa.Column("workspace_id", sa.String(36), nullable=False),
        sa.Column("idempotency_key", sa.String(255), nullable=False),
        sa.Column("request", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("headers", sa.Text),
        sa.Column("body", sa.Text),
        sa.Column("started_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "idempotency_key", name="pk_elt_replies"),
    )
    op.create_index("ix_elt_replies_started_at", "elt_replies", ["started_at"])


def _bridges() -> None:
    op.create_table(
        "elt_bridges",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("workspace_id", sa.String(36), nullable=False),
        sa.Column("connector", sa.String(255), nullable=False),
        sa.Column("label", sa.String(255), nullable=False),
        sa.Column("redirect_uri", sa.Text, nullable=False),
        sa.Column("caller_state", sa.Text),
        sa.Column("connection_id", sa.String(36)),
        sa.Column("token_digest", sa.String(64), nullable=False),
        sa.Column("state_digest", sa.String(64)),
        sa.Column("sealed", sa.Text),
        sa.Column("created_by", sa.String(255), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=False),
        sa.Column("used_at", _MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_elt_bridges"),
        sa.ForeignKeyConstraint(["workspace_id"], ["elt_workspaces.id"], name="fk_elt_bridges_workspace_id"),
        sa.UniqueConstraint("token_digest", name="uq_elt_bridges_token_digest"),
        sa.UniqueConstraint("state_digest", name="uq_elt_bridges_state_digest"),
    )
    op.create_index("ix_elt_bridges_workspace_id_created_at_id", "elt_bridges", ["workspace_id", "created_at", "id"])
    op.create_table(
        "elt_oauth_clients",
        sa.Column("workspace_id", sa.String(36), nullable=False),
        sa.Column("connector", sa.String(255), nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("client_secret", sa.Text),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "connector", name="pk_elt_oauth_clients"),
        sa.ForeignKeyConstraint(["workspace_id"], ["elt_workspaces.id"], name="fk_elt_oauth_clients_workspace_id"),
    )
