"""Frames that are read while they are trained on: Ray Data's blocks of whole episodes become buffers to draw batches from.

A buffer is filled by a thread while the one before it is trained on, so a worker holds at most two of them and what Ray Data has
read ahead. Episodes come in another order of pieces each epoch; within a buffer, batches are drawn at random.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cluster.lerobot.features import Feature, to_numpy
from trainables.envs.robot_task import ActionScaling
from trainables.imitation.frames import Frames

if TYPE_CHECKING:
    import ray.data

__all__ = ["buffers", "episode_stream", "frames_of_table", "read_ahead"]


def episode_stream(path: Path, episodes: Sequence[int], columns: Sequence[str], shuffle: bool) -> ray.data.Dataset:
    """Rows of whole episodes with ``columns`` only; with ``shuffle`` its pieces come in another order every time it is read.

    Args:
        path: LeRobot folder, visible to every node.
        episodes: which to read.
        columns: features to read.
        shuffle: for training.
    """
    from trainables.datasets.pipeline import episode_rows
    from trainables.datasets.sources.lerobot import open_lerobot

    source = open_lerobot(path, episodes)
    features = tuple(feature for feature in source.features if feature.name in columns)
    return episode_rows(replace(source, features=features, missing_videos=()), shuffle_pieces=shuffle)


def frames_of_table(
    table: pa.Table, features: dict[str, Feature], scaling: ActionScaling, names: tuple[Sequence[str], Sequence[str]]
) -> Frames:
    """Rows of whole episodes as frames. ``names``: features that make the observation, and the action."""
    length = np.diff(table[names[0][0]].combine_chunks().offsets.to_numpy())
    episode = np.repeat(table["key"].to_numpy().astype(np.int64), length)
    starts = np.repeat(np.cumsum(length) - length, length)
    parts = [
        np.concatenate(
            [to_numpy(table[name].combine_chunks().flatten(), features[name]).reshape(len(episode), -1) for name in side], axis=1
        )
        for side in names
    ]
    target = scaling.to_normalised(parts[1]).astype(np.float32)
    return Frames(parts[0].astype(np.float32, copy=False), target, episode, np.arange(len(episode)) - starts)


def buffers(blocks: Iterable[Frames], least_frames: int) -> Iterator[Frames]:
    """Blocks put together until a buffer holds ``least_frames``; the last may hold fewer."""
    waiting: list[Frames] = []
    held = 0
    for block in blocks:
        waiting.append(block)
        held += len(block)
        if held >= least_frames:
            yield _joined(waiting)
            waiting, held = [], 0
    if held:
        yield _joined(waiting)


def read_ahead(make: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """One item ahead of whoever takes them, in a thread of its own; what it raises is raised here."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def fill() -> None:
        try:
            for item in make():
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:  # carried to the thread that takes
            put("error", error)

    thread = threading.Thread(target=fill, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stopped.set()
        thread.join()


def _joined(parts: Sequence[Frames]) -> Frames:
    if len(parts) == 1:
        return parts[0]
    return Frames(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("observation", "target", "episode", "index")))
