"""Return of a trained policy in Gymnasium's own environment: ``python -m tests.benchmarks.evaluate_checkpoint FOLDER HalfCheetah-v5``.

Nothing of the training path is used but the saved network: the environment is ``gymnasium.make`` as anybody gets it, so a score here
is also a check that the tasks trained on are the ones they claim to be. The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gymnasium
import numpy as np
import torch

from trainables.networks.checkpoint import load_policy

__all__ = ["episode_returns"]


@torch.inference_mode()
def episode_returns(folder: Path, environment_id: str, episodes: int, seed: int = 1_000_003) -> list[float]:
    """Undiscounted returns of the policy's mean actions, one an episode."""
    policy, _ = load_policy(folder)
    environment = gymnasium.make(environment_id)
    space = environment.action_space
    offset, scale = (space.high + space.low) / 2, (space.high - space.low) / 2
    returns = []
    for episode in range(episodes):
        observation, _ = environment.reset(seed=seed + episode)
        total, over = 0.0, False
        while not over:
            action = policy(torch.as_tensor(observation, dtype=torch.float32)[None])[0].numpy()
            observation, reward, terminated, truncated, _ = environment.step(offset + scale * np.clip(action, -1.0, 1.0))
            total += float(reward)
            over = terminated or truncated
        returns.append(total)
    environment.close()
    return returns


def main() -> None:
    """Print the mean and all returns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("environment")
    parser.add_argument("--episodes", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    returns = episode_returns(arguments.folder, arguments.environment, arguments.episodes)
    print(json.dumps({"return_mean": float(np.mean(returns)), "returns": returns}))


if __name__ == "__main__":
    main()
