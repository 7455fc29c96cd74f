"""What tests of whole sweeps share: a sweep of a second or two, and a context to run it in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import parse_config
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext
from trainables.sweeps.config import SweepConfig

PPO: dict[str, Any] = {
    "task": "gymnasium:Pendulum-v1",
    "total_env_steps": 1024,
    "num_envs": 4,
    "batch_size": 256,
    "minibatch_size": 64,
    "num_epochs": 2,
    "report_every_env_steps": 256,
    "hidden": [16],
    "critic_hidden": [16],
    "evaluation": {"episodes": 2},
}


@pytest.fixture
def small_sweep() -> Callable[..., SweepConfig]:
    """Settings of a sweep of small PPO trials; keywords change them, ``ppo`` is merged."""

    def make(**changes: Any) -> SweepConfig:
        data: dict[str, Any] = {
            "ppo": PPO | changes.pop("ppo", {}),
            "search_space": {"learning_rate": {"loguniform": [1e-4, 1e-2]}},
            "num_trials": 2,
            "max_failures": 0,
            "scheduler": "fifo",
        }
        return parse_config(data | changes, SweepConfig)

    return make


@pytest.fixture
def context(settings: Settings, tmp_path: Path) -> StageContext:
    """Of a fresh run folder."""
    folder = tmp_path / "experiments" / "small_1"
    folder.mkdir(parents=True)
    return StageContext(folder=folder, settings=settings, progress=Progress(mode="quiet"), experiment="sweep-test")
