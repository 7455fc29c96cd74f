"""Frames on their way to workers: of the blocks that Ray Data tasks read, a worker makes buffers to draw batches from.

A block is a table of frames of whole episodes, in order (``trainables.datasets.frames``). Streamed, a buffer is filled by a thread
while the one before it is trained on, so a worker holds at most two of them and what Ray Data has read ahead. Pieces of files come in
another order each epoch; within a buffer, batches are drawn at random.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.lerobot.features import Feature, to_numpy
from trainables.datasets.frames import INDEX_COLUMNS
from trainables.envs.robot_task import ActionScaling
from trainables.imitation.frames import Frames

__all__ = ["buffers", "frames_of_table", "gathered", "read_ahead"]


def frames_of_table(
    table: pa.Table, features: Mapping[str, Feature], scaling: ActionScaling, sides: tuple[Sequence[str], Sequence[str]]
) -> Frames:
    """A block as frames. ``sides``: features that make the observation, and the action."""
    episode, index = (table[name].to_numpy() for name in INDEX_COLUMNS)
    observation, action = (
        np.concatenate([to_numpy(table[name], features[name]).reshape(len(table), -1) for name in side], axis=1)
        if len(side) > 1
        else to_numpy(table[side[0]], features[side[0]]).reshape(len(table), -1)
        for side in sides
    )
    target = scaling.to_normalised(action).astype(np.float32, copy=False)
    return Frames(observation.astype(np.float32, copy=False), target, episode, index)


def gathered(blocks: Iterable[Frames]) -> Frames:
    """All blocks in memory, by episode and time, in whatever order they arrive: each holds whole episodes."""
    return _joined(sorted(blocks, key=lambda block: int(block.episode[0])))


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


def _joined(parts: Sequence[Frames]) -> Frames:
    if len(parts) == 1:
        return parts[0]
    return Frames(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("observation", "target", "episode", "index")))


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
