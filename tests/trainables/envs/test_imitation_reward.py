"""The imitation part of the reward: published terms, starts in the reference's state, endings, fading, and nothing when it is off."""

from __future__ import annotations

import itertools
from dataclasses import fields
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError
from trainables.datasets.recording import reference_command
from trainables.envs.fade import FadeConfig
from trainables.envs.imitation_reward import AWD_WEIGHTS, DEEPMIMIC_WEIGHTS, ImitationConfig, RobotState
from trainables.envs.pidog_run import PiDogRun
from trainables.envs.registry import make_task
from trainables.motions.gaits import expert_targets_rad, get_gait
from trainables.motions.load import load_motion
from trainables.motions.retarget import motion_for_robot

EXACT: dict[str, Any] = {"randomization": {"enabled": False}, "noise": {"enabled": False}, "obstacles": {"count": 0}}
TROT = {"gaits": {"trot_forward": 1.0}}
OWN_CLIP = Path(__file__).resolve().parents[3] / "trainables" / "motions" / "clips" / "pidog_trot.json"


def make(num_envs: int = 6, command: Any = TROT, seed: int = 0, steps: int = 100, **imitation: Any) -> PiDogRun:
    config = {**EXACT, "command": command, "max_episode_steps": steps, "imitation": imitation}
    task = make_task("pidog_run", num_envs, config, seed)
    assert isinstance(task, PiDogRun)
    return task


def follow(task: PiDogRun) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    """One step with the reference's own targets."""
    assert task._imitation is not None
    due = task._imitation.table.at(task.commands.index, task.commands.phase)
    return task.step_joint_targets(due.joint_position_rad)


