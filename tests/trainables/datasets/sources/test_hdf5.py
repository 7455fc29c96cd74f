"""robomimic and Minari files, and HDF5 files that would do harm."""

from __future__ import annotations

import json
import warnings
from contextlib import suppress

import gymnasium
import h5py
import numpy as np
import pytest

from cluster.lerobot.errors import DatasetError
from trainables.datasets.sources.detect import open_source


def robomimic(path, frames=(6, 4), control_freq=20):
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        arguments = {"env_name": "Lift", "env_kwargs": {"control_freq": control_freq} if control_freq else {}}
        data.attrs["env_args"] = json.dumps(arguments)
        # demo_10 comes after demo_2, whatever the alphabet says.
        for number, length in zip((2, 10), frames, strict=True):
            demo = data.create_group(f"demo_{number}")
            demo["actions"] = random.normal(size=(length, 7))
            demo["rewards"] = np.zeros(length)
            demo["dones"] = np.arange(length) == length - 1
            demo["states"] = random.normal(size=(length, 32))
            demo["obs/robot0_eef_pos"] = random.normal(size=(length, 3))
            demo["obs/agentview_image"] = random.integers(0, 255, (length, 4, 4, 3), dtype=np.uint8)
            demo["next_obs/robot0_eef_pos"] = random.normal(size=(length, 3))
        file["mask/valid"] = np.array(["demo_10"], dtype="S")
        file["mask/train"] = np.array(["demo_2"], dtype="S")
    return path


def read(source):
    return [episode for piece in source.pieces() for episode in source.read(piece)]


def test_a_robomimic_file_is_read_by_its_own_names(tmp_path):
    source = open_source(robomimic(tmp_path / "lift.hdf5"))
    assert source.fps == 20
    shapes = {feature.name: (feature.dtype, feature.shape) for feature in source.features}
    assert shapes == {
        "action": ("float64", (7,)),
        "next.done": ("bool", (1,)),
        "next.reward": ("float64", (1,)),
        "observation.agentview_image": ("uint8", (4, 4, 3)),
        "observation.robot0_eef_pos": ("float64", (3,)),
        "states": ("float64", (32,)),
    }
    first, second = read(source)
    assert (first.key, first.length, first.split, second.key, second.length, second.split) == (
        "0000002", 6, "train", "0000010", 4, "validation",
    )  # fmt: skip
    with h5py.File(tmp_path / "lift.hdf5") as file:
        np.testing.assert_array_equal(first.columns["observation.robot0_eef_pos"], file["data/demo_2/obs/robot0_eef_pos"][:])
    assert open_source(robomimic(tmp_path / "x.hdf5", control_freq=None), fps=10).fps == 10
    with pytest.raises(
        DatasetError, match=r"does not say how many frames a second it has \(env_args has no control_freq\); give them with --fps"
    ):
        open_source(tmp_path / "x.hdf5")


def test_an_episode_that_differs_is_named(tmp_path):
    path = robomimic(tmp_path / "lift.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_10/obs/robot0_eef_pos"]
    with pytest.raises(DatasetError, match=r"lift.hdf5: episode demo_10: obs/robot0_eef_pos is missing; the first episode has it"):
        read(open_source(path))
    with h5py.File(path, "a") as file:
        file["data/demo_10/obs/robot0_eef_pos"] = np.zeros((3, 3))
    with pytest.raises(DatasetError, match=r"episode demo_10: its parts differ in length: .*robot0_eef_pos 3"):
        read(open_source(path))


def bomb(file):
    file.create_dataset("data/demo_2/obs/bomb", (10**6, 10**4), dtype="f8", chunks=(1000, 1000), compression="gzip")


def squeezed(file):
    file.create_dataset(
        "data/demo_2/obs/bomb", data=np.zeros((4, 2**25), np.uint8), compression="gzip", compression_opts=9, chunks=(1, 2**25)
    )


def external_link(file):
    file["data/demo_2/obs/secret"] = h5py.ExternalLink("/etc/hostname.h5", "/x")


def soft_link(file):
    file["data/demo_2/obs/secret"] = h5py.SoftLink("/mask/train")


