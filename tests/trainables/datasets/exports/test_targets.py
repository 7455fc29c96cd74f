"""Exports in awkward places and of awkward datasets: what is there stays, what is odd comes back, and memory is an episode's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest

from cluster.lerobot.errors import DatasetError
from cluster.lerobot.videos import VideoClip
from trainables.datasets.exports.registry import EXPORTS, export_dataset
from trainables.datasets.lerobot import DatasetSpec, Episode, Feature, compute_digest, load_info, write_dataset
from trainables.datasets.sources.carriers import IMU_NAMES, carriers_of
from trainables.datasets.sources.detect import open_source
from trainables.datasets.sources.lerobot import open_lerobot

TARGETS = (("lerobot", "folder"), ("hdf5", "file.hdf5"), ("mcap", "file.mcap"), ("mcap", "folder"), ("rosbag2", "bag"))


def made(folder, features, columns, fps=10, gaitway=None, **facts):
    episodes = [Episode(str(number), "t", one, **facts) for number, one in enumerate(columns)]
    return write_dataset(folder, episodes, DatasetSpec(fps, features, "arm", gaitway or {}))


def small(folder, **given):
    return made(folder, (Feature("action", "float32", (2,)),), [{"action": np.arange(6, dtype=np.float32).reshape(3, 2)}], **given)


def digest_by_way_of(info, format, target, back):
    export_dataset(open_lerobot(info.path), format, target)
    export_dataset(open_source(target), "lerobot", back)
    return compute_digest(back)


@pytest.mark.parametrize(("format", "name"), TARGETS)
def test_overwrite_replaces_exports_and_nothing_else(tmp_path, format, name):
    info = small(tmp_path / "data")
    target = tmp_path / "out" / name
    export_dataset(open_lerobot(info.path), format, target)
    first = os.stat(target).st_ino
    export_dataset(open_lerobot(info.path), format, target, overwrite=True)
    assert os.stat(target).st_ino != first
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    home = tmp_path / "home"
    (home / "thesis").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"home\S*: .*(is nothing that this export made|is not a dataset)"):
        export_dataset(open_lerobot(info.path), format, home if "." not in name else (home.rename(tmp_path / f"home{target.suffix}")), True)
    assert [path.name for path in tmp_path.rglob("thesis")] == ["thesis"]


@pytest.mark.parametrize(("format", "name"), TARGETS)
def test_an_export_that_is_moved_keeps_its_videos_and_names_the_missing(tmp_path, format, name):
    (tmp_path / "a.mp4").write_bytes(b"seen from the wrist" * 100)
    features = (Feature("action", "float32", (1,)), Feature("observation.images.wrist", "video", (4, 4, 3)))
    columns = [{"action": np.zeros(3, np.float32)}] * 2
    clips = [VideoClip(tmp_path / "a.mp4", 0.0, 0.3), VideoClip(tmp_path / "lost.mp4", 0.0, 0.3)]
    episodes = [
        Episode(str(number), "t", one, videos={"observation.images.wrist": clip})
        for number, (one, clip) in enumerate(zip(columns, clips, strict=True))
    ]
    info = write_dataset(tmp_path / "data", episodes, DatasetSpec(10, features, "arm"))
    result = export_dataset(open_lerobot(info.path), format, tmp_path / "first" / name)
    assert result["missing_videos"] == [str(info.missing_videos[0])]
    # Gone: what the export says must not depend on where the dataset was.
    shutil.rmtree(info.path)
    (tmp_path / "a.mp4").unlink()
    (tmp_path / "first").rename(tmp_path / "second")
    source = open_source(tmp_path / "second" / name)
    assert len(source.missing_videos) == 1
    export_dataset(source, "lerobot", tmp_path / "back")
    back = load_info(tmp_path / "back")
    assert back.digest == info.digest
    assert back.episodes[0].videos["observation.images.wrist"].file.read_bytes() == b"seen from the wrist" * 100


@pytest.mark.parametrize(("format", "name"), TARGETS)
def test_odd_datasets_come_back(tmp_path, format, name):
    random = np.random.default_rng(0)
    names = ("a/b", "a.b", "a_b", "observation.x", "obs/x", "action", "actions", "rewards", "next.reward", "0", "höhe", "many")
    features = tuple(Feature(one, "float32", (1,)) for one in names[:-1])
    features += (Feature("many", "float32", (3000,), tuple(f"component_number_{index}" for index in range(3000)), "rad"),)
    length = 4
    columns = {one: random.normal(size=length).astype(np.float32) for one in names[:-1]}
    columns["many"] = random.normal(size=(length, 3000)).astype(np.float32)
    # A clock of the year 2023 that jumps back: the messages still come in the order of the frames.
    columns["timestamp"] = np.array([1.7e9, 1.7e9 + 512, 1.7e9 - 1024, 1.7e9], np.float32)
    lineage = {"kind": "made up", "notes": "x" * 200_000}
    info = made(tmp_path / "data", features, [columns] * 12, gaitway={"lineage": lineage}, about={"notes": "y" * 70_000})
    assert digest_by_way_of(info, format, tmp_path / name, tmp_path / "back") == info.digest
    back = load_info(tmp_path / "back")
    assert back.gaitway["lineage"] == lineage
    assert {one: feature.to_json() for one, feature in back.features.items()} == {one: f.to_json() for one, f in info.features.items()}
    assert back.episodes[11].about["notes"] == "y" * 70_000


@pytest.mark.parametrize("format", ["hdf5", "mcap", "rosbag2"])
def test_nothing_to_write_is_said_and_leaves_nothing(tmp_path, format):
    source = replace(open_lerobot(small(tmp_path / "data").path), episodes=())
    with pytest.raises(DatasetError, match="there are no episodes to write"):
        export_dataset(source, format, tmp_path / "out" / "x.mcap")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_message_means_decides_its_type():
    def kind(dtype="float32", names=("a", "b"), unit="", shape=(2,)):
        (carrier,) = carriers_of([Feature("observation.x", dtype, shape, names, unit)]).values()
        return carrier.type.rpartition("/")[2], carrier.field

    assert kind(unit="rad") == ("JointState", "position")
    assert kind(unit="rad/s", dtype="float64") == ("JointState", "velocity")
    assert kind(unit="N·m") == ("JointState", "effort")
    # Degrees are no JointState's, nor is the velocity of a body.
    assert kind(unit="deg") == ("Float32MultiArray", "data")
    assert kind(unit="m/s", names=("x", "y")) == ("Float32MultiArray", "data")
    assert kind(unit="", names=IMU_NAMES, shape=(10,)) == ("Imu", "")
    assert kind(dtype="bool", names=None) == ("UInt8MultiArray", "data")
    assert kind(dtype="float16", names=None) == ("Float32MultiArray", "data")
    assert kind(dtype="uint64", names=None, shape=(2, 3)) == ("UInt64MultiArray", "data")
    assert kind(dtype="image", names=None, shape=(4, 4, 3)) == ("CompressedImage", "data")


@pytest.mark.parametrize("unit", ["rad", "rad/s", "N·m", "deg", ""])
def test_imu_and_joints_of_every_width_come_back(tmp_path, unit):
    random = np.random.default_rng(0)
    features = (
        Feature("observation.imu", "float32", (10,), IMU_NAMES),
        Feature("half", "float16", (2,), ("a", "b"), unit),
        Feature("single", "float32", (2,), ("a", "b"), unit),
        Feature("double", "float64", (2,), ("a", "b"), unit),
        Feature("one", "float64", (1,), ("a",), unit),
    )
    columns = {
        "observation.imu": random.normal(size=(3, 10)).astype(np.float32),
        "half": np.array([[6e-8, 65504], [-1, 2], [0.1, 3]], np.float16),
        "single": np.array([[1e-45, 3.4e38], [-1, 2], [0.1, 3]], np.float32),
        "double": np.array([[5e-324, 1e150], [-1, 2], [0.1, 3]]),
        "one": random.normal(size=3),
    }
    info = made(tmp_path / "data", features, [columns])
    for format, name in TARGETS[1:]:
        assert digest_by_way_of(info, format, tmp_path / name, tmp_path / f"{name}-back") == info.digest
        shutil.rmtree(tmp_path / name) if (tmp_path / name).is_dir() else (tmp_path / name).unlink()
        shutil.rmtree(tmp_path / f"{name}-back")


def test_robomimic_finds_its_way_around(tmp_path):
    features = (Feature("observation.state", "float32", (2,), ("a", "b"), "rad"), Feature("action", "float32", (1,)))
    columns = {"observation.state": np.zeros((3, 2), np.float32), "action": np.zeros(3, np.float32)}
    export_dataset(open_lerobot(made(tmp_path / "data", features, [columns]).path), "hdf5", tmp_path / "x.hdf5")
    with h5py.File(tmp_path / "x.hdf5") as file:
        state = file["data/demo_0/obs/state"]
        assert (state.attrs["unit"], list(state.attrs["names"]), state.attrs["feature"]) == ("rad", ["a", "b"], "observation.state")
        assert (file["data/demo_0"].attrs["num_samples"], file["data"].attrs["total"]) == (3, 3)


MEMORY = """
import resource, sys
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from cluster.lerobot.episodes import Episode
from cluster.lerobot.features import Feature
from trainables.datasets.exports.registry import export_dataset
from trainables.datasets.sources.base import Piece, Source
from trainables.datasets.sources.detect import open_source
format, target = sys.argv[1], Path(sys.argv[2])
frames, width, episodes = 40, 25_000, 80
@dataclass(frozen=True)
class Made(Source):
    def pieces(self):
        return [Piece(Path("made"), (number,)) for number in range(episodes)]
    def read(self, piece):
        (number,) = piece.episodes
        yield Episode(f"{number:04d}", "t", {"x": np.random.default_rng(number).normal(size=(frames, width)).astype(np.float32)})
