"""Comparisons, their arms, episodes, outcomes and events."""

import sqlalchemy as sa
from alembic import op

revision = "v0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "comparisons",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("policy", sa.String(128), nullable=False),
        sa.Column("salt", sa.String(64), nullable=False),
        sa.Column("metric", sa.String(128), nullable=False),
        sa.Column("low", sa.Float, nullable=False),
        sa.Column("high", sa.Float, nullable=False),
        sa.Column("alpha", sa.Float, nullable=False),
        sa.Column("outcome_deadline_s", sa.Float, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("closed_at", TIME),
        sa.Column("applied_at", TIME),
        sa.Column("decision", sa.JSON),
        sa.Column("episode_count", sa.Integer, nullable=False),
        sa.CheckConstraint("low < high", name="comparisons_bounds"),
    )
    op.create_index(
        "comparisons_one_running",
        "comparisons",
        ["policy"],
        unique=True,
        sqlite_where=sa.text("status = 'running'"),
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_table(
        "arms",
        sa.Column("comparison_id", sa.String(32), sa.ForeignKey("comparisons.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("weight", sa.Float, nullable=False),
    )
    op.create_table(
        "episodes",
        sa.Column("policy", sa.String(128), primary_key=True),
        sa.Column("episode_id", sa.String(128), primary_key=True),
        sa.Column("comparison_id", sa.String(32), sa.ForeignKey("comparisons.id")),
        sa.Column("sequence", sa.Integer),
        sa.Column("arm", sa.String(64)),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("propensity", sa.Float, nullable=False),
        sa.Column("robot_id", sa.String(128)),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("abandoned_at", TIME),
    )
    op.create_index("episodes_of_comparison", "episodes", ["comparison_id", "sequence"], unique=True)
    op.create_table(
        "outcomes",
        sa.Column("policy", sa.String(128), primary_key=True),
        sa.Column("episode_id", sa.String(128), primary_key=True),
        sa.Column("payload_sha256", sa.String(64), nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("fell", sa.Boolean, nullable=False),
        sa.Column("steps", sa.Integer, nullable=False),
        sa.Column("duration_s", sa.Float, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("late", sa.Boolean, nullable=False),
        sa.ForeignKeyConstraint(["policy", "episode_id"], ["episodes.policy", "episodes.episode_id"], ondelete="CASCADE"),
    )
    op.create_table(
        "comparison_events",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("comparison_id", sa.String(32), sa.ForeignKey("comparisons.id", ondelete="CASCADE"), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
    )
    op.create_index("ix_comparison_events_comparison_id", "comparison_events", ["comparison_id"])


def downgrade() -> None:
    for table in ("comparison_events", "outcomes", "episodes", "arms", "comparisons"):
        op.drop_table(table)
