"""Source: recordings in one format, cut into pieces that tasks on any node read by themselves.

A source is made on the driver, where it reads as little as it can (names, shapes, lengths); it is then sent to the tasks, which
call ``read``. So everything in it must be picklable and small, and files must be visible to every node.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from cluster.lerobot.episodes import Episode
from cluster.lerobot.features import Feature

__all__ = ["Piece", "Source"]


@dataclass(frozen=True)
class Piece:
    """What one task reads at a time: usually a file, or a few episodes of one."""

    file: Path
    episodes: tuple[Any, ...] = ()
    """Which episodes of the file, as the source names them; empty: all."""
    frames: int = 0
    """About how many frames, where that is known before reading; 0: not known."""


@dataclass(frozen=True)
class Source(ABC):
    """Recordings in one format, described. Subclasses are frozen dataclasses with a constructor function ``open_...(path, ...)``."""

    path: Path
    fps: int
    """Frames a second; the timestamps may jitter about it."""
    features: tuple[Feature, ...]
    """Of every episode; without LeRobot's index columns, but with ``timestamp`` where the source has its own."""
    robot_type: str = ""
    gaitway: Mapping[str, Any] = field(default_factory=dict)
    """What the source says of itself beyond the format: task, task_config, robot, references, lineage; goes on into the dataset's."""
    missing_videos: tuple[Path, ...] = ()
    format: ClassVar[str] = ""
    """Name of the format, as ``--format`` takes it."""

    @abstractmethod
    def pieces(self) -> Sequence[Piece]:
        """What there is to read, in order."""

    @abstractmethod
    def read(self, piece: Piece) -> Iterator[Episode]:
        """The episodes of a piece, one at a time. Keys are unique within the source and sort in its own order.

        Raises:
            DatasetError: naming the file, and the episode where that is known.
        """
