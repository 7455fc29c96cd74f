"""What tests of several training rooms share: a small dataset of the expert, and checkpoints that need no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

GAITS = {"trot_forward": 1.0, "stand": 1.0}
TASK_CONFIG: dict[str, Any] = {"command": {"gaits": GAITS}, "physics": {"preset": "fast"}, "max_episode_steps": 60}


@pytest.fixture(scope="session")
def expert_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeRobot folder of 10 episodes of 60 steps: PiDog's expert on fast physics, two gaits."""
    from cluster.lerobot.features import Feature
    from trainables.datasets.lerobot import DatasetSpec, Episode, write_dataset
    from trainables.envs.registry import make_task

    task = make_task("pidog_run", 10, TASK_CONFIG, seed=1)
    observations, actions = [], []
    observation, _ = task.reset(seed=1)
    for _ in range(60):
        target = task.expert_targets_rad()
        observations.append(observation)
        actions.append(target.astype(np.float32))
        observation, *_ = task.step(task.action_scaling.to_normalised(target))
    episodes = [
        Episode(
            f"{robot:02d}",
            task.commands.names[task.commands.index[robot]],
            {"observation.state": np.stack(observations)[:, robot], "action": np.stack(actions)[:, robot]},
        )
        for robot in range(10)
    ]
    spec = DatasetSpec(
        fps=50,
        features=(
            Feature("observation.state", "float32", (task.observation_size,)),
            Feature("action", "float32", (task.action_size,)),
        ),
        robot_type="pidog",
        provenance={"task": "pidog_run", "task_config": TASK_CONFIG, "robot": "pidog", "lineage": []},
        validation_fraction=0.2,
    )
    task.close()
    folder = tmp_path_factory.mktemp("expert") / "data"
    write_dataset(folder, episodes, spec)
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An untrained checkpoint of each kind for ``pidog_run``, with uneven observation statistics and actions that move the robot."""
    import torch

    from trainables.networks.checkpoint import save_policy
    from trainables.networks.policies import LstmPolicy, MlpPolicy

    torch.manual_seed(0)
    mlp, lstm = MlpPolicy(50, 12, hidden=(32, 32)), LstmPolicy(50, 12, (46, 47, 48, 49), hidden_size=16, head_size=8)
    mlp.network[-1].weight.data.mul_(20.0)
    folders = {}
    for name, policy in (("imitation", mlp), ("lstm", lstm)):
        size = len(policy.normalizer.mean)
        policy.normalizer.set_statistics(torch.linspace(-0.5, 0.5, size), torch.linspace(0.2, 3.0, size), count=100.0)
        folders[name] = tmp_path_factory.mktemp("checkpoints") / name
        save_policy(
            policy, folders[name], {"task": "pidog_run", "task_config": TASK_CONFIG, "source": "test", "dataset_digest": "abc", "seed": 0}
        )
    return folders
