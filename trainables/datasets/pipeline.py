"""Ray Data pipelines over whole episodes: from a source, through functions of episodes, into a dataset.

One row is one episode, so no block can cut one in two. Reading, changing and writing are fused by Ray Data into one task a few pieces;
a process holds one block, which ends after ``BLOCK_BYTES``, and the episode under way.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from cluster.errors import GaitwayError
from cluster.lerobot.episodes import Episode, episodes_to_table, table_to_episodes
from cluster.lerobot.features import Feature
from trainables.datasets.sources.base import Source

if TYPE_CHECKING:
    import ray.data

__all__ = ["episode_rows", "map_episodes", "own_errors", "piece_rows", "polled", "quiet_ray_data"]

BLOCK_BYTES = 32 * 2**20
TASKS_A_CPU, PIECES_A_TASK = 4, 16
"""Between two tasks a worker waits 0.3 s for the next one (measured on two cores), as long as it needs for half a piece. So a task takes
several: as many as leave each CPU some tasks, and no more than it may lose when its node dies."""


def piece_rows(count: int) -> ray.data.Dataset:
    """One row for each piece, its number under ``piece``; a block of them is what one task reads, one after the other."""
    import ray
    import ray.data

    quiet_ray_data()
    cpus = int(ray.cluster_resources().get("CPU", 0))
    blocks = max(TASKS_A_CPU * cpus, math.ceil(count / PIECES_A_TASK), 1)
    return ray.data.from_items([{"piece": number} for number in range(count)], override_num_blocks=max(1, min(count, blocks)))


def episode_rows(source: Source) -> ray.data.Dataset:
    """A source as Ray Data, one row an episode (``cluster.lerobot.episodes.episodes_to_table``).

    Args:
        source: what to read; its files must be visible to every node.
    """
    pieces = list(source.pieces())

    def read(batch: pa.Table) -> Iterator[pa.Table]:
        episodes = (episode for number in batch["piece"].to_pylist() for episode in source.read(pieces[number]))
        return _tables(episodes, source.features)

    return piece_rows(len(pieces)).map_batches(read, batch_format="pyarrow", batch_size=1, num_cpus=1)


def map_episodes(
    rows: ray.data.Dataset,
    features: Sequence[Feature],
    function: Callable[[Episode], Iterable[Episode]],
    features_after: Sequence[Feature] | None = None,
) -> ray.data.Dataset:
    """Every episode becomes none, one or several.

    Args:
        rows: as ``episode_rows`` makes them.
        features: of the episodes before.
        function: runs in tasks; what it raises as ``GaitwayError`` reaches whoever runs the pipeline within ``own_errors``.
        features_after: of the episodes after; None: the same.
    """
    after = tuple(features_after or features)

    def change(table: pa.Table) -> Iterator[pa.Table]:
        changed = (new for episode in table_to_episodes(table, features) for new in function(episode))
        return _tables(changed, after)

    return rows.map_batches(change, batch_format="pyarrow", batch_size=None, num_cpus=1)


def quiet_ray_data() -> None:
    """No progress bars and no execution plans on the screen of whoever runs this."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


@contextmanager
def own_errors() -> Iterator[None]:
    """Our own errors as the tasks raised them, without Ray's tracebacks around them."""
    from ray.exceptions import RayTaskError

    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, GaitwayError):
            raise error.cause from error
        raise


@contextmanager
def polled(update: Callable[[], None], interval_s: float = 0.25) -> Iterator[None]:
    """Call ``update`` now and then in another thread, because Ray Data's own progress goes to the log."""
    ended = threading.Event()

    def poll() -> None:
        while not ended.wait(interval_s):
            update()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _tables(episodes: Iterable[Episode], features: Sequence[Feature]) -> Iterator[pa.Table]:
    """Tables of a bounded size; an empty one where there is no episode, so that the columns are known."""
    waiting: list[Episode] = []
    size = 0
    empty = True
    for episode in episodes:
        waiting.append(episode)
        size += _bytes(episode)
        if size >= BLOCK_BYTES:
            yield episodes_to_table(waiting, features)
            waiting, size, empty = [], 0, False
    if waiting or empty:
        yield episodes_to_table(waiting, features)


def _bytes(episode: Episode) -> int:
    return sum(sum(map(len, values)) if values.dtype == object else values.nbytes for values in episode.columns.values())
