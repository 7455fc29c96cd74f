"""The tables of our own database, as the newest migration leaves them.

An episode takes its ``sequence`` inside its comparison from ``comparisons.episode_count``, raised in the same transaction: the
row's lock makes the numbers gapless and visible in order, so that a later look at a comparison only ever appends to what an
earlier look saw.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    text,
)

__all__ = [
    "UtcDateTime",
    "arms",
    "audit",
    "comparison_events",
    "comparisons",
    "episodes",
    "metadata",
    "outcomes",
    "shadow_figures",
    "tokens",
    "weights",
]


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC on every database; SQLite keeps no time zone, so it is attached on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Store UTC; a naive datetime is a defect of the caller."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r}: pass an aware one")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return an aware datetime in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

comparisons = Table(
    "comparisons",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("policy", String(128), nullable=False),
    Column("salt", String(64), nullable=False),
    Column("metric", String(128), nullable=False),
    Column("low", Float, nullable=False),
    Column("high", Float, nullable=False),
    Column("alpha", Float, nullable=False),
    Column("outcome_deadline_s", Float, nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime),
    # Set once the registry's alias follows the decision; closed without it means: killed between the two, finish it.
    Column("applied_at", UtcDateTime),
    Column("decision", JSON),
    Column("guardrails", JSON),
    Column("max_episodes", Integer),
    Column("auto", String(16)),
    # What else was asked for: fields of NewComparison that no query looks at.
    Column("options", JSON),
    Column("episode_count", Integer, nullable=False),
    CheckConstraint("low < high", name="comparisons_bounds"),
)
Index(
    "comparisons_one_running",
    comparisons.c.policy,
    unique=True,
    sqlite_where=text("status = 'running'"),
    postgresql_where=text("status = 'running'"),
)

arms = Table(
    "arms",
    metadata,
    Column("comparison_id", ForeignKey("comparisons.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("version", String(64), nullable=False),
    Column("weight", Float, nullable=False),
    Column("shadow", Boolean),
)

weights = Table(
    "weights",
    metadata,
    Column("comparison_id", ForeignKey("comparisons.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("weights", JSON, nullable=False),
    Column("reason", String(400), nullable=False),
    Column("actor", String(160), nullable=False),
)

episodes = Table(
    "episodes",
    metadata,
    Column("policy", String(128), primary_key=True),
    Column("episode_id", String(128), primary_key=True),
    Column("comparison_id", ForeignKey("comparisons.id")),
    Column("sequence", Integer),
    Column("arm", String(64)),
    Column("version", String(64), nullable=False),
    Column("propensity", Float, nullable=False),
    Column("robot_id", String(128)),
    Column("started_at", UtcDateTime, nullable=False),
    Column("abandoned_at", UtcDateTime),
    Column("weights_version", Integer),
)
Index("episodes_of_comparison", episodes.c.comparison_id, episodes.c.sequence, unique=True)

outcomes = Table(
    "outcomes",
    metadata,
    Column("policy", String(128), primary_key=True),
    Column("episode_id", String(128), primary_key=True),
    Column("payload_sha256", String(64), nullable=False),
    Column("value", Float, nullable=False),
    Column("fell", Boolean, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("duration_s", Float, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    # True: it came after its comparison had given the episode up; kept, but it changes no verdict.
    Column("late", Boolean, nullable=False),
    # What the replica measured itself while it drove the episode.
    Column("server", JSON),
    ForeignKeyConstraint(["policy", "episode_id"], ["episodes.policy", "episodes.episode_id"], ondelete="CASCADE"),
)

shadow_figures = Table(
    "shadow_figures",
    metadata,
    Column("comparison_id", ForeignKey("comparisons.id", ondelete="CASCADE"), primary_key=True),
    Column("arm", String(64), primary_key=True),
    Column("replica", String(128), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("figures", JSON, nullable=False),
)

comparison_events = Table(
    "comparison_events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("comparison_id", ForeignKey("comparisons.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("detail", JSON, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("role", String(16), nullable=False),
    Column("policies", JSON, nullable=False),
    Column("requests_per_s", Float),
    Column("secret_sha256", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("actor", String(160), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String(160), nullable=False),
    Column("detail", JSON, nullable=False),
)
