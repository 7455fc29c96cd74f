"""What shadow arms did beside the traffic: every replica stores its own sums, a reader gets them put together.

A shadow never acts, so nothing here says whether it would have succeeded: only how far its actions are from those that were taken,
how long it takes, and how often it fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import Field
from sqlalchemy import and_, insert, select, update

from cluster.config import Config
from cluster.latency import LatencyHistogram
from cluster.store.database import Database
from cluster.store.tables import arms
from cluster.store.tables import shadow_figures as table

__all__ = ["ActionDistance", "ComponentSums", "ShadowReport", "ShadowSums", "record_shadow_figures", "shadow_figures"]


class ComponentSums(Config):
    """Of one component of the action, over the steps of one replica."""

    name: str = Field(description="field and component, as the contract names them")
    unit: str = Field(description="SI unit; empty: dimensionless")
    sum_abs: float = Field(description="sum of the distances between the shadow's and the action that was taken")
    max_abs: float = Field(description="largest distance")


class ShadowSums(Config):
    """All that one replica has seen of one shadow arm so far; a later one takes its place."""

    comparison_id: str = Field(description="comparison of the arm")
    arm: str = Field(description="arm within it")
    version: str = Field(description="version that it runs")
    steps: int = Field(ge=0, description="steps that it ran, failed ones included")
    errors: int = Field(ge=0, description="of those, the ones that it gave no finite action for")
    dropped: int = Field(ge=0, description="steps that it never saw because too many were waiting")
    sat_out: int = Field(ge=0, description="steps that a recurrent version could not run because it had missed one before")
    latency: dict[str, Any] = Field(description="histogram of the runs' durations (cluster.latency)")
    components: tuple[ComponentSums, ...] = Field(description="one an action component, in flat order")


class ActionDistance(Config):
    """How far a shadow's actions are from those that were taken, in one component."""

    name: str = Field(description="field and component, as the contract names them")
    unit: str = Field(description="SI unit; empty: dimensionless")
    mean_abs: float = Field(description="mean distance over the steps")
    max_abs: float = Field(description="largest distance")


class ShadowReport(Config):
    """One shadow arm, over all replicas."""

    arm: str = Field(description="arm within the comparison")
    version: str = Field(description="version that it runs")
    steps: int = Field(description="steps that it ran, failed ones included")
    errors: int = Field(description="of those, the ones that it gave no finite action for")
    dropped: int = Field(description="steps that it never saw because too many were waiting")
    sat_out: int = Field(0, description="steps that a recurrent version could not run because it had missed one before")
    latency_p50_ms: float = Field(description="duration of a run that half of the steps did not exceed, ms")
    latency_p99_ms: float = Field(description="duration of a run that 99 % of the steps did not exceed, ms")
    action: tuple[ActionDistance, ...] = Field(description="one an action component, in flat order; empty: no step yet")

    def to_text(self) -> str:
        """One line for a terminal: how often, how fast, and where its actions are farthest from those that were taken."""
        lost = f", {self.errors} failed, {self.dropped + self.sat_out} left out"
        text = f"shadow {self.arm} (version {self.version}): {self.steps} steps{lost}"
        if not self.action:
            return text
        farthest = max(self.action, key=lambda item: item.max_abs)
        far = f"{farthest.name} by {farthest.mean_abs:.3g} {farthest.unit}".rstrip()
        text += f"; {self.latency_p50_ms:.3g} ms (median), {self.latency_p99_ms:.3g} ms (99 %)"
        return f"{text}; farthest from the action taken: {far} on average, {farthest.max_abs:.3g} at most"


def record_shadow_figures(db: Database, replica: str, sums: Sequence[ShadowSums]) -> None:
    """Store what a replica has seen so far, in the place of what it stored before."""
    if not sums:
        return
    with db.write() as connection:
        for item in sums:
            key = {"comparison_id": item.comparison_id, "arm": item.arm, "replica": replica}
            values = {"at": datetime.now(UTC), "figures": item.model_dump(mode="json", exclude={"comparison_id", "arm"})}
            # Nobody but this replica writes these rows: there is no other insert to race with.
            row = and_(*(table.c[name] == value for name, value in key.items()))
            if not connection.execute(update(table).where(row).values(**values)).rowcount:
                connection.execute(insert(table).values(**key, **values))


def shadow_figures(db: Database, comparison_id: str) -> tuple[ShadowReport, ...]:
    """Every shadow arm of a comparison, in its order; one that has seen no step yet has zeros. None for a comparison without."""
    with db.read() as connection:
        found = connection.execute(
            select(arms.c.name, arms.c.version)
            .where(arms.c.comparison_id == comparison_id, arms.c.shadow.is_(True))
            .order_by(arms.c.position)
        ).all()
        rows = connection.execute(
            select(table.c.arm, table.c.figures).where(table.c.comparison_id == comparison_id).order_by(table.c.replica)
        ).all()
    parts: dict[str, list[ShadowSums]] = {arm.name: [] for arm in found}
    for row in rows:
        if row.arm in parts:
            parts[row.arm].append(ShadowSums.model_validate({"comparison_id": comparison_id, "arm": row.arm, **row.figures}, strict=False))
    return tuple(_report(arm.name, arm.version, parts[arm.name]) for arm in found)


def _report(arm: str, version: str, parts: Sequence[ShadowSums]) -> ShadowReport:
    latency = LatencyHistogram()
    for part in parts:
        latency.merge(LatencyHistogram.from_json(part.latency))
    steps, errors = sum(part.steps for part in parts), sum(part.errors for part in parts)
    compared = max(1, steps - errors)
    action = [
        ActionDistance(
            name=same[0].name,
            unit=same[0].unit,
            mean_abs=sum(component.sum_abs for component in same) / compared,
            max_abs=max(component.max_abs for component in same),
        )
        for same in zip(*(part.components for part in parts), strict=True)
    ]
    return ShadowReport(
        arm=arm,
        version=version,
        steps=steps,
        errors=errors,
        dropped=sum(part.dropped for part in parts),
        sat_out=sum(part.sat_out for part in parts),
        latency_p50_ms=round(latency.quantile_ms(0.5), 4),
        latency_p99_ms=round(latency.quantile_ms(0.99), 4),
        action=tuple(action),
    )
