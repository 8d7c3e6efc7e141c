"""Rate budgets, shared by all processes that read from one account."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table, empty."""
    op.create_table(
        "elt_rate_budgets",
        sa.Column("connection", sa.String(255), nullable=False),
        sa.Column("next_at", sa.Double, nullable=False),
        sa.Column("hold_until", sa.Double, nullable=False),
        sa.Column("left_over", sa.Double, nullable=False),
        sa.Column("left_over_until", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("connection", name="pk_elt_rate_budgets"),
    )
