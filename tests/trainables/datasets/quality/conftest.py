"""Clean recordings to plant defects in: a made-up arm, the real one, the simulated quadruped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from cluster.lerobot.episodes import Episode
from cluster.lerobot.features import Feature
from trainables.datasets.quality.config import QualityConfig
from trainables.datasets.quality.grading import grade_source
from trainables.datasets.quality.model import DatasetGrade
from trainables.datasets.sources.base import Piece, Source
from trainables.datasets.sources.lerobot import open_lerobot

FPS = 30
JOINTS = tuple(f"joint_{index}.pos" for index in range(6))
FEATURES = (
    Feature("observation.state", "float32", (6,), JOINTS, "deg"),
    Feature("action", "float32", (6,), JOINTS, "deg"),
    Feature("timestamp", "float32", (1,)),
)


@dataclass(frozen=True)
class MemorySource(Source):
    """Episodes in memory, one piece: graded in this process."""

    episodes: tuple[Episode, ...] = ()

    def pieces(self) -> Sequence[Piece]:
        return [Piece(self.path, (), sum(episode.length for episode in self.episodes))]

    def read(self, piece: Piece) -> Iterator[Episode]:
        yield from self.episodes


def reaching(index: int, seconds: float = 12.0) -> Episode:
    """Minimum-jerk reaches between poses of one sequence, a second of rest at both ends; the joints follow 3 frames later, with noise."""
    random = np.random.default_rng([index, 7])
    lag, rest, moving = 3, FPS, round((seconds + random.uniform(-0.3, 0.3)) * FPS)
    poses = np.random.default_rng(7).uniform(-80, 80, (7, 6)) + random.normal(0, 6, (7, 6))
    place = np.linspace(0, 6, moving, endpoint=False)
    part, share = place.astype(int), (place % 1)[:, None]
    path = poses[part] + (poses[part + 1] - poses[part]) * share**3 * (10 - 15 * share + 6 * share**2)
    action = np.concatenate([np.repeat(path[:1], rest, axis=0), path, np.repeat(poses[-1:], rest, axis=0)])
    state = np.concatenate([np.repeat(action[:1], lag, axis=0), action[:-lag]]) + random.normal(0, 0.05, action.shape)
    columns = {"observation.state": state.astype(np.float32), "action": action.astype(np.float32)}
    return Episode(f"{index:07d}", "reach", columns | {"timestamp": (np.arange(len(action)) / FPS).astype(np.float32)})


def grade(
    episodes: Sequence[Episode], features=FEATURES, fps=FPS, robot="", limits=None, config: QualityConfig | None = None
) -> DatasetGrade:
    """The grade of some episodes."""
    return grade_source(MemorySource(Path("planted"), fps, tuple(features), robot, episodes=tuple(episodes)), config, limits=limits)


def changed(episode: Episode, column: str, change: Callable[[np.ndarray], np.ndarray | None]) -> Episode:
    """A copy with one column changed; ``change`` may work in place."""
    values = episode.columns[column].copy()
    result = change(values)
    return replace(episode, columns={**episode.columns, column: values if result is None else result})


def frames(episode: Episode, kept) -> Episode:
    """Some of its frames."""
    return replace(episode, columns={name: values[kept] for name, values in episode.columns.items()})


@pytest.fixture(scope="session")
def reaches() -> tuple[Episode, ...]:
    return tuple(reaching(index) for index in range(14))


@pytest.fixture(scope="session")
def so101(shared_data) -> Source:
    """The real arm: 4 episodes at 30 Hz."""
    return open_lerobot(shared_data / "lerobot_so101")


@pytest.fixture(scope="session")
def so101_episodes(so101) -> tuple[Episode, ...]:
    return tuple(episode for piece in so101.pieces() for episode in so101.read(piece))


@pytest.fixture(scope="session")
def quadruped() -> tuple[tuple[Episode, ...], tuple[Feature, ...]]:
    """PiDog as ``gaitway dataset collect`` records it: noise, pushes and all; 10 episodes of each of four gaits."""
    from trainables.datasets.recording import Recording, record, task_features
    from trainables.envs.registry import make_robot_task

    probe = make_robot_task("pidog_run", 1, {}, 0)
    features = task_features(probe)
    probe.close()
    episodes = []
    for number, gait in enumerate(("walk_forward", "trot_forward", "stand", "sit")):
        episodes += record(Recording(f"{number:03d}", gait, 10, 150, number, "pidog_run", {}, target_noise_rad=0.03))
    return tuple(episodes), features
