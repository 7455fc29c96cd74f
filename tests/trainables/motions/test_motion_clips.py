"""The clips that the project ships are its own: what the gait generator makes, and what PiDog can play."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import trainables.motions
from cluster.errors import ConfigError, UsageError
from trainables.motions.gaits import GAITS, expert_targets_rad
from trainables.motions.generate import gait_motion
from trainables.motions.load import load_motion
from trainables.motions.retarget import motion_for_robot

CLIPS = Path(trainables.motions.__file__).parent / "clips"
MADE_FROM = {"pidog_trot.json": "trot_forward"}


def test_every_shipped_clip_is_of_known_origin():
    assert {path.name for path in CLIPS.iterdir()} == set(MADE_FROM)


@pytest.mark.parametrize("name", MADE_FROM)
def test_a_shipped_clip_is_what_the_generator_makes(name):
    """When a gait changes: python -m trainables.motions.generate GAIT trainables/motions/clips/NAME."""
    shipped, made = load_motion(CLIPS / name), gait_motion(MADE_FROM[name])
    assert shipped.joint_names == made.joint_names
    assert shipped.joint_position_rad == pytest.approx(made.joint_position_rad, abs=1e-9)
    assert shipped.duration_s == pytest.approx(made.duration_s)
    assert shipped.robot == "pidog"


@pytest.mark.parametrize("gait", [name for name, gait in GAITS.items() if gait.frequency_hz])
def test_a_gaits_motion_is_closed_keeps_its_time_and_speed_and_stays_the_gait(gait):
    motion = gait_motion(gait)
    assert motion.seam_rad == pytest.approx(0.0, abs=1e-12)
    assert motion.duration_s == pytest.approx(1 / GAITS[gait].frequency_hz)
    assert motion.forward_velocity_m_s == pytest.approx(GAITS[gait].forward_velocity_m_s)
    played = motion_for_robot(motion, "pidog")
    assert played.frame_rate_hz == 50.0
    phase = np.arange(played.num_frames) / (played.num_frames - 1)
    assert np.abs(played.joint_position_rad - expert_targets_rad(gait, phase)).max() < 0.1


def test_a_posture_is_no_motion():
    with pytest.raises(UsageError, match="sit holds a posture"):
        gait_motion("sit")
    with pytest.raises(ConfigError, match="unknown gait"):
        gait_motion("gallop")
