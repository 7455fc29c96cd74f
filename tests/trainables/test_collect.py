"""Collection: what is recorded, that it repeats, what the stage leaves, and a real clip from file to a robot that walks."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.config import parse_config
from cluster.errors import ConfigError, UsageError
from cluster.lerobot.digest import episode_digest
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext
from trainables.collect import Config, import_motion, run
from trainables.datasets.catalogue import dataset_info, find_dataset, list_datasets
from trainables.datasets.lerobot import DatasetError, compute_digest, load_frames, load_info, read_dataset
from trainables.datasets.recording import Recording, record, reference_command
from trainables.envs.registry import make_task
from trainables.motions.gaits import GAITS, expert_targets_rad
from trainables.motions.load import load_motion
from trainables.motions.motion import Motion, MotionError
from trainables.motions.retarget import retarget_quadruped
from trainables.robots.registry import get_robot

JOINTS = slice(9, 21)
VELOCITIES = slice(21, 33)
COMMAND = slice(46, 50)
QUIET = {"noise": {"enabled": False}, "randomization": {"enabled": False}, "obstacles": {"count": 0}}


@pytest.fixture
def settings(tmp_path):
    return Settings.from_environment({"GAITWAY_HOME": str(tmp_path / "home"), "GAITWAY_EXPERIMENTS_PATH": str(tmp_path / "experiments")})


def recording(name="trot_forward", **changes) -> Recording:
    return Recording(
        **{"key": "k", "name": name, "num_robots": 3, "steps": 40, "seed": 5, "task": "pidog_run", "task_config": QUIET, **changes}
    )


def stacked(episodes, column):
    return np.stack([episode.columns[column] for episode in episodes])


CLIP = Path("pidog_trot.json")
"""A clip that the project ships, by name."""


def test_a_recording_holds_what_the_task_observes_and_what_the_expert_wants():
    episodes = record(recording())
    robot = get_robot("pidog")
    observation, action = stacked(episodes, "observation.state"), stacked(episodes, "action")
    assert observation.shape == (3, 40, 50)
    assert action.shape == (3, 40, 12)
    assert observation.dtype == action.dtype == np.float32
    assert [episode.task for episode in episodes] == ["trot_forward"] * 3
    assert [episode.key for episode in episodes] == ["k-0000", "k-0001", "k-0002"]
    assert (action >= robot.joint_low_rad - 1e-6).all()
    assert (action <= robot.joint_high_rad + 1e-6).all()
    # The targets are the expert's at the phase that the same frame's command shows.
    command = observation[..., COMMAND]
    phase = np.arctan2(command[..., 0], command[..., 1]) / (2 * np.pi) % 1.0
    wanted = expert_targets_rad("trot_forward", phase.reshape(-1)).reshape(3, 40, 12)
    assert action == pytest.approx(wanted, abs=2e-3)
    turned = np.diff(phase, axis=1) % 1.0
    assert turned == pytest.approx(np.full((3, 39), GAITS["trot_forward"].frequency_hz * 0.02), abs=1e-3)
    assert command[..., 2] == pytest.approx(np.full((3, 40), GAITS["trot_forward"].forward_velocity_m_s), rel=1e-4)
    assert len(np.unique(phase[:, 0].round(3))) == 3  # robots start at different places in the cycle
    assert (stacked(episodes, "next.done") == (np.arange(40) == 39)).all()


def test_joint_noise_has_the_given_standard_deviations_and_repeats_with_the_seed():
    noise = {"joint_position_rad": 0.01, "joint_velocity_rad_s": 0.1}
    others = dict.fromkeys(("angular_velocity_rad_s", "linear_acceleration_m_s2", "gravity", "range_m"), 0.0)
    noisy = recording(num_robots=8, steps=60, task_config={**QUIET, "noise": {**noise, **others}})
    exact = stacked(record(replace(noisy, task_config=QUIET)), "observation.state")
    added = stacked(record(noisy), "observation.state") - exact
    assert added[..., JOINTS].std() == pytest.approx(0.01, rel=0.05)
    assert added[..., VELOCITIES].std() == pytest.approx(0.1, rel=0.05)
    assert np.abs(np.delete(added, np.r_[JOINTS, VELOCITIES], axis=-1)).max() < 1e-6


def test_the_same_seed_gives_the_same_episodes_and_another_seed_others():
    def digests(**changes):
        made = record(recording(task_config={}, target_noise_rad=0.03, **changes))
        return [episode_digest(episode.task, episode.columns) for episode in made]

    assert digests() == digests()
    assert set(digests()).isdisjoint(digests(seed=6))


def test_noise_on_the_targets_moves_the_robot_and_not_the_labels():
    clean, disturbed = record(recording()), record(recording(target_noise_rad=0.1))
    assert (stacked(clean, "action") == stacked(disturbed, "action")).all()
    apart = stacked(clean, "observation.state")[..., JOINTS] - stacked(disturbed, "observation.state")[..., JOINTS]
    assert 0.005 < apart.std() < 0.1


def test_an_episode_ends_where_its_robot_falls():
    shove = {"push_velocity_m_s": 8.0, "push_interval_s": [0.2, 0.4]}
    episodes = record(recording(num_robots=8, steps=150, task_config={"randomization": shove}))
    fallen = [episode for episode in episodes if episode.length < 150]
    assert fallen
    for episode in episodes:
        assert episode.columns["next.done"].tolist() == [False] * (episode.length - 1) + [True]
        assert np.isfinite(episode.columns["observation.state"]).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"gaits": {"trott": 10}}, r"unknown gait 'trott'; known: walk_forward"),
        ({"gaits": {"stand": 0}}, "gaits.stand: 0.0 s; give more than 0"),
        ({"gaits": {}}, "give at least one gait or motion"),
        ({"task": "pidog_runn"}, "unknown task 'pidog_runn'; did you mean 'pidog_run'"),
        ({"task_config": {"command": {}}}, "task_config.command is set by gaits and motions"),
        ({"task_config": {"nois": {}}}, r"task_config: nois: unknown key; did you mean 'noise'"),
        ({"physics": "slow"}, "physics"),
        ({"robots": 4}, "unknown key"),
    ],
)
def test_a_wrong_configuration_is_refused_before_anything_starts(data, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(data, Config, source="collect.yaml")


def test_importing_the_stage_is_cheap():
    code = "import sys, trainables.collect; print(sorted({'ray', 'torch', 'mujoco', 'mlflow', 'pandas', 'numpy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout
    assert found.strip() == "[]"


@pytest.mark.usefixtures("ray_session")
def test_the_stage_writes_a_dataset_that_repeats_and_replaces_what_a_killed_attempt_left(tmp_path, settings):
    config = Config(gaits={"trot_forward": 3.0, "sit": 3.0}, motions=(CLIP,), motion_s=2.0, episode_steps=50, robots_per_task=2, seed=7)
    context = StageContext(tmp_path / "run", settings, Progress(mode="quiet"))
    result = run(config, context)
    assert json.loads(json.dumps(result)) == result
    assert (result["episodes"], result["frames"], result["falls"]) == (8, 400, 0)
    assert result["gaits"] == {"trot_forward": 3, "sit": 3, "pidog_trot": 2}
    path = Path(result["dataset"])
    assert path == tmp_path / "run" / "data"
    info = load_info(path)
    assert info.fps == 50
    assert info.features["observation.state"].names[46:] == tuple(
        f"command.{part}" for part in ("phase_sin", "phase_cos", "forward_velocity_m_s", "posture")
    )
    assert info.features["action"].names[0] == "joint_position_target_rad.left_front_hip"
    assert {info.episodes[index].tasks[0] for index in info.splits["validation"]} == {"trot_forward", "sit", "pidog_trot"}
    assert info.gaitway["task"] == "pidog_run"
    assert make_task("pidog_run", 1, info.gaitway["task_config"]).name == "pidog_run"
    assert info.gaitway["lineage"]["motions"][0]["name"] == "pidog_trot"
    assert compute_digest(path) == result["digest"]
    (tmp_path / "run" / ".data.partial-dead").mkdir()
    again = run(config, context)
    assert again == result
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["data"]
    assert run(config.model_copy(update={"seed": 8}), context)["digest"] != result["digest"]
    assert list_datasets(settings.model_copy(update={"experiments_path": tmp_path}))[0]["name"] == "run/data"


@pytest.mark.usefixtures("ray_session")
def test_two_sources_of_one_name_are_refused(tmp_path, settings):
    config = Config(gaits={}, motions=(CLIP, CLIP))
    with pytest.raises(Exception, match="have one name: pidog_trot, pidog_trot"):
        run(config, StageContext(tmp_path / "run", settings, Progress(mode="quiet")))


def velocity_m_s(motion: Motion, preset: str) -> np.ndarray:
    """Forward velocity of eight randomised robots that play a motion open loop for four seconds."""
    config = {
        "physics": {"preset": preset},
        "command": {"gaits": {}, "references": {"m": reference_command(motion)}},
        "max_episode_steps": 200,
    }
    task = make_task("pidog_run", 8, config, seed=2)
    task.reset()
    metrics = {}
    for _ in range(200):
        targets = motion.sample(task.commands.phase * motion.duration_s)[0]
        metrics = task.step(task.action_scaling.to_normalised(targets))[4].get("episode_metrics", metrics)
    task.close()
    assert metrics["fell"].sum() == 0
    return metrics["forward_velocity_m_s"]


@pytest.mark.parametrize("preset", ["fast", "production"])
def test_the_real_dogs_trot_carries_pidog_forward(shared_data, preset):
    motion = retarget_quadruped(load_motion(shared_data / "motions" / "dog_trot.txt"))
    velocity = velocity_m_s(motion, preset)
    assert velocity.min() > 0.05
    assert velocity.mean() > 0.1


@pytest.mark.usefixtures("ray_session")
def test_a_real_clip_becomes_a_named_dataset_whose_playback_walks_forward(shared_data, settings):
    clip = shared_data / "motions" / "dog_trot.txt"
    result = import_motion(settings, clip, robot="pidog", episodes=4, episode_steps=150)
    path = Path(result["dataset"])
    assert path == settings.shared_path / "datasets" / "dog_trot" / "v1"
    assert (result["episodes"], result["frames"], result["gaits"]) == (4, 600, {"dog_trot": 4})
    info = load_info(path)
    assert len(info.splits["validation"]) == 1
    reference = info.gaitway["task_config"]["command"]["references"]["dog_trot"]
    assert info.gaitway["task_config"]["command"]["gaits"] == {}
    # What the robots did while they were recorded, and what their recorded actions do again.
    task = make_task("pidog_run", 1, {**info.gaitway["task_config"], **QUIET}, seed=0)
    task.reset()
    for target in load_frames(path, episodes=[0])["action"]:
        task.step(task.action_scaling.to_normalised(target[None]))
    assert task.physics.qpos[0, 0] > 0.15
    assert reference["forward_velocity_m_s"] > 0.1
    task.close()
    assert read_dataset(path, split="train", columns=["action"]).count() == 450
    assert find_dataset(settings, "dog_trot") == path
    assert [entry["name"] for entry in list_datasets(settings)] == ["dog_trot/v1"]
    described = dataset_info(settings, path)
    assert described["episodes_by_task"] == {"dog_trot": 4}
    assert json.loads(json.dumps(described))["lineage"]["motions"][0]["file"] == str(clip)
    again = import_motion(settings, clip, robot="pidog", episodes=4, episode_steps=150)
    assert (again["version"], again["is_new"], again["digest"]) == ("dog_trot/v1", False, result["digest"])
    with pytest.raises(DatasetError, match=r"no dataset 'dog_trott'.*did you mean 'dog_trot'"):
        find_dataset(settings, "dog_trott")


def test_what_cannot_be_imported_is_refused_before_ray_starts(shared_data, settings, tmp_path):
    motions = shared_data / "motions"
    with pytest.raises(MotionError, match="has 15 joints"):
        import_motion(settings, motions / "mini_duck_forward.json")
    with pytest.raises(UsageError, match=r"dataset name '../x': use letters"):
        import_motion(settings, motions / "dog_trot.txt", name="../x")
    with pytest.raises(ConfigError, match="unknown robot 'pidogg'; did you mean 'pidog'"):
        import_motion(settings, motions / "dog_trot.txt", robot="pidogg")
    with pytest.raises(MotionError, match="no such motion file"):
        import_motion(settings, tmp_path / "absent.txt")
    assert not settings.home.exists()