def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
import trainables.datasets.sources.recordings, trainables.datasets.exports.hdf5
before = used()
export_dataset(Made(Path("made"), 10, (Feature("x", "float32", (width,)),)), format, target)
written = used()
source = open_source(target)
total = 0.0
for piece in source.pieces():
    for episode in source.read(piece):
        total += episode.length
size = sum(file.stat().st_size for file in ([target] if target.is_file() else target.rglob("*"))) / 1e6
print(total == frames * episodes, size, written - before, used() - before)
"""


@pytest.mark.parametrize(("format", "name"), TARGETS[1:])
def test_memory_is_that_of_an_episode(tmp_path, format, name):
    """320 MB of 4 MB episodes; a file that was loaded whole would show."""
    done = subprocess.run([sys.executable, "-c", MEMORY, format, str(tmp_path / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    complete, size_mb, written_mb, read_mb = done.stdout.split()
    assert complete == "True"
    assert float(size_mb) > 250
    assert float(written_mb) < 120
    assert float(read_mb) < 120


SLOW = """
import sys, time
from pathlib import Path
from dataclasses import dataclass
import numpy as np
from cluster.lerobot.episodes import Episode
from cluster.lerobot.features import Feature
from trainables.datasets.exports.registry import export_dataset
from trainables.datasets.sources.base import Piece, Source
@dataclass(frozen=True)
class Slow(Source):
    def pieces(self):
        return [Piece(Path("slow"))]
    def read(self, piece):
        for number in range(1000):
            yield Episode(f"{number:04d}", "t", {"x": np.zeros(1000, np.float32)})
            print(number, flush=True)
            time.sleep(0.02)
export_dataset(Slow(Path("slow"), 10, (Feature("x", "float32", (1,)),)), sys.argv[1], Path(sys.argv[2]))
"""


@pytest.mark.parametrize(("format", "name"), TARGETS)
def test_a_killed_export_leaves_nothing_that_counts_and_the_next_one_cleans_up(tmp_path, format, name):
    info = small(tmp_path / "data")
    target = tmp_path / "out" / name
    process = subprocess.Popen([sys.executable, "-c", SLOW, format, str(target)], stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while "5" not in process.stdout.readline():
            assert time.monotonic() < deadline
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert not target.exists()
    export_dataset(open_lerobot(info.path), format, target)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_every_format_is_tried_here():
    assert {format for format, _ in TARGETS} == set(EXPORTS)
