"""Our LeRobot folders in the real ``lerobot`` package, every frame.

The package cannot live in this environment, so it needs one of its own, named by ``GAITWAY_LEROBOT_PYTHON``; it brings no CUDA:

    python3.11 -m venv lerobot_env
    lerobot_env/bin/pip install --no-deps lerobot==0.4.4 torch==2.13.0 torchvision==0.28.0 accelerate safetensors
    lerobot_env/bin/pip install "numpy<2.5" datasets huggingface_hub pandas pyarrow av draccus jsonlines packaging einops deepdiff \
        sympy networkx jinja2 fsspec filelock typing_extensions pillow gymnasium
    GAITWAY_LEROBOT_PYTHON=lerobot_env/bin/python pytest tests/trainables/datasets/exports/test_real_lerobot.py

Without it, ``test_layout_is_as_documented`` compares the folder with the format's documented layout, field by field.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from trainables.datasets.exports.registry import export_dataset
from trainables.datasets.lerobot import DatasetSpec, Episode, Feature, load_frames, load_info, write_dataset
from trainables.datasets.sources.detect import open_source
from trainables.datasets.sources.images import encode_png
from trainables.datasets.sources.lerobot import open_lerobot

READ = """
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
# torchvision's compiled half is built for CUDA and is not needed to read; its Python half wants these two names to exist.
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
folder, target = sys.argv[1:]
dataset = LeRobotDataset("local/ours", root=folder)
frames = [dataset[index] for index in range(len(dataset))]
np.savez(target, **{name: np.stack([np.asarray(frame[name]) for frame in frames]) for name in frames[0] if name != "task"})
episodes = dataset.meta.episodes
print(json.dumps({
    "tasks": [frame["task"] for frame in frames], "fps": dataset.fps, "robot": dataset.meta.robot_type, "names": dataset.meta.names,
    "bounds": [[int(row["dataset_from_index"]), int(row["dataset_to_index"])] for row in episodes],
    "shapes": {name: list(shape) for name, shape in dataset.meta.shapes.items()},
    "mean": {name: np.asarray(one["mean"]).tolist() for name, one in dataset.meta.stats.items()},
}))
"""
FEATURES = (
    Feature("observation.state", "float32", (2,), ("a", "b"), "rad"),
    Feature("observation.grid", "float64", (2, 3)),
    Feature("observation.images.wrist", "image", (16, 12, 3), ("height", "width", "channels")),
    Feature("action", "float32", (2,), ("a", "b"), "rad"),
    Feature("next.done", "bool", (1,)),
    Feature("count", "int64", (1,)),
)


def full(folder):
    random = np.random.default_rng(0)
    episodes = []
    for number, length in enumerate((5, 7, 3)):
        images = np.empty(length, dtype=object)
        images[:] = [encode_png(random.integers(0, 256, (16, 12, 3), dtype=np.uint8)) for _ in range(length)]
        columns = {
            "observation.state": random.normal(size=(length, 2)).astype(np.float32),
            "observation.grid": random.normal(size=(length, 2, 3)),
            "observation.images.wrist": images,
            "action": random.normal(size=(length, 2)).astype(np.float32),
            "next.done": np.arange(length) == length - 1,
            "count": random.integers(-(2**62), 2**62, length),
        }
        episodes.append(Episode(f"{number}", f"task {number % 2}", columns))
    # Small data files, so that there are several.
    write_dataset(folder, episodes, DatasetSpec(20, FEATURES, "arm", validation_fraction=0.3, data_file_mb=0.001))
    return folder


def without_videos(folder, target):
    """The real recording lacks its videos, which the package wants to open; all else of it is read."""
    source = open_lerobot(folder)
    features = tuple(feature for feature in source.features if feature.dtype != "video")
    plain = replace(source, features=features, episodes=tuple(replace(episode, videos={}) for episode in source.episodes))
    export_dataset(plain, "lerobot", target)
    return target


@pytest.mark.parametrize("which", ["made up", "by way of MCAP", "real"])
def test_the_real_package_reads_every_frame(request, tmp_path, which):
    python = os.environ.get("GAITWAY_LEROBOT_PYTHON")
    if not python:
        pytest.skip("GAITWAY_LEROBOT_PYTHON names no environment with the lerobot package; this file's docstring says how to make one")
    if which == "real":
        folder = without_videos(request.getfixturevalue("shared_data") / "lerobot_so101", tmp_path / "data")
    else:
        folder = full(tmp_path / "data")
    if which == "by way of MCAP":
        export_dataset(open_source(folder), "mcap", tmp_path / "x.mcap")
        export_dataset(open_source(tmp_path / "x.mcap"), "lerobot", folder := tmp_path / "back")
    command = [python, "-c", READ, str(folder), str(tmp_path / "read.npz")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    info = load_info(folder)
    ours = load_frames(folder)
    with np.load(tmp_path / "read.npz") as theirs:
        assert set(theirs) >= set(ours)
        for name, values in ours.items():
            # The package hands out every floating-point column as float32, whatever the file holds.
            wanted = values.astype(np.float32) if values.dtype.kind == "f" else values
            assert theirs[name].dtype == wanted.dtype, name
            np.testing.assert_array_equal(theirs[name].reshape(values.shape), wanted, err_msg=name)
        if "observation.images.wrist" in info.features:
            images = [one for piece in open_source(folder).pieces() for one in open_source(folder).read(piece)]
            encoded = np.concatenate([episode.columns["observation.images.wrist"] for episode in images])
            for picture, seen in zip(encoded, theirs["observation.images.wrist"], strict=True):
                pixels = np.asarray(Image.open(io.BytesIO(picture)))
                np.testing.assert_array_equal(np.round(seen.transpose(1, 2, 0) * 255).astype(np.uint8), pixels)
    assert said["tasks"] == [task for episode in info.episodes for task in episode.tasks * episode.length]
    assert (said["fps"], said["robot"]) == (info.fps, info.robot_type)
    assert said["bounds"] == [[episode.from_index, episode.to_index] for episode in info.episodes]
    for name, feature in info.features.items():
        assert said["shapes"][name] == list(feature.shape)
        if feature.names:
            assert said["names"][name] == list(feature.names)
    np.testing.assert_allclose(said["mean"]["action"], ours["action"].mean(axis=0), rtol=1e-5)


def test_layout_is_as_documented(tmp_path):
    """The columns, types, Hugging Face metadata and path templates of LeRobot v3.0."""
    folder = full(tmp_path / "data")
    info = json.loads((folder / "meta/info.json").read_text())
    assert {name: info[name] for name in ("codebase_version", "fps", "robot_type", "total_episodes", "total_frames", "total_tasks")} == {
        "codebase_version": "v3.0", "fps": 20, "robot_type": "arm", "total_episodes": 3, "total_frames": 15, "total_tasks": 2,
    }  # fmt: skip
    assert (info["chunks_size"], info["splits"]) == (1000, {"train": "0:3"})
    assert info["data_path"] == "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        assert info["features"][name] == {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None}
    episodes = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet")
    kinds = {
        "episode_index": pa.int64(), "tasks": pa.list_(pa.string()), "length": pa.int64(), "data/chunk_index": pa.int64(),
        "data/file_index": pa.int64(), "dataset_from_index": pa.int64(), "dataset_to_index": pa.int64(),
        "meta/episodes/chunk_index": pa.int64(), "meta/episodes/file_index": pa.int64(), "stats/action/mean": pa.list_(pa.float64()),
        "stats/action/count": pa.list_(pa.int64()), "stats/observation.grid/std": pa.list_(pa.list_(pa.float64())),
    }  # fmt: skip
    for name, kind in kinds.items():
        assert str(episodes.schema.field(name).type).replace("element", "item") == str(kind).replace("element", "item"), name
    files = [
        info["data_path"].format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]) for row in episodes.to_pylist()
    ]
    assert len(set(files)) == 3
    for row, file in zip(episodes.to_pylist(), files, strict=True):
        table = pq.read_table(folder / file, partitioning=None)
        assert table["index"].to_pylist() == list(range(row["dataset_from_index"], row["dataset_to_index"]))
        assert table["frame_index"].to_pylist() == list(range(row["length"]))
        assert str(table.schema.field("observation.grid").type) == "fixed_size_list<element: fixed_size_list<element: double>[3]>[2]"
        assert table.schema.field("observation.images.wrist").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        assert table.schema.field("next.done").type == pa.bool_()
        described = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        assert described["observation.images.wrist"] == {"_type": "Image"}
        assert described["action"] == {"feature": {"dtype": "float32", "_type": "Value"}, "length": 2, "_type": "List"}
        assert list(described) == table.column_names
    tasks = pd.read_parquet(folder / "meta/tasks.parquet")
    assert tasks.loc["task 1", "task_index"] == 1
    statistics = json.loads((folder / "meta/stats.json").read_text())
    assert set(statistics["action"]) >= {"min", "max", "mean", "std", "count"}
