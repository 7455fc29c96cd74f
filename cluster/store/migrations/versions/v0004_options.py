"""Options of a comparison, shadow arms and their figures, what the server measured of an episode."""

import sqlalchemy as sa
from alembic import op

revision = "v0004"
down_revision = "v0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("comparisons", sa.Column("options", sa.JSON))
    op.add_column("arms", sa.Column("shadow", sa.Boolean))
    op.add_column("outcomes", sa.Column("server", sa.JSON))
    op.create_table(
        "shadow_figures",
        sa.Column("comparison_id", sa.String(32), sa.ForeignKey("comparisons.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("arm", sa.String(64), primary_key=True),
        sa.Column("replica", sa.String(128), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("figures", sa.JSON, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("shadow_figures")
    op.drop_column("outcomes", "server")
    op.drop_column("arms", "shadow")
    op.drop_column("comparisons", "options")
