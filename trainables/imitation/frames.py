"""From dataset rows to what the networks train on: sorted frames, normalised targets, episodes in padded batches."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from trainables.envs.robot_task import ActionScaling

__all__ = ["COLUMNS", "Frames", "Sequences", "gather_frames"]

COLUMNS = ("observation.state", "action", "episode_index", "frame_index")
"""Columns of a LeRobot dataset that imitation reads."""


@dataclass(frozen=True)
class Frames:
    """Frames ordered by episode and time."""

    observation: np.ndarray
    """Shape (frames, observation_size), float32."""
    target: np.ndarray
    """Normalised expert actions in [-1, 1]. Shape (frames, action_size), float32."""
    episode: np.ndarray
    """Shape (frames,)."""
    index: np.ndarray
    """Number of the frame inside its episode. Shape (frames,)."""

    def __len__(self) -> int:
        return len(self.episode)

    def of_episodes(self, episodes: Collection[int]) -> Frames:
        """The frames of some episodes, in order."""
        return self._where(np.isin(self.episode, np.fromiter(episodes, dtype=np.int64)))

    def cut(self, share: float) -> tuple[Frames, Frames]:
        """The first ``1 - share`` of every episode, and the rest."""
        _, position, count = np.unique(self.episode, return_inverse=True, return_counts=True)
        starts = np.concatenate([[0], np.cumsum(count)[:-1]])
        late = np.arange(len(self)) - starts[position] >= (1 - share) * count[position]
        return self._where(~late), self._where(late)

    def _where(self, kept: np.ndarray) -> Frames:
        return Frames(self.observation[kept], self.target[kept], self.episode[kept], self.index[kept])


def gather_frames(batches: Iterable[Mapping[str, np.ndarray]], scaling: ActionScaling) -> Frames:
    """Hold all batches of a dataset shard in memory, sorted, with actions in rad turned into normalised targets.

    The result does not depend on the order in which the blocks arrive.
    """
    parts = [{name: _dense(batch[name]) for name in COLUMNS} for batch in batches if len(batch["frame_index"])]
    observation, action, episode, index = (np.concatenate([part[name] for part in parts]) for name in COLUMNS)
    order = np.lexsort((index, episode))
    target = scaling.to_normalised(action[order])
    return Frames(observation[order].astype(np.float32), target.astype(np.float32), episode[order], index[order])


def _dense(column: np.ndarray) -> np.ndarray:
    """Arrow's lists arrive as an array of arrays, its tensors as one array."""
    return np.stack(list(column)) if column.dtype == object else np.asarray(column)


@dataclass(frozen=True)
class Sequences:
    """Runs of consecutive frames, padded to one length, for recurrent training from zero state."""

    observation: np.ndarray
    """Shape (sequences, longest, observation_size)."""
    target: np.ndarray
    """Shape (sequences, longest, action_size)."""
    valid: np.ndarray
    """1 where there is a frame, 0 where there is padding. Shape (sequences, longest), float32."""

    @classmethod
    def of(cls, frames: Frames) -> Sequences:
        """Cut frames wherever the episode changes or a frame is missing (another worker may hold it)."""
        gap = (np.diff(frames.episode) != 0) | (np.diff(frames.index) != 1)
        starts = np.concatenate([[0], np.flatnonzero(gap) + 1, [len(frames)]]) if len(frames) else np.zeros(1, dtype=np.int64)
        lengths = np.diff(starts)
        row = np.repeat(np.arange(len(lengths)), lengths)
        column = np.arange(len(frames)) - np.repeat(starts[:-1], lengths)
        shape = (len(lengths), int(lengths.max(initial=0)))
        observation = np.zeros((*shape, frames.observation.shape[1]), dtype=np.float32)
        target = np.zeros((*shape, frames.target.shape[1]), dtype=np.float32)
        valid = np.zeros(shape, dtype=np.float32)
        observation[row, column], target[row, column], valid[row, column] = frames.observation, frames.target, 1.0
        return cls(observation, target, valid)
