"""Sketches of the pictures of tasks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; earlier tasks have none."""
    op.add_column("tasks", sa.Column("sketch", sa.Text))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("tasks", "sketch")
