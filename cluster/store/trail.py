"""What happened to one comparison and who did it: its events, with the actors from the trail of changes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field
from sqlalchemy import select

from cluster.config import Config
from cluster.store.database import Database
from cluster.store.tables import audit, comparison_events

__all__ = ["TrailEntry", "comparison_trail"]

_ACTIONS = {
    "created": "comparison.start",
    "weights": "comparison.weights",
    "stopped": "comparison.stop",
    "promoted": "comparison.promote",
    "kept": "comparison.promote",
    "undone": "comparison.undo",
}
"""Event -> what the trail calls it."""


class TrailEntry(Config):
    """One event."""

    at: datetime = Field(description="UTC")
    kind: str = Field(description="created, weights, paused, promoted, kept, stopped, applied or undone")
    actor: str = Field(description="who; empty: not recorded")
    detail: dict[str, Any] = Field(description="what")


def comparison_trail(db: Database, comparison_id: str) -> list[TrailEntry]:
    """Everything that happened to a comparison, the oldest first."""
    with db.read() as connection:
        events = connection.execute(
            select(comparison_events.c.at, comparison_events.c.kind, comparison_events.c.detail)
            .where(comparison_events.c.comparison_id == comparison_id)
            .order_by(comparison_events.c.id)
        ).all()
        changes = connection.execute(
            select(audit.c.at, audit.c.actor, audit.c.action, audit.c.detail).where(audit.c.target == comparison_id).order_by(audit.c.id)
        ).all()
    # Both are written in the same order, so the n-th event of a kind belongs to the n-th change of its name.
    actors: dict[str, list[str]] = {}
    for change in changes:
        actors.setdefault(change.action, []).append(change.actor)
    entries = []
    for event in events:
        known = actors.get(_ACTIONS.get(event.kind, ""), [])
        actor = event.detail.get("actor") or (known.pop(0) if known else "")
        entries.append(TrailEntry(at=event.at, kind=event.kind, actor=str(actor), detail=event.detail))
    undone = len(actors.get("comparison.undo", []))
    left = [change for change in changes if change.action == "comparison.undo"][-undone:] if undone else []
    entries += [TrailEntry(at=change.at, kind="undone", actor=change.actor, detail=change.detail) for change in left]
    return sorted(entries, key=lambda entry: entry.at)
