"""Placeholder until the formats land: LeRobot v3.0 only."""

from __future__ import annotations

from pathlib import Path

from trainables.datasets.sources.base import Source
from trainables.datasets.sources.lerobot import open_lerobot

__all__ = ["open_source"]


def open_source(path: Path, format: str | None = None, mapping: Path | None = None) -> Source:
    """Open a LeRobot folder."""
    return open_lerobot(path)
