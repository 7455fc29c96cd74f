"""npz files, LeRobot v2.1 folders, motion files, and what is in no format."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cluster.contract import PolicyContract, TensorField
from cluster.errors import UsageError
from cluster.lerobot.errors import DatasetError
from serve_apps.feedback.datasets import write_served
from trainables.datasets.exports.registry import export_dataset
from trainables.datasets.lerobot import load_info
from trainables.datasets.sources.detect import detect_format, open_source
from trainables.motions.load import load_motion


def read(source):
    return [episode for piece in source.pieces() for episode in source.read(piece)]


def test_npz_one_file_an_episode(tmp_path):
    for number, length in enumerate((5, 7)):
        stamps = 3.0 + np.arange(length) / 25
        np.savez(
            tmp_path / f"pour_{number}.npz",
            obs=np.full((length, 2), number, np.float32),
            actions=np.ones((length, 2)),
            timestamps=stamps,
            joint_names=["a", "b"],
        )
    source = open_source(tmp_path)
    assert source.fps == 25
    assert {feature.name: feature.names for feature in source.features}["action"] == ("a", "b")
    first, second = read(source)
    assert (first.task, first.length, second.length) == ("pour_0", 5, 7)
    assert second.columns["observation.state"].tolist() == [[1, 1]] * 7
    np.testing.assert_allclose(first.columns["timestamp"], np.arange(5) / 25, atol=1e-6)


@pytest.mark.parametrize(
    "ends", [{"episode_ends": [3, 10]}, {"dones": np.arange(10) == 2}, {"terminals": np.zeros(10), "timeouts": np.arange(10) == 2}]
)
def test_npz_many_episodes_in_one_file(tmp_path, ends):
    np.savez(tmp_path / "all.npz", states=np.arange(20.0).reshape(10, 2), action=np.zeros((10, 1)), fps=10, **ends)
    first, second = read(open_source(tmp_path / "all.npz"))
    assert (first.length, second.length) == (3, 7)
    assert second.columns["observation.state"][0].tolist() == [6, 7]
    assert second.columns["action"].shape == (7,)


def test_npz_that_cannot_be_read_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, obs=np.zeros((4, 2)), actions=np.zeros((4, 2)))
    with pytest.raises(DatasetError, match="give them with --fps"):
        open_source(path)
    np.savez(path, obs=np.array([{"a": 1}], dtype=object), fps=10)
    with pytest.raises(DatasetError, match=r"x.npz: obs: holds pickled objects, which are never read"):
        open_source(path)
    np.savez(path, obs=np.zeros((4, 2)), actions=np.zeros((3, 2)), fps=10)
    with pytest.raises(DatasetError, match=r"different numbers of frames: observation.state 4, action 3"):
        open_source(path)
    np.savez(path, obs=np.zeros((4, 2)), episode_ends=[2, 9], fps=10)
    with pytest.raises(DatasetError, match="episode_ends must rise to the 4 frames"):
        read(open_source(path))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DatasetError, match=r"x.npz: not readable .npz file \(truncated or damaged\)"):
        open_source(path)
    np.savez_compressed(path, obs=np.zeros(2**24))
    assert path.stat().st_size < 10**6
    with zipfile.ZipFile(path) as archive:
        assert archive.infolist()[0].file_size > 2**26
    with pytest.raises(
        DatasetError, match=r"x.npz: obs: declares 128 MiB but stores 0.124 MiB; above 64 MiB no more than 200 times what is stored is read"
    ):
        open_source(path)
    np.savez(tmp_path / "a.npz", obs=np.zeros((4, 2)), actions=np.zeros((4, 2)), timestamps=np.arange(4) / 10)
    np.savez(tmp_path / "b.npz", obs=np.zeros((4, 2)), actions=np.zeros((4, 2)), timestamps=np.arange(4) / 30)
    path.unlink()
    with pytest.raises(
        DatasetError, match=r"b.npz: episode 0: has 30 frames a second \(median\), the dataset 10; all episodes must have one rate"
    ):
        read(open_source(tmp_path))


def lerobot_v21(folder, **changed):
    (folder / "meta").mkdir(parents=True)
    (folder / "data/chunk-000").mkdir(parents=True)
    info = {
        "codebase_version": "v2.1",
        "robot_type": "so100",
        "fps": 30,
        "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            "action": {"dtype": "float32", "shape": [2], "names": {"motors": ["a", "b"]}},
            "observation.images.top": {"dtype": "video", "shape": [4, 4, 3], "names": ["height", "width", "channels"]},
            **{
                name: {"dtype": kind, "shape": [1], "names": None}
                for name, kind in (
                    ("timestamp", "float32"),
                    ("frame_index", "int64"),
                    ("episode_index", "int64"),
                    ("index", "int64"),
                    ("task_index", "int64"),
                )
            },
        },
        **changed,
    }
    (folder / "meta/info.json").write_text(json.dumps(info))
    (folder / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "fold"}\n')
    lines = []
    for index, length in enumerate((4, 6)):
        actions = np.full((length, 2), index, np.float32)
        table = pa.table(
            {
                "action": pa.FixedSizeListArray.from_arrays(pa.array(actions.reshape(-1)), 2),
                "timestamp": pa.array((np.arange(length) / 30).astype(np.float32)),
                "frame_index": np.arange(length),
                "episode_index": np.full(length, index),
                "index": np.arange(length),
                "task_index": np.zeros(length, np.int64),
            }
        )
        pq.write_table(table, folder / f"data/chunk-000/episode_{index:06d}.parquet")
        lines.append(json.dumps({"episode_index": index, "tasks": ["fold"], "length": length}))
    (folder / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "videos/chunk-000/observation.images.top").mkdir(parents=True)
    (folder / "videos/chunk-000/observation.images.top/episode_000000.mp4").write_bytes(b"video")
    return folder


def test_lerobot_v21_is_read_and_its_missing_videos_are_named(tmp_path):
    source = open_source(lerobot_v21(tmp_path / "old"))
    assert (source.format, source.fps, source.robot_type) == ("lerobot_v21", 30, "so100")
    assert [video.name for video in source.missing_videos] == ["episode_000001.mp4"]
    first, second = read(source)
    assert (first.length, second.length, second.task) == (4, 6, "fold")
    assert second.columns["action"].tolist() == [[1, 1]] * 6
    clip = first.videos["observation.images.top"]
    assert (clip.file.read_bytes(), clip.from_timestamp_s, clip.to_timestamp_s) == (b"video", 0.0, 4 / 30)
    assert next(feature for feature in source.features if feature.name == "action").names == ("a", "b")


def test_lerobot_v21_that_is_damaged_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="leads out of the dataset's folder"):
        open_source(lerobot_v21(tmp_path / "a", data_path="../../{episode_index}.parquet"))
    with pytest.raises(DatasetError, match="leads out of the dataset's folder"):
        open_source(lerobot_v21(tmp_path / "b", video_path="/etc/{video_key}{episode_index}"))
    folder = lerobot_v21(tmp_path / "c")
    file = folder / "data/chunk-000/episode_000001.parquet"
    pq.write_table(pq.read_table(file, partitioning=None).slice(0, 2), file)
    with pytest.raises(DatasetError, match=r"episode_000001.parquet: episode 1 has 2 frames, the metadata name 6"):
        read(open_source(folder))
    file.write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match=r"episode_000001.parquet: episode 1: not readable parquet"):
        read(open_source(folder))
    file.unlink()
    with pytest.raises(DatasetError, match=r"episode 1: the data file data/chunk-000/episode_000001.parquet is missing"):
        open_source(folder)
    (folder / "meta/episodes.jsonl").write_text('{"episode_index": 0, "length": 4}\nnonsense\n')
    with pytest.raises(DatasetError, match=r"episodes.jsonl: line 2 is not JSON: nonsense"):
        open_source(folder)


@pytest.mark.parametrize(
    ("name", "joints", "frames", "fps"),
    [("dog_trot.txt", 12, 33, 60), ("mini_duck_forward.json", 15, 480, 60), ("go_duck_0.json", 16, 600, 60)],
)
def test_a_motion_is_a_demonstration_of_its_own_poses(shared_data, name, joints, frames, fps):
    path = shared_data / "motions" / name
    source = open_source(path)
    (episode,) = read(source)
    motion = load_motion(path)
    assert (source.fps, episode.length) == (fps, frames)
    np.testing.assert_allclose(episode.columns["observation.state"], motion.joint_position_rad, atol=1e-6)
    np.testing.assert_array_equal(episode.columns["action"][:-1], episode.columns["observation.state"][1:])
    assert {feature.name: feature.unit for feature in source.features}["observation.root_linear_velocity"] == "m/s"
    assert episode.columns["action"].shape == (frames, joints)


def test_what_is_in_no_format_is_refused_with_the_formats(tmp_path):
    with pytest.raises(DatasetError, match="there is nothing here"):
        open_source(tmp_path / "absent")
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(DatasetError, match=r"x.csv: is in no format that is known \(lerobot: .*minari.*name it with --format"):
        open_source(tmp_path / "x.csv")
    with pytest.raises(UsageError, match="unknown format 'csv'; known: lerobot, "):
        open_source(tmp_path / "x.csv", "csv")
    np.savez(tmp_path / "x.npz", obs=np.zeros((4, 2)), fps=10)
    with pytest.raises(UsageError, match="a mapping is for MCAP files and ROS bags"):
        open_source(tmp_path / "x.npz", mapping=tmp_path / "m.yaml")


def test_npz_is_read_an_episode_at_a_time(tmp_path):
    """400 MB in a process that may take 150 MB more than it has."""
    frames, rows = 50, 2**20
    path = tmp_path / "large.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, shape in (("obs", (frames, rows)), ("actions", (frames, 2))):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": shape})
                for frame in range(frames):
                    member.write(np.full(shape[1], frame, np.float64).tobytes())
        with archive.open("episode_ends.npy", "w") as member:
            np.save(member, np.arange(5, frames + 1, 5))
        with archive.open("fps.npy", "w") as member:
            np.save(member, np.array(10))
    assert path.stat().st_size > 400e6
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from trainables.datasets.sources.detect import open_source\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "source = open_source(Path(sys.argv[1]))\n"
        "seen = [(one.length, float(one.columns['observation.state'][0, 0])) for piece in source.pieces() for one in source.read(piece)]\n"
        "print(seen == [(5, 5.0 * number) for number in range(10)])\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
    )
    said = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == "True"
    assert float(said[1]) < 150


def test_npz_members_that_are_elsewhere_lie_or_are_columnwise(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../obs.npy", b"")
    with pytest.raises(DatasetError, match=r"x.npz: the path '../obs.npy' leads out of .*x.npz; only files inside it are read"):
        open_source(path)
    with zipfile.ZipFile(path, "w") as archive, archive.open("obs.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 10)})
        member.write(bytes(800))
    with pytest.raises(DatasetError, match=r"x.npz: obs: declares 80,000,000,000,000 bytes and stores [\d,]+ \(truncated or damaged\)"):
        open_source(path)
    with zipfile.ZipFile(path, "w") as archive, archive.open("obs.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (-1, 10)})
        member.write(bytes(800))
    with pytest.raises(DatasetError, match=r"x.npz: obs: has the shape \(-1, 10\)"):
        open_source(path)
    np.savez(path, obs=np.zeros((4, 2)), state=np.zeros((4, 2)), fps=10)
    with pytest.raises(DatasetError, match=r"x.npz: obs and state would both be observation.state; rename one"):
        open_source(path)
    path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"x.npz: is empty; a file in the format npz is wanted"):
        open_source(path)
    columnwise = np.asfortranarray(np.arange(20.0).reshape(10, 2))
    pixels = np.random.default_rng(0).integers(0, 256, (10, 9, 8, 3), dtype=np.uint8)
    np.savez(path, obs=columnwise, camera=pixels, fps=10, episode_ends=[4, 10])
    first, second = read(open_source(path))
    np.testing.assert_array_equal(np.concatenate([one.columns["observation.state"] for one in (first, second)]), columnwise)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(second.columns["camera"][1]))), pixels[5])


def test_lerobot_v21_of_mixed_rates_is_refused_and_nan_is_named_where_it_is_written(tmp_path):
    folder = lerobot_v21(tmp_path / "old")
    file = folder / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(file, partitioning=None)
    slow = pa.array((np.arange(6) / 25).astype(np.float32))
    pq.write_table(table.set_column(table.schema.get_field_index("timestamp"), "timestamp", slow), file)
    words = r"episode_000001.parquet: episode 1: has 25 frames a second \(median\), the dataset 30; all episodes must have one rate"
    with pytest.raises(DatasetError, match=words):
        read(open_source(folder))
    values = np.ones((6, 2), np.float32)
    values[4, 1] = np.nan
    actions = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 2)
    pq.write_table(table.set_column(table.schema.get_field_index("action"), "action", actions), file)
    source = open_source(folder)
    assert np.argwhere(np.isnan(read(source)[1].columns["action"])).tolist() == [[4, 1]]
    with pytest.raises(DatasetError, match=r"episode 0000001: action of frame 4 holds NaN or infinity"):
        export_dataset(source, "lerobot", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_file_without_a_suffix_is_told_by_what_it_begins_with(tmp_path):
    for start, kind in (
        (b"\x89HDF\r\n\x1a\n", "hdf5"),
        (b"\x89MCAP0\r\n", "mcap"),
        (b"#ROSBAG V2.0\n", "rosbag"),
        (b"SQLite format 3\0", "rosbag"),
    ):
        (tmp_path / "thing").write_bytes(start + bytes(100))
        assert detect_format(tmp_path / "thing") == kind
        with pytest.raises(DatasetError, match="thing"):
            open_source(tmp_path / "thing")


def test_served_episodes_are_a_source(tmp_path):
    contract = PolicyContract(
        policy="walker", robot="pidog", task="PidogWalk", control_dt_s=0.02,
        observation=(TensorField(name="gravity", shape=(3,)),), action=(TensorField(name="target_rad", shape=(2,), unit="rad"),),
    )  # fmt: skip
    random = np.random.default_rng(0)
    about = {"started_at": "2026-01-01T00:00:00Z", "version": 3, "success": True, "ended": "outcome", "metrics": {"speed": 0.2}}
    messages = [
        {
            "contract": contract.model_dump(mode="json"), "policy": "walker", "folder": str(tmp_path), "settings": {"max_gb": 1.0},
            "replica": "r", "number": number, "episode_id": f"e{number}", "about": about,
            "numbers": random.normal(size=(8, 5)).astype(np.float32), "times": np.stack([np.arange(8) * 0.02, np.full(8, 1e-3)], axis=1),
        }
        for number in range(3)
    ]  # fmt: skip
    folder, _ = write_served(messages, 1)
    source = open_source(Path(folder))
    assert source.gaitway["lineage"] == {"kind": "served", "policy": "walker", "replica": "r"}
    for format, name in (("hdf5", "x.hdf5"), ("mcap", "x.mcap"), ("rosbag2", "bag")):
        export_dataset(source, format, tmp_path / name)
        export_dataset(open_source(tmp_path / name), "lerobot", tmp_path / f"{name}-back")
        back = load_info(tmp_path / f"{name}-back")
        assert back.digest == load_info(folder).digest
        assert [dict(episode.about) for episode in back.episodes] == [dict(episode.about) for episode in load_info(folder).episodes]
        assert back.gaitway["contract"] == contract.interface()
