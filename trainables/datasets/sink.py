"""``dataset.write_datasink(LeRobotSink(...))``: rows of whole episodes become a LeRobot v3.0 folder, all of it or nothing.

Write tasks leave shards in a staging folder; the driver numbers the episodes, writes the metadata and publishes the folder with
one rename. A task that is retried leaves a shard that nobody reads. A failed job removes its staging folder; a killed one leaves
it hidden, and the next write to the same target removes it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from ray.data import Datasink
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import WriteResult

from cluster.lerobot.commit import check_target, clear_leftovers, commit, staging_folder
from cluster.lerobot.episodes import Episode, table_to_episodes
from cluster.lerobot.features import with_index_features
from cluster.lerobot.info import DatasetInfo, load_info
from cluster.lerobot.metadata import DatasetSpec
from cluster.lerobot.shards import ShardEpisode, write_shard

__all__ = ["LeRobotSink"]


class LeRobotSink(Datasink[list[ShardEpisode]]):
    """Writes rows as ``episodes_to_table`` makes them.

    Args:
        path: the dataset folder to make.
        spec: frame rate, features, provenance, split.
        staging: folder that every node sees, for the shards; None: beside ``path``.
        overwrite: replace a dataset that is at ``path`` already.

    Raises:
        DatasetError: ``path`` is taken.
    """

    def __init__(self, path: Path, spec: DatasetSpec, staging: Path | None = None, overwrite: bool = False) -> None:
        check_target(path, overwrite)
        self.path = path
        self.digest: str | None = None
        """Of what was committed; None before."""
        self.features = spec.features
        """What every row must have, beside ``key`` and ``task``."""
        self._spec = spec
        self._overwrite = overwrite
        self.staging = staging_folder(path, staging or path.parent)

    def on_write_start(self, schema: pa.Schema | None = None) -> None:
        """On the driver, before the first task."""
        clear_leftovers(self.path, self.staging.parent)
        self.staging.mkdir(parents=True, exist_ok=True)

    def write(self, blocks: Iterable[Block], ctx: object) -> list[ShardEpisode]:
        """In a write task: its blocks become one shard."""
        return write_shard(self.staging, self._episodes(blocks), with_index_features(self._spec.features), self._spec.fps)

    def on_write_complete(self, write_result: WriteResult[list[ShardEpisode]]) -> None:
        """On the driver, after the last task."""
        episodes = [episode for part in write_result.write_returns for episode in part]
        self.digest = commit(self.path, self.staging, episodes, self._spec, self._overwrite)
        shutil.rmtree(self.staging, ignore_errors=True)

    def on_write_failed(self, error: Exception) -> None:
        """On the driver: nothing stays."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def info(self) -> DatasetInfo:
        """What was committed."""
        return load_info(self.path)

    def get_name(self) -> str:
        """Name of the write tasks."""
        return "LeRobot"

    def _episodes(self, blocks: Iterable[Block]) -> Iterator[Episode]:
        for block in blocks:
            yield from table_to_episodes(BlockAccessor.for_block(block).to_arrow(), self._spec.features)
