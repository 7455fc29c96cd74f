"""From a LeRobot v3.0 folder to training batches, frames a second: ours, in memory and streamed, against loops that people write.

The dataset has state 50 and action 12. All sides go over the same files in random order in batches of 256, as tensors that are ready
to train on, some times in turn, in processes of their own:

- ``plain``: pyarrow reads the files, ``TensorDataset`` and ``DataLoader(batch_size=256, shuffle=True)``, as in PyTorch's tutorial;
- ``plain, indexed``: the same with a ``BatchSampler``, so that a batch is one indexing operation: the best of such loops;
- ``in memory``, ``streamed``: what a Ray Train worker of the imitation stage does, Ray and its worker processes being up.

First epoch: from opening the folder to the last batch. Next epoch: in memory nothing is read again; streamed all is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.records import markdown

__all__ = ["make_dataset", "measure", "table"]

STATE, ACTION, BATCH = 50, 12, 256
EPISODE_FRAMES = 250
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]
Epoch = Callable[[], Batches]


def make_dataset(folder: Path, frames: int) -> None:
    """Episodes of 250 frames of noise, one validation episode in a hundred."""
    from cluster.lerobot.episodes import Episode
    from cluster.lerobot.features import Feature
    from cluster.lerobot.folder import write_dataset
    from cluster.lerobot.metadata import DatasetSpec

    random = np.random.default_rng(0)

    def episodes() -> Iterator[Episode]:
        for number in range(frames // EPISODE_FRAMES):
            state, action = (random.standard_normal((EPISODE_FRAMES, size), dtype=np.float32) for size in (STATE, ACTION))
            yield Episode(f"{number:07d}", "noise", {"observation.state": state, "action": action})

    features = (Feature("observation.state", "float32", (STATE,)), Feature("action", "float32", (ACTION,)))
    write_dataset(folder, episodes(), DatasetSpec(50, features, "noise", validation_fraction=0.01))


def plain(folder: Path, indexed: bool) -> Epoch:
    """What most people write: all of it in memory, a DataLoader over it."""
    import pyarrow.parquet as pq
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

    columns = ("observation.state", "action")
    tables = [pq.read_table(file, columns=list(columns)) for file in sorted((folder / "data").glob("*/*.parquet"))]
    tensors = []
    for name, size in zip(columns, (STATE, ACTION), strict=True):
        parts = [table[name].combine_chunks().flatten().to_numpy().reshape(-1, size) for table in tables]
        tensors.append(torch.from_numpy(np.concatenate(parts)))
    data = TensorDataset(*tensors)
    if indexed:
        loader = DataLoader(data, sampler=BatchSampler(RandomSampler(data), BATCH, drop_last=False), batch_size=None)
    else:
        loader = DataLoader(data, batch_size=BATCH, shuffle=True)
    return lambda: iter(loader)


def ours(folder: Path, streamed: bool) -> Epoch:
    """A worker's path: in memory, or streamed."""
    from cluster.config import parse_config
    from trainables.datasets.lerobot import load_info
    from trainables.imitation.config import ImitationConfig
    from trainables.imitation.frames import Frames
    from trainables.imitation.reading import Part, datasets_of
    from trainables.imitation.spec import TrainSpec
    from trainables.imitation.streaming import buffers, frames_of_table, gathered, read_ahead
    from trainables.networks.interface import RECORDED, PolicyInterface, RecordedScaling

    config = parse_config({"models": ["mlp"]}, ImitationConfig)
    info = load_info(folder)
    zero, one = np.zeros(ACTION), np.ones(ACTION)
    # Without the survey, which checks every number before a training: the loops on the other side check nothing.
    interface = PolicyInterface(RECORDED, {}, "noise", 0.02, (), (), RecordedScaling(zero, one, -9 * one, 9 * one))
    every = tuple(episode.index for episode in info.episodes)
    features = {name: info.features[name] for name in ("observation.state", "action")}
    spec = TrainSpec(config, interface, every, (), (np.zeros(STATE), np.ones(STATE), 1), features, streamed)
    datasets = datasets_of([Part(folder)], spec)
    generator = torch.Generator().manual_seed(0)

    def batches(pool: Frames) -> Batches:
        x, y = torch.from_numpy(pool.observation), torch.from_numpy(pool.target)
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x), BATCH):
            rows = order[start : start + BATCH]
            yield x[rows], y[rows]

    def blocks(name: str) -> Iterator[Frames]:
        for block in datasets[name].iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            yield frames_of_table(block, features, spec.scaling, spec.sides)

    if not streamed:
        frames = gathered(blocks("frames"))
        return lambda: batches(frames)

    def read() -> Iterator[Frames]:
        return buffers(blocks("train"), config.streaming.shuffle_buffer_frames)

    return lambda: (batch for pool in read_ahead(read) for batch in batches(pool))


SIDES: dict[str, Callable[[Path], Epoch]] = {
    "plain": lambda folder: plain(folder, indexed=False),
    "plain, indexed": lambda folder: plain(folder, indexed=True),
    "in memory": lambda folder: ours(folder, streamed=False),
    "streamed": lambda folder: ours(folder, streamed=True),
}


def _wait(batch: Any) -> Any:
    time.sleep(1.0)
    return batch


def measure_one(side: str, folder: Path) -> dict[str, float]:
    """Frames a second of the first and of the next epoch, and the largest memory of this process, MiB."""
    import resource

    torch.set_num_threads(1)
    if side in ("in memory", "streamed"):
        import ray
        import ray.data

        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1", object_store_memory=2**30)
        # The first pipeline of a session also starts its worker processes, which is no reading.
        ray.data.from_items(list(range(4)), override_num_blocks=4).map_batches(_wait, batch_format="pyarrow").materialize()
    rates = []
    started_s = time.perf_counter()
    epoch = SIDES[side](folder)
    for _ in range(2):
        frames = sum(len(x) for x, _ in epoch())
        rates.append(frames / (time.perf_counter() - started_s))
        started_s = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"frames": frames, "first": rates[0], "next": rates[1], "peak_mib": peak}


def measure(folder: Path, repetitions: int) -> dict[str, list[dict[str, float]]]:
    """Every side in turn, each in a process of its own."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(repetitions):
        for side in SIDES:
            command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.imitation.reading", str(folder), "--side", side]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[side].append(json.loads(output.splitlines()[-1]))
    return found


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Medians, and ours as multiples of both loops."""
    medians = {side: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for side, runs in found.items()}
    rows = []
    for side, own in medians.items():
        ratios = [f"{own['first'] / medians[other]['first']:.2f}" for other in ("plain", "plain, indexed")]
        rows.append([side, f"{own['first']:,.0f}", *ratios, f"{own['next']:,.0f}", f"{own['peak_mib']:,.0f}"])
    header = ["side", "first epoch, frames/s", "of plain", "of indexed", "next epoch, frames/s", "peak memory, MiB"]
    return markdown(header, rows)


def main() -> None:
    """One side, in a process of its own; prints its figures as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", choices=SIDES, required=True)
    arguments = parser.parse_args()
    print(json.dumps(measure_one(arguments.side, arguments.folder)))


if __name__ == "__main__":
    main()
