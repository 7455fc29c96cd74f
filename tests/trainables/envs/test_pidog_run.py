"""The task as its users meet it: observations, rewards, endings, randomness, obstacles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cluster.contract import PolicyContract
from trainables.envs.base import BatchedTask
from trainables.envs.pidog_run import PiDogRun
from trainables.envs.registry import make_task
from trainables.nonfinite import NonFiniteError

PLAIN: dict[str, Any] = {"randomization": {"enabled": False}, "noise": {"enabled": False}}


def make(num_envs: int = 4, seed: int = 0, **config: Any) -> PiDogRun:
    task = make_task("pidog_run", num_envs, config, seed)
    assert isinstance(task, PiDogRun)
    return task


def expert_actions(task: PiDogRun) -> np.ndarray:
    return task.action_scaling.to_normalised(task.expert_targets_rad())


def field(task: BatchedTask, observation: np.ndarray, name: str) -> np.ndarray:
    start = 0
    for candidate in task.observation_fields:
        if candidate.name == name:
            return observation[:, start : start + candidate.size]
        start += candidate.size
    raise KeyError(name)


def roll(task: PiDogRun, steps: int, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    observation, _ = task.reset()
    seen = [observation]
    for _ in range(steps):
        observation, rewards, terminated, truncated, _ = task.step(rng.uniform(-1, 1, (task.num_envs, 12)))
        seen += [observation, rewards, terminated, truncated]
    return seen


def test_fields_shapes_and_contract_agree():
    task = make()
    assert [(item.name, item.size) for item in task.observation_fields] == [
        ("projected_gravity", 3),
        ("imu_angular_velocity_rad_s", 3),
        ("imu_linear_acceleration_m_s2", 3),
        ("joint_position_rad", 12),
        ("joint_velocity_rad_s", 12),
        ("ultrasonic_range_m", 1),
        ("previous_action_rad", 12),
        ("command", 4),
    ]
    contract = PolicyContract(
        policy="pidog-run",
        robot="pidog",
        task=task.name,
        control_dt_s=task.control_dt_s,
        observation=task.observation_fields,
        action=task.action_fields,
    )
    observation, infos = task.reset()
    assert observation.shape == (4, contract.observation_size) == (4, 50)
    assert observation.dtype == np.float32
    assert infos == {}
    assert contract.action_size == task.single_action_space.shape[0] == 12
    assert task.observation_space.contains(observation)


def test_a_standing_robot_reads_what_it_should():
    task = make(command={"gaits": {"stand": 1.0}}, obstacles={"count": 0}, **PLAIN)
    observation, _ = task.reset()
    for _ in range(50):
        observation, *_ = task.step(expert_actions(task))
    assert field(task, observation, "projected_gravity") == pytest.approx(np.tile([0, 0, -1], (4, 1)), abs=0.05)
    assert field(task, observation, "imu_angular_velocity_rad_s") == pytest.approx(np.zeros((4, 3)), abs=0.02)
    assert field(task, observation, "imu_linear_acceleration_m_s2") == pytest.approx(np.tile([0, 0, 9.81], (4, 1)), abs=0.5)
    assert field(task, observation, "joint_position_rad") == pytest.approx(task.physics.qpos[:, 7:], abs=1e-6)
    assert field(task, observation, "joint_velocity_rad_s") == pytest.approx(task.physics.qvel[:, 6:], abs=1e-6)
    assert field(task, observation, "previous_action_rad") == pytest.approx(task.expert_targets_rad(), abs=1e-6)
    assert field(task, observation, "ultrasonic_range_m") == pytest.approx(np.full((4, 1), 4.0), abs=1e-6)
    angle = 2 * np.pi * task.commands.phase
    command = np.stack([np.sin(angle), np.cos(angle), np.zeros(4), np.ones(4)], axis=-1)
    assert field(task, observation, "command") == pytest.approx(command, abs=1e-6)


def test_previous_action_is_the_physical_target_that_was_sent():
    task = make()
    task.reset()
    observation, *_ = task.step(np.full((4, 12), 3.0))
    scaling = task.action_scaling
    sent = np.clip(scaling.offset + scaling.scale, scaling.low, scaling.high)
    assert field(task, observation, "previous_action_rad") == pytest.approx(np.tile(sent, (4, 1)), abs=1e-6)


def test_scaling_and_its_inverse():
    scaling = make().action_scaling
    actions = np.random.default_rng(0).uniform(-0.8, 0.8, (20, 12))
    assert scaling.to_normalised(scaling.to_physical(actions)) == pytest.approx(actions)


def test_the_same_seed_repeats_bit_for_bit_whatever_the_threads():
    first = roll(make(num_envs=5, seed=3), 120)
    again = roll(make(num_envs=5, seed=3), 120)
    threaded = roll(make(num_envs=5, seed=3, physics={"num_threads": 3}), 120)
    other = roll(make(num_envs=5, seed=4), 120)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first, threaded, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_reset_with_a_seed_starts_the_same_run_again():
    task = make(num_envs=3, seed=0)
    task.reset(seed=11)
    first = [task.step(np.zeros((3, 12)))[0] for _ in range(30)]
    task.reset(seed=11)
    assert all(np.array_equal(a, task.step(np.zeros((3, 12)))[0]) for a in first)


def test_robots_of_one_batch_differ():
    observation, _ = make(num_envs=4).reset()
    assert len(np.unique(field(make(), observation, "joint_position_rad")[:, 0])) == 4


def test_reward_is_the_sum_of_its_named_weighted_terms():
    task = make(num_envs=6)
    task.reset()
    for _ in range(20):
        _, rewards, _, _, infos = task.step(np.random.default_rng(0).uniform(-1, 1, (6, 12)))
        terms = infos["reward_terms"]
        assert set(terms) >= {"forward_velocity", "upright", "obstacle_clearance", "smoothness", "energy"}
        assert rewards == pytest.approx(sum(terms.values()))


def test_a_term_is_scaled_by_name():
    once, twice = (make(reward={"energy": weight}, **PLAIN) for weight in (0.1, 0.2))
    for task in (once, twice):
        task.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 12))
    terms = [task.step(actions)[4]["reward_terms"] for task in (once, twice)]
    assert terms[1]["energy"] == pytest.approx(2 * terms[0]["energy"])
    assert (terms[0]["energy"] < 0).all()
    assert terms[1]["upright"] == pytest.approx(terms[0]["upright"])


def test_forward_progress_pays_in_the_commanded_direction():
    for gait in ("trot_forward", "walk_backward"):
        task = make(command={"gaits": {gait: 1.0}}, **PLAIN)
        task.reset()
        total = sum(task.step(expert_actions(task))[4]["reward_terms"]["forward_velocity"] for _ in range(150))
        assert (total > 0).all()


def test_episodes_are_cut_off_and_the_next_step_starts_a_new_one():
    task = make(num_envs=3, max_episode_steps=25, **PLAIN)
    task.reset()
    for step in range(1, 26):
        observation, rewards, terminated, truncated, infos = task.step(expert_actions(task))
        assert not terminated.any()
        assert truncated.all() == (step == 25)
        assert ("episode_metrics" in infos) == (step == 25)
    last = observation
    metrics = infos["episode_metrics"]
    assert infos["_episode_metrics"].all()
    assert (metrics["length"] == 25).all()
    assert (metrics["fell"] == 0).all()
    # NEXT_STEP: this action is ignored, the reward is 0, the observation is the new episode's first.
    observation, rewards, terminated, truncated, infos = task.step(np.ones((3, 12)))
    assert (rewards == 0).all()
    assert not terminated.any()
    assert not truncated.any()
    assert "episode_metrics" not in infos
    assert (task.episode_steps == 0).all()
    assert not np.array_equal(observation, last)
    assert np.abs(task.physics.qpos[:, :2]).max() < 0.02
    assert field(task, observation, "previous_action_rad") == pytest.approx(task.initial_targets_rad, abs=1e-6)
    task.step(np.zeros((3, 12)))
    assert (task.episode_steps == 1).all()


def test_a_fall_terminates_only_the_robot_that_fell():
    task = make(num_envs=3, **PLAIN)
    task.reset()
    task.physics.qpos[1, 3:7] = [np.cos(0.8), np.sin(0.8), 0, 0]  # rolled by 92°
    _, _, terminated, truncated, infos = task.step(expert_actions(task))
    assert terminated.tolist() == [False, True, False]
    assert not truncated.any()
    assert infos["_episode_metrics"].tolist() == [False, True, False]
    assert infos["episode_metrics"]["fell"][1] == 1
    _, rewards, terminated, _, _ = task.step(expert_actions(task))
    assert rewards[1] == 0
    assert rewards[0] != 0
    assert not terminated.any()


def test_lying_on_the_belly_counts_as_fallen():
    task = make(num_envs=2, **PLAIN)
    task.reset()
    folded = np.tile([1.5, -1.2] * 4 + [0.0] * 4, (2, 1))
    fallen = np.zeros(2, dtype=bool)
    for _ in range(60):
        fallen |= task.step_joint_targets(folded)[2]
    assert fallen.all()


def test_episode_metrics_describe_the_episode():
    task = make(num_envs=4, max_episode_steps=200, **PLAIN)
    task.reset()
    total = np.zeros(4)
    for _ in range(200):
        _, rewards, _, _, infos = task.step(expert_actions(task))
        total += rewards
    metrics = infos["episode_metrics"]
    assert metrics["return"] == pytest.approx(total)
    assert metrics["distance_m"] == pytest.approx(task.physics.qpos[:, 0])
    assert metrics["forward_velocity_m_s"] * 4.0 == pytest.approx(metrics["distance_m"], abs=0.1)
    assert (metrics["forward_velocity_m_s"] > 0.05).all()
    assert metrics["energy_j"] == pytest.approx(-metrics["reward/energy"] * 4.0, rel=1e-6)
    assert metrics["reward/alive"] == pytest.approx(1.0)
    assert {f"reward/{name}" for name in infos["reward_terms"]} <= set(metrics)


def test_the_ultrasonic_sensor_sees_a_box_ahead():
    box = {"count": 1, "distance_m": [0.6, 0.6], "lateral_m": [0.0, 0.0], "half_size_m": [0.05, 0.2, 0.2]}
    task = make(command={"gaits": {"stand": 1.0}}, obstacles=box, **PLAIN)
    observation, _ = task.reset()
    # Box face at 0.55 m, sensor about 0.13 m in front of the body's middle.
    assert field(task, observation, "ultrasonic_range_m") == pytest.approx(np.full((4, 1), 0.42), abs=0.02)


def test_boxes_move_at_a_reset_and_closeness_costs():
    task = make(num_envs=2, obstacles={"count": 2, "safe_distance_m": 5.0}, **PLAIN)
    task.reset()
    before = task.physics.obstacle_position_m.copy()
    _, _, _, _, infos = task.step(np.zeros((2, 12)))
    assert (infos["reward_terms"]["obstacle_clearance"] < 0).all()
    task.reset()
    assert not np.array_equal(before, task.physics.obstacle_position_m)
    far = make(num_envs=2, obstacles={"count": 2, "safe_distance_m": 0.1}, **PLAIN)
    far.reset()
    assert (far.step(np.zeros((2, 12)))[4]["reward_terms"]["obstacle_clearance"] == 0).all()


def test_a_box_stops_the_robot_and_a_bump_does_not():
    # The wall leaves no way around it.
    wall = {"count": 1, "distance_m": [0.35, 0.35], "lateral_m": [0.0, 0.0], "half_size_m": [0.02, 2.0, 0.2]}
    bump = {"count": 0, "bump_count": 1, "bump_height_m": 0.004, "distance_m": [0.25, 0.25]}
    distance = {}
    for name, obstacles in {"wall": wall, "bump": bump}.items():
        task = make(num_envs=4, obstacles=obstacles, **PLAIN)
        task.reset()
        for _ in range(300):
            _, _, terminated, _, _ = task.step(expert_actions(task))
            if terminated.any():
                break
        distance[name] = task.physics.qpos[:, 0].copy()
    assert (distance["wall"] < 0.33).all()
    assert np.median(distance["bump"]) > 0.35


def test_randomisation_changes_dynamics_and_its_switch_turns_it_off():
    pushed = {"push_velocity_m_s": 0.0, "latency_steps": [0, 0]}
    noiseless = {"noise": {"enabled": False}, "command": {"random_phase": False}}
    varied = make(num_envs=3, randomization={"friction": [0.3, 1.0], "mass": [0.8, 1.2], **pushed}, **noiseless)
    varied.reset()
    masses = [model.body_mass.sum() for model in varied.physics.models]
    assert len(set(masses)) == 3
    assert np.array(masses) / varied.physics.model.body_mass.sum() == pytest.approx(1.0, abs=0.2)
    off = make(num_envs=3, randomization={"enabled": False}, **noiseless)
    off.reset()
    assert all(model is off.physics.model for model in off.physics.models)


def test_latency_delays_the_servos_by_whole_control_steps():
    reached = {}
    for delay in (0, 2):
        config = {"friction": [1, 1], "mass": [1, 1], "motor_strength": [1, 1], "push_velocity_m_s": 0.0, "latency_steps": [delay, delay]}
        task = make(num_envs=2, randomization=config, noise={"enabled": False}, command={"gaits": {"stand": 1.0}})
        task.reset()
        start = task.physics.servo_target.copy()
        moved = []
        for _ in range(5):
            task.step(np.ones((2, 12)))
            moved.append(not np.allclose(task.physics.servo_target, start))
        reached[delay] = moved
    assert reached[0] == [True] * 5
    assert reached[2] == [False, False, True, True, True]


def test_pushes_change_the_velocity():
    config = {
        "push_velocity_m_s": 0.5,
        "push_interval_s": [0.1, 0.1],
        "latency_steps": [0, 0],
        "friction": [1, 1],
        "mass": [1, 1],
        "motor_strength": [1, 1],
    }
    calm = make(num_envs=8, randomization={**config, "push_velocity_m_s": 0.0}, command={"gaits": {"stand": 1.0}})
    pushed = make(num_envs=8, randomization=config, command={"gaits": {"stand": 1.0}})
    for task in (calm, pushed):
        task.reset()
        for _ in range(6):
            task.step(expert_actions(task))
    assert np.abs(pushed.physics.qpos[:, :2]).mean() > 3 * np.abs(calm.physics.qpos[:, :2]).mean()


def test_sensor_noise_has_the_configured_size():
    task = make(num_envs=256, command={"gaits": {"stand": 1.0}}, randomization={"enabled": False})
    task.reset()
    observation, *_ = task.step(expert_actions(task))
    position_error = field(task, observation, "joint_position_rad") - task.physics.qpos[:, 7:]
    velocity_error = field(task, observation, "joint_velocity_rad_s") - task.physics.qvel[:, 6:]
    assert position_error.std() == pytest.approx(0.01, rel=0.1)
    assert velocity_error.std() == pytest.approx(0.1, rel=0.1)


def test_commands_are_drawn_by_weight():
    task = make(
        num_envs=400, command={"gaits": {"trot_forward": 3.0, "sit": 1.0}}, obstacles={"count": 0}, randomization={"enabled": False}
    )
    task.reset()
    assert (task.commands.posture == 0.0).mean() == pytest.approx(0.25, abs=0.08)
    assert set(np.unique(task.commands.forward_velocity_m_s)) == {0.0, task.commands.forward_velocity_m_s.max()}


def test_the_command_of_an_imported_motion():
    reference = {"frequency_hz": 1.25, "forward_velocity_m_s": 0.2}
    task = make(command={"gaits": {}, "references": {"dog_trot": reference}, "random_phase": False}, **PLAIN)
    task.reset()
    for _ in range(39):  # the reset's own control step is the first of 40 a cycle
        observation, *_ = task.step(np.zeros((4, 12)))
    phase_sin, phase_cos, velocity, posture = field(task, observation, "command")[0]
    assert (phase_sin, phase_cos) == pytest.approx((0.0, 1.0), abs=1e-5)
    assert (velocity, posture) == pytest.approx((0.2, 1.0))


def test_a_diverged_policy_is_reported_not_simulated():
    task = make()
    task.reset()
    task.step(np.zeros((4, 12)))
    actions = np.zeros((4, 12))
    actions[2, 5] = np.nan
    with pytest.raises(NonFiniteError, match=r"the action is not finite \(environment 2, step 2\)"):
        task.step(actions)


def test_wild_actions_never_break_the_physics():
    task = make(num_envs=16, randomization={"push_velocity_m_s": 1.0, "push_interval_s": [0.2, 0.5]})
    task.reset()
    rng = np.random.default_rng(0)
    for _ in range(300):
        observation, rewards, *_ = task.step(rng.choice([-1.0, 1.0], (16, 12)))
        assert np.isfinite(observation).all()
        assert np.isfinite(rewards).all()


def test_speed_counts_along_the_heading_at_the_start():
    task = make(2, command={"gaits": {"trot_forward": 1.0}}, obstacles={"count": 0}, max_episode_steps=200, **PLAIN)
    task.reset()
    quarter_turn = np.array([np.cos(np.pi / 4), 0.0, 0.0, np.sin(np.pi / 4)])
    task.physics.qpos[1, 3:7] = quarter_turn  # this one trots across, not along
    for _ in range(200):
        *_, infos = task.step(expert_actions(task))
    velocity_m_s = infos["episode_metrics"]["forward_velocity_m_s"]
    assert velocity_m_s[0] > 0.08
    assert abs(velocity_m_s[1]) < 0.03
    np.testing.assert_allclose(velocity_m_s * 200 * task.control_dt_s, infos["episode_metrics"]["distance_m"], atol=0.01)


def test_turning_costs_and_rocking_within_a_gait_cycle_hardly_does():
    task = make(2, command={"gaits": {"trot_forward": 1.0}}, obstacles={"count": 0}, **PLAIN)
    task.reset()
    for _ in range(100):
        task.physics.qvel[1, 5] = 1.0  # robot 1 is turned at 1 rad/s
        *_, infos = task.step(expert_actions(task))
    straight, turning = infos["reward_terms"]["heading"]
    assert straight > -0.05
    assert turning < 10 * min(straight, -0.001)
