"""Out of LeRobot, into each format and back: values, types, names, units, boundaries, timestamps, tasks, images and videos are the same."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cluster.errors import UsageError
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.videos import VideoClip
from trainables.datasets.exports.registry import EXPORTS, export_dataset
from trainables.datasets.lerobot import DatasetSpec, Episode, Feature, compute_digest, load_frames, load_info, write_dataset
from trainables.datasets.sources.detect import detect_format, open_source
from trainables.datasets.sources.lerobot import open_lerobot

NAMES = {"lerobot": "folder", "hdf5": "file.hdf5", "mcap": "file.mcap", "rosbag2": "bag"}
DETECTED = {"lerobot": "lerobot", "hdf5": "hdf5", "mcap": "mcap", "rosbag2": "rosbag"}
FEATURES = (
    Feature("observation.state", "float32", (2,), ("shoulder.pos", "elbow.pos"), "rad"),
    Feature("observation.grid", "float64", (2, 3)),
    Feature("observation.images.wrist", "image", (4, 4, 3)),
    Feature("observation.images.top", "video", (4, 4, 3), info={"video.codec": "av1"}),
    Feature("action", "float64", (2,), ("shoulder.pos", "elbow.pos"), "rad"),
    Feature("next.done", "bool", (1,)),
    Feature("count", "int64", (1,)),
    Feature("big", "uint64", (2,)),
)


def there_and_back(folder, format, tmp_path):
    target = tmp_path / NAMES[format]
    result = export_dataset(open_lerobot(folder), format, target)
    assert detect_format(target) == DETECTED[format]
    source = open_source(target)
    export_dataset(source, "lerobot", tmp_path / "back")
    return result, load_info(tmp_path / "back")


def full(tmp_path, frames=(5, 3)):
    random = np.random.default_rng(0)
    video = tmp_path / "camera.mp4"
    video.write_bytes(b"not really a video" * 50)
    episodes = []
    for number, length in enumerate(frames):
        images = np.empty(length, dtype=object)
        images[:] = [b"\x89PNG\r\n" + bytes([number, frame]) * 20 for frame in range(length)]
        columns = {
            "observation.state": random.normal(size=(length, 2)).astype(np.float32),
            "observation.grid": random.normal(size=(length, 2, 3)),
            "observation.images.wrist": images,
            "action": random.normal(size=(length, 2)),
            "next.done": np.arange(length) == length - 1,
            "count": random.integers(-(2**62), 2**62, length),
            "big": random.integers(0, 2**64 - 1, (length, 2), dtype=np.uint64),
            # A clock that jitters, and does not start at 0.
            "timestamp": (0.1 + np.arange(length) / 50 + random.uniform(0, 1e-3, length)).astype(np.float32),
        }
        clips = {"observation.images.top": VideoClip(video if number == 0 else tmp_path / "lost.mp4", 0.5 * number, 0.5 * number + 0.4)}
        episodes.append(
            Episode(
                str(number), f"task {number}", columns, {"operator": "ada", "success": number == 0}, clips, ("train", "validation")[number]
            )
        )
    spec = DatasetSpec(50, FEATURES, "arm", {"lineage": {"kind": "made up"}, "task": "none"})
    return write_dataset(tmp_path / "full", episodes, spec)


@pytest.mark.parametrize("format", EXPORTS)
def test_a_real_recording_comes_back_the_same(shared_data, tmp_path, format):
    folder = shared_data / "lerobot_so101"
    result, back = there_and_back(folder, format, tmp_path)
    assert (result["episodes"], result["frames"], len(result["missing_videos"])) == (4, 1492, 2)
    assert back.digest == compute_digest(folder)
    assert (back.fps, back.robot_type, back.tasks) == (30, "so101_follower", load_info(folder).tasks)
    assert back.features["action"].names[0] == "shoulder_pan.pos"
    assert len(back.missing_videos) == 2


@pytest.mark.parametrize("format", EXPORTS)
def test_everything_that_a_dataset_can_hold_comes_back(tmp_path, format):
    info = full(tmp_path)
    result, back = there_and_back(info.path, format, tmp_path)
    assert result["missing_videos"] == [str(video) for video in info.missing_videos]
    before, after = load_frames(info.path), load_frames(back.path)
    assert list(before) == list(after)
    for name, values in before.items():
        assert values.dtype == after[name].dtype
        np.testing.assert_array_equal(values, after[name])
    assert {name: feature.to_json() for name, feature in info.features.items()} == {
        name: feature.to_json() for name, feature in back.features.items()
    }
    assert [(one.length, one.tasks, dict(one.about)) for one in back.episodes] == [
        (one.length, one.tasks, dict(one.about)) for one in info.episodes
    ]
    assert back.splits == info.splits
    assert back.gaitway["lineage"] == {"kind": "made up"}
    clips = [one.videos["observation.images.top"] for one in back.episodes]
    assert clips[0].file.read_bytes() == (tmp_path / "camera.mp4").read_bytes()
    assert [(clip.from_timestamp_s, clip.to_timestamp_s) for clip in clips] == [(0.0, 0.4), (0.5, 0.9)]
    assert len(back.missing_videos) == 1
    assert back.digest == info.digest == compute_digest(back.path)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_numbers_come_back(tmp_path_factory, data):
    tmp_path = tmp_path_factory.mktemp("any")
    dtype = data.draw(
        st.sampled_from(["float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"])
    )
    shape = data.draw(arrays.array_shapes(min_dims=1, max_dims=3, max_side=3))
    named = data.draw(st.booleans()) and len(shape) == 1
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    elements = (
        {"allow_nan": False, "allow_infinity": False, "min_value": -(2.0**90), "max_value": 2.0**90} if dtype.startswith("float") else {}
    )
    feature = Feature("x", dtype, shape, tuple(f"c{i}" for i in range(shape[0])) if named else None)
    episodes = []
    for number, length in enumerate(lengths):
        wanted = (length,) if shape == (1,) else (length, *shape)
        episodes.append(
            Episode(
                str(number), "t", {"x": data.draw(arrays.arrays(dtype, wanted, elements=arrays.from_dtype(np.dtype(dtype), **elements)))}
            )
        )
    info = write_dataset(tmp_path / "any", episodes, DatasetSpec(10, (feature,), "r"))
    for format in ("hdf5", "mcap", "rosbag2"):
        _, back = there_and_back(info.path, format, tmp_path / format)
        assert back.digest == info.digest, format


def test_others_can_read_what_we_write(tmp_path):
    """The layouts that robomimic, `ros2 bag` and any MCAP reader expect."""
    info = full(tmp_path)
    export_dataset(open_lerobot(info.path), "hdf5", tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert sorted(file["data"]) == ["demo_0", "demo_1"]
        assert file["data"].attrs["total"] == 8
        assert file["data/demo_0"].attrs["num_samples"] == 5
        assert file["data/demo_0/obs/state"].shape == (5, 2)
        assert file["data/demo_0/actions"].shape == (5, 2)
        assert file["mask/train"].shape[0] + file["mask/valid"].shape[0] == 2
    export_dataset(open_lerobot(info.path), "rosbag2", tmp_path / "bag")
    (database,) = (tmp_path / "bag").glob("*.db3")
    assert database.name.startswith("bag")
    with sqlite3.connect(database) as connection:
        topics = dict(connection.execute("select name, type from topics"))
        assert connection.execute("select count(*) from messages").fetchone() == (8 * len(topics),)
    connection.close()
    assert topics["/observation/state"] == "sensor_msgs/msg/JointState"
    assert topics["/observation/images/wrist"] == "sensor_msgs/msg/CompressedImage"
    export_dataset(open_lerobot(info.path), "mcap", tmp_path / "a.mcap")
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    with (tmp_path / "a.mcap").open("rb") as file:
        messages = [decoded for *_, decoded in make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages(["/action"])]
    assert [list(message.name) for message in messages] == [["shoulder.pos", "elbow.pos"]] * 8
    np.testing.assert_array_equal([list(message.position) for message in messages], load_frames(info.path)["action"])


@pytest.mark.parametrize("format", EXPORTS)
def test_what_fails_half_way_leaves_what_was_there(tmp_path, format):
    info = full(tmp_path)
    target = tmp_path / NAMES[format]
    export_dataset(open_lerobot(info.path), format, target)
    before = (
        sorted((path.relative_to(target), path.stat().st_size) for path in target.rglob("*")) if target.is_dir() else target.read_bytes()
    )
    with pytest.raises(DatasetError, match="is there already"):
        export_dataset(open_lerobot(info.path), format, target)
    info.episodes[1].data_file.write_bytes(b"")
    with pytest.raises(DatasetError, match="not readable parquet"):
        export_dataset(open_lerobot(info.path), format, target, overwrite=True)
    after = (
        sorted((path.relative_to(target), path.stat().st_size) for path in target.rglob("*")) if target.is_dir() else target.read_bytes()
    )
    assert before == after
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_a_format_that_is_not_known_is_refused(tmp_path):
    info = write_dataset(
        tmp_path / "d", [Episode("0", "t", {"x": np.zeros(3, np.float32)})], DatasetSpec(10, (Feature("x", "float32", (1,)),), "r")
    )
    with pytest.raises(UsageError, match="unknown format 'hdf'; datasets are written as lerobot, hdf5, mcap, rosbag2"):
        export_dataset(open_lerobot(info.path), "hdf", tmp_path / "x")
    odd = replace(open_lerobot(info.path), features=(Feature("x", "complex64", (1,)),))
    with pytest.raises(DatasetError, match="complex64 has no ROS message"):
        export_dataset(odd, "mcap", tmp_path / "x.mcap")
    assert not (tmp_path / "x.mcap").exists()
