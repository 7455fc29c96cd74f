"""Stage ``collect``: expert gaits and motions, played on batched physics, become a LeRobot v3.0 dataset in ``<run>/data/``.

    python -m trainables.collect CONFIG.yaml --set seed=1

Ray Data runs one task for each handful of robots; the sink publishes the dataset when all are done. ``import_motion`` does the same
for one motion file and keeps the result among the named datasets.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from cluster.config import Config as BaseConfig
from cluster.config import parse_config
from cluster.errors import GaitwayError, UsageError
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext, stage_main

if TYPE_CHECKING:
    from trainables.datasets.lerobot import DatasetSpec, Feature
    from trainables.datasets.recording import Recording
    from trainables.motions.motion import Motion

__all__ = ["Config", "NoiseConfig", "import_motion", "run"]


class NoiseConfig(BaseConfig):
    """What is added while recording."""

    joint_position_rad: float = Field(0.01, ge=0, description="standard deviation on measured joint positions, rad")
    joint_velocity_rad_s: float = Field(0.1, ge=0, description="standard deviation on measured joint velocities, rad/s")
    target_rad: float = Field(0.03, ge=0, description="standard deviation on the targets sent; the recorded ones stay the expert's, rad")


class Config(BaseConfig):
    """Configuration of the stage ``collect``."""

    task: str = Field("pidog_run", description="task whose observation is recorded")
    task_config: dict[str, Any] = Field(default_factory=dict, description="configuration of the task; the command is set for each gait")
    gaits: dict[str, float] = Field(
        {"walk_forward": 40.0, "walk_backward": 40.0, "trot_forward": 40.0, "stand": 40.0, "sit": 40.0},
        description="seconds of simulated time to record, by gait",
    )
    motions: tuple[Path, ...] = Field((), description="motion files (AWD JSON or DeepMimic text) to record too, retargeted where needed")
    motion_s: float = Field(40.0, gt=0, description="seconds to record of each motion")
    episode_steps: int = Field(250, ge=2, description="control steps of an episode")
    robots_per_task: int = Field(8, ge=1, description="robots that one Ray task simulates together")
    physics: Literal["fast", "medium", "production"] = Field("fast", description="physics preset")
    noise: NoiseConfig = Field(default_factory=NoiseConfig, description="noise while recording")
    validation_fraction: float = Field(0.15, ge=0, lt=1, description="share of each gait's episodes held out for validation")
    seed: int = Field(0, ge=0, description="of every random draw; the same seed gives the same digest")

    @model_validator(mode="after")
    def _known(self) -> Config:
        # Imported here: a pipeline imports every stage to check its configuration, and these need NumPy and Gymnasium.
        from trainables.envs.registry import task_config_model
        from trainables.motions.gaits import get_gait

        try:
            model = task_config_model(self.task)
            for name, seconds in self.gaits.items():
                get_gait(name)
                if seconds <= 0:
                    raise ValueError(f"gaits.{name}: {seconds} s; give more than 0")
            parse_config(self.task_config, model, source="task_config")
        except GaitwayError as error:
            raise ValueError(str(error)) from None
        if not self.gaits and not self.motions:
            raise ValueError("give at least one gait or motion")
        if "command" in self.task_config:
            raise ValueError("task_config.command is set by gaits and motions; leave it out")
        return self


def run(config: Config, context: StageContext) -> dict[str, Any]:
    """Record everything and write ``<run>/data/``; a dataset that an earlier attempt left there is replaced.

    Returns:
        ``dataset`` (folder), ``digest``, ``episodes``, ``frames``, ``gaits`` (episodes by gait or motion), ``falls``.

    Raises:
        GaitwayError: a motion cannot be read or retargeted, or Ray is not there.
    """
    from trainables.motions.load import load_motion

    motions = [load_motion(_find_motion(path)) for path in config.motions]
    return _collect(config, motions, context.folder / "data", context.settings, context.progress, overwrite=True)


def import_motion(
    settings: Settings,
    path: Path,
    robot: str = "pidog",
    name: str | None = None,
    episodes: int = 16,
    episode_steps: int = 250,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make a named dataset of one motion file: retarget it, play it on physics, keep what the task observed and the targets.

    Args:
        settings: the dataset goes to ``<shared storage>/datasets/<name>``.
        path: the motion file.
        robot: robot that shall follow it.
        name: name of the dataset and of its task; None: the file's stem.
        episodes: episodes to record, an eighth of them for validation.
        episode_steps: control steps of an episode.
        seed: of every random draw.
        progress: where to report.

    Returns:
        As ``run``.

    Raises:
        GaitwayError: the file cannot be read or retargeted, no task knows the robot, or the name is taken.
    """
    from trainables.datasets.catalogue import datasets_folder
    from trainables.motions.load import load_motion

    name = name or Path(path).stem
    if not name.replace("_", "").replace("-", "").isalnum():
        raise UsageError(f"dataset name {name!r}: use letters, digits, - and _ only; give one with --name")
    task, rate_hz = _task_of(robot)
    config = Config(
        task=task,
        gaits={},
        motions=(Path(path),),
        motion_s=episodes * episode_steps / rate_hz,
        episode_steps=episode_steps,
        validation_fraction=0.125,
        seed=seed,
    )
    motion = load_motion(path, name)
    return _collect(config, [motion], datasets_folder(settings) / name, settings, progress or Progress(mode="quiet"), overwrite=False)


