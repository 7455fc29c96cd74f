"""Frames on their way to workers: blocks of whole episodes, buffers, and trainings that read while they train."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.config import parse_config
from cluster.errors import ClusterError, GaitwayError
from cluster.lerobot.errors import DatasetError
from cluster.settings import Settings
from trainables.datasets.frames import frame_tables
from trainables.datasets.lerobot import DatasetSpec, Episode, Feature, load_frames, load_info, write_dataset
from trainables.datasets.sources import lerobot
from trainables.imitation.config import ImitationConfig
from trainables.imitation.frames import Frames, gather_frames
from trainables.imitation.reading import Part, datasets_of
from trainables.imitation.spec import TrainSpec, make_spec
from trainables.imitation.streaming import buffers, frames_of_table, gathered, read_ahead
from trainables.imitation.trainer import train_models

COLUMNS = ("observation.state", "observation.force", "action")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 episodes of different lengths in several files: the action is a fixed map of the state."""
    random = np.random.default_rng(0)
    mix = random.normal(size=(4, 2)).astype(np.float32)
    made = []
    for number in range(40):
        length = int(random.integers(20, 60))
        state = np.cumsum(random.normal(size=(length, 4)), axis=0).astype(np.float32) / 5
        force = random.normal(size=length).astype(np.float32)
        made.append(
            Episode(f"{number:03d}", "reach", {"observation.state": state, "observation.force": force, "action": np.tanh(state @ mix)})
        )
    features = (
        Feature("observation.state", "float32", (4,)),
        Feature("observation.force", "float32", (1,)),
        Feature("action", "float32", (2,)),
    )
    folder = tmp_path_factory.mktemp("streaming") / "data"
    write_dataset(folder, made, DatasetSpec(20, features, "arm", validation_fraction=0.2, data_file_mb=0.01))
    assert len(list((folder / "data").glob("*/*.parquet"))) > 2
    return folder


def spec_of(path: Path, **changes) -> TrainSpec:
    small = {"models": ["mlp", "chunk", "lstm"], "observations": ["observation.state", "observation.force"], "checkpoint_interval": 2}
    sizes = {
        "mlp": {"epochs": 30, "hidden": [64, 64], "batch_size": 32},
        "chunk": {"epochs": 8, "chunk_size": 3, "hidden": [32], "batch_size": 32},
        "lstm": {"epochs": 8, "hidden_size": 16, "batch_size": 4},
    }
    streaming = {"mode": "always", "shuffle_buffer_frames": 300}
    return make_spec(
        parse_config({**small, **sizes, "streaming": streaming, **changes}, ImitationConfig), load_info(path), Settings.from_environment({})
    )


def frames(episode: int, count: int) -> Frames:
    return Frames(np.zeros((count, 2), np.float32), np.zeros((count, 1), np.float32), np.full(count, episode), np.arange(count))


def test_buffers_hold_whole_blocks_and_every_frame_once() -> None:
    blocks = [frames(number, count) for number, count in enumerate((5, 30, 7, 2, 9, 1))]
    found = list(buffers(iter(blocks), 12))
    assert [len(buffer) for buffer in found] == [35, 18, 1]
    assert np.concatenate([buffer.episode for buffer in found]).tolist() == np.concatenate([block.episode for block in blocks]).tolist()


def test_one_item_is_read_ahead_and_no_more() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    taking = read_ahead(numbers)
    assert next(taking) == 0
    time.sleep(0.3)
    assert max(made) <= 2  # one waits, one is in the maker's hand
    assert list(taking) == list(range(1, 10))
    # Whoever stops early leaves no thread behind.
    taking = read_ahead(numbers)
    next(taking)
    taking.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_what_the_reader_raises_reaches_the_one_who_takes() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise DatasetError("file 7: truncated")

    taking = read_ahead(broken)
    assert next(taking) == 1
    with pytest.raises(DatasetError, match="file 7: truncated"):
        next(taking)


