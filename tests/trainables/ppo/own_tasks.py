"""Tiny vector environments that tests name by ``own_tasks:Class``."""

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class OwnTask(VectorEnv):
    """Episodes of ``episode_steps`` (one figure, or one per environment), cut off or terminated; resets take a step of their own."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    observation_size = 2

    def __init__(self, num_envs: int, episode_steps: int = 5) -> None:
        self.num_envs, self.episode_steps = num_envs, episode_steps
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (self.observation_size,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.rng = np.random.default_rng(0)
        self.steps = np.zeros(num_envs, dtype=int)
        self.ended = np.zeros(num_envs, dtype=bool)

    def reset(self, *, seed=None, options=None):
        self.rng = np.random.default_rng(seed)
        self.begin(np.ones(self.num_envs, dtype=bool))
        self.steps[:], self.ended[:] = 0, False
        return self.observe(), {}

    def step(self, actions):
        resetting = self.ended
        rewards = np.where(resetting, 0.0, self.reward(actions))
        self.steps = np.where(resetting, 0, self.steps + 1)
        self.begin(resetting)
        self.ended = self.steps >= self.limits()
        return self.observe(), rewards, *self.split_ends(self.ended), {}

    def limits(self):
        return np.full(self.num_envs, self.episode_steps)

    def split_ends(self, ended):
        return ended.copy(), np.zeros(self.num_envs, dtype=bool)

    def begin(self, where):
        """An episode begins."""

    def observe(self):
        raise NotImplementedError

    def reward(self, actions):
        raise NotImplementedError


class Recall(OwnTask):
    """A sign is shown in the first observation only; the last action should have it. Without a memory the best return is 0."""

    def __init__(self, num_envs: int, episode_steps: int = 4) -> None:
        super().__init__(num_envs, episode_steps)
        self.signs = np.ones(num_envs)

    def begin(self, where):
        self.signs = np.where(where, self.rng.choice([-1.0, 1.0], self.num_envs), self.signs)

    def observe(self):
        return np.stack([self.signs * (self.steps == 0), self.steps / self.episode_steps], axis=1).astype(np.float32)

    def reward(self, actions):
        return (self.steps == self.episode_steps - 1) * self.signs * np.clip(actions[:, 0], -1, 1)


class Uneven(OwnTask):
    """Random observations and rewards; environment i ends after 3 + i steps, the even ones by termination, the odd ones cut off."""

    observation_size = 3

    def limits(self):
        return 3 + np.arange(self.num_envs)

    def split_ends(self, ended):
        even = np.arange(self.num_envs) % 2 == 0
        return ended & even, ended & ~even

    def observe(self):
        return self.rng.normal(size=(self.num_envs, 3)).astype(np.float32)

    def reward(self, actions):
        return self.rng.normal(2.0, 3.0, self.num_envs) + actions[:, 0]


class Breaks(Uneven):
    """Environment 2 is no number at step 4 of an episode: its ``what``, observation or reward."""

    def __init__(self, num_envs: int, what: str = "observation", at_step: int = 4) -> None:
        super().__init__(num_envs)
        self.what, self.at_step = what, at_step

    def observe(self):
        observations = super().observe()
        if self.what == "observation" and self.steps[2] == self.at_step:
            observations[2, 1] = np.nan
        return observations

    def reward(self, actions):
        rewards = super().reward(actions)
        if self.what == "reward" and self.steps[2] == self.at_step - 1:
            rewards[2] = np.inf
        return rewards
