"""Time, noise, latency, command and cropping, on recordings whose every number is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import ConfigError
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from cluster.lerobot.videos import VideoClip
from trainables.datasets.augmentation.augment import augment, check
from trainables.datasets.augmentation.consistency import physics_consistency
from trainables.datasets.augmentation.resample import random_warp

FPS = 20.0
COMMAND = "command.forward_velocity_m_s"


def place(features, name):
    return next(feature.names for feature in features if feature.name == "observation.state").index(name)


@settings(max_examples=80, deadline=None)
@given(
    frames=st.integers(1, 400),
    strength=st.floats(0.01, 0.9),
    period_s=st.floats(0.2, 10),
    seed=st.integers(0, 1000),
)
def test_a_warp_is_monotone_keeps_both_ends_and_its_strength(frames, strength, period_s, seed):
    warp = random_warp(frames, 50.0, strength, period_s, np.random.default_rng(seed))
    assert (warp.position[0], warp.position[-1]) == (0.0, frames - 1)
    assert len(warp.position) == len(warp.speed)
    if frames > 2:
        assert (np.diff(warp.position) > 0).all()
        # Whole frames cost up to half a frame over the whole recording.
        slack = 1 + 0.5 / max(1, len(warp.position) - 1.5)
        assert warp.speed.max() <= (1 + strength) * slack + 1e-9
        assert warp.speed.min() >= 1 / (1 + strength) / slack - 1e-9


def test_a_warped_recording_is_the_same_path_at_other_times(arm, arm_features, one):
    episode = arm(frames=201)
    warped = augment(episode, arm_features, FPS, "", one({"kind": "time_warp", "strength": 0.5}))[0]
    warped.check(arm_features)
    lift = warped.columns["observation.state"][:, 0]
    position = lift / 0.3 * FPS  # lift is linear in time, so it tells which old frame is shown
    assert warped.columns["observation.state"][:, 1] == pytest.approx(-0.1 * position / FPS, abs=1e-5)
    assert warped.columns["action"] == pytest.approx(warped.columns["observation.state"][:, :2] + 0.01, abs=1e-5)
    # The orientation by slerp: the same angle, norm 1.
    angle = 2 * np.arctan2(warped.columns["observation.orientation"][:, 3], warped.columns["observation.orientation"][:, 0])
    assert angle == pytest.approx(0.5 * position / FPS, abs=1e-5)
    # The velocity is that of the new path.
    measured = np.gradient(lift.astype(np.float64)) * FPS
    assert warped.columns["observation.state"][2:-2, 2] == pytest.approx(measured[2:-2], rel=0.02)
    assert np.ptp(measured) > 0.05
    # Booleans of the nearest frame, the end's flag on the end alone, the frame clock.
    assert np.array_equal(warped.columns["observation.contact"], np.floor(position + 0.5) >= 100)
    assert np.flatnonzero(warped.columns["next.done"]).tolist() == [warped.length - 1]
    assert warped.columns["timestamp"] == pytest.approx(np.arange(warped.length) / FPS, abs=1e-6)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_a_scaled_recording_is_exact(factor, arm, arm_features, one):
    episode = arm(frames=101)
    scaled = augment(episode, arm_features, FPS, "", one({"kind": "scale_speed", "factor": [factor, factor]}))[0]
    assert scaled.length == round(100 / factor) + 1
    assert scaled.columns["observation.state"][:, 0] == pytest.approx(0.3 * factor * np.arange(scaled.length) / FPS, abs=1e-6)
    assert scaled.columns["observation.state"][:, 2] == pytest.approx(0.3 * factor, abs=1e-6)
    if factor == 1.0:
        for name, values in episode.columns.items():
            rounds = 1e-15 if name == "observation.orientation" else 0  # brought to norm 1
            assert np.abs(scaled.columns[name].astype(float) - values).max() <= rounds, name


def test_a_gaits_phase_and_accelerometer_at_half_the_speed(recorded, pidog_features, one):
    episode = recorded("trot_forward")
    slow = augment(episode, pidog_features, 50, "pidog", one({"kind": "scale_speed", "factor": [0.5, 0.5]}))[0]
    before, after = (item.columns["observation.state"] for item in (episode, slow))
    sine, cosine = place(pidog_features, "command.phase_sin"), place(pidog_features, "command.phase_cos")
    # Sine and cosine stay on the circle between frames, where a straight line would cut it short.
    assert np.hypot(after[:, sine], after[:, cosine]) == pytest.approx(1.0, abs=1e-6)
    assert after[::2, :3] == pytest.approx(before[:, :3], abs=1e-6)
    z = place(pidog_features, "imu_linear_acceleration_m_s2.z")
    gravity = before[:, place(pidog_features, "projected_gravity.z")]
    assert after[::2, z] == pytest.approx(-9.81 * gravity + 0.25 * (before[:, z] + 9.81 * gravity), abs=1e-4)
    hip = place(pidog_features, "joint_velocity_rad_s.left_front_hip")
    assert after[::2, hip] == pytest.approx(0.5 * before[:, hip], abs=1e-6)
    assert after[:, place(pidog_features, COMMAND)] == pytest.approx(0.5 * before[0, place(pidog_features, COMMAND)])


def test_other_speeds_do_not_keep_physics_and_say_so(recorded, pidog_features, one):
    episode = recorded("trot_forward")
    yardstick = physics_consistency(episode, pidog_features, "pidog_run")
    fast = augment(episode, pidog_features, 50, "pidog", one({"kind": "scale_speed", "factor": [1.5, 1.5]}))[0]
    assert fast.about["keeps_physics"] is False
    assert not physics_consistency(fast, pidog_features, "pidog_run").within(yardstick)
    part = augment(episode, pidog_features, 50, "pidog", one({"kind": "crop", "share": [0.95, 0.95]}))[0]
    assert part.about["keeps_physics"] is True
    assert physics_consistency(part, pidog_features, "pidog_run").within(yardstick, tolerance=0.5)


def test_noise_has_the_stated_size_and_never_touches_what_was_told_or_sent(recorded, pidog_features, one):
    episode = recorded("trot_forward", steps=400)
    step = {
        "kind": "observation_noise",
        "absolute": {"joint_position_rad": 0.05},
        "relative": {"imu_angular_velocity_rad_s": 0.5, "*": 0.0},
    }
    config = one({**step, "absolute": {"joint_position_rad": 0.05, "joint_position_rad.tail": 0.0}}, copies=2)
    first, second = augment(episode, pidog_features, 50, "pidog", config)
    change = first.columns["observation.state"] - episode.columns["observation.state"]
    names = next(feature.names for feature in pidog_features if feature.name == "observation.state")
    for index, name in enumerate(names):
        if name.startswith("joint_position_rad") and not name.endswith("tail"):
            assert change[:, index].std() == pytest.approx(0.05, rel=0.15), name
        else:
            assert not change[:, index].any(), name  # the last pattern that means a component counts: * switches the gyroscope off
    assert np.array_equal(first.columns["action"], episode.columns["action"])
    assert not np.array_equal(first.columns["observation.state"], second.columns["observation.state"])

    share = one({"kind": "observation_noise", "relative": {"*": 0.0, "imu_angular_velocity_rad_s": 0.5}})
    gyro = [place(pidog_features, f"imu_angular_velocity_rad_s.{axis}") for axis in "xyz"]
    noisy = augment(episode, pidog_features, 50, "pidog", share)[0].columns["observation.state"][:, gyro]
    before = episode.columns["observation.state"][:, gyro]
    assert (noisy - before).std(axis=0) == pytest.approx(0.5 * before.std(axis=0), rel=0.15)


def test_noise_stays_within_what_a_sensor_can_read(recorded, pidog_features, one):
    step = {"kind": "observation_noise", "absolute": {"ultrasonic_range_m": 0.5}, "limits": {"ultrasonic_range_m": [0.02, 4.0]}}
    noisy = augment(recorded("stand"), pidog_features, 50, "pidog", one(step))[0]
    values = noisy.columns["observation.state"][:, place(pidog_features, "ultrasonic_range_m")]
    assert (values.min() >= 0.02, values.max() <= 4.0) == (True, True)
    assert values.std() > 0.1


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ({"absolute": {"joint_postion_rad": 0.1}}, "did you mean 'joint_position_rad'"),
        ({"absolute": {COMMAND: 0.1}}, "which the controller knows exactly"),
        ({"absolute": {"previous_action_rad": 0.1}}, "which the controller knows exactly"),
    ],
)
def test_noise_where_it_cannot_go_is_refused(step, told, pidog_features, one):
    with pytest.raises(ConfigError, match=told):
        check(one({"kind": "observation_noise", **step}), pidog_features, "pidog")


@pytest.mark.parametrize("late", [0, 1, 3])
def test_late_sensors_show_the_past_beside_the_present_command_and_action(late, recorded, pidog_features, one):
    episode = recorded("trot_forward")
    delayed = augment(episode, pidog_features, 50, "pidog", one({"kind": "latency", "steps": [late, late]}))[0]
    before, after = (item.columns["observation.state"] for item in (episode, delayed))
    assert (delayed.length, delayed.about["latency_steps"]) == (episode.length - late, late)
    sensed = slice(0, place(pidog_features, "previous_action_rad.left_front_hip"))
    own = slice(sensed.stop, None)
    assert np.array_equal(after[:, sensed], before[: episode.length - late, sensed])
    assert np.array_equal(after[:, own], before[late:, own])
    assert np.array_equal(delayed.columns["action"], episode.columns["action"][late:])
    previous = after[:, sensed.stop : sensed.stop + 12]
    assert np.array_equal(previous[1:], delayed.columns["action"][:-1])
    assert np.flatnonzero(delayed.columns["next.done"]).tolist() == [delayed.length - 1]


def test_late_actuators_were_sent_their_targets_before(recorded, pidog_features, one):
    episode = recorded("trot_forward")
    delayed = augment(episode, pidog_features, 50, "pidog", one({"kind": "latency", "target": "actions", "steps": [2, 2]}))[0]
    before, after = (item.columns["observation.state"] for item in (episode, delayed))
    first = place(pidog_features, "previous_action_rad.left_front_hip")
    assert np.array_equal(delayed.columns["action"], episode.columns["action"][2:])
    assert np.array_equal(after[:, :first], before[:-2, :first])
    assert np.array_equal(after[:, first + 12 :], before[:-2, first + 12 :])  # the command is of now
    assert np.array_equal(after[1:, first : first + 12], delayed.columns["action"][:-1])
    assert np.array_equal(delayed.columns["next.reward"], episode.columns["next.reward"][:-2])


def test_the_delay_is_drawn_for_each_copy_and_a_short_episode_refused(arm, arm_features, one):
    config = one({"kind": "latency", "steps": [0, 3]}, copies=40)
    drawn = {copy.about["latency_steps"] for copy in augment(arm(), arm_features, FPS, "", config)}
    assert drawn == {0, 1, 2, 3}
    with pytest.raises(DatasetError, match=r"episode 0000000: variant v: it has 4 frames, too few for a delay of 3"):
        augment(arm(frames=4), arm_features, FPS, "", one({"kind": "latency", "steps": [3, 3]}))


@pytest.mark.parametrize("gait", ["trot_forward", "walk_forward", "walk_backward", "stand"])
@pytest.mark.parametrize("noisy", [False, True])
def test_the_achieved_velocity_is_what_the_simulation_says(gait, noisy, pidog_features, one):
    from trainables.datasets.recording import Recording, record
    from trainables.envs.registry import make_robot_task

    config = {"randomization": {"enabled": False}, "noise": {"enabled": noisy}, "obstacles": {"count": 0}}
    episodes = record(Recording("r", gait, 6, 300, 5, "pidog_run", config))
    relabelled = [augment(episode, pidog_features, 50, "pidog", one({"kind": "relabel_command"}))[0] for episode in episodes]
    command = [copy.columns["observation.state"][:, place(pidog_features, COMMAND)] for copy in relabelled]
    assert all(np.ptp(values) == 0 for values in command)
    task = make_robot_task("pidog_run", 6, {**config, "command": {"gaits": {gait: 1.0}}, "max_episode_steps": 300}, 5)
    task.reset()
    for _ in range(300):
        *_, infos = task.step(task.action_scaling.to_normalised(task.expert_targets_rad()))
    task.close()
    true = infos["episode_metrics"]["forward_velocity_m_s"].mean()
    assert np.mean([values[0] for values in command]) == pytest.approx(true, rel=0.2, abs=0.004)


def test_a_recorded_velocity_is_taken_over_windows(arm, arm_features, one):
    features = (
        *arm_features,
        Feature("observation.command", "float32", (1,), ("speed",)),
        Feature("observation.base", "float32", (1,), ("vx",)),
    )
    episode = arm()
    speed = np.linspace(0, 1, episode.length).astype(np.float32)
    columns = {**episode.columns, "observation.command": np.full(episode.length, 9, np.float32), "observation.base": speed}
    step = {"kind": "relabel_command", "component": "speed", "velocity_component": "vx", "window_s": 0.5}
    check(one(step), features)
    changed = augment(type(episode)("k", "t", columns), features, FPS, "", one(step))[0]
    assert changed.columns["observation.command"][5:-5] == pytest.approx(speed[5:-5], abs=0.02)
    assert np.array_equal(changed.columns["observation.base"], speed)


def test_a_command_that_nothing_measures_is_refused(arm_features, pidog_features, one):
    with pytest.raises(ConfigError, match=r"no component 'command.forward_velocity_m_s'"):
        check(one({"kind": "relabel_command"}), arm_features)
    with pytest.raises(ConfigError, match=r"not observable.*name a recorded velocity as velocity_component"):
        check(one({"kind": "relabel_command", "component": "pan.pos"}), arm_features)
    blind = tuple(
        Feature("observation.state", "float32", (4,), ("command.phase_sin", "command.phase_cos", COMMAND, "command.posture"))
        if feature.name == "observation.state"
        else feature
        for feature in pidog_features
    )
    with pytest.raises(ConfigError, match=r"not observable: no position of the leg joint left_front_hip"):
        check(one({"kind": "relabel_command"}), blind, "pidog")


def test_a_part_with_its_part_of_the_video(arm, arm_features, one):
    episode = arm(frames=61)
    clip = VideoClip(Path("film.mp4"), 10.0, 13.05)
    filmed = type(episode)("k", "t", episode.columns, {}, {"observation.images.top": clip})
    features = (*arm_features, Feature("observation.images.top", "video", (4, 4, 3)))
    for part in augment(filmed, features, FPS, "", one({"kind": "crop", "share": [0.3, 0.6]}, copies=20)):
        start = part.about["crop_start"]
        assert 18 <= part.length <= 37
        assert np.array_equal(part.columns["observation.state"], episode.columns["observation.state"][start : start + part.length])
        cut = part.videos["observation.images.top"]
        assert cut.from_timestamp_s == pytest.approx(10.0 + start / FPS)
        assert cut.to_timestamp_s - cut.from_timestamp_s == pytest.approx(part.length / FPS)
        assert part.columns["timestamp"][0] == 0
        assert part.columns["next.done"].any() == (start + part.length == 61)
