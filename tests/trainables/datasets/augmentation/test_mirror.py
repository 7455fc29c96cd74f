"""The mirror: exact, its own inverse, right for PiDog's gaits and physics, and refused where it would be a guess."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import ConfigError
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from trainables.datasets.augmentation.augment import augment, augmented_features, check
from trainables.datasets.augmentation.components import Layout
from trainables.datasets.augmentation.config import MirrorStep
from trainables.datasets.augmentation.consistency import physics_consistency
from trainables.datasets.augmentation.symmetry import symmetry_map
from trainables.motions.gaits import expert_targets_rad, get_gait
from trainables.robots.registry import get_robot

GAITS = ("trot_forward", "walk_forward", "walk_backward", "stand", "sit")
MIRROR = {"kind": "mirror"}


def column(episode: Any, features: Any, prefix: str) -> np.ndarray:
    names = next(feature.names for feature in features if feature.name == "observation.state")
    return episode.columns["observation.state"][:, [index for index, name in enumerate(names) if name.startswith(prefix)]]


@pytest.mark.parametrize("gait", GAITS)
@pytest.mark.parametrize("exact", [True, False])
def test_twice_is_the_identity_bit_for_bit(gait, exact, recorded, pidog_features, one):
    episode = recorded(gait, exact=exact)
    once = augment(episode, pidog_features, 50, "pidog", one(MIRROR))[0]
    twice = augment(once, pidog_features, 50, "pidog", one(MIRROR))[0]
    for name, values in episode.columns.items():
        assert np.array_equal(twice.columns[name], values), name
    assert not np.array_equal(once.columns["observation.state"], episode.columns["observation.state"])


@pytest.mark.parametrize("gait", GAITS)
def test_the_mirrored_action_is_the_experts_at_the_mirrored_phase(gait, recorded, pidog_features, one):
    mirrored = augment(recorded(gait), pidog_features, 50, "pidog", one(MIRROR))[0]
    moves = get_gait(gait).frequency_hz > 0
    assert mirrored.about["mirror_phase_shift"] == (0.5 if moves else 0.0)
    sine, cosine = column(mirrored, pidog_features, "command.phase").T
    phase = np.arctan2(sine, cosine) / (2 * np.pi) % 1.0
    # Walking, SunFounder's own pattern is its mirror image half a cycle later only to the interpolation between servo frames.
    assert mirrored.columns["action"] == pytest.approx(expert_targets_rad(gait, phase), abs=0.03 if "walk" in gait else 2e-3)


def test_a_phase_without_the_shift_would_contradict_the_expert(recorded, pidog_features, one):
    wrong = augment(recorded("trot_forward"), pidog_features, 50, "pidog", one({**MIRROR, "phase_shift": 0}))[0]
    assert wrong.about["mirror_asymmetry"] > 0.1
    with pytest.raises(DatasetError, match=r"episode r-0000: variant v: .*max_asymmetry"):
        augment(recorded("trot_forward"), pidog_features, 50, "pidog", one({**MIRROR, "phase_shift": 0, "max_asymmetry": 0.05}))


def test_every_kind_of_sensor(recorded, pidog_features, one):
    episode = recorded("trot_forward")
    mirrored = augment(episode, pidog_features, 50, "pidog", one(MIRROR))[0]

    def pair(prefix: str) -> tuple[np.ndarray, np.ndarray]:
        return column(mirrored, pidog_features, prefix), column(episode, pidog_features, prefix)

    for prefix, signs in (
        ("projected_gravity", (1, -1, 1)),
        ("imu_angular_velocity", (-1, 1, -1)),
        ("imu_linear_acceleration", (1, -1, 1)),
    ):
        after, before = pair(prefix)
        assert np.array_equal(after, before * np.array(signs, np.float32)), prefix
    for prefix in ("ultrasonic", "command.forward", "command.posture"):
        after, before = pair(prefix)
        assert np.array_equal(after, before), prefix
    robot = get_robot("pidog")
    for prefix in ("joint_position_rad", "joint_velocity_rad_s", "previous_action_rad"):
        after, before = pair(prefix)
        assert after == pytest.approx(robot.mirrored(before), abs=0), prefix
    # What was sent at one frame is the previous action of the next, in the mirror too.
    assert np.array_equal(column(mirrored, pidog_features, "previous_action")[1:], mirrored.columns["action"][:-1])
    assert np.array_equal(mirrored.columns["next.reward"], episode.columns["next.reward"])


@pytest.mark.parametrize("gait", GAITS)
@pytest.mark.parametrize("exact", [True, False])
def test_mirrored_data_passes_the_physics_consistency_test(gait, exact, recorded, pidog_features, one):
    episode = recorded(gait, exact=exact, target_noise_rad=0.02)
    mirrored = augment(episode, pidog_features, 50, "pidog", one(MIRROR))[0]
    yardstick = physics_consistency(episode, pidog_features, "pidog_run")
    error = physics_consistency(mirrored, pidog_features, "pidog_run")
    assert error.within(yardstick), error.excess(yardstick)
    # Far tighter than the tolerance: the model is symmetric, so only rounding is left.
    for name, value in yardstick.by_field.items():
        assert error.by_field[name] == pytest.approx(value, rel=0.02, abs=1e-4), name


@pytest.mark.parametrize("wrong", ["angular velocity as a vector", "actions not mirrored", "knees as hips"])
def test_the_physics_consistency_test_finds_a_wrong_mirror(wrong, recorded, pidog_features, one):
    episode = recorded("trot_forward")
    mirrored = augment(episode, pidog_features, 50, "pidog", one(MIRROR))[0]
    state, action = mirrored.columns["observation.state"].copy(), mirrored.columns["action"].copy()
    if wrong == "angular velocity as a vector":
        state[:, 3:6] *= -1
    elif wrong == "actions not mirrored":
        action = episode.columns["action"]
    else:
        action[:, :2] = action[:, [1, 0]]
    broken = replace(mirrored, columns={**mirrored.columns, "observation.state": state, "action": action})
    yardstick = physics_consistency(episode, pidog_features, "pidog_run")
    assert not physics_consistency(broken, pidog_features, "pidog_run").within(yardstick)


def test_a_short_episode_of_a_known_gait_is_mirrored_and_of_an_unknown_one_refused(recorded, pidog_features, one):
    short = recorded("walk_forward", steps=10)
    assert augment(short, pidog_features, 50, "pidog", one(MIRROR))[0].about["mirror_phase_shift"] == 0.5
    with pytest.raises(DatasetError, match=r"episode r-0000: variant v: .*cycle is missing.*give phase_shift 0 or 0.5"):
        augment(replace(short, task="dog_pace"), pidog_features, 50, "pidog", one(MIRROR))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_symmetric_map_is_an_involution(data):
    names = [f"a{index}" for index in range(data.draw(st.integers(2, 8)))]
    order = data.draw(st.permutations(names))
    count = data.draw(st.integers(0, len(names) // 2))
    pairs = tuple((order[2 * index], order[2 * index + 1]) for index in range(count))
    negate = tuple(data.draw(st.sets(st.sampled_from(names), min_size=0 if pairs else 1)))
    layout = Layout([Feature("observation.state", "float64", (len(names),), tuple(names))])
    mapping = symmetry_map(layout, MirrorStep(pairs=pairs, negate=negate), None)["observation.state"]
    values = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(5, len(names)))
    once = mapping.apply(values)
    assert np.array_equal(mapping.apply(once), values)
    for left, right in pairs:
        assert np.array_equal(np.abs(once[:, names.index(left)]), np.abs(values[:, names.index(right)]))
    for name in negate:
        if name not in [part for pair in pairs for part in pair]:
            assert np.array_equal(once[:, names.index(name)], -values[:, names.index(name)])


def test_an_arm_by_names_with_a_centre(arm, arm_features, one):
    step = {**MIRROR, "negate": ["pan.pos"], "centres": {"pan.pos": 0.5}}
    check(one(step), arm_features)
    episode = arm()
    mirrored = augment(episode, arm_features, 20, "", one(step))[0]
    assert mirrored.columns["action"][:, 1] == pytest.approx(1.0 - episode.columns["action"][:, 1])
    assert np.array_equal(mirrored.columns["action"][:, 0], episode.columns["action"][:, 0])
    # The orientation turns the other way.
    assert np.array_equal(mirrored.columns["observation.orientation"], episode.columns["observation.orientation"] * [1, -1, 1, -1])


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (MIRROR, "no symmetry map"),
        ({**MIRROR, "negate": ["pam.pos"]}, "no component 'pam.pos'; did you mean 'pan.pos'"),
        ({**MIRROR, "pairs": [["lift.pos", "lift.pos"]]}, "two pairs, or twice in one"),
        ({**MIRROR, "negate": ["pan.pos"], "keep": ["pan.pos"]}, "cannot both stay and change"),
    ],
)
def test_a_mirror_that_cannot_be_is_refused_before_anything_starts(step, told, arm_features, one):
    with pytest.raises(ConfigError, match=rf"variant v: mirror: .*{told}"):
        check(one(step), arm_features)


def test_a_robots_component_whose_mirror_image_is_not_known_is_refused(pidog_features, one):
    strange = (Feature("observation.mood", "float32", (2,), ("calm", "hungry")), *pidog_features)
    with pytest.raises(ConfigError, match=r"how calm, hungry looks in a mirror is not told"):
        check(one(MIRROR), strange, "pidog")
    check(one({**MIRROR, "keep": ["calm", "hungry"]}), strange, "pidog")


def test_undecoded_pictures_are_refused_or_left_out(arm, arm_features, one):
    features = (*arm_features, Feature("observation.images.top", "video", (480, 640, 3)))
    step = {**MIRROR, "negate": ["pan.pos"]}
    with pytest.raises(ConfigError, match=r"observation.images.top is not decoded.*drop_images: true"):
        check(one(step), features)
    without = one(step, drop_images=True)
    check(without, features)
    assert augmented_features(features, without) == arm_features
    augment(arm(), features, 20, "", without)[0].check(arm_features)
