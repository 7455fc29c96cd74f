"""What the tests of PPO share: small settings, tasks of their own, and a learner with its env runner without any Ray."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from trainables.ppo.algorithm import rllib_config
from trainables.ppo.config import EvaluationConfig, PPOConfig
from trainables.ppo.env_runner import BatchedEnvRunner
from trainables.ppo.fragment import Fragment
from trainables.ppo.learner import PPOLearner

sys.path.insert(0, str(Path(__file__).parent))  # ``own_tasks:Class`` names a task in this folder, in Ray's processes too
BALANCE_ID = "gaitway-test/Balance-v0"


class Balance(gymnasium.ActionWrapper):
    """Gymnasium's cart pole with a continuous push of up to 10 N to either side. One reward a step, at most 200 steps."""

    def __init__(self) -> None:
        super().__init__(CartPoleEnv())
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def action(self, action):
        self.unwrapped.force_mag = 10.0 * abs(float(action[0]))
        return int(action[0] > 0)


@pytest.fixture
def balance_task() -> Iterator[str]:
    """Name of a task that PPO learns in seconds; known in this process only."""
    gymnasium.register(BALANCE_ID, entry_point=lambda: Balance(), max_episode_steps=200)
    yield f"gymnasium:{BALANCE_ID}"
    gymnasium.registry.pop(BALANCE_ID)


@pytest.fixture
def small() -> Callable[..., PPOConfig]:
    """Settings of a run that takes a second; keywords change them."""

    def make(**changes: Any) -> PPOConfig:
        settings: dict[str, Any] = {
            "task": "gymnasium:Pendulum-v1",
            "num_envs": 4,
            "batch_size": 256,
            "minibatch_size": min(64, changes.get("batch_size", 64)),
            "num_epochs": 2,
            "total_env_steps": 512,
            "report_every_env_steps": 256,
            "hidden": (16, 16),
            "critic_hidden": (16, 16),
            "evaluation": EvaluationConfig(episodes=2),
        }
        return PPOConfig(**(settings | changes))

    return make


class Room:
    """An env runner and a learner in this process, as an algorithm has them.

    Attributes:
        figures: what the last ``learn`` reported, by name.
    """

    def __init__(self, settings: PPOConfig) -> None:
        config = rllib_config(settings)
        self.settings = settings
        self.runner = BatchedEnvRunner(config=config, worker_index=0)
        self.learner: PPOLearner = config.build_learner(spaces=self.runner.get_spaces())
        self.learner.build()
        self.module = self.learner.actor_critic
        self.env_steps = 0
        self.figures: dict[str, float] = {}

    def sample(self) -> Fragment:
        """A fragment with the learner's weights."""
        return self.runner.sample_fragment(self.learner.sampling_weights())[0]

    def learn(self, fragment: Fragment) -> dict[str, float]:
        """One update."""
        self.env_steps += fragment.env_steps
        metrics, _ = self.learner.learn(fragment, self.env_steps)
        self.figures = {name: float(value.peek()) for name, value in metrics["default_policy"].items()}
        return self.figures

    def iterate(self, times: int = 1) -> dict[str, float]:
        """Sample and learn."""
        for _ in range(times):
            self.learn(self.sample())
        return self.figures

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of everything in the network."""
        return {name: value.clone() for name, value in self.module.state_dict().items()}


@pytest.fixture
def make_room(small: Callable[..., PPOConfig]) -> Callable[..., Room]:
    """A ``Room`` with small settings; keywords change them."""
    return lambda **changes: Room(small(**changes))
