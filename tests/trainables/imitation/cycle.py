"""A small expert that networks with and without memory can learn in seconds."""

from __future__ import annotations

import numpy as np

from trainables.imitation.frames import Frames

__all__ = ["FIELDS", "TRAIN", "VALIDATION"]

FIELDS = {"sensor": slice(0, 6), "command": slice(6, 10)}


def cycle_frames(episodes: range, length: int = 60) -> Frames:
    """An expert that replays a cycle: its action is a function of the phase; the sensor is its last action's echo."""
    rng = np.random.default_rng([7, episodes.start])
    phase = (rng.random((len(episodes), 1)) + 0.03 * np.arange(length)) * 2 * np.pi
    command = np.stack([np.sin(phase), np.cos(phase), np.full_like(phase, 0.2), np.ones_like(phase)], axis=-1)
    action = 0.6 * np.stack([np.sin(phase + shift) for shift in (0.0, 1.0, 2.0)], axis=-1)
    echo = np.concatenate([action[:, :1], action[:, :-1]], axis=1)
    sensor = np.concatenate([echo, echo], axis=-1) + 0.01 * rng.normal(size=(len(episodes), length, 6))
    observation = np.concatenate([sensor, command], axis=-1).astype(np.float32).reshape(-1, 10)
    index = np.tile(np.arange(length), len(episodes))
    return Frames(observation, action.astype(np.float32).reshape(-1, 3), np.repeat(np.array(episodes), length), index)


TRAIN, VALIDATION = cycle_frames(range(16)), cycle_frames(range(16, 20))