def test_tables_are_the_dataset_whatever_the_pieces(ray_session: None, recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot, "PIECE_BYTES", 2_000)
    spec = spec_of(recording)
    info = load_info(recording)
    chosen = [3, 8, 9, 10, 31]
    wanted = gather_frames([load_frames(recording, episodes=chosen)], spec.scaling, *spec.sides)
    for shuffle in (False, True):
        tables = frame_tables(recording, chosen, COLUMNS, shuffle=shuffle, first_episode=100)
        blocks = list(tables.iter_batches(batch_size=None, batch_format="pyarrow"))
        assert len(blocks) > 1
        found = gathered(frames_of_table(block, info.features, spec.scaling, spec.sides) for block in blocks)
        np.testing.assert_array_equal(found.observation, wanted.observation)
        np.testing.assert_array_equal(found.target, wanted.target)
        np.testing.assert_array_equal(found.episode, wanted.episode + 100)
        np.testing.assert_array_equal(found.index, wanted.index)


def test_parts_are_numbered_one_after_the_other(ray_session: None, recording: Path) -> None:
    spec = spec_of(recording, streaming={"mode": "never"})
    from dataclasses import replace

    both = replace(spec, train_episodes=(0, 1, 40, 42), validation_episodes=(2, 41))
    blocks = datasets_of([Part(recording), Part(recording, 40)], both)["frames"].iter_batches(batch_size=None, batch_format="pyarrow")
    numbers = np.concatenate([block["episode_index"].to_numpy() for block in blocks])
    lengths = {episode.index: episode.length for episode in load_info(recording).episodes}
    found = dict(zip(*(part.tolist() for part in np.unique(numbers, return_counts=True)), strict=True))
    assert found == {number: lengths[number % 40] for number in (0, 1, 2, 40, 41, 42)}


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "cpus"), [(1, 1.0), (2, 0.5)])
def test_a_streamed_training_learns_and_its_workers_agree(
    ray_session: None, recording: Path, tmp_path: Path, workers: int, cpus: float
) -> None:
    spec = spec_of(recording, num_workers=workers, cpus_per_worker=cpus)
    assert spec.streamed
    states = train_models([Part(recording)], spec, tmp_path / "storage", "streamed", tmp_path / "scratch", lambda model, rows: None)
    for name in ("mlp", "chunk", "lstm"):
        rows = states[name]["history"]
        assert len(rows) == getattr(spec.config, name).epochs
        assert rows[-1]["train_loss"] < 0.6 * rows[0]["train_loss"], (name, rows)
    assert states["mlp"]["best_loss"] < 0.5 * states["mlp"]["history"][0]["validation_loss"]
    mean = states["mlp"]["best"]["normalizer.mean"].numpy()
    train = load_frames(recording, episodes=spec.train_episodes)
    np.testing.assert_allclose(mean[:4], train["observation.state"].mean(0), atol=1e-5)
    assert states["mlp"]["best"]["normalizer.count"] == len(train["action"])


def test_streaming_without_a_cpu_for_reading_is_said_at_once(ray_session: None, recording: Path, tmp_path: Path) -> None:
    spec = spec_of(recording, num_workers=2)
    with pytest.raises(ClusterError, match="needs a CPU for reading beside 2 for its workers; the cluster has 2"):
        train_models([Part(recording)], spec, tmp_path, "x", tmp_path / "s", lambda model, rows: None)


def test_what_does_not_fit_is_streamed_and_what_does_is_not(recording: Path) -> None:
    assert not spec_of(recording, streaming={"mode": "auto"}).streamed
    assert spec_of(recording, streaming={"mode": "auto", "memory_gb": 1e-5}).streamed
    assert not spec_of(recording, streaming={"mode": "never", "memory_gb": 1e-5}).streamed


def test_one_episode_cannot_be_streamed(tmp_path: Path) -> None:
    features = (
        Feature("observation.state", "float32", (2,)),
        Feature("observation.force", "float32", (1,)),
        Feature("action", "float32", (2,)),
    )
    columns = {"observation.state": np.ones((50, 2)), "observation.force": np.ones(50), "action": np.ones((50, 2))}
    write_dataset(tmp_path / "one", [Episode("0", "t", columns)], DatasetSpec(10, features, ""))
    with pytest.raises(GaitwayError, match="streaming needs an episode to validate on, and there is only one"):
        spec_of(tmp_path / "one")
