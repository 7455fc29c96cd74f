"""Copies of an episode: their keys, facts and draws; the example configurations; a real recording through a Ray Data pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.config import load_config
from cluster.errors import ConfigError
from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from trainables.datasets.augmentation.augment import augment, augmented_features, check
from trainables.datasets.augmentation.config import AugmentationConfig
from trainables.datasets.sources.lerobot import open_lerobot

CONFIGS = Path(__file__).resolve().parents[4] / "configs" / "datasets"
WARP = {"kind": "time_warp", "strength": 0.3}
NOISE = {"kind": "observation_noise", "relative": {"*": 0.1}}


def same(first: Episode, second: Episode) -> bool:
    return (first.key, first.about) == (second.key, second.about) and all(
        np.array_equal(values, second.columns[name]) for name, values in first.columns.items()
    )


def test_copies_have_keys_origins_and_facts(arm, arm_features):
    config = AugmentationConfig.model_validate(
        {"variants": [{"name": "warped", "copies": 2, "steps": [WARP]}, {"name": "noisy", "steps": [NOISE]}]}
    )
    episode = Episode("0000007", "reach", arm().columns, {"operator": "ann"}, split="train")
    made = augment(episode, arm_features, 20, "", config)
    assert [one.key for one in made] == ["0000007", "0000007.warped.000", "0000007.warped.001", "0000007.noisy.000"]
    assert sorted(one.key for one in made)[0] == "0000007"
    assert [one.origin for one in made] == ["", "0000007", "0000007", "0000007"]
    assert {(one.split, one.task, one.about["operator"]) for one in made} == {("train", "reach", "ann")}
    assert [one.about["variant"] for one in made] == ["original", "warped", "warped", "noisy"]
    assert [one.about["augmented_from"] for one in made] == ["", "0000007", "0000007", "0000007"]
    assert [one.about["keeps_physics"] for one in made] == [True, False, False, True]
    assert all(np.array_equal(made[0].columns[name], values) for name, values in episode.columns.items())
    for one in made:
        one.check(arm_features)


def test_a_copy_depends_on_seed_key_and_number_alone(arm, arm_features, one):
    config = one(WARP, NOISE, copies=3)
    first = augment(arm(), arm_features, 20, "", config)
    again = augment(arm(), arm_features, 20, "", config)
    assert all(same(left, right) for left, right in zip(first, again, strict=True))
    fewer = augment(arm(), arm_features, 20, "", one(WARP, NOISE, copies=1))
    assert same(fewer[0], first[0])
    assert not same(first[0], first[1])
    assert not same(first[0], augment(arm(), arm_features, 20, "", one(WARP, NOISE, copies=3, seed=1))[0])
    assert not np.array_equal(
        first[0].columns["observation.state"], augment(arm(key="other"), arm_features, 20, "", config)[0].columns["observation.state"]
    )


def test_steps_are_done_in_order(arm, arm_features, one):
    crop = {"kind": "crop", "share": [0.5, 0.5]}
    late = {"kind": "latency", "steps": [3, 3]}
    made = augment(arm(frames=61), arm_features, 20, "", one(crop, late))[0]
    assert made.length == 30 - 3
    start = made.about["crop_start"]
    expected = arm(frames=61).columns
    assert np.array_equal(made.columns["observation.state"], expected["observation.state"][start : start + 27])
    assert np.array_equal(made.columns["action"], expected["action"][start + 3 : start + 30])


def test_the_originals_stay_as_they_were(arm, arm_features, one):
    episode = arm()
    before = {name: values.copy() for name, values in episode.columns.items()}
    steps = ({"kind": "mirror", "negate": ["pan.pos"]}, WARP, NOISE, {"kind": "latency"}, {"kind": "crop"})
    augment(episode, arm_features, 20, "", one(*steps, copies=2))
    assert all(np.array_equal(values, before[name]) for name, values in episode.columns.items())


def test_bad_configurations_are_one_clear_line(arm_features, one):
    for given, told in (
        ({"variants": []}, "variants"),
        ({"variants": [{"name": "a", "steps": [WARP]}, {"name": "a", "steps": [WARP]}]}, "different names"),
        ({"variants": [{"name": "a", "steps": [{"kind": "mirrir"}]}]}, "mirror"),
        ({"variants": [{"name": "a", "steps": [{"kind": "crop", "share": [0.9, 0.1]}]}]}, "0 < low <= high"),
        ({"variants": [{"name": "original", "steps": [WARP]}]}, "recorded episodes"),
    ):
        with pytest.raises(ValueError, match=told):
            AugmentationConfig.model_validate(given)
    with pytest.raises(ConfigError, match=r"names: 2 names for the 3 components of observation.state"):
        check(one(WARP, names={"observation.state": ["a", "b"]}), arm_features)
    with pytest.raises(ConfigError, match=r"no numeric feature 'observation.stat'"):
        check(one(WARP, names={"observation.stat": ["a", "b"]}), arm_features)


@pytest.mark.parametrize("name", [path.name for path in sorted(CONFIGS.glob("augment*.yaml"))])
def test_every_example_configuration_runs(name, request, recorded: Callable[..., Episode], pidog_features, shared_data):
    config = load_config(CONFIGS / name, AugmentationConfig)
    if name == "augment_pidog.yaml":
        features, fps, robot, episodes = pidog_features, 50.0, "pidog", [recorded("trot_forward", exact=False)]
    else:
        source = open_lerobot(shared_data / "lerobot_so101")
        features, fps, robot = source.features, source.fps, source.robot_type
        episodes = [episode for piece in source.pieces() for episode in source.read(piece)]
    check(config, features, robot)
    after = augmented_features(features, config)
    for episode in episodes:
        made = augment(episode, features, fps, robot, config)
        assert len(made) == 1 + sum(variant.copies for variant in config.variants)
        for one in made:
            one.check(after)


def test_a_real_arm_in_the_mirror(shared_data):
    config = load_config(CONFIGS / "augment_so101.yaml", AugmentationConfig)
    source = open_lerobot(shared_data / "lerobot_so101")
    names = next(feature.names for feature in source.features if feature.name == "action")
    for piece in source.pieces():
        for episode in source.read(piece):
            mirrored = augment(episode, source.features, source.fps, source.robot_type, config)[1]
            signs = np.array([-1.0 if name in ("shoulder_pan.pos", "wrist_roll.pos") else 1.0 for name in names], np.float32)
            for column in ("action", "observation.state"):
                assert np.array_equal(mirrored.columns[column], episode.columns[column] * signs)
            back = augment(mirrored, augmented_features(source.features, config), source.fps, source.robot_type, config)[1]
            assert all(np.array_equal(back.columns[name], values) for name, values in episode.columns.items())


@pytest.mark.usefixtures("ray_session")
def test_it_runs_over_ray_data_rows_and_names_the_episode_that_fails(shared_data):
    from trainables.datasets.pipeline import episode_rows, map_episodes, own_errors

    config = load_config(CONFIGS / "augment_so101.yaml", AugmentationConfig)
    source = open_lerobot(shared_data / "lerobot_so101")
    after = augmented_features(source.features, config)

    def change(episode: Episode) -> list[Episode]:
        return augment(episode, source.features, source.fps, source.robot_type, config)

    rows = map_episodes(episode_rows(source), source.features, change, after).take_all()
    assert len(rows) == 4 * 5
    assert {row["origin"] for row in rows if "." in row["key"]} == {row["key"] for row in rows if "." not in row["key"]}

    late = AugmentationConfig.model_validate(
        {"variants": [{"name": "late", "steps": [{"kind": "latency", "steps": [9999, 9999]}]}], "drop_images": True}
    )
    with pytest.raises(DatasetError, match=r"episode 000000\d: variant late: it has \d+ frames, too few"), own_errors():
        map_episodes(
            episode_rows(source), source.features, lambda episode: augment(episode, source.features, source.fps, "", late), after
        ).take_all()
