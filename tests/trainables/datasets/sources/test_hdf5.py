"""robomimic and Minari files, and HDF5 files that would do harm."""

from __future__ import annotations

import io
import json
import warnings

import gymnasium
import h5py
import numpy as np
import pytest
from PIL import Image

from cluster.lerobot.errors import DatasetError
from trainables.datasets.sources import hdf5
from trainables.datasets.sources.detect import open_source
from trainables.datasets.sources.images import encode_png


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
    read_: list[bool] = []
    refused: list[str] = []
    for _ in range(60):
        hurt = bytearray(whole)
        for place in random.integers(0, len(whole), 20):
            hurt[place] = int(random.integers(0, 256))
        path = tmp_path / "hurt.hdf5"
        path.write_bytes(hurt)
        try:
            episodes = read(open_source(path))
        except DatasetError as error:
            refused.append(str(error))
        else:
            read_.append(all(len(values) == episode.length for episode in episodes for values in episode.columns.values()))
    # Most bytes are values, some are structure: both happen.
    assert read_
    assert all(read_)
    assert refused
    assert all("hurt.hdf5" in line and "\n" not in line for line in refused)


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


def test_pixels_become_png_and_encoded_images_stay_as_they_are(tmp_path):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (6, 16, 20, 3), dtype=np.uint8)
    jpeg = [_jpeg(picture) for picture in pixels]
    path = robomimic(tmp_path / "lift.hdf5", frames=(6, 6))
    with h5py.File(path, "a") as file:
        for name in ("demo_2", "demo_10"):
            file[f"data/{name}/obs/camera"] = pixels
            encoded = file.create_dataset(f"data/{name}/obs/encoded", (6,), dtype=h5py.vlen_dtype(np.uint8))
            for row, picture in enumerate(jpeg):
                encoded[row] = np.frombuffer(picture, np.uint8)
    source = open_source(path)
    features = {feature.name: feature for feature in source.features}
    for name in ("observation.camera", "observation.encoded"):
        assert (features[name].dtype, features[name].shape, features[name].names) == ("image", (16, 20, 3), ("height", "width", "channels"))
    first, _ = read(source)
    for frame, picture in enumerate(first.columns["observation.camera"]):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture))), pixels[frame])
    assert first.columns["observation.encoded"].tolist() == jpeg


def _jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()


def huge_chunk(file):
    file.create_dataset("data/demo_2/obs/bomb", (4,), maxshape=(None,), chunks=(2**29,), dtype="u1", compression="gzip")


def virtual(file):
    layout = h5py.VirtualLayout((6,), dtype="u1")
    layout[:] = h5py.VirtualSource("/etc/hostname.h5", "x", (6,))
    file.create_virtual_dataset("data/demo_2/obs/secret", layout)


def linked_mask(file):
    del file["mask"]
    file["mask"] = h5py.ExternalLink("/etc/hostname.h5", "/x")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (huge_chunk, r"/data/demo_2/obs/bomb has chunks of 512 MiB; up to 256 MiB are read"),
        (virtual, r"/data/demo_2/obs/secret keeps its values in other files"),
        (linked_mask, r"lift.hdf5: /mask is a link to another file \('/etc/hostname.h5'\)"),
    ],
)
def test_more_ways_to_do_harm(tmp_path, harm, words):
    path = robomimic(tmp_path / "lift.hdf5")
    with h5py.File(path, "a") as file:
        harm(file)
    with pytest.raises(DatasetError, match=words):
        read(open_source(path))


def test_one_stored_picture_that_is_named_a_thousand_times_is_a_bomb(tmp_path, monkeypatch):
    path = tmp_path / "lift.hdf5"
    with h5py.File(path, "w") as file:
        file["data/demo_0/actions"] = np.zeros((4096, 1))
        file["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20}})
        dataset = file.create_dataset("data/demo_0/obs/bomb", (4096,), dtype=h5py.vlen_dtype(np.uint8))
        dataset[0] = np.frombuffer(encode_png(np.zeros((16, 16, 3), np.uint8)) + bytes(2**16), np.uint8)
        place, width = dataset.id.get_offset(), dataset.id.get_storage_size() // 4096
    raw = bytearray(path.read_bytes())
    # Every element points at the one picture that is there.
    raw[place : place + 4096 * width] = raw[place : place + width] * 4096
    path.write_bytes(raw)
    assert path.stat().st_size < 500_000
    monkeypatch.setattr(hdf5, "SMALL_BYTES", 2**20)
    with pytest.raises(DatasetError, match=r"/data/demo_0/obs/bomb has more than \d+ MiB of images in one episode; no more is read"):
        read(open_source(path))


def test_minari_with_nested_spaces_and_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    import minari
    from minari.data_collector import EpisodeBuffer

    box = gymnasium.spaces.Box
    observations = gymnasium.spaces.Dict(
        {
            "arm": gymnasium.spaces.Dict({"joints": box(-1, 1, (3,), np.float32), "grip": gymnasium.spaces.Discrete(2)}),
            "camera": box(0, 255, (16, 12, 3), np.uint8),
            "said": gymnasium.spaces.Text(8),
        }
    )
    actions = gymnasium.spaces.Tuple((box(-1, 1, (2,), np.float64), gymnasium.spaces.Discrete(5)))
    buffers = []
    for seed, steps in enumerate((5, 3)):
        observations.seed(seed)
        actions.seed(seed)
        seen = [observations.sample() for _ in range(steps + 1)]
        done = [actions.sample() for _ in range(steps)]
        nested = {
            "arm": {name: np.array([one["arm"][name] for one in seen]) for name in ("joints", "grip")},
            "camera": [one["camera"] for one in seen],
            "said": [one["said"] for one in seen],
        }
        ends = [False] * steps
        cuts = [False] * (steps - 1) + [True]
        buffers.append(
            EpisodeBuffer(
                id=seed,
                observations=nested,
                actions=tuple(np.array([one[part] for one in done]) for part in range(2)),
                rewards=[float(step) for step in range(steps)],
                terminations=ends,
                truncations=cuts,
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers("nested/test-v0", buffers, observation_space=observations, action_space=actions)
    source = open_source(tmp_path / "minari" / "nested" / "test-v0", fps=25)
    features = {feature.name: (feature.dtype, feature.shape) for feature in source.features}
    assert features == {
        "observation.arm.grip": ("int64", (1,)),
        "observation.arm.joints": ("float32", (3,)),
        "observation.camera": ("image", (16, 12, 3)),
        "action.0": ("float64", (2,)),
        "action.1": ("int64", (1,)),
        "next.reward": ("float64", (1,)),
        "next.terminated": ("bool", (1,)),
        "next.truncated": ("bool", (1,)),
        "next.done": ("bool", (1,)),
    }
    episodes = read(source)
    assert [episode.length for episode in episodes] == [5, 3]
    for episode, buffer in zip(episodes, buffers, strict=True):
        np.testing.assert_array_equal(episode.columns["observation.arm.joints"], buffer.observations["arm"]["joints"][: episode.length])
        np.testing.assert_array_equal(episode.columns["action.0"], buffer.actions[0])
        assert Image.open(io.BytesIO(episode.columns["observation.camera"][0])).size == (12, 16)
        assert episode.columns["next.truncated"].tolist() == episode.columns["next.done"].tolist() == buffer.truncations
    # The data file alone, under another name, is told by what is in it.
    (tmp_path / "copy.h5").write_bytes((tmp_path / "minari/nested/test-v0/data/main_data.hdf5").read_bytes())
    assert open_source(tmp_path / "copy.h5", fps=25).format == "minari"