def _collect(
    config: Config, motions: list[Motion], folder: Path, settings: Settings, progress: Progress, overwrite: bool
) -> dict[str, Any]:
    from cluster.runtime.session import ray_session
    from trainables.datasets.lerobot import load_info
    from trainables.datasets.shards import count_staged_episodes
    from trainables.datasets.sink import LeRobotSink
    from trainables.motions.retarget import motion_for_robot

    robot, rate_hz, features = _probe(config.task)
    fitted = [motion_for_robot(motion, robot, rate_hz) for motion in motions]
    names = [*config.gaits, *(motion.name for motion in fitted)]
    if len(set(names)) != len(names):
        raise GaitwayError(f"two of the gaits and motions to record have one name: {', '.join(names)}; rename a motion file")
    recordings = _recordings(config, fitted, rate_hz)
    total = sum(recording.num_robots for recording in recordings)
    sink = LeRobotSink(folder, _spec(config, fitted, robot, round(rate_hz), features), settings.shared_path / "staging", overwrite)
    with progress.task("collect", total, "episodes") as task, ray_session(settings):
        with _polled(lambda: task.update(count_staged_episodes(sink.staging))):
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
    import numpy as np

    from trainables.datasets.recording import Recording

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
    from trainables.datasets.lerobot import DatasetSpec
    from trainables.datasets.recording import reference_command
    from trainables.envs.registry import task_config_model

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


def _write(recordings: list[Recording], sink: Any) -> None:
    """The Ray Data pipeline: one row a batch -> a task that simulates it -> one row an episode -> the sink."""
    import pyarrow as pa
    import ray.data
    from ray.exceptions import RayTaskError

    from trainables.datasets.lerobot import quiet_ray_data

    quiet_ray_data()
    features = sink.features

    def simulate(batch: pa.Table) -> pa.Table:
        from trainables.datasets.episodes import episodes_to_table
        from trainables.datasets.recording import record

        return episodes_to_table([episode for index in batch["index"].to_pylist() for episode in record(recordings[index])], features)

    rows = ray.data.from_items([{"index": index} for index in range(len(recordings))], override_num_blocks=len(recordings))
    try:
        rows.map_batches(simulate, batch_format="pyarrow", batch_size=None, num_cpus=1).write_datasink(sink)
    except RayTaskError as error:
        if isinstance(error.cause, GaitwayError):
            raise error.cause from error
        raise


@contextmanager
def _polled(update: Callable[[], None], interval_s: float = 0.25) -> Iterator[None]:
    """Call ``update`` now and then in another thread, because Ray Data's own progress goes to the log."""
    ended = threading.Event()

    def poll() -> None:
        while not ended.wait(interval_s):
            update()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _find_motion(path: Path) -> Path:
    """The file as given, or the clip of that name that the project ships."""
    shipped = Path(__file__).parent / "motions" / "clips" / path
    return shipped if not path.exists() and shipped.exists() else path


def _file_of(motion: Motion) -> dict[str, str]:
    import hashlib

    path = Path(motion.source)
    return {"name": motion.name, "file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _probe(task: str) -> tuple[str, float, tuple[Feature, ...]]:
    """Robot, control rate (Hz) and dataset features of a task."""
    from trainables.datasets.recording import task_features
    from trainables.envs.registry import make_task

    probe = make_task(task, 1, {}, 0)
    try:
        return probe.robot.name, 1.0 / probe.control_dt_s, task_features(probe)
    finally:
        probe.close()


def _task_of(robot: str) -> tuple[str, float]:
    """The task that records a robot, and its control rate (Hz). Raises ``GaitwayError`` when there is none."""
    from trainables.envs.registry import TASKS
    from trainables.robots.registry import get_robot

    get_robot(robot)
    for task in TASKS:
        name, rate_hz, _ = _probe(task)
        if name == robot:
            return task, rate_hz
    raise GaitwayError(f"no task records {robot}; tasks: {', '.join(TASKS)}")


if __name__ == "__main__":
    stage_main("trainables.collect")
