"""Stage ``collect``: expert gaits and motions, played on batched physics, become a LeRobot v3.0 dataset in ``<run>/data/``.

    python -m trainables.collect CONFIG.yaml --set seed=1

Ray Data runs one task for each handful of robots; the sink publishes the dataset when all are done. ``import_motion`` does the same
for one motion file and keeps the result among the named datasets.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import Config as BaseConfig
from cluster.config import parse_config
from cluster.errors import GaitwayError
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext, stage_main

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

    @field_validator("motions")
    @classmethod
    def _motions_exist(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(_find_motion(path) for path in value)

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
    from trainables.datasets.collection import collect
    from trainables.motions.load import load_motion

    motions = [load_motion(path) for path in config.motions]
    return collect(config, motions, context.folder / "data", context.settings, context.progress, overwrite=True)


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
        settings: the dataset becomes a version of ``<shared storage>/datasets/<name>``.
        path: the motion file.
        robot: robot that shall follow it.
        name: name of the dataset and of its task; None: the file's stem.
        episodes: episodes to record, an eighth of them for validation.
        episode_steps: control steps of an episode.
        seed: of every random draw.
        progress: where to report.

    Returns:
        As ``run``, and ``version`` (``name/v1``) and ``is_new``.

    Raises:
        GaitwayError: the file cannot be read or retargeted, or no task knows the robot.
    """
    from trainables.datasets.collection import collect, task_of_robot
    from trainables.datasets.versions import check_name, publish_version
    from trainables.motions.load import load_motion

    name = name or Path(path).stem
    check_name(name)
    task, rate_hz = task_of_robot(robot)
    motion = load_motion(path, name)
    config = Config(
        task=task,
        gaits={},
        motions=(Path(path),),
        motion_s=episodes * episode_steps / rate_hz,
        episode_steps=episode_steps,
        validation_fraction=0.125,
        seed=seed,
    )
    shown = progress or Progress(mode="quiet")
    version, result, is_new = publish_version(
        settings,
        name,
        hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16],
        lambda folder: collect(config, [motion], folder, settings, shown, overwrite=True),
    )
    return {**result, "dataset": str(version.path), "version": version.label, "is_new": is_new}


def _find_motion(path: Path) -> Path:
    """The file as given; else below the folder that holds the code, for clips that the project ships; else a shipped clip by name."""
    code = Path(__file__).resolve().parents[1]
    for candidate in (path, code / path, code / "trainables" / "motions" / "clips" / path):
        if candidate.is_file():
            return candidate
    raise ValueError(f"there is no motion file {path}, neither as given nor among the clips in trainables/motions/clips")


if __name__ == "__main__":
    stage_main("trainables.collect")
