"""Synthetic recordings of an arm: reaches between random poses, measured with noise a little after they are commanded.

    python -m tests.benchmarks.data.synthetic FOLDER --gigabytes 1

The state holds joint positions, velocities, currents and a wrench, 50 numbers as our own tasks have them, the action 12 targets; with
time stamps some 260 bytes a frame that do not compress. A tenth of the episodes jump: those a grader must find.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cluster.lerobot.episodes import Episode, episodes_to_table
from cluster.lerobot.features import Feature
from cluster.lerobot.metadata import DatasetSpec

__all__ = ["FPS", "FRAME_BYTES", "JOINTS", "SPEC", "is_spiky", "make_episode", "write_synthetic"]

FPS = 50
JOINTS = 12
FRAMES = 600
"""Mean length of an episode."""
_OTHERS = (*(f"joint_velocity_rad_s.joint_{index}" for index in range(JOINTS)), *(f"current.joint_{index}" for index in range(JOINTS)))
_STATE = (*(f"joint_position_rad.joint_{index}" for index in range(JOINTS)), *_OTHERS, *(f"wrench.{index}" for index in range(14)))
FEATURES = (
    Feature("observation.state", "float32", (len(_STATE),), _STATE),
    Feature("action", "float32", (JOINTS,), tuple(f"joint_position_target_rad.joint_{index}" for index in range(JOINTS))),
)
FRAME_BYTES = 256
SPEC = DatasetSpec(FPS, FEATURES, "synthetic_arm", {"lineage": {"kind": "synthetic"}})
_LAG_FRAMES = 3


def is_spiky(index: int) -> bool:
    """Whether an episode has a planted defect."""
    return index % 10 == 7


def make_episode(index: int, frames: int | None = None) -> Episode:
    """One episode, the same for the same index."""
    random = np.random.default_rng([index, 5])
    frames = frames or int(random.integers(FRAMES - 100, FRAMES + 100))
    reaches = 2 + frames // 75
    poses = random.uniform(-1.2, 1.2, (reaches + 1, JOINTS))
    place = np.linspace(0, reaches, frames + _LAG_FRAMES, endpoint=False)
    part, share = place.astype(int), (place % 1.0)[:, None]
    # Minimum-jerk reaches (Flash and Hogan 1985).
    blend = share**3 * (10 - 15 * share + 6 * share**2)
    path = poses[part] + (poses[part + 1] - poses[part]) * blend
    action, position = path[_LAG_FRAMES:].astype(np.float32), path[:frames]
    state = random.normal(0.0, 0.005, (frames, len(_STATE))).astype(np.float32)
    state[:, :JOINTS] += position
    state[:, JOINTS : 2 * JOINTS] += np.gradient(position, axis=0) * FPS
    state[:, 2 * JOINTS :] += random.normal(0.0, 0.3, len(_STATE) - 2 * JOINTS)
    if is_spiky(index):
        at = random.integers(20, frames - 20, 3)
        state[at, random.integers(0, JOINTS, 3)] += 2.5
    return Episode(f"{index:07d}", f"reach {index % 3}", {"observation.state": state, "action": action})


def write_synthetic(folder: Path, episodes: int, staging: Path | None = None) -> None:
    """Write a dataset through Ray Data; the session must be there."""
    import pyarrow as pa
    import ray.data

    from trainables.datasets.pipeline import quiet_ray_data
    from trainables.datasets.sink import LeRobotSink

    quiet_ray_data()

    def simulate(batch: pa.Table) -> Iterator[pa.Table]:
        for start in batch["start"].to_pylist():
            for first in range(start, min(start + 64, episodes), 16):
                yield episodes_to_table([make_episode(index) for index in range(first, min(first + 16, start + 64, episodes))], FEATURES)

    starts = list(range(0, episodes, 64))
    rows = ray.data.from_items([{"start": start} for start in starts], override_num_blocks=len(starts))
    rows.map_batches(simulate, batch_format="pyarrow", batch_size=1, num_cpus=1).write_datasink(LeRobotSink(folder, SPEC, staging, True))


def main() -> None:
    """Command line."""
    from cluster.runtime.session import ray_session
    from cluster.settings import Settings

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    given = parser.parse_args()
    with ray_session(Settings.from_environment()):
        episodes = round(given.gigabytes * 1e9 / (FRAME_BYTES * FRAMES))
        write_synthetic(given.folder, episodes)
    print(json.dumps({"episodes": episodes}))


if __name__ == "__main__":
    main()
