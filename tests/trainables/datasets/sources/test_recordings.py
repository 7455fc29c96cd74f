"""Recordings of others (MCAP, ROS 1 and ROS 2 bags) by a mapping: values at the frames, joints in their order, episodes at their ends."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest

from cluster.config import parse_config
from cluster.errors import ConfigError, UsageError
from cluster.lerobot.errors import DatasetError
from tests.trainables.datasets.sources import recordings as made
from trainables.datasets.exports.registry import export_dataset
from trainables.datasets.lerobot import load_info
from trainables.datasets.sources.detect import detect_format, open_source
from trainables.datasets.sources.images import encode_png
from trainables.datasets.sources.mapping import Mapping, load_mapping
from trainables.datasets.sources.recordings import open_mcap, open_rosbag

CONFIGS = Path(__file__).resolve().parents[4] / "configs" / "datasets"
S = made.S
MAPPING = {
    "fps": 50,
    "task": "reach",
    "robot_type": "arm",
    "features": {
        "observation.state": {"topic": "/joint_states", "field": "position", "names": list(made.JOINTS), "unit": "rad", "align": "linear"},
        "observation.velocity": {"topic": "/joint_states", "field": "velocity", "unit": "rad/s", "align": "nearest"},
        "observation.gyro": {"topic": "/imu/data", "field": "angular_velocity", "unit": "rad/s", "dtype": "float64", "align": "linear"},
        "action": {"topic": "/joint_commands", "field": "position", "names": ["elbow", "gripper"], "unit": "rad"},
    },
}


def mapping(**changes):
    return parse_config({**MAPPING, **changes}, Mapping, source="test")


def one(name, **entry):
    return mapping(features={name: entry})


def opened(path, given):
    return (open_mcap if detect_format(path) == "mcap" else open_rosbag)(path, given)


def read(source):
    return [episode for piece in source.pieces() for episode in source.read(piece)]


@pytest.mark.parametrize("kind", made.WRITERS)
def test_values_are_on_the_frame_clock_with_joints_in_their_order(tmp_path, kind):
    name, version, write = made.WRITERS[kind]
    path = write(tmp_path / name, made.arm(version=version))
    source = opened(path, mapping())
    features = {feature.name: feature for feature in source.features}
    assert (features["observation.state"].names, features["observation.state"].unit) == (made.JOINTS, "rad")
    assert sorted(features["observation.velocity"].names) == sorted(made.JOINTS)
    assert features["observation.gyro"].names == ("angular_velocity.x", "angular_velocity.y", "angular_velocity.z")
    assert (features["action"].names, source.fps, source.robot_type) == (("elbow", "gripper"), 50, "arm")
    (episode,) = read(pickle.loads(pickle.dumps(source)))
    assert (episode.length, episode.task) == (101, "reach")
    time_s = np.arange(episode.length) / 50
    for joint in range(3):
        np.testing.assert_allclose(episode.columns["observation.state"][:, joint], made.position(time_s, joint), atol=1e-5)
        place = features["observation.velocity"].names.index(made.JOINTS[joint])
        np.testing.assert_allclose(episode.columns["observation.velocity"][:, place], 10 * made.position(time_s, joint), atol=1e-4)
    np.testing.assert_allclose(episode.columns["observation.gyro"][:, 0], time_s, atol=1e-8)
    held = np.floor(time_s * 20 + 1e-6) / 20
    np.testing.assert_allclose(episode.columns["action"], np.stack([made.position(held, 1), made.position(held, 2)], axis=1), atol=1e-5)
    assert {name: values.dtype.name for name, values in episode.columns.items()} == {
        feature.name: feature.dtype for feature in source.features
    }


def test_the_example_mapping_runs_on_the_messages_that_it_names(tmp_path):
    given = load_mapping(CONFIGS / "ros2_arm.yaml")
    joints = given.features["observation.state"].names
    types = made.STORES[2].types
    messages = []
    for episode, number in itertools.product(range(2), range(101)):
        time_ns = made.START + episode * 10 * S + number * S // 100
        for topic in ("/joint_states", "/joint_commands"):
            values = np.arange(6) + number / 100
            state = types[made.JOINT_STATE](made.header(time_ns, 2), list(reversed(joints)), values, values, np.zeros(0))
            messages.append((topic, made.JOINT_STATE, time_ns, state))
        messages.append(("/imu/data", made.IMU, time_ns, made.imu(time_ns)))
    source = open_source(made.write_bag2(tmp_path / "bag", messages), mapping=CONFIGS / "ros2_arm.yaml")
    episodes = read(source)
    assert [(episode.key, episode.length, episode.task) for episode in episodes] == [
        ("000000-000000", 51, "pick the cube"),
        ("000000-000001", 51, "pick the cube"),
    ]
    np.testing.assert_allclose(episodes[1].columns["action"][25], np.arange(6)[::-1] + 0.5)
    assert {feature.name: (feature.size, feature.unit) for feature in source.features} == {
        "observation.state": (6, "rad"),
        "observation.joint_velocity": (6, "rad/s"),
        "observation.imu": (10, ""),
        "action": (6, "rad"),
    }
    # Its IMU goes out as an IMU again, and the whole comes back.
    export_dataset(source, "mcap", tmp_path / "again.mcap")
    again = open_source(tmp_path / "again.mcap")
    assert again.places["observation.imu"]["type"] == made.IMU
    for before, after in zip(episodes, read(again), strict=True):
        for name, values in before.columns.items():
            np.testing.assert_array_equal(values, after.columns[name])


def test_json_messages_elements_of_arrays_and_scalars(tmp_path):
    messages = [
        ("/tool", made.START + number * S // 50, {"pose": {"x": number, "y": 2.0}, "open": number % 2 == 0, "list": [7, number]})
        for number in range(20)
    ]
    given = mapping(
        features={
            "observation.tool": {"topic": "/tool", "field": ["pose", "list.1"], "dtype": "int64", "align": "nearest"},
            "observation.open": {"topic": "/tool", "field": "open", "dtype": "bool", "align": "nearest"},
        }
    )
    for path in (
        made.write_json_mcap(tmp_path / "a.mcap", messages),
        made.write_plain_mcap(tmp_path / "b.mcap", messages),
        made.write_json_mcap(tmp_path / "c.mcap", messages, use_chunking=False),
    ):
        source = open_mcap(path, given)
        assert source.features[0].names == ("pose.x", "pose.y", "list.1")
        (episode,) = read(source)
        np.testing.assert_array_equal(episode.columns["observation.tool"], [[i, 2, i] for i in range(20)])
        assert episode.columns["observation.open"].tolist() == [True, False] * 10


def test_encoded_images_pass_as_they_are(tmp_path):
    random = np.random.default_rng(0)
    pictures = [encode_png(random.integers(0, 255, (8, 12, 3), dtype=np.uint8)) for _ in range(30)]
    types = made.STORES[2].types
    messages = []
    for number, picture in enumerate(pictures):
        time_ns = made.START + number * S // 50
        message = types[made.IMAGE](made.header(time_ns, 2), "png", np.frombuffer(picture, np.uint8))
        messages.append(("/camera", made.IMAGE, time_ns, message))
    given = mapping(features={"observation.images.wrist": {"topic": "/camera", "field": "data", "dtype": "image", "align": "nearest"}})
    for path in (made.write_mcap(tmp_path / "a.mcap", messages), made.write_bag2(tmp_path / "bag", messages)):
        source = opened(path, given)
        assert (source.features[0].dtype, source.features[0].shape) == ("image", (8, 12, 3))
        (episode,) = read(source)
        assert episode.columns["observation.images.wrist"].tolist() == pictures


def test_episodes_are_files_pauses_or_what_a_topic_marks(tmp_path):
    types = made.STORES[2].types
    first, second = made.arm(1.0), made.arm(1.0, made.START + 5 * S)
    folder = tmp_path / "files"
    folder.mkdir()
    for name, messages in (("a.mcap", first), ("b.mcap", second)):
        made.write_mcap(folder / name, messages)
    source = open_mcap(folder, mapping())
    assert [(episode.key, episode.length) for episode in read(source)] == [("000000-000000", 51), ("000001-000000", 51)]

    both = made.write_mcap(tmp_path / "both.mcap", [*first, *second])
    assert [episode.length for episode in read(open_mcap(both, mapping(episodes={"gap_s": 2.0})))] == [51, 51]
    assert [episode.length for episode in read(open_mcap(both, mapping(episodes={"gap_s": 2.0, "least_frames": 60})))] == []

    def marked(kind, values):
        marks = [("/episode", kind, made.START + round(at * S), types[kind](value)) for at, value in values]
        return sorted([*made.arm(4.0), *marks], key=lambda item: item[2])

    flags = made.write_mcap(tmp_path / "flags.mcap", marked(made.BOOL, [(0.5, True), (1.5, False), (2.0, True), (2.1, True)]))
    found = read(open_mcap(flags, mapping(episodes={"topic": "/episode"})))
    assert [round(episode.length / 50, 1) for episode in found] == [1.0, 2.0]
    texts = made.write_bag2(tmp_path / "texts", marked(made.STRING, [(0.5, "pick"), (1.5, "place"), (2.5, "")]))
    found = read(open_rosbag(texts, mapping(episodes={"topic": "/episode"})))
    assert [(episode.task, round(episode.length / 50, 1)) for episode in found] == [("pick", 1.0), ("place", 1.0)]


def test_several_bags_are_one_source(tmp_path):
    for name, begin in (("a", made.START), ("b", made.START + 100 * S)):
        made.write_bag2(tmp_path / "bags" / name, made.arm(1.0, begin))
    assert [episode.length for episode in read(open_source(tmp_path / "bags", mapping=_file(tmp_path)))] == [51, 51]
    (database,) = (tmp_path / "bags" / "a").glob("*.db3")
    assert len(read(open_source(database, mapping=_file(tmp_path)))) == 1


def test_nan_passes_and_is_named_where_it_is_written(tmp_path):
    messages = made.arm(1.0, shuffled=False)
    broken = [item for item in messages if item[0] == "/joint_states"][30]
    broken[3].position[1] = np.nan
    source = open_mcap(made.write_mcap(tmp_path / "a.mcap", messages), mapping())
    (episode,) = read(source)
    # 30 / 100 s is frame 15; its neighbours lie on messages of their own.
    assert np.argwhere(np.isnan(episode.columns["observation.state"])).tolist() == [[15, 1]]
    with pytest.raises(DatasetError, match=r"episode 000000-000000: observation.state of frame 15 holds NaN or infinity"):
        export_dataset(source, "lerobot", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_dataset(source, "mcap", tmp_path / "b.mcap")
    (again,) = read(open_source(tmp_path / "b.mcap"))
    np.testing.assert_array_equal(again.columns["observation.state"], episode.columns["observation.state"])


def _file(folder):
    path = folder / "mapping.yaml"
    path.write_text(mapping().model_dump_json())
    return path


STATE = {"topic": "/joint_states", "field": "position"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"x": {"topic": "/joints", "field": "position"}}, r"has no topic '/joints'; it has: /imu/data, /joint_commands, /joint_states"),
        ({"x": {**STATE, "field": "angle"}}, r"/joint_states .*has no field 'angle'; it has: effort, header, name, position, velocity"),
        ({"x": {**STATE, "names": ["elbow", "wrist"]}}, r"/joint_states .*: name lacks wrist \(it has: (elbow|gripper|shoulder), "),
        ({"x": {**STATE, "field": "header.frame_id"}}, r"the field 'header.frame_id' holds text; numbers are wanted"),
        ({"x": {"topic": "/imu/data", "field": "orientation", "names": ["a"]}}, r"names has 1 names, orientation 4 components"),
        ({"x": {"topic": "/imu/data", "field": "orientation.q"}}, r"has no field 'orientation.q'; it has: w, x, y, z"),
        (
            {"x": {"topic": "/joint_commands", "field": "position", "align": "nearest"}},
            r"has 20 messages a second \(median\), 45 are wanted",
        ),
        (
            {"x": {"topic": "/joint_commands", "field": "position", "max_age_s": 0.01}},
            r"/joint_commands is silent for 0.0[34]\d? s at frame",
        ),
    ],
)
def test_what_the_mapping_wants_and_the_file_lacks_is_named(tmp_path, given, words):
    for name, version, write in (made.WRITERS["mcap zstd"], made.WRITERS["ros 1"], made.WRITERS["ros 2 sqlite"]):
        path = write(tmp_path / name, made.arm(1.0, version=version))
        with pytest.raises(DatasetError, match=words) as error:
            read(opened(path, mapping(features=given)))
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_joints_that_differ_between_files_are_named(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    made.write_mcap(folder / "a.mcap", made.arm(1.0))
    others = made.arm(1.0)
    for item in others:
        if item[0] == "/joint_states":
            item[3].name[item[3].name.index("gripper")] = "claw"
    made.write_mcap(folder / "b.mcap", others)
    words = r"b.mcap: episode 000001-000000: /joint_states \(sensor_msgs/msg/JointState\): name lacks gripper \(it has: .*claw"
    with pytest.raises(DatasetError, match=words):
        read(open_mcap(folder, mapping()))


def test_a_topic_that_falls_silent_is_named_with_its_frame(tmp_path):
    messages = [item for item in made.arm(3.0) if not (item[0] == "/imu/data" and made.START + S < item[2] < made.START + 2 * S)]
    path = made.write_mcap(tmp_path / "a.mcap", messages)
    with pytest.raises(DatasetError, match=r"/imu/data is silent for 0.5 s at frame 75 \(max_age_s: 0.4\)"):
        read(open_mcap(path, one("x", topic="/imu/data", field="angular_velocity", align="nearest", max_age_s=0.4)))
    apart = [item for item in made.arm(1.0) if item[0] != "/imu/data"] + [item for item in made.arm(1.0, made.START + 9 * S)
                                                                         if item[0] == "/imu/data"]  # fmt: skip
    with pytest.raises(DatasetError, match="its topics do not overlap in time; are they on one clock"):
        read(open_mcap(made.write_mcap(tmp_path / "b.mcap", apart), mapping()))


def test_a_recording_without_a_mapping_says_what_it_has(tmp_path):
    for name, version, write in (made.WRITERS["mcap zstd"], made.WRITERS["ros 1"], made.WRITERS["ros 2 sqlite"]):
        path = write(tmp_path / name, made.arm(1.0, version=version))
        with pytest.raises(
            DatasetError, match=r"is no export of ours; a mapping file must name topics and fields. Its topics: /imu/data \("
        ):
            open_source(path)
    np.savez(tmp_path / "x.npz", obs=np.zeros(3))
    with pytest.raises(UsageError, match=r"a mapping is for MCAP files and ROS bags; this is a .npz file"):
        open_source(tmp_path / "x.npz", mapping=_file(tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": {"x": {"topic": "/a", "field": "b", "dtype": "int32", "align": "linear"}}}, "align: linear needs floating-point"),
        ({"features": {"x": {"topic": "/a", "field": "b", "dtype": "complex64"}}}, "'complex64' is no element type"),
        ({"features": {"timestamp": {"topic": "/a", "field": "b"}}}, "timestamp is made by the frame clock"),
        ({"episodes": {"gap_s": 1.0, "topic": "/e"}}, "give gap_s or topic, not both"),
        ({"features": {"x": {"topik": "/a", "field": "b"}}}, "did you mean"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        mapping(**change)


def test_it_becomes_a_dataset_and_comes_back_from_every_format(tmp_path):
    source = open_mcap(made.write_mcap(tmp_path / "a.mcap", made.arm(1.0)), mapping())
    export_dataset(source, "lerobot", tmp_path / "data")
    info = load_info(tmp_path / "data")
    for format, name in (("hdf5", "b.hdf5"), ("mcap", "b.mcap"), ("mcap", "folder"), ("rosbag2", "bag")):
        export_dataset(open_source(tmp_path / "data"), format, tmp_path / name)
        export_dataset(open_source(tmp_path / name), "lerobot", tmp_path / f"{name}-back")
        assert load_info(tmp_path / f"{name}-back").digest == info.digest
