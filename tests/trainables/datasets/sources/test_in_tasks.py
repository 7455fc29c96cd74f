"""Sources of every kind through Ray Data: opened here, read in tasks."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from cluster.config import parse_config
from cluster.lerobot.episodes import table_to_episodes
from tests.trainables.datasets.sources import recordings as made
from trainables.datasets.exports.registry import export_dataset
from trainables.datasets.pipeline import episode_rows
from trainables.datasets.sources.detect import open_source
from trainables.datasets.sources.mapping import Mapping
from trainables.datasets.sources.recordings import open_mcap, open_rosbag


@pytest.mark.usefixtures("ray_session")
def test_tasks_read_what_was_opened_here(tmp_path):
    import pyarrow as pa
    import ray

    with h5py.File(tmp_path / "lift.hdf5", "w") as file:
        for number in range(3):
            file[f"data/demo_{number}/actions"] = np.full((4, 2), number, np.float32)
            file[f"data/demo_{number}/obs/camera"] = np.random.default_rng(number).integers(0, 256, (4, 9, 9, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", obs=np.arange(20.0).reshape(10, 2), fps=10, episode_ends=[4, 10])
    mapping = parse_config(
        {"fps": 50, "features": {"action": {"topic": "/joint_commands", "field": "position", "names": ["elbow", "gripper"]}}},
        Mapping,
        source="t",
    )
    sources = [
        open_source(tmp_path / "lift.hdf5", fps=20),
        open_source(tmp_path / "x.npz"),
        open_mcap(made.write_mcap(tmp_path / "a.mcap", made.arm(1.0)), mapping),
        open_rosbag(made.write_bag1(tmp_path / "a.bag", made.arm(1.0, version=1)), mapping),
        open_rosbag(made.write_bag2(tmp_path / "bag", made.arm(1.0)), mapping),
    ]
    for format, name in (("mcap", "own.mcap"), ("rosbag2", "own"), ("hdf5", "own.hdf5")):
        export_dataset(sources[0], format, tmp_path / name)
        sources.append(open_source(tmp_path / name))
    for source in sources:
        here = [episode for piece in source.pieces() for episode in source.read(piece)]
        tables = ray.get(episode_rows(source).to_arrow_refs())
        there = list(table_to_episodes(pa.concat_tables([table for table in tables if len(table)]), source.features))
        assert [(one.key, one.task) for one in there] == [(one.key, one.task) for one in here]
        for first, second in zip(here, there, strict=True):
            for name, values in first.columns.items():
                np.testing.assert_array_equal(values, second.columns[name])
