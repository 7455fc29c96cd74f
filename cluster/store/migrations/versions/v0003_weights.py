"""Weights of a comparison's arms over time; which of them an episode was drawn with; guardrails, budget and what is done by itself."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "v0003"
down_revision = "v0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    weights = op.create_table(
        "weights",
        sa.Column("comparison_id", sa.String(32), sa.ForeignKey("comparisons.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("weights", sa.JSON, nullable=False),
        sa.Column("reason", sa.String(400), nullable=False),
        sa.Column("actor", sa.String(160), nullable=False),
    )
    op.add_column("episodes", sa.Column("weights_version", sa.Integer))
    op.add_column("comparisons", sa.Column("guardrails", sa.JSON))
    op.add_column("comparisons", sa.Column("max_episodes", sa.Integer))
    op.add_column("comparisons", sa.Column("auto", sa.String(16)))
    found: dict[str, dict[str, float]] = {}
    connection = op.get_bind()
    for row in connection.execute(sa.text("SELECT comparison_id, name, weight FROM arms ORDER BY position")):
        found.setdefault(row.comparison_id, {})[row.name] = row.weight
    now = datetime.now(UTC)
    for comparison_id, shares in found.items():
        values = {"comparison_id": comparison_id, "version": 1, "at": now, "weights": shares, "reason": "as it began", "actor": ""}
        connection.execute(weights.insert().values(values))
    connection.execute(sa.text("UPDATE episodes SET weights_version = 1 WHERE comparison_id IS NOT NULL"))


def downgrade() -> None:
    for column in ("auto", "max_episodes", "guardrails"):
        op.drop_column("comparisons", column)
    op.drop_column("episodes", "weights_version")
    op.drop_table("weights")
