"""The split: whole episodes, seeded, and a changed copy never stands on the other side than its original."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cluster.lerobot.episodes import Episode
from cluster.lerobot.features import Feature
from cluster.lerobot.folder import write_dataset
from cluster.lerobot.metadata import DatasetSpec
from cluster.lerobot.shards import ShardEpisode
from cluster.lerobot.split import complete_split, without_held_out_copies


def shard(key, task="a", split="", origin=""):
    return ShardEpisode("", 0, key, task, 1, "", {}, split=split, origin=origin)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.floats(0, 0.9), st.integers(0, 5))
def test_copies_follow_their_originals(copies, fraction, seed):
    episodes = []
    for index, count in enumerate(copies):
        episodes.append(shard(f"{index:03d}", task=f"{index % 3}"))
        episodes += [shard(f"{index:03d}-copy{number}", task=f"{index % 3}", origin=f"{index:03d}") for number in range(count)]
    sides = complete_split(episodes, fraction, seed)
    assert set(sides) == {episode.key for episode in episodes}
    for episode in episodes:
        assert sides[episode.key] == sides[episode.origin or episode.key]
    left = without_held_out_copies(episodes, sides)
    assert not [episode for episode in left if episode.origin and sides[episode.key] == "validation"]
    assert [episode for episode in left if not episode.origin] == [episode for episode in episodes if not episode.origin]


def test_what_is_settled_stays_and_the_rest_is_drawn():
    episodes = [shard("0", split="validation"), *(shard(str(index)) for index in range(1, 9)), shard("9", split="train")]
    sides = complete_split(episodes, 0.25, 0)
    assert (sides["0"], sides["9"]) == ("validation", "train")
    assert sum(side == "validation" for side in sides.values()) == 1 + 2
    # Without its original, a copy is drawn like any other.
    assert set(complete_split([shard("x", origin="gone"), shard("y", origin="gone"), shard("z")], 0.5, 0).values()) == {
        "train",
        "validation",
    }


def test_a_copy_of_a_held_out_episode_is_not_written(tmp_path):
    features = (Feature("action", "float32", (1,)),)
    original = [Episode(str(index), "a", {"action": np.full(3, index, np.float32)}) for index in range(4)]
    copies = [replace(episode, key=f"{episode.key}-noise", origin=episode.key) for episode in original]
    info = write_dataset(tmp_path / "data", [*original, *copies], DatasetSpec(50, features, "arm", validation_fraction=0.25))
    assert info.num_episodes == 7
    assert len(info.splits["validation"]) == 1
    again = write_dataset(tmp_path / "again", [*copies, *original], DatasetSpec(50, features, "arm", validation_fraction=0.25))
    assert again.digest == info.digest
