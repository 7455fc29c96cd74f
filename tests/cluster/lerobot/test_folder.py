"""LeRobot folders: what is written is read back, in the format's own layout, and a real dataset made by LeRobot itself loads."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from cluster.lerobot.folder import compute_digest, load_frames, write_dataset
from cluster.lerobot.info import load_info
from cluster.lerobot.metadata import DatasetSpec

FEATURES = (
    Feature("observation.state", "float32", (3,), ("a", "b", "c")),
    Feature("action", "float32", (2,)),
    Feature("next.reward", "float32", (1,)),
    Feature("next.done", "bool", (1,)),
)


def episode(key, length, task="walk", seed=0) -> Episode:
    random = np.random.default_rng([seed, length, *key.encode()])
    columns = {
        "observation.state": random.normal(size=(length, 3)).astype(np.float32),
        "action": random.normal(size=(length, 2)).astype(np.float32),
        "next.reward": random.normal(size=length).astype(np.float32),
        "next.done": np.arange(length) == length - 1,
    }
    return Episode(key, task, columns)


def spec(**changes) -> DatasetSpec:
    return DatasetSpec(**{"fps": 50, "features": FEATURES, "robot_type": "pidog", **changes})


def three():
    return [episode("b", 4), episode("a", 3, "sit"), episode("c", 5)]


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    file_mb=st.sampled_from([1e-4, 1e-2, 100.0]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_values_names_and_boundaries_come_back_whatever_the_files(tmp_path_factory, lengths, file_mb, seed, data):
    episodes = [episode(f"{index:03d}", length, f"task {index % 3}", seed) for index, length in enumerate(lengths)]
    shuffled = data.draw(st.permutations(episodes))
    path = tmp_path_factory.mktemp("written") / "set"
    info = write_dataset(path, shuffled, spec(data_file_mb=file_mb))
    frames = load_frames(path)
    for name in episodes[0].columns:
        wanted = np.concatenate([one.columns[name] for one in episodes])
        assert frames[name].dtype == wanted.dtype
        assert (frames[name] == wanted).all()
    assert info.features["observation.state"].names == ("a", "b", "c")
    assert [one.length for one in info.episodes] == lengths
    assert [one.tasks[0] for one in info.episodes] == [one.task for one in episodes]
    assert (frames["episode_index"] == np.repeat(np.arange(len(lengths)), lengths)).all()
    assert (frames["index"] == np.arange(sum(lengths))).all()
    assert frames["timestamp"] == pytest.approx(frames["frame_index"] / 50)
    assert [info.tasks[index] for index in frames["task_index"]] == [one.task for one in episodes for _ in range(one.length)]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    assert [(one.from_index, one.to_index) for one in info.episodes] == list(itertools.pairwise(starts))
    assert compute_digest(path) == info.digest


def test_the_layout_is_that_of_a_real_dataset(tmp_path, shared_data):
    ours, real = tmp_path / "set", shared_data / "lerobot_so101"
    write_dataset(ours, three(), spec())
    for name in ("meta/info.json", "meta/stats.json"):
        mine, theirs = (json.loads((folder / name).read_text()) for folder in (ours, real))
        assert set(theirs) - {"observation.images.front", "observation.images.top"} <= set(mine)
    mine, theirs = (json.loads((folder / "meta/info.json").read_text()) for folder in (ours, real))
    assert mine["data_path"] == theirs["data_path"]
    assert mine["codebase_version"] == theirs["codebase_version"]
    assert {name: mine["features"][name] for name in ("timestamp", "frame_index", "index")} == {
        name: theirs["features"][name] for name in ("timestamp", "frame_index", "index")
    }
    for name in ("data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"):
        mine, theirs = (pq.read_schema(folder / name) for folder in (ours, real))
        shared = [field for field in theirs.names if "image" not in field and "/q" not in field]
        assert set(shared) <= set(mine.names)
        for field in shared:
            both = [schema.field(field).type for schema in (mine, theirs)]
            if pa.types.is_fixed_size_list(both[1]):
                assert pa.types.is_fixed_size_list(both[0])
                assert both[0].value_type == both[1].value_type
            else:
                assert both[0] == both[1], field
    # LeRobot looks a task up with pandas: tasks.iloc[task_index].name
    tasks = pd.read_parquet(ours / "meta/tasks.parquet")
    assert [tasks.iloc[index].name for index in range(2)] == ["sit", "walk"]
    assert tasks["task_index"].tolist() == [0, 1]


def test_statistics_are_those_of_all_frames(tmp_path):
    write_dataset(tmp_path / "set", three(), spec())
    frames = load_frames(tmp_path / "set")
    statistics = json.loads((tmp_path / "set/meta/stats.json").read_text())
    for name in ("observation.state", "action", "next.reward", "next.done", "timestamp", "index"):
        values = frames[name].reshape(12, -1).astype(np.float64)
        assert statistics[name]["min"] == pytest.approx(values.min(axis=0))
        assert statistics[name]["max"] == pytest.approx(values.max(axis=0))
        assert statistics[name]["mean"] == pytest.approx(values.mean(axis=0))
        assert statistics[name]["std"] == pytest.approx(values.std(axis=0), abs=1e-9)
        assert statistics[name]["count"] == [12]


def test_matrices_keep_their_shape(tmp_path):
    values = np.arange(24, dtype=np.float64).reshape(4, 2, 3)
    write_dataset(tmp_path / "set", [Episode("0", "t", {"matrix": values})], spec(features=(Feature("matrix", "float64", (2, 3)),)))
    assert (load_frames(tmp_path / "set")["matrix"] == values).all()


def test_a_real_dataset_loads_and_only_names_its_missing_videos(shared_data):
    path = shared_data / "lerobot_so101"
    info = load_info(path)
    assert (info.num_episodes, info.num_frames, info.fps, info.robot_type) == (4, 1492, 30.0, "so101_follower")
    assert info.tasks == ("Pick the orange cube and place it in the box",)
    assert info.features["action"].names[-1] == "gripper.pos"
    assert [str(video.relative_to(path)) for video in info.missing_videos] == [
        "videos/observation.images.front/chunk-000/file-000.mp4",
        "videos/observation.images.top/chunk-000/file-000.mp4",
    ]
    frames = load_frames(path)
    recorded = json.loads((path / "meta/stats.json").read_text())
    for name in ("action", "observation.state"):
        assert frames[name].shape == (1492, 6)
        assert frames[name].min(axis=0) == pytest.approx(recorded[name]["min"])
        assert frames[name].mean(axis=0) == pytest.approx(recorded[name]["mean"], rel=1e-4)
    one = load_frames(path, episodes=[2], columns=["action"])
    assert list(one) == ["action"]
    assert (one["action"] == frames["action"][frames["episode_index"] == 2]).all()
    with pytest.raises(DatasetError, match=r"observation.images.top.* is a video, which is not read as numbers"):
        load_frames(path, columns=["observation.images.top"])


def test_the_digest_is_of_the_values_alone(tmp_path):
    digest = write_dataset(tmp_path / "a", three(), spec()).digest
    assert write_dataset(tmp_path / "b", three()[::-1], spec(data_file_mb=1e-4, robot_type="other", seed=5)).digest == digest
    changed = three()
    changed[1].columns["action"][0, 0] += 1e-6
    assert write_dataset(tmp_path / "c", changed, spec()).digest != digest
    assert write_dataset(tmp_path / "d", three(), spec(fps=25)).digest != digest
    renamed = [episode("a", 3, "sit"), episode("b", 4, "trot"), episode("c", 5)]
    assert write_dataset(tmp_path / "e", renamed, spec()).digest != digest


def test_the_split_is_seeded_complete_and_has_every_task_on_both_sides(tmp_path):
    episodes = [episode(f"{index:02d}", 2, f"task {index % 4}") for index in range(22)]
    info = write_dataset(tmp_path / "a", episodes, spec(validation_fraction=0.2, seed=3))
    train, validation = info.splits["train"], info.splits["validation"]
    assert sorted(train + validation) == list(range(22))
    assert len(validation) == 4
    for side in (train, validation):
        assert {info.episodes[index].tasks[0] for index in side} == set(info.tasks)
    again = write_dataset(tmp_path / "b", episodes, spec(validation_fraction=0.2, seed=3))
    other = write_dataset(tmp_path / "c", episodes, spec(validation_fraction=0.2, seed=4))
    assert again.splits == info.splits != other.splits
    assert set(np.unique(load_frames(tmp_path / "a", "validation")["episode_index"])) == set(validation)
    assert len(load_frames(tmp_path / "a", "train", episodes=[validation[0]])["index"]) == 0


def test_provenance_is_kept(tmp_path):
    given = {"task": "pidog_run", "task_config": {"x": 1}, "robot": "pidog", "lineage": {"gaits": ["sit"]}}
    info = write_dataset(tmp_path / "set", three(), spec(provenance=given))
    assert {key: info.gaitway[key] for key in given} == given
    assert info.digest == info.gaitway["digest"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda columns: columns.pop("action"), "episode a: the column 'action' is missing"),
        (lambda columns: columns.update(action=np.zeros((3, 5), np.float32)), r"action has shape \(3, 5\), \(3, 2\) is wanted"),
        (lambda columns: columns.update(action=np.zeros((4, 2), np.float32)), "is wanted"),
        (lambda columns: columns["action"].__setitem__((1, 0), np.nan), "episode a: action of frame 1 holds NaN"),
    ],
)
def test_an_episode_that_does_not_fit_leaves_nothing(tmp_path, change, message):
    episodes = three()
    change(episodes[1].columns)
    with pytest.raises(DatasetError, match=message):
        write_dataset(tmp_path / "set", episodes, spec())
    assert list(tmp_path.iterdir()) == []


def test_targets_are_not_overwritten_by_accident(tmp_path):
    write_dataset(tmp_path / "set", three(), spec())
    before = load_frames(tmp_path / "set")
    with pytest.raises(DatasetError, match="a dataset is there already"):
        write_dataset(tmp_path / "set", three(), spec())
    write_dataset(tmp_path / "set", three()[:1], spec(), overwrite=True)
    assert len(load_frames(tmp_path / "set")["index"]) < len(before["index"])
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers/thesis.txt").write_text("years of work")
    with pytest.raises(DatasetError, match="exists and is not a dataset"):
        write_dataset(tmp_path / "papers", three(), spec(), overwrite=True)
    assert (tmp_path / "papers/thesis.txt").exists()
    with pytest.raises(DatasetError, match="there are no episodes"):
        write_dataset(tmp_path / "empty", [], spec())
    with pytest.raises(DatasetError, match="two episodes have the key 'a'"):
        write_dataset(tmp_path / "twice", [episode("a", 2), episode("a", 3)], spec())
    assert hidden(tmp_path) == []


def test_what_cannot_be_a_dataset_is_refused_before_anything_is_written():
    with pytest.raises(DatasetError, match=r"a whole number of frames a second, given 29.97"):
        spec(fps=29.97)
    with pytest.raises(DatasetError, match=r"validation_fraction is 1.0"):
        spec(validation_fraction=1.0)
    with pytest.raises(DatasetError, match="two features have the same name"):
        spec(features=(FEATURES[0], FEATURES[0]))
    with pytest.raises(DatasetError, match="1 names for 2 components"):
        spec(features=(Feature("x", "float32", (2,), ("one",)),))
    with pytest.raises(DatasetError, match="must be one that a folder can have"):
        spec(features=(Feature("../x", "video", (2, 2, 3)),))
    with pytest.raises(DatasetError, match="'float99' is not a NumPy element type"):
        spec(features=(Feature("x", "float99", (2,)),))


def damage_info(path, **changes):
    info = json.loads((path / "meta/info.json").read_text())
    (path / "meta/info.json").write_text(json.dumps({key: value for key, value in {**info, **changes}.items() if value is not None}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "meta/info.json").unlink(), "not a LeRobot v3.0 dataset: meta/info.json is missing"),
        (lambda path: (path / "meta/info.json").write_text("{"), "not readable JSON"),
        (lambda path: (path / "meta/info.json").write_text("[]"), "holds a JSON list"),
        (lambda path: damage_info(path, codebase_version="v2.1"), "codebase_version is v2.1; v3.0 is read"),
        (lambda path: damage_info(path, fps=0), "fps is 0.0; it must be above 0"),
        (lambda path: damage_info(path, features=None), "needs fps, data_path and features"),
        (lambda path: damage_info(path, features={"x": {"dtype": "float32"}}), "the feature 'x' needs dtype and shape"),
        (lambda path: (path / "meta/tasks.parquet").unlink(), "tasks.parquet: is missing"),
        (lambda path: (path / "meta/tasks.parquet").write_bytes(b"PAR1junk"), "tasks.parquet: not readable parquet"),
        (lambda path: (path / "meta/episodes/chunk-000/file-000.parquet").unlink(), "meta/episodes holds no parquet file"),
        (lambda path: (path / "data/chunk-000/file-000.parquet").unlink(), "the data file data/chunk-000/file-000.parquet is missing"),
        (lambda path: (path / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1"), "file-000.parquet: not readable parquet"),
        (
            lambda path: pq.write_table(
                pq.read_table(path / "data/chunk-000/file-000.parquet").slice(0, 5), path / "data/chunk-000/file-000.parquet"
            ),
            "holds 5 frames of the 12",
        ),
    ],
)
def test_a_damaged_dataset_is_one_line_that_names_what_is_wrong(tmp_path, damage, message):
    write_dataset(tmp_path / "set", three(), spec())
    damage(tmp_path / "set")
    with pytest.raises(DatasetError, match=message) as caught:
        load_frames(tmp_path / "set")
    assert str(caught.value).startswith(str(tmp_path / "set"))
    assert "\n" not in str(caught.value)


def test_unknown_splits_episodes_and_columns_are_named(tmp_path):
    write_dataset(tmp_path / "set", three(), spec())
    with pytest.raises(DatasetError, match="no split 'test'; there are: train, validation"):
        load_frames(tmp_path / "set", split="test")
    with pytest.raises(DatasetError, match="no episode 7; it has 0 to 2"):
        load_frames(tmp_path / "set", episodes=[7])
    with pytest.raises(DatasetError, match=r"no column 'acton'; it has: observation.state, action"):
        load_frames(tmp_path / "set", columns=["acton"])


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from cluster.lerobot import commit, folder
from test_folder import spec, three

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

{where} = die
folder.write_dataset({path!r}, three(), spec(), overwrite=True)
"""


@pytest.mark.parametrize("where", ["folder.write_shard", "folder.commit", "commit.write_metadata", "commit._publish"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_process_killed_anywhere_leaves_the_old_dataset_or_none_and_the_next_write_cleans_up(tmp_path, where, existing):
    path = tmp_path / "set"
    if existing:
        write_dataset(path, three()[:1], spec())
    script = textwrap.dedent(KILLED).format(tests=os.path.dirname(__file__), where=where, path=str(path))
    ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    if existing:
        assert load_info(path).num_episodes == 1
    else:
        assert not path.exists()
    assert hidden(tmp_path) or where == "folder.write_shard"  # killed before it wrote anything
    info = write_dataset(path, three(), spec(), overwrite=True)
    assert info.num_episodes == 3
    assert compute_digest(path) == info.digest
    assert hidden(tmp_path) == []
