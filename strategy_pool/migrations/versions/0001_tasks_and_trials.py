"""Tasks and trials."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_KEY = sa.Text().with_variant(sa.String(700), "mysql", "mariadb")
_NAME = sa.Text().with_variant(sa.String(255), "mysql", "mariadb")


def upgrade() -> None:
    """Make the two tables."""
    op.create_table(
        "tasks",
        sa.Column("task_id", _KEY, primary_key=True),
        sa.Column("name", sa.Text),
        sa.Column("objective", sa.Text),
        sa.Column("created", sa.Text, nullable=False),
        sa.Column("features", sa.Text),
    )
    op.create_table(
        "trials",
        sa.Column("uid", _KEY, primary_key=True),
        sa.Column("task_id", _KEY, sa.ForeignKey("tasks.task_id", name="trials_task_id"), nullable=False),
        sa.Column("run", sa.Text),
        sa.Column("trial_id", sa.Text),
        sa.Column("candidate", sa.Text, nullable=False),
        sa.Column("architecture", sa.Text),
        sa.Column("resolution", sa.Integer),
        sa.Column("precision", sa.Text),
        sa.Column("strategy", _NAME, nullable=False),
        sa.Column("overrides", sa.Text),
        sa.Column("device", sa.Text),
        sa.Column("constraints", sa.Text),
        sa.Column("score", sa.Double),
        sa.Column("score_low", sa.Double),
        sa.Column("score_high", sa.Double),
        sa.Column("seconds", sa.Double),
        sa.Column("epochs", sa.Integer),
        sa.Column("curve", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("source", sa.Text),
        sa.Column("created", sa.Text, nullable=False),
        sa.Column("seed", sa.BigInteger),
        sa.Column("metrics", sa.Text),
        sa.Column("scores", sa.LargeBinary().with_variant(sa.LargeBinary(2**24), "mysql", "mariadb")),
        sa.Column("versions", sa.Text),
    )
    op.create_index("trials_by_task", "trials", ["task_id"])
    op.create_index("trials_by_strategy", "trials", ["strategy"])


def downgrade() -> None:
    """Drop the two tables."""
    op.drop_table("trials")
    op.drop_table("tasks")
