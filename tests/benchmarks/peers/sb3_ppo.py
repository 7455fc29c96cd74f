"""Stable-Baselines3's PPO as it comes, timed: ``PYTHONPATH=build/peers python tests/benchmarks/peers/sb3_ppo.py HalfCheetah-v5``.

The setting is that of both peers: batch 4096, minibatch 256, 10 epochs, 64-64 tanh (SB3's default), learning rate 3e-4, on the CPU.
The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from typing import Any

import gymnasium
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

BATCH_SIZE = 4096
VECTORISATIONS = {"dummy": DummyVecEnv, "subprocess": SubprocVecEnv}


class IterationClock(BaseCallback):
    """Notes when every iteration starts; one iteration is a rollout and the learning from it."""

    def __init__(self) -> None:
        super().__init__()
        self.times_s: list[float] = []

    def _on_rollout_start(self) -> None:
        self.times_s.append(time.perf_counter())

    def _on_training_end(self) -> None:
        self.times_s.append(time.perf_counter())

    def _on_step(self) -> bool:
        return True


def make(environment_id: str, kwargs: dict[str, Any]) -> gymnasium.Env:
    """One environment. By its id alone, SB3 would ask for images as well, which ours do not offer."""
    if environment_id.startswith("gaitway/"):
        from trainables.envs.registry import register_gymnasium

        register_gymnasium()
    return gymnasium.make(environment_id, **kwargs)


def main() -> None:
    """Train for some iterations after one that warms up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment")
    parser.add_argument("--kwargs", type=json.loads, default={}, help="the environment's own arguments, JSON")
    parser.add_argument("--vectorisation", choices=VECTORISATIONS, default="dummy")
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--torch-threads", type=int, help="default: torch's own choice")
    parser.add_argument("--iterations", type=int, default=4)
    arguments = parser.parse_args()
    if arguments.torch_threads is not None:
        torch.set_num_threads(arguments.torch_threads)
    environments = make_vec_env(
        functools.partial(make, arguments.environment, arguments.kwargs),
        n_envs=arguments.envs,
        vec_env_cls=VECTORISATIONS[arguments.vectorisation],
    )
    model = PPO(
        "MlpPolicy",
        environments,
        n_steps=BATCH_SIZE // arguments.envs,
        batch_size=256,
        n_epochs=10,
        learning_rate=3e-4,
        policy_kwargs={"net_arch": [64, 64]},
        device="cpu",
    )
    clock = IterationClock()
    model.learn((arguments.iterations + 1) * BATCH_SIZE, callback=clock)
    environments.close()
    lengths_s = [later - earlier for earlier, later in zip(clock.times_s[1:], clock.times_s[2:], strict=False)]
    rate = statistics.median(BATCH_SIZE / length_s for length_s in lengths_s)
    print(json.dumps({"env_steps": len(lengths_s) * BATCH_SIZE, "env_steps_per_s": rate}))


if __name__ == "__main__":
    main()
