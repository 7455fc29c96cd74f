"""From dataset rows to what the networks train on: sorted frames, normalised targets, runs of consecutive frames."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainables.datasets.frames import INDEX_COLUMNS
from trainables.envs.robot_task import ActionScaling

__all__ = ["COLUMNS", "Frames", "Sequences", "flat_rows", "gather_frames", "run_bounds"]

COLUMNS = ("observation.state", "action", *INDEX_COLUMNS)
"""Columns of a LeRobot dataset that imitation reads, where a task says what they are."""


@dataclass(frozen=True)
class Frames:
    """Frames ordered by episode and time."""

    observation: np.ndarray
    """Shape (frames, observation_size), float32."""
    target: np.ndarray
    """Normalised expert actions, about [-1, 1]. Shape (frames, action_size), float32."""
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


def gather_frames(
    batches: Iterable[Mapping[str, np.ndarray]],
    scaling: ActionScaling,
    observations: Sequence[str] = ("observation.state",),
    actions: Sequence[str] = ("action",),
) -> Frames:
    """Hold all batches of a dataset shard in memory, sorted, with physical actions turned into normalised targets.

    The result does not depend on the order in which the blocks arrive.

    Args:
        batches: columns by name.
        scaling: of the actions.
        observations: columns that make the observation, in order.
        actions: columns that make the action, in order.
    """
    parts = [
        (flat_rows(batch, observations), flat_rows(batch, actions), batch["episode_index"], batch["frame_index"])
        for batch in batches
        if len(batch["frame_index"])
    ]
    observation, action, episode, index = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = _order(episode, index)
    target = scaling.to_normalised(action[order])
    return Frames(observation[order].astype(np.float32, copy=False), target.astype(np.float32), episode[order], index[order])


def flat_rows(batch: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Columns side by side. Shape (frames, size)."""
    columns = [_dense(batch[name]) for name in names]
    flat = [column.reshape(len(column), -1) for column in columns]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)


def run_bounds(episode: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each frame, the first and last row of its run of consecutive frames of one episode. Shapes (frames,).

    A run ends wherever the episode changes or a frame is missing (another worker may hold it).
    """
    gap = (np.diff(episode) != 0) | (np.diff(index) != 1)
    starts = np.concatenate([[0], np.flatnonzero(gap) + 1]) if len(episode) else np.zeros(0, dtype=np.int64)
    lengths = np.diff(np.concatenate([starts, [len(episode)]]))
    return np.repeat(starts, lengths), np.repeat(starts + lengths - 1, lengths)


def _order(episode: np.ndarray, index: np.ndarray) -> np.ndarray | slice:
    """What sorts rows by episode and frame; nothing to do where they are sorted, as whole files are."""
    step = np.diff(episode)
    if ((step > 0) | ((step == 0) & (np.diff(index) > 0))).all():
        return slice(None)
    return np.lexsort((index, episode))


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
        """Cut frames into the runs of ``run_bounds``."""
        first, last = run_bounds(frames.episode, frames.index)
        starts, row = np.unique(first, return_inverse=True)
        lengths = (last[starts] - starts + 1) if len(frames) else np.zeros(0, dtype=np.int64)
        column = np.arange(len(frames)) - first
        shape = (len(lengths), int(lengths.max(initial=0)))
        observation = np.zeros((*shape, frames.observation.shape[1]), dtype=np.float32)
        target = np.zeros((*shape, frames.target.shape[1]), dtype=np.float32)
        valid = np.zeros(shape, dtype=np.float32)
        observation[row, column], target[row, column], valid[row, column] = frames.observation, frames.target, 1.0
        return cls(observation, target, valid)
