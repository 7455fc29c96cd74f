"""LeRobot folders as a source: pieces that together are the dataset, whatever files and row groups hold it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.lerobot.errors import DatasetError
from trainables.datasets.lerobot import DatasetSpec, Episode, Feature, load_frames, write_dataset
from trainables.datasets.sources import lerobot
from trainables.datasets.sources.lerobot import open_lerobot

SPEC = DatasetSpec(50, (Feature("action", "float32", (2,)),), "arm", validation_fraction=0.25, data_file_mb=0.002)


@pytest.fixture
def dataset(tmp_path):
    random = np.random.default_rng(0)
    episodes = [Episode(f"{i:02d}", f"task {i % 2}", {"action": random.normal(size=(30 + i, 2)).astype(np.float32)}) for i in range(12)]
    write_dataset(tmp_path / "data", episodes, SPEC)
    return tmp_path / "data"


def read(source):
    return [episode for piece in source.pieces() for episode in source.read(piece)]


@pytest.mark.parametrize("piece_bytes", [1, 1000, 2**25])
def test_the_pieces_are_the_dataset(dataset, monkeypatch, piece_bytes):
    monkeypatch.setattr(lerobot, "PIECE_BYTES", piece_bytes)
    source = open_lerobot(dataset)
    episodes = read(source)
    assert [episode.length for episode in episodes] == list(range(30, 42))
    assert [episode.key for episode in episodes] == sorted(episode.key for episode in episodes)
    np.testing.assert_array_equal(np.concatenate([episode.columns["action"] for episode in episodes]), load_frames(dataset)["action"])
    assert {episode.split for episode in episodes} == {"train", "validation"}
    assert sum(piece.frames for piece in source.pieces()) == sum(range(30, 42))
    if piece_bytes == 1:
        assert len(source.pieces()) == 12


def test_episodes_can_be_chosen_and_others_files_are_not_opened(dataset):
    source = open_lerobot(dataset, episodes=[3, 11])
    for file in (dataset / "data").rglob("*.parquet"):
        if file not in {piece.file for piece in source.pieces()}:
            file.write_bytes(b"")
    assert [(episode.key, episode.task, episode.length) for episode in read(source)] == [
        ("0000003", "task 1", 33),
        ("0000011", "task 1", 41),
    ]


def test_rows_in_another_order_and_in_one_group_are_read_alike(dataset):
    wanted = load_frames(dataset)["action"]
    for file in (dataset / "data").rglob("*.parquet"):
        table = pq.read_table(file, partitioning=None)
        order = np.random.default_rng(1).permutation(len(table))
        pq.write_table(table.take(pa.array(order)), file)
    np.testing.assert_array_equal(np.concatenate([episode.columns["action"] for episode in read(open_lerobot(dataset))]), wanted)


def test_more_frames_than_the_metadata_name_are_an_error(dataset):
    file = sorted((dataset / "data").rglob("*.parquet"))[0]
    table = pq.read_table(file, partitioning=None)
    pq.write_table(pa.concat_tables([table, table]), file)
    with pytest.raises(DatasetError, match=r"file-000.parquet: episode 0 has 60 frames, more than the 30"):
        read(open_lerobot(dataset))
