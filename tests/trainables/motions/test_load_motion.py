"""Importers: the real clips, both DeepMimic variants, what is written is read back, and one clear line for each way to be wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from trainables.motions.deepmimic import QUADRUPED_JOINTS, save_motion
from trainables.motions.load import load_motion
from trainables.motions.motion import Motion, MotionError
from trainables.motions.rotation import heading, rotate

REAL = {  # frames, joints and rates as the data folder's README states them
    "dog_trot.txt": (33, 12),
    "dog_pace.txt": (39, 12),
    "mini_duck_forward.json": (480, 15),
    "go_duck_0.json": (600, 16),
    "go_duck_25.json": (600, 16),
}


@pytest.mark.parametrize("name", REAL)
def test_every_real_clip_loads(shared_data, name):
    motion = load_motion(shared_data / "motions" / name)
    assert (motion.num_frames, motion.num_joints) == REAL[name]
    assert motion.frame_rate_hz == 60.0
    assert motion.loop == "wrap"
    assert motion.offsets_position
    assert motion.name == name.split(".")[0]
    # Whatever the file's axes, the root is upright and faces where it goes.
    assert rotate(motion.root_quaternion_wxyz, np.array([0.0, 0.0, 1.0]))[:, 2].min() > 0.95


def test_the_duck_walks_at_its_published_speed_and_its_joints_have_names(shared_data):
    motion = load_motion(shared_data / "motions" / "mini_duck_forward.json")
    assert motion.forward_velocity_m_s == pytest.approx(0.17, abs=0.01)
    assert motion.joint_names[0] == "left_hip_yaw"
    assert motion.joint_names[-1] == "right_ankle"


@pytest.mark.parametrize("name", ["mini_duck_forward.json", "go_duck_0.json"])
def test_our_velocities_agree_with_those_that_the_file_recorded(shared_data, name):
    path = shared_data / "motions" / name
    data = json.loads(path.read_text())
    motion, frames = load_motion(path), np.array(data["Frames"])
    start, size = data["Frame_offset"][0]["joints_vel"], data["Frame_size"][0]["joints_vel"]
    recorded, ours = frames[:, start : start + size], motion.joint_velocity_rad_s
    # The file holds backward differences; a central one is the mean of two neighbours.
    assert ours[1:-1] == pytest.approx((recorded[1:-1] + recorded[2:]) / 2, abs=1e-3)


def test_the_dog_trots_forward_in_its_own_heading(shared_data):
    motion = load_motion(shared_data / "motions" / "dog_trot.txt")
    assert motion.joint_names == QUADRUPED_JOINTS
    assert motion.duration_s == pytest.approx(32 / 60)
    assert motion.forward_velocity_m_s == pytest.approx(motion.root_position_m[-1, 0] / motion.duration_s, rel=0.02)
    assert np.abs(heading(motion.root_quaternion_wxyz)).max() < 0.2
    assert motion.closes


def older_frames(frames=20, joints=12):
    """DeepMimic's own axes: y up, (w, x, y, z), a duration first; a body that walks along x and turns about the vertical."""
    turn = Rotation.from_rotvec(np.linspace(0, 1, frames)[:, None] * [0.0, 0.6, 0.0])
    rows = np.zeros((frames, 8 + joints))
    rows[:, 0] = 0.033332
    rows[:, 1] = np.linspace(0, 1, frames)
    rows[:, 2] = 0.85
    rows[:, 3] = np.linspace(0, 0.2, frames)
    rows[:, 4:8] = np.roll(turn.as_quat(), 1, axis=1)
    rows[:, 8:] = np.linspace(-0.5, 0.5, frames)[:, None]
    return rows


