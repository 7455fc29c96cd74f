"""Episodes to be changed: PiDog's expert as it is recorded, and made-up ones whose every number is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cluster.lerobot.episodes import Episode
from cluster.lerobot.features import Feature
from trainables.datasets.augmentation.config import AugmentationConfig

EXACT: dict[str, Any] = {"randomization": {"enabled": False}, "noise": {"enabled": False}, "obstacles": {"count": 0}}
GAITS = ("trot_forward", "walk_forward", "walk_backward", "stand", "sit")


@pytest.fixture(scope="session")
def pidog_features() -> tuple[Feature, ...]:
    from trainables.datasets.recording import task_features
    from trainables.envs.registry import make_robot_task

    task = make_robot_task("pidog_run", 1, {}, 0)
    features = task_features(task)
    task.close()
    return features


@pytest.fixture(scope="session")
def recorded() -> Callable[..., Episode]:
    """An episode of a gait: exact sensors on nominal physics, or with everything that real recordings have."""
    from trainables.datasets.recording import Recording, record

    kept: dict[tuple[Any, ...], Episode] = {}

    def make(gait: str, steps: int = 200, exact: bool = True, target_noise_rad: float = 0.0) -> Episode:
        key = (gait, steps, exact, target_noise_rad)
        if key not in kept:
            config = EXACT if exact else {"obstacles": {"count": 0}}
            kept[key] = record(Recording("r", gait, 1, steps, 3, "pidog_run", config, None, target_noise_rad))[0]
        return kept[key]

    return make


@pytest.fixture(scope="session")
def one() -> Callable[..., AugmentationConfig]:
    """A configuration of one variant ``v`` without the originals."""

    def make(*steps: dict[str, Any], copies: int = 1, seed: int = 0, **rest: Any) -> AugmentationConfig:
        variants = [{"name": "v", "copies": copies, "steps": list(steps)}]
        return AugmentationConfig.model_validate({"variants": variants, "keep_original": False, "seed": seed, **rest})

    return make


ARM_NAMES = ("lift.pos", "pan.pos", "lift.vel")


@pytest.fixture(scope="session")
def arm_features() -> tuple[Feature, ...]:
    """An arm with an orientation, a flag, a counter, a clock and a reward."""
    return (
        Feature("observation.state", "float32", (3,), ARM_NAMES),
        Feature("observation.orientation", "float64", (4,), ("w", "x", "y", "z")),
        Feature("observation.contact", "bool", (1,), ("contact",)),
        Feature("action", "float32", (2,), ("lift.pos", "pan.pos")),
        Feature("timestamp", "float32", (1,)),
        Feature("next.reward", "float32", (1,)),
        Feature("next.done", "bool", (1,)),
    )


@pytest.fixture(scope="session")
def arm() -> Callable[..., Episode]:
    """``lift`` rises by 0.3 a second, ``pan`` by -0.1; the orientation turns about z by 0.5 rad/s; contact from half time on."""

    def make(frames: int = 61, fps: float = 20.0, key: str = "0000000") -> Episode:
        time_s = np.arange(frames) / fps
        state = np.stack([0.3 * time_s, -0.1 * time_s, np.full(frames, 0.3)], axis=1)
        half = 0.25 * time_s
        zero = np.zeros(frames)
        return Episode(
            key,
            "reach",
            {
                "observation.state": state.astype(np.float32),
                "observation.orientation": np.stack([np.cos(half), zero, zero, np.sin(half)], axis=1),
                "observation.contact": np.arange(frames) >= frames // 2,
                "action": (state[:, :2] + 0.01).astype(np.float32),
                "timestamp": time_s.astype(np.float32),
                "next.reward": np.ones(frames, np.float32),
                "next.done": np.arange(frames) == frames - 1,
            },
            {"operator": "ann"},
        )

    return make
