"""Expert gaits: SunFounder's stepping facts, servo limits, and what they do in physics under every preset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.errors import ConfigError
from trainables.motions import clips
from trainables.motions.clips.make_clips import CLIPS, write_clip
from trainables.motions.gaits import GAITS, PUBLISHED_TROT, expert_targets_rad, get_gait
from trainables.motions.load import load_motion
from trainables.motions.playback import play_gait, play_motion, play_targets
from trainables.robots.registry import get_robot

ROBOT = get_robot("pidog")
MOVING = [gait.name for gait in GAITS.values() if gait.frequency_hz]
PRESETS = ("fast", "medium", "production")


def published_trot_frames_mm() -> list[list[tuple[float, float]]]:
    """The trot's foot coordinates by SunFounder's recipe, written independently: y backward, z down, section by section."""
    steps, width, lift, height = 3, 100.0, 20.0, 80.0
    origin = [width / 2 - 17 + offset for offset in (-5, -5, 5, 5)]
    y = [origin[foot] - (0, width, width, 0)[foot] for foot in range(4)]
    frames = []
    for raised in ((0, 3), (1, 2)):
        for step in range(steps):
            frame = []
            for foot in range(4):
                if foot in raised:
                    y[foot] = origin[foot] + width * (np.cos(step * np.pi / (steps - 1)) - 1) / 2
                    frame.append((y[foot], height - lift * step / (steps - 1)))
                else:
                    y[foot] += width / steps
                    frame.append((y[foot], height))
            frames.append(frame)
    return frames


def test_the_published_trot_comes_out_frame_by_frame():
    ours_mm = PUBLISHED_TROT.foot_frames_m() * 1000
    assert ours_mm == pytest.approx(-np.array(published_trot_frames_mm()), abs=1e-9)


@pytest.mark.parametrize("name", ["walk_forward", "walk_backward"])
def test_the_walk_has_eight_sections_of_six_steps_and_one_foot_in_the_air(name: str):
    pattern = get_gait(name).pattern
    assert pattern is not None
    feet = pattern.foot_frames_m()
    assert feet.shape == (48, 4, 2)
    lifted = feet[..., 1] > -pattern.height_m + 1e-9
    assert lifted.sum(axis=1).max() == 1
    assert np.ptp(feet[..., 0], axis=0) == pytest.approx([0.08] * 4)
    assert feet[..., 1].max() == pytest.approx(-0.06)


@pytest.mark.parametrize("name", GAITS)
def test_targets_stay_within_the_servos_and_within_what_a_policy_can_send(name: str):
    targets = expert_targets_rad(name, np.linspace(0, 1, 2001))
    assert (targets >= ROBOT.joint_low_rad).all()
    assert (targets <= ROBOT.joint_high_rad).all()
    assert (np.abs(targets - ROBOT.action_offset_rad) <= ROBOT.action_scale_rad).all()


@pytest.mark.parametrize("name", MOVING)
def test_no_target_moves_faster_than_the_slowest_servo_measured(name: str):
    phase = np.linspace(0, 1, 4001)
    speed = np.diff(expert_targets_rad(name, phase), axis=0) * 4000 * GAITS[name].frequency_hz
    assert np.abs(speed).max() <= 5.8


@pytest.mark.parametrize("name", GAITS)
def test_phase_wraps_without_a_jump(name: str):
    phase = np.linspace(-0.01, 0.01, 21)
    assert np.abs(np.diff(expert_targets_rad(name, phase), axis=0)).max() < 0.02
    assert expert_targets_rad(name, np.array([0.3, 7.3, -0.7])) == pytest.approx(
        np.repeat(expert_targets_rad(name, np.array([0.3])), 3, axis=0)
    )


def test_the_trot_half_a_cycle_later_is_its_mirror_image():
    phase = np.linspace(0, 1, 50)
    assert expert_targets_rad("trot_forward", phase + 0.5) == pytest.approx(
        ROBOT.mirrored(expert_targets_rad("trot_forward", phase)), abs=1e-9
    )


def test_an_unknown_gait_is_one_clear_line():
    with pytest.raises(ConfigError, match="unknown gait 'gallop'; known: walk_forward"):
        get_gait("gallop")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("name", "slowest", "fastest"),
    [
        ("trot_forward", 0.09, 0.2),
        ("walk_forward", 0.025, 0.06),
        ("walk_backward", -0.06, -0.025),
        ("stand", -0.005, 0.005),
        ("sit", -0.01, 0.01),
    ],
)
def test_every_gait_does_in_physics_what_its_name_says(name: str, slowest: float, fastest: float, preset: str):
    played = play_gait(name, duration_s=10.0, num_robots=4, preset=preset)
    assert not played.fell.any()
    assert (played.duration_s == 10.0).all()
    assert (played.forward_velocity_m_s >= slowest).all()
    assert (played.forward_velocity_m_s <= fastest).all()


def test_playback_notices_a_fall():
    # All legs folded to the back on one side, stretched on the other: it rolls over.
    lying = np.tile(ROBOT.default_joint_position_rad, (2, 1))
    lying[:, [0, 4]], lying[:, [2, 6]] = 1.57, -0.3
    lying[:, [1, 5]] = -1.2
    played = play_targets(lying, 50.0, duration_s=4.0, num_robots=2)
    assert played.fell.all()
    assert (played.duration_s < 4.0).all()


@pytest.mark.parametrize("file", CLIPS)
def test_shipped_clips_are_what_the_generator_makes(file: str, tmp_path: Path):
    shipped = Path(clips.__file__).with_name(file)
    write_clip(CLIPS[file], tmp_path / file)
    assert shipped.read_text() == (tmp_path / file).read_text()


def test_the_shipped_trot_loads_and_carries_the_robot():
    motion = load_motion(Path(clips.__file__).with_name("pidog_trot.json"))
    assert motion.joint_names == ROBOT.joint_names
    assert motion.closes
    assert motion.forward_velocity_m_s == pytest.approx(GAITS["trot_forward"].forward_velocity_m_s, rel=0.05)
    played = play_motion(motion, duration_s=6.0, num_robots=4)
    assert not played.fell.any()
    assert (played.forward_velocity_m_s > 0.08).all()
