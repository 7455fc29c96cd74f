"""RLlib's PPO as it comes, timed: ``python tests/benchmarks/peers/rllib_ppo.py HalfCheetah-v5 --runners 2 --envs 16``.

The setting is that of both peers: batch 4096, minibatch 256, 10 epochs, 64-64 tanh, learning rate 3e-4, one learner on the CPU.
The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from typing import Any

import gymnasium
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env

BATCH_SIZE = 4096


def known_environment(environment_id: str, kwargs: dict[str, Any]) -> str:
    """The name by which RLlib makes the environment; ours are not known to Gymnasium in RLlib's own processes."""
    if not environment_id.startswith("gaitway/"):
        return environment_id

    def make(_: Any) -> gymnasium.Env:
        from trainables.envs.registry import register_gymnasium

        register_gymnasium()
        return gymnasium.make(environment_id, **kwargs)

    register_env("peer-task", make)
    return "peer-task"


def main() -> None:
    """Train for some iterations after one that warms up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment")
    parser.add_argument("--kwargs", type=json.loads, default={}, help="the environment's own arguments, JSON")
    parser.add_argument("--runners", type=int, default=2)
    parser.add_argument("--envs", type=int, default=16, help="environments in each runner")
    parser.add_argument("--iterations", type=int, default=4)
    arguments = parser.parse_args()
    ray.init(
        address="local",
        num_cpus=max(2, arguments.runners),
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    config = (
        PPOConfig()
        .environment(known_environment(arguments.environment, arguments.kwargs))
        .env_runners(
            num_env_runners=arguments.runners,
            num_envs_per_env_runner=arguments.envs,
            gym_env_vectorize_mode=gymnasium.VectorizeMode.SYNC,
        )
        .training(train_batch_size_per_learner=BATCH_SIZE, minibatch_size=256, num_epochs=10, lr=3e-4)
        .rl_module(model_config={"fcnet_hiddens": [64, 64], "fcnet_activation": "tanh"})
    )
    algorithm = config.build_algo()
    algorithm.train()
    rates, env_steps = [], 0
    for _ in range(arguments.iterations):
        start = time.perf_counter()
        result = algorithm.train()
        sampled = int(result["env_runners"]["num_env_steps_sampled"])
        rates.append(sampled / (time.perf_counter() - start))
        env_steps += sampled
    algorithm.stop()
    ray.shutdown()
    print(json.dumps({"env_steps": env_steps, "env_steps_per_s": statistics.median(rates)}))


if __name__ == "__main__":
    main()
