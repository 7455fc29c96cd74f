from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

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