def external_storage(file):
    file.create_dataset("data/demo_2/obs/secret", (4,), dtype="u1", external=[("/etc/hostname", 0, 4)])


def circle(file):
    file["data/demo_2/obs/loop"] = file["data/demo_2"]


def text(file):
    file["data/demo_2/obs/words"] = np.array(["a", "b", "c", "d"], dtype="S")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (bomb, r"obs/bomb: declares 76294 MiB but stores 0 MiB; above 64 MiB no more than 200 times what is stored is read"),
        (squeezed, r"obs/bomb: declares 128 MiB but stores 0.124 MiB; above 64 MiB"),
        (external_link, r"obs/secret is a link to another file \('/etc/hostname.h5'\); only what is in the file itself is read"),
        (soft_link, r"obs/secret is a soft link to '/mask/train'; only what is in the file itself, without links, is read"),
        (external_storage, r"obs/secret keeps its values in other files; only what is in the file itself is read"),
        (circle, r"obs/loop holds itself: its links go in a circle"),
        (text, r"obs/words holds \|S1; numbers \(bool, int, uint, float up to 64 bit\) and pictures are read"),
    ],
)
def test_a_file_that_would_do_harm_is_refused(tmp_path, harm, words):
    path = robomimic(tmp_path / "lift.hdf5")
    with h5py.File(path, "a") as file:
        harm(file)
    assert path.stat().st_size < 10**7
    with pytest.raises(DatasetError, match=words):
        read(open_source(path))


def test_damaged_and_foreign_files_are_named(tmp_path):
    path = robomimic(tmp_path / "lift.hdf5")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"lift.hdf5: not readable HDF5"):
        open_source(path)
    path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"lift.hdf5: is empty; a file in the format hdf5 is wanted"):
        open_source(path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(DatasetError, match=r"other.h5: has no group /data; data/demo_0/obs, actions, ... are wanted"):
        open_source(tmp_path / "other.h5")


def test_bytes_changed_at_random_are_read_or_refused(tmp_path):
    whole = bytearray(robomimic(tmp_path / "lift.hdf5").read_bytes())
    random = np.random.default_rng(0)
    for _ in range(60):
        hurt = bytearray(whole)
        for place in random.integers(0, len(whole), 20):
            hurt[place] = int(random.integers(0, 256))
        path = tmp_path / "hurt.hdf5"
        path.write_bytes(hurt)
        with suppress(DatasetError):
            read(open_source(path))


def test_a_minari_dataset_made_by_minari_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    import minari
    from minari.data_collector import EpisodeBuffer

    environment = gymnasium.make("CartPole-v1")
    buffers = [_played(environment, seed, EpisodeBuffer) for seed in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it misses an author, a description, a licence
        made = minari.create_dataset_from_buffers("cartpole/random-v0", buffers, env=environment)
    environment.close()
    folder = tmp_path / "minari" / "cartpole" / "random-v0"
    with pytest.raises(DatasetError, match="give them with --fps"):
        open_source(folder)
    source = open_source(folder, fps=50)
    episodes = read(source)
    assert [episode.length for episode in episodes] == [len(one.actions) for one in made]
    for ours, theirs in zip(episodes, made, strict=True):
        np.testing.assert_array_equal(ours.columns["observation.state"], theirs.observations[:-1])
        np.testing.assert_array_equal(ours.columns["action"], theirs.actions)
        np.testing.assert_array_equal(ours.columns["next.reward"], theirs.rewards)
        assert ours.columns["next.done"].tolist() == [False] * (ours.length - 1) + [True]
    assert source.gaitway["lineage"]["environment"] == "CartPole-v1"


def _played(environment, seed, buffer):
    observation, _ = environment.reset(seed=seed)
    environment.action_space.seed(seed)
    observations, actions, rewards, ends, cuts = [observation], [], [], [], []
    while not (ends and (ends[-1] or cuts[-1])):
        actions.append(environment.action_space.sample())
        observation, reward, ended, cut, _ = environment.step(actions[-1])
        observations.append(observation)
        rewards.append(reward)
        ends.append(ended)
        cuts.append(cut)
    return buffer(id=seed, seed=seed, observations=observations, actions=actions, rewards=rewards, terminations=ends, truncations=cuts)