def run(task: PiDogRun, steps: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    seen = [task.reset(seed=3)[0]]
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = task.step(0.3 * rng.uniform(-1, 1, (task.num_envs, 12)))
        seen += [observation, reward, terminated, truncated]
    return seen


def test_off_and_measured_only_are_the_task_as_it_was():
    off, measured = make(style="off", steps=40), make(style="deepmimic", weight=0.0, steps=40)
    assert not [name for name in off.episode_metric_names if "imitation" in name]
    plain = make_task("pidog_run", 6, {**EXACT, "command": TROT, "max_episode_steps": 40}, 0)
    for first, second, third in zip(run(off, 60), run(measured, 60), run(plain, 60), strict=True):
        assert np.array_equal(first, second)
        assert np.array_equal(first, third)


@pytest.mark.parametrize(("style", "published"), [("deepmimic", DEEPMIMIC_WEIGHTS), ("awd", AWD_WEIGHTS)])
def test_terms_are_named_logged_and_sum_to_the_reward(style, published):
    task = make(style=style, weight=2.0, weights={next(iter(published)): 0.3}, reference_state=True, steps=20)
    expected = {f"imitation_{name}": 2.0 * weight for name, weight in published.items()}
    expected[next(iter(expected))] = 0.6
    task.reset()
    raw_sums = dict.fromkeys(expected, 0.0)
    for _ in range(20):
        _, reward, _, _, infos = follow(task)
        terms = infos["reward_terms"]
        assert sum(terms.values()) == pytest.approx(reward)
        raw = task._reward_terms()
        assert list(raw)[-len(expected) :] == list(expected)
        for name, weight in expected.items():
            assert terms[name] == pytest.approx(weight * task.control_dt_s * raw[name])
            raw_sums[name] = raw_sums[name] + raw[name]
    for name in expected:
        assert infos["episode_metrics"][f"reward/{name}"] == pytest.approx(raw_sums[name] / 20), name


def test_deepmimics_terms_by_its_own_formulas():
    """Against an independent computation: kinematics by MuJoCo, the reference from the gait itself."""
    task = make(style="deepmimic", seed=2)
    task.reset()
    model = task.robot.load_spec().compile()
    data = mujoco.MjData(model)
    gait = get_gait("trot_forward")
    for _ in range(15):
        due = task.commands.phase.copy()
        task.step(np.random.default_rng(1).uniform(-0.5, 0.5, (6, 12)))
        raw = task._reward_terms()
        for env in range(6):
            phases = due[env] + np.array([-0.5, 0.0, 0.5]) / 192
            before, wanted, after = expert_targets_rad("trot_forward", phases)
            speed = (after - before) * 192 * gait.frequency_hz
            joint, velocity = task.physics.qpos[env, 7:], task.physics.qvel[env, 6:]
            assert raw["imitation_pose"][env] == pytest.approx(np.exp(-2 * ((joint - wanted) ** 2).sum()), rel=1e-6)
            assert raw["imitation_velocity"][env] == pytest.approx(np.exp(-0.1 * ((velocity - speed) ** 2).sum()), rel=0.1, abs=0.02)
            feet = []
            for pose in (joint, wanted):
                data.qpos[:] = [0, 0, 0, 1, 0, 0, 0, *pose]
                mujoco.mj_kinematics(model, data)
                feet.append(np.stack([data.site(f"{leg}_foot").xpos for leg in task.robot.leg_names]))
            assert raw["imitation_end_effector"][env] == pytest.approx(np.exp(-40 * ((feet[0] - feet[1]) ** 2).sum()), rel=1e-4)
            data.qpos[:] = task.physics.qpos[env]
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            centre = data.subtree_com[model.body("base").id] - [*task.physics.qpos[env, :2], 0]
            reference = task._imitation.reference.centre_of_mass_m[env]
            # The sensor was read one substep of 5 ms before the end.
            assert raw["imitation_centre_of_mass"][env] == pytest.approx(np.exp(-10 * ((centre - reference) ** 2).sum()), abs=2e-3)


@pytest.mark.parametrize("style", ["deepmimic", "awd"])
def test_whoever_is_the_reference_gets_everything(style):
    task = make(style=style)
    task.reset()
    part, commands = task._imitation, task.commands
    due = part.table.at(commands.index, np.arange(6) / 6)
    up = np.stack([np.sin(due.pitch_rad), np.zeros(6), np.cos(due.pitch_rad)], axis=1)
    position = np.stack([np.full(6, 3.0), np.full(6, -2.0), due.height_m], axis=1)  # wherever it stands
    centre = due.centre_of_mass_m + position * [1, 1, 0]
    state = RobotState(
        due.joint_position_rad, due.joint_velocity_rad_s, position, up, due.linear_velocity_m_s, due.angular_velocity_rad_s, centre
    )
    part.compare(state, commands.index, np.arange(6) / 6, np.ones(6, bool))
    best = {"imitation_joint_position": 0.0, "imitation_joint_velocity": 0.0, "imitation_contact": 4.0}
    for name, values in part.terms(commands).items():
        if name == "imitation_contact":
            assert values.mean() > 3.5  # between two samples a foot may be half on the ground
        else:
            assert values == pytest.approx(best.get(name, 1.0), abs=1e-9), name


@pytest.mark.parametrize("style", ["deepmimic", "awd"])
def test_the_expert_earns_more_than_standing_still(style):
    earned = {}
    for who in ("expert", "standing"):
        task = make(style=style, steps=60)
        task.reset()
        for _ in range(60):
            _, _, _, _, infos = (
                follow(task) if who == "expert" else task.step_joint_targets(np.tile(task.robot.default_joint_position_rad, (6, 1)))
            )
        metrics = infos["episode_metrics"]
        weights = task.config.imitation.term_weights
        earned[who] = sum(weight * metrics[f"reward/{name}"] for name, weight in weights.items()).mean()
        earned[f"{who} error"] = metrics["imitation_pose_error_rad"].mean()
    assert earned["expert"] > earned["standing"] + 0.1
    assert earned["expert error"] < 0.6 * earned["standing error"]


def test_awd_pays_nothing_at_zero_command():
    task = make(style="awd", command={"gaits": {"stand": 1.0}})
    task.reset()
    for _ in range(5):
        follow(task)
        raw = task._reward_terms()
        assert not any(raw[f"imitation_{name}"].any() for name in AWD_WEIGHTS)


def test_reference_state_initialisation_starts_in_pose_and_velocity_at_any_phase():
    task = make(num_envs=200, style="deepmimic", reference_state=True)
    task._place(np.arange(200))
    phase, gait = task.commands.phase, get_gait("trot_forward")
    assert np.histogram(phase, 5, (0, 1))[0].min() > 20
    earlier = phase - gait.frequency_hz * task.control_dt_s
    assert np.abs(task.physics.qpos[:, 7:] - expert_targets_rad("trot_forward", earlier)).max() < 0.05  # its own noise of 0.01
    assert task.physics.qvel[:, 0] == pytest.approx(gait.forward_velocity_m_s)
    step = 1e-4
    slope = (expert_targets_rad("trot_forward", earlier + step) - expert_targets_rad("trot_forward", earlier - step)) / (2 * step)
    assert np.abs(task.physics.qvel[:, 6:] - slope * gait.frequency_hz).mean() < 0.1
    assert np.abs(slope * gait.frequency_hz).mean() > 1.0

    errors = {}
    for reference_state in (True, False):
        task = make(num_envs=50, style="deepmimic", reference_state=reference_state)
        task.reset()
        moving = []
        for _ in range(3):
            follow(task)
            moving.append(task._reward_terms()["imitation_velocity"].mean())
        errors[reference_state] = np.mean(moving)
    assert errors[True] > errors[False] + 0.02


def test_a_held_posture_starts_at_rest():
    task = make(style="awd", command={"gaits": {"sit": 1.0}}, reference_state=True)
    task._place(np.arange(6))
    assert not task.physics.qvel.any()


@pytest.mark.parametrize(
    ("limit", "how"), [({"pose_rad": 0.3}, "sits down"), ({"height_m": 0.03}, "crouches"), ({"tilt_rad": 0.55}, "sits down")]
)
def test_deviating_ends_the_episode_and_following_does_not(limit, how):
    robot = make(1).robot
    crouched = robot.joint_targets_rad(np.tile([[0.0, -0.045]], (6, 4, 1)))
    if how == "sits down":
        crouched = np.tile(expert_targets_rad("sit", np.zeros(1)), (6, 1))
    ended = {}
    for who in ("follows", how):
        task = make(style="deepmimic", termination=limit, steps=60)
        task.reset()
        ended[who] = np.zeros(6, bool)
        for _ in range(50):
            result = follow(task) if who == "follows" else task.step_joint_targets(crouched)
            ended[who] |= result[2]
    assert not ended["follows"].any()
    assert ended[how].all()
    without = make(style="deepmimic", steps=60)
    without.reset()
    assert how == "crouches" or not any(without.step_joint_targets(crouched)[2].any() for _ in range(50))


def test_what_has_faded_out_neither_pays_nor_ends_an_episode():
    task = make(style="deepmimic", termination={"pose_rad": 0.01}, fade={"start_env_steps": 100, "end_env_steps": 300})
    for env_steps, factor in ((0, 1.0), (100, 1.0), (200, 0.5), (299, 0.005), (300, 0.0), (10_000, 0.0), (150, 0.75)):
        task.set_env_steps(env_steps)
        task.reset(seed=1)
        _, reward, terminated, _, infos = task.step(np.zeros((6, 12)))
        raw = task._reward_terms()
        for name, weight in task.config.imitation.term_weights.items():
            assert infos["reward_terms"][name] == pytest.approx(factor * weight * task.control_dt_s * raw[name]), env_steps
        assert sum(infos["reward_terms"].values()) == pytest.approx(reward)
        assert terminated.all() == (factor > 0)
        assert task._metrics(terminated)["imitation_factor"] == pytest.approx(factor)


@given(
    start=st.integers(0, 10**6),
    length=st.integers(1, 10**6),
    final=st.floats(0, 1),
    shape=st.sampled_from(["linear", "cosine"]),
    steps=st.lists(st.integers(0, 3 * 10**6), min_size=2, max_size=10),
)
def test_a_fade_falls_from_one_to_final(start, length, final, shape, steps):
    fade = FadeConfig(start_env_steps=start, end_env_steps=start + length, final=final, shape=shape)
    factors = [fade.factor(step) for step in sorted(steps)]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(factors))
    assert fade.factor(start) == 1.0
    assert fade.factor(start + length) == pytest.approx(final, abs=1e-12)
    assert fade.factor(start + length // 2) >= final - 1e-12


def test_a_fade_through_points():
    fade = FadeConfig(shape="piecewise", points=((0, 1.0), (100, 0.2), (200, 0.2), (300, 0.0)))
    assert [fade.factor(step) for step in (0, 50, 150, 250, 300, 999)] == pytest.approx([1.0, 0.6, 0.2, 0.1, 0.0, 0.0])


@pytest.mark.parametrize("style", ["deepmimic", "awd"])
def test_one_of_our_own_clips_is_a_reference(style):
    motion = motion_for_robot(load_motion(OWN_CLIP), "pidog")
    command = {"gaits": {}, "references": {"clip": reference_command(motion)}}
    task = make(style=style, command=command, motions={"clip": str(OWN_CLIP)}, reference_state=True)
    assert_follows(task, motion)


def test_a_retargeted_real_clip_is_a_reference(shared_data):
    path = shared_data / "motions" / "dog_trot.txt"
    motion = motion_for_robot(load_motion(path), "pidog")
    command = {"gaits": {"stand": 1.0}, "references": {"dog": reference_command(motion)}}
    task = make(num_envs=12, style="deepmimic", command=command, motions={"dog": str(path)}, reference_state=True)
    assert_follows(task, motion)


def assert_follows(task: PiDogRun, motion: Any) -> None:
    """The reference's poses are the clip's; played, it earns nearly all of the pose's term, and shuffled in time it does not."""
    clip = len(task.commands.names) - 1
    phases = np.arange(7) / 7
    poses = task._imitation.table.at(np.full(7, clip), phases)
    assert poses.joint_position_rad == pytest.approx(motion.sample(phases * motion.duration_s)[0], abs=0.02)
    assert poses.linear_velocity_m_s[:, 0].mean() == pytest.approx(motion.forward_velocity_m_s, rel=0.1)
    assert all(np.isfinite(getattr(poses, field.name)).all() for field in fields(poses))
    task.reset()
    for _ in range(100):
        *_, infos = follow(task)
    metrics = infos["episode_metrics"]
    assert not metrics["fell"].any()
    assert metrics["imitation_pose_error_rad"].max() < 0.08
    later = task._imitation.table.at(np.full(7, clip), phases + 0.5).joint_position_rad
    assert np.sqrt(((later - poses.joint_position_rad) ** 2).mean()) > 0.12


def test_what_cannot_be_is_refused_in_one_line():
    for given_, told in (
        ({"style": "deepmimik"}, "deepmimic"),
        ({"style": "deepmimic", "weights": {"contact": 1.0}}, "no term of the style deepmimic; its terms: pose, velocity"),
        ({"style": "awd", "exponents": {"contact": 1.0}}, "no term of the style awd"),
        ({"reference_state": True}, "need a style"),
        ({"style": "awd", "fade": {"start_env_steps": 10, "end_env_steps": 10}}, "end_env_steps must be above"),
        ({"style": "awd", "fade": {"shape": "piecewise", "points": [[10, 1.0], [5, 0.0]]}}, "steps rising"),
    ):
        with pytest.raises(ValueError, match=told):
            ImitationConfig.model_validate(given_)
    command = {"gaits": {}, "references": {"dog": {"frequency_hz": 1.0, "forward_velocity_m_s": 0.1}}}
    with pytest.raises(ConfigError, match="the command 'dog' has no motion"):
        make(style="awd", command=command)
    with pytest.raises(ConfigError, match=r"'cat' is no command; command.references has: none"):
        make(style="awd", motions={"cat": str(OWN_CLIP)})
