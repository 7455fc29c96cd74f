"""Collection: the work cut into batches of robots, the Ray Data pipeline that simulates them, the dataset that comes out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cluster.errors import GaitwayError
from cluster.lerobot.commit import check_target
from cluster.lerobot.episodes import episodes_to_table
from cluster.lerobot.shards import count_staged_episodes
from cluster.progress import Progress
from cluster.runtime.session import ray_session
from cluster.settings import Settings
from trainables.datasets.lerobot import DatasetSpec, Feature, load_info
from trainables.datasets.pipeline import own_errors, polled, quiet_ray_data
from trainables.datasets.recording import Recording, record, reference_command, task_features
from trainables.envs.registry import make_robot_task, robot_tasks, task_config_model
from trainables.motions.motion import Motion
from trainables.motions.retarget import motion_for_robot
from trainables.robots.registry import get_robot

if TYPE_CHECKING:
    from trainables.collect import Config
    from trainables.datasets.sink import LeRobotSink

__all__ = ["collect", "task_of_robot"]


def collect(config: Config, motions: list[Motion], folder: Path, settings: Settings, progress: Progress, overwrite: bool) -> dict[str, Any]:
    """Record every gait and motion of ``config`` and publish the dataset at ``folder``.

    Args:
        config: what to record and how.
        motions: the clips of ``config.motions``, loaded.
        folder: the dataset folder.
        settings: where Ray is and where shards may wait.
        progress: where to report.
        overwrite: replace a dataset that is at ``folder`` already.

    Returns:
        See ``trainables.collect.run``.

    Raises:
        GaitwayError: a motion does not fit the robot, two sources share a name, or ``folder`` is taken.
    """
    robot, rate_hz, features = _probe(config.task)
    fitted = [motion_for_robot(motion, robot, rate_hz) for motion in motions]
    names = [*config.gaits, *(motion.name for motion in fitted)]
    if len(set(names)) != len(names):
        raise GaitwayError(f"two of the gaits and motions to record have one name: {', '.join(names)}; rename a motion file")
    recordings = _recordings(config, fitted, rate_hz)
    total = sum(recording.num_robots for recording in recordings)
    spec = _spec(config, fitted, robot, round(rate_hz), features)
    check_target(folder, overwrite)
    with progress.task("collect", total, "episodes") as task, ray_session(settings):
        # Ray reads how to authenticate when it is imported, and the session chooses that: nothing imports Ray before.
        from trainables.datasets.sink import LeRobotSink

        sink = LeRobotSink(folder, spec, settings.shared_path / "staging", overwrite)
        with polled(lambda: task.update(count_staged_episodes(sink.staging))), own_errors():
            _write(recordings, sink)
        info = load_info(folder)
        task.update(total, frames=float(info.num_frames))
    counts = {name: sum(name in episode.tasks for episode in info.episodes) for name in info.tasks}
    return {
        "dataset": str(folder),
        "digest": info.digest,
        "episodes": info.num_episodes,
        "frames": info.num_frames,
        "gaits": counts,
        "falls": sum(episode.length < config.episode_steps for episode in info.episodes),
    }


def _recordings(config: Config, motions: list[Motion], rate_hz: float) -> list[Recording]:
    """The work, cut into batches of robots."""
    noise = {**config.task_config.get("noise", {}), **config.noise.model_dump(exclude={"target_rad"})}
    physics = {**config.task_config.get("physics", {}), "preset": config.physics}
    task_config = {**config.task_config, "noise": noise, "physics": physics}
    sources: list[tuple[str, float, Motion | None]] = [(name, seconds, None) for name, seconds in config.gaits.items()]
    sources += [(motion.name, config.motion_s, motion) for motion in motions]
    recordings = []
    for index, (name, seconds, motion) in enumerate(sources):
        left = max(1, round(seconds * rate_hz / config.episode_steps))
        batch = 0
        while left > 0:
            robots = min(left, config.robots_per_task)
            seed = int(np.random.SeedSequence([config.seed, index, batch]).generate_state(1)[0])
            key = f"{index:03d}-{batch:05d}"
            recordings.append(
                Recording(key, name, robots, config.episode_steps, seed, config.task, task_config, motion, config.noise.target_rad)
            )
            left, batch = left - robots, batch + 1
    return recordings


def _spec(config: Config, motions: list[Motion], robot: str, fps: int, features: tuple[Feature, ...]) -> DatasetSpec:
    """What the dataset is, and what somebody needs to use it or make it again."""
    references = {motion.name: reference_command(motion) for motion in motions}
    # A policy that learns from motions alone is evaluated and served under their commands; among gaits, the task's own stand.
    command = {"command": {"gaits": {}, "references": references}} if references and not config.gaits else {}
    task_config = task_config_model(config.task).model_validate({**config.task_config, **command})
    return DatasetSpec(
        fps=fps,
        features=features,
        robot_type=robot,
        provenance={
            "task": config.task,
            "task_config": task_config.model_dump(mode="json"),
            "robot": robot,
            "references": references,
            "lineage": {
                "kind": "expert",
                "config": config.model_dump(mode="json"),
                "motions": [_file_of(motion) for motion in motions],
            },
        },
        validation_fraction=config.validation_fraction,
        seed=config.seed,
    )


def _write(recordings: list[Recording], sink: LeRobotSink) -> None:
    """The Ray Data pipeline: one row a batch -> a task that simulates it -> one row an episode -> the sink."""
    import ray.data

    quiet_ray_data()
    features = sink.features

    def simulate(batch: pa.Table) -> pa.Table:
        return episodes_to_table([episode for index in batch["index"].to_pylist() for episode in record(recordings[index])], features)

    rows = ray.data.from_items([{"index": index} for index in range(len(recordings))], override_num_blocks=len(recordings))
    rows.map_batches(simulate, batch_format="pyarrow", batch_size=None, num_cpus=1).write_datasink(sink)


def _file_of(motion: Motion) -> dict[str, str]:
    path = Path(motion.source)
    return {"name": motion.name, "file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _probe(task: str) -> tuple[str, float, tuple[Feature, ...]]:
    """Robot, control rate (Hz) and dataset features of a task."""
    probe = make_robot_task(task, 1, {}, 0)
    try:
        return probe.robot.name, 1.0 / probe.control_dt_s, task_features(probe)
    finally:
        probe.close()


def task_of_robot(robot: str) -> tuple[str, float]:
    """The task that records a robot, and its control rate (Hz). Raises ``GaitwayError`` when there is none."""
    get_robot(robot)
    for task in robot_tasks():
        name, rate_hz, _ = _probe(task)
        if name == robot:
            return task, rate_hz
    raise GaitwayError(f"no task records {robot}; tasks: {', '.join(robot_tasks())}")
