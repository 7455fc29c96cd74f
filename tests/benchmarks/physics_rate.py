"""How much of the native physics rate is left once observations, rewards and resets are added.

``python -m tests.benchmarks.physics_rate`` (or run the file): for each preset and batch size, environment steps per second of
``mujoco.rollout`` alone and of the whole task with everything switched on, interleaved in one run; medians and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

from trainables.envs.physics import PRESETS
from trainables.envs.registry import make_task

__all__ = ["Rate", "measure"]


@dataclass(frozen=True)
class Rate:
    """Medians over the repetitions, environment steps a second."""

    preset: str
    num_envs: int
    num_threads: int
    physics_only: float
    whole_task: float

    @property
    def share(self) -> float:
        """Share of the physics rate that the task keeps."""
        return self.whole_task / self.physics_only


def measure(preset: str, num_envs: int, num_threads: int = 1, steps: int = 40, repetitions: int = 5) -> Rate:
    """Both sides do the same trot; the repetitions take turns, so that a busy machine slows both."""
    task = make_task("pidog_run", num_envs, {"physics": {"preset": preset, "num_threads": num_threads}})
    task.reset()
    rates: dict[str, list[float]] = {"physics": [], "task": []}
    for _ in range(repetitions):
        for side in rates:
            elapsed_s = 0.0
            for _ in range(steps):
                targets = task.expert_targets_rad()
                actions = task.action_scaling.to_normalised(targets)
                start = time.perf_counter()
                if side == "task":
                    task.step(actions)
                else:
                    task.physics.step(targets)
                elapsed_s += time.perf_counter() - start
                if side == "physics":
                    task.commands.advance()
            rates[side].append(num_envs * steps / elapsed_s)
    task.close()
    return Rate(preset, num_envs, num_threads, statistics.median(rates["physics"]), statistics.median(rates["task"]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    arguments = parser.parse_args()
    print(f"{'preset':<12}{'envs':>5}{'threads':>9}{'physics alone':>15}{'whole task':>12}{'share':>8}   (environment steps/s)")
    for preset in arguments.presets:
        for num_envs in arguments.envs:
            rate = measure(preset, num_envs, arguments.threads)
            print(f"{preset:<12}{num_envs:>5}{rate.num_threads:>9}{rate.physics_only:>15,.0f}{rate.whole_task:>12,.0f}{rate.share:>8.2f}")


if __name__ == "__main__":
    main()
