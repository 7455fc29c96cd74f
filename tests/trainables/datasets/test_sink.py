"""The Ray Data sink and source: any number of blocks makes the same dataset, a failure or a kill makes none, reading selects episodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pyarrow as pa
import pytest
import ray.data
from ray.exceptions import RayTaskError

from cluster.lerobot.episodes import Episode, episodes_to_table, table_to_episodes
from cluster.lerobot.shards import count_staged_episodes
from trainables.datasets.lerobot import (
    DatasetError,
    DatasetSpec,
    Feature,
    compute_digest,
    load_frames,
    load_info,
    read_dataset,
    write_dataset,
)
from trainables.datasets.pipeline import quiet_ray_data
from trainables.datasets.sink import LeRobotSink

# Workers cannot import a test module: its functions travel whole.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.usefixtures("ray_session")

FEATURES = (Feature("observation.state", "float32", (4,)), Feature("action", "float32", (2,)), Feature("next.done", "bool", (1,)))
SPEC = DatasetSpec(50, FEATURES, "pidog", {"task": "pidog_run"}, validation_fraction=0.25, seed=1)


def episode(index: int) -> Episode:
    random, length = np.random.default_rng(index), 3 + index % 4
    columns = {
        "observation.state": random.normal(size=(length, 4)).astype(np.float32),
        "action": random.normal(size=(length, 2)).astype(np.float32),
        "next.done": np.arange(length) == length - 1,
    }
    return Episode(f"{index:04d}", f"task {index % 3}", columns)


def pipeline(indices, blocks, make=episode):
    quiet_ray_data()

    def to_rows(batch: pa.Table) -> pa.Table:
        return episodes_to_table([make(index) for index in batch["index"].to_pylist()], FEATURES)

    rows = ray.data.from_items([{"index": index} for index in indices], override_num_blocks=blocks)
    return rows.map_batches(to_rows, batch_format="pyarrow", batch_size=None)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("sink") / "set"
    sink = LeRobotSink(path, SPEC)
    pipeline(range(12), 5).write_datasink(sink)
    return path, sink.digest


def test_rows_carry_whole_episodes_there_and_back():
    episodes = [episode(index) for index in range(5)]
    again = list(table_to_episodes(episodes_to_table(episodes, FEATURES).slice(1, 3), FEATURES))
    assert [one.key for one in again] == ["0001", "0002", "0003"]
    for before, after in zip(episodes[1:4], again, strict=True):
        assert before.task == after.task
        for name, values in before.columns.items():
            assert (after.columns[name] == values).all()
    with pytest.raises(DatasetError, match="rows for a dataset must have the columns action"):
        next(table_to_episodes(episodes_to_table(episodes, FEATURES).drop_columns("action"), FEATURES))


def test_blocks_and_arrival_order_do_not_matter(written, tmp_path):
    path, digest = written
    info = load_info(path)
    assert info.digest == digest == compute_digest(path)
    assert info.num_episodes == 12
    frames, wanted = load_frames(path), [episode(index) for index in range(12)]
    assert (frames["action"] == np.concatenate([one.columns["action"] for one in wanted])).all()
    assert write_dataset(tmp_path / "alone", wanted, SPEC).digest == digest
    sink = LeRobotSink(tmp_path / "two", SPEC)
    pipeline(list(range(12))[::-1], 2).write_datasink(sink)
    assert sink.digest == digest
    assert load_info(tmp_path / "two").splits == info.splits
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "two"]


def test_shards_may_wait_elsewhere_and_are_counted_while_they_come(tmp_path):
    sink = LeRobotSink(tmp_path / "here" / "set", SPEC, staging=tmp_path / "shared")
    assert count_staged_episodes(sink.staging) == 0
    sink.on_write_start()
    table = episodes_to_table([episode(index) for index in range(4)], FEATURES)
    parts = [sink.write([table.slice(0, 3)], None), sink.write([table.slice(3)], None), sink.write([], None)]
    assert count_staged_episodes(sink.staging) == 4
    assert not (tmp_path / "here" / "set").exists()
    from ray.data.datasource import WriteResult

    # A retried task leaves a shard that nobody reads.
    sink.write([table.slice(0, 3)], None)
    sink.on_write_complete(WriteResult(num_rows=4, size_bytes=1, write_returns=parts))
    assert load_info(tmp_path / "here" / "set").num_episodes == 4
    assert list((tmp_path / "shared").iterdir()) == []


def test_what_a_killed_write_staged_elsewhere_is_removed_by_the_next_to_the_same_target_only(tmp_path):
    shared, table = tmp_path / "shared", episodes_to_table([episode(0)], FEATURES)
    abandoned, other, again = (LeRobotSink(tmp_path / run / "data", SPEC, staging=shared) for run in ("run_1", "run_2", "run_1"))
    for sink in (abandoned, other):
        sink.on_write_start()
        sink.write([table], None)
    again.on_write_start()
    assert set(shared.iterdir()) == {other.staging, again.staging}


def test_a_failing_task_leaves_nothing(tmp_path):
    def broken(index: int) -> Episode:
        if index == 7:
            raise RuntimeError("the physics exploded")
        return episode(index)

    with pytest.raises(RayTaskError, match="the physics exploded"):
        pipeline(range(12), 6, broken).write_datasink(LeRobotSink(tmp_path / "set", SPEC))
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_is_replaced_only_when_that_is_asked_for(tmp_path):
    write_dataset(tmp_path / "set", [episode(0)], SPEC)
    with pytest.raises(DatasetError, match="a dataset is there already"):
        LeRobotSink(tmp_path / "set", SPEC)
    pipeline(range(3), 1).write_datasink(LeRobotSink(tmp_path / "set", SPEC, overwrite=True))
    assert load_info(tmp_path / "set").num_episodes == 3


def test_reading_streams_tensors_and_selects_splits_episodes_and_columns(written):
    path, _ = written
    everything = load_frames(path)
    batches = list(read_dataset(path).iter_batches(batch_size=None))
    order = np.argsort(np.concatenate([batch["index"] for batch in batches]))
    for name, values in everything.items():
        read = np.concatenate([batch[name] for batch in batches])[order]
        assert read.dtype == values.dtype
        assert (read == values).all()
    validation = load_info(path).splits["validation"]
    seen = [batch["episode_index"] for batch in read_dataset(path, split="validation").iter_batches(batch_size=None)]
    assert set(np.concatenate(seen)) == set(validation)
    batch = next(iter(read_dataset(path, episodes=[2, 5], columns=["action"]).iter_torch_batches(batch_size=100)))
    assert list(batch) == ["action"]
    assert tuple(batch["action"].shape) == (load_info(path).episodes[2].length + load_info(path).episodes[5].length, 2)
    assert read_dataset(path, split="validation", episodes=load_info(path).splits["train"]).count() == 0
    with pytest.raises(DatasetError, match="no column 'reward'"):
        read_dataset(path, columns=["reward"])


def test_the_real_dataset_reads_through_ray(shared_data):
    dataset = read_dataset(shared_data / "lerobot_so101", episodes=[1], columns=["action", "frame_index"])
    batch = next(iter(dataset.iter_batches(batch_size=None)))
    wanted = load_frames(shared_data / "lerobot_so101", episodes=[1], columns=["action", "frame_index"])
    assert (batch["action"][np.argsort(batch["frame_index"])] == wanted["action"]).all()


DRIVER = """
import sys, time
sys.path.insert(0, {tests!r})
import ray
ray.init(address={address!r}, log_to_driver=False, configure_logging=False)
from pathlib import Path
from test_sink import SPEC, episode, pipeline
from trainables.datasets.sink import LeRobotSink

def slow(index):
    import time
    if index > 3:
        time.sleep(60)
    return episode(index)

pipeline(range(12), 6, slow).write_datasink(LeRobotSink(Path({path!r}), SPEC))
"""


def test_a_job_whose_driver_is_killed_while_tasks_write_leaves_no_dataset(tmp_path):
    path = tmp_path / "set"
    address = ray.get_runtime_context().gcs_address
    script = textwrap.dedent(DRIVER).format(tests=os.path.dirname(__file__), path=str(path), address=address)
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + 60
        while not list(tmp_path.glob(".set.staging-*/shard-*.parquet")):
            assert driver.poll() is None, "the driver ended before it wrote anything"
            assert time.monotonic() < deadline_s, "no shard appeared"
            time.sleep(0.1)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert not path.exists()
    pipeline(range(12), 3).write_datasink(LeRobotSink(path, SPEC))
    assert load_info(path).num_episodes == 12
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]