def test_the_older_variant_takes_its_duration_from_the_frames_and_turns_y_up_into_z_up(tmp_path):
    rows = older_frames()
    rows[-1, 0] = 0.0  # as many of DeepMimic's files end
    path = tmp_path / "walk.txt"
    path.write_text(json.dumps({"Loop": "wrap", "Frames": rows.tolist()}))
    motion = load_motion(path)
    assert motion.frame_rate_hz == pytest.approx(30, rel=1e-3)
    assert motion.loop == "wrap"
    assert motion.joint_names == QUADRUPED_JOINTS
    assert motion.root_position_m[-1] == pytest.approx([1.0, -0.2, 0.85])
    # Turning to the left about y up stays a turn to the left about z up.
    assert heading(motion.root_quaternion_wxyz)[[0, -1]] == pytest.approx([0.0, 0.6])
    path.write_text(json.dumps({"Loop": "none", "Frames": rows.tolist()}))
    assert load_motion(path).loop == "clamp"


def test_the_humanoids_spherical_joints_become_three_angles_each(tmp_path):
    rows = older_frames(joints=36)
    rows[:, 8:] = 0.0
    for start in (0, 4, 8, 13, 17, 22, 27, 31):  # the quaternions among the 36 numbers, from DeepMimic's README
        rows[:, 8 + start] = 1.0
    half = np.linspace(0, 0.3, len(rows))
    rows[:, 8 + 8], rows[:, 8 + 11] = np.cos(half), np.sin(half)  # the right hip turns about its z, to the right in DeepMimic's axes
    rows[:, 8 + 12] = np.linspace(0, -1, len(rows))  # the right knee bends
    path = tmp_path / "humanoid3d_walk.txt"
    path.write_text(json.dumps({"Loop": "wrap", "Frames": rows.tolist()}))
    motion = load_motion(path)
    assert motion.num_joints == 28
    angles = dict(zip(motion.joint_names, motion.joint_position_rad[-1], strict=True))
    assert angles["right_knee"] == pytest.approx(-1.0)
    assert angles["right_hip_y"] == pytest.approx(-0.6)
    assert abs(angles["right_hip_x"]) + abs(angles["right_hip_z"]) < 1e-9
    rows[3, 8:12] = [2.0, 0.0, 0.0, 0.0]
    path.write_text(json.dumps({"Loop": "wrap", "Frames": rows.tolist()}))
    with pytest.raises(MotionError, match="frame 3: the chest quaternion has norm 2"):
        load_motion(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frames=st.integers(2, 12),
    joints=st.integers(1, 20),
    rate_hz=st.floats(1, 500),
    loop=st.sampled_from(["wrap", "clamp"]),
    offsets=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_saved_motion_is_read_back_as_it_was(tmp_path, frames, joints, rate_hz, loop, offsets, seed):
    random = np.random.default_rng(seed)
    yaw = np.cumsum(random.normal(0, 0.1, frames))  # upright: a saved motion has our axes, and so has the loaded one
    quaternion = np.stack([np.cos(yaw / 2), 0 * yaw, 0 * yaw, np.sin(yaw / 2)], axis=1)
    names = tuple(f"joint-{index}" for index in range(joints))
    values = random.normal(size=(frames, joints))
    motion = Motion("m", names, values, random.normal(size=(frames, 3)), quaternion, rate_hz, loop, offsets, robot="pidog")
    path = tmp_path / "m.txt"
    save_motion(motion, path)
    again = load_motion(path)
    assert (again.name, again.joint_names, again.loop, again.robot) == ("m", names, loop, "pidog")
    assert (again.offsets_position, again.offsets_rotation) == (offsets, False)
    assert again.frame_rate_hz == pytest.approx(rate_hz)
    assert (again.joint_position_rad == values).all()
    assert (again.root_position_m == motion.root_position_m).all()
    assert again.root_quaternion_wxyz == pytest.approx(motion.root_quaternion_wxyz)


def dog(**changes):
    frame = [0.0, 0.0, 0.4, 0.0, 0.0, 0.0, 1.0, *[0.1] * 12]
    return {"LoopMode": "Wrap", "FrameDuration": 0.01667, "Frames": [list(frame) for _ in range(4)], **changes}


def duck(**changes):
    sizes = {"root_pos": 3, "root_quat": 4, "joints_pos": 2}
    offsets = {"root_pos": 0, "root_quat": 3, "joints_pos": 7}
    frame = [0.0, 0.0, 0.15, 0.0, 0.0, 0.0, 1.0, 0.1, 0.2]
    base = {
        "LoopMode": "Wrap",
        "FPS": 60,
        "FrameDuration": 0.0167,
        "Joints": ["hip", "knee"],
        "Frame_offset": [offsets],
        "Frame_size": [sizes],
    }
    return {**base, "Frames": [list(frame) for _ in range(4)], **changes}


def with_cell(data, frame, column, value):
    data["Frames"][frame][column] = value
    return data


def without(data, key):
    del data[key]
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dog(FrameDuration=0), "frame duration is 0; a number above 0 is wanted"),
        (dog(FrameDuration="fast"), 'frame duration is "fast"'),
        (dog(FPS=-5), "FPS is -5; a number above 0"),
        (dog(FPS=30), "FPS 30 and frame duration 0.01667 s disagree"),
        (dog(LoopMode="Bounce"), 'loop mode "Bounce"; allowed: Wrap, Clamp, none'),
        (dog(Frames=[]), "Frames must be a list of at least 2 frames"),
        (dog(Frames=[[0.0] * 19]), "has norm 0"),
        (dog(Frames=dog()["Frames"][:1]), "has 1 frame\\(s\\); a motion needs at least 2"),
        (dog(Frames=[[0.0] * 7] * 3), "a frame has 7 numbers; more than 7"),
        (dog(Frames=[*dog()["Frames"], [0.0] * 18]), "frame 4 has 18 numbers, frame 0 has 19"),
        (with_cell(dog(), 2, 9, float("nan")), "frame 2, column 9: nan is not a finite number"),
        (with_cell(dog(), 1, 3, float("inf")), "frame 1, column 3: inf"),
        (with_cell(dog(), 1, 3, "x"), 'frame 1, column 3: "x" is not a number'),
        (with_cell(dog(), 3, 6, 1.2), "frame 3: the root quaternion has norm 1.2; it must be 1"),
        (dog(Joints=["a", "b"]), "Joints names 2 joints, but every frame has 12"),
        (without(dog(), "FrameDuration"), "says neither FrameDuration \\(seconds\\) nor Loop"),
        (without(dog(), "Frames"), "has no Frames: not a motion file"),
        (duck(FPS=0), "FPS is 0"),
        (duck(Joints=["hip"]), "Frame_size of joints_pos is 2, but Joints names 1"),
        (duck(Joints=[]), "Joints must be a list of joint names"),
        (duck(Frame_size=[{"root_pos": 3, "root_quat": 4}]), "name different groups: joints_pos"),
        (duck(Frame_size={"root_pos": 3, "root_quat": 4, "joints_pos": 2.5}), "whole number"),
        (duck(Frames=[[0.0] * 12] * 2), "every frame has 12 numbers, but Frame_offset and Frame_size describe 9"),
        (without(duck(), "Frame_size"), "the key 'Frame_size' is missing"),
        (without(without(duck(), "FPS"), "FrameDuration"), "says no frame rate"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it_and_what_is_wrong(tmp_path, data, message):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(MotionError, match=message) as caught:
        load_motion(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_uneven_frame_durations_are_refused(tmp_path):
    rows = older_frames()
    rows[4, 0] = 0.05
    path = tmp_path / "uneven.txt"
    path.write_text(json.dumps({"Loop": "wrap", "Frames": rows.tolist()}))
    with pytest.raises(MotionError, match=r"frame durations run from 0.033332 to 0.05 s"):
        load_motion(path)


def test_truncated_missing_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "clip.txt"
    whole = json.dumps(dog())
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(MotionError, match=r"not valid JSON: line 1 column .*it ends early"):
        load_motion(path)
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(MotionError, match="cannot be read as text"):
        load_motion(path)
    path.write_text("[1, 2]")
    with pytest.raises(MotionError, match="holds a JSON list"):
        load_motion(path)
    with pytest.raises(MotionError, match="no such motion file"):
        load_motion(tmp_path / "absent.txt")


def test_every_way_to_cut_a_file_short_is_an_error_and_never_a_traceback(tmp_path):
    path, whole = tmp_path / "clip.txt", json.dumps(dog())
    for length in range(0, len(whole), 7):
        path.write_text(whole[:length])
        with pytest.raises(MotionError):
            load_motion(path)
