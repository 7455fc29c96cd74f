"""Superseded checkpoints go only when no snapshot names them any more; a torn snapshot is replaced by the last whole one."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyarrow.fs import LocalFileSystem
from ray.train import Checkpoint, CheckpointConfig
from ray.train._internal.checkpoint_manager import _CheckpointManager
from ray.train._internal.session import _TrainingResult

from cluster.storage import open_storage
from trainables.sweeps import snapshots as module
from trainables.sweeps.snapshots import Snapshots, mend

STATE = "experiment_state-2026-01-01_00-00-00.json"


class Experiment:
    """A trial with Tune's own checkpoint list, and snapshots written by hand."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, keep_all: bool = False) -> None:
        monkeypatch.setattr(module, "_LOOK_INTERVAL_S", 0.0)
        self.folder = folder
        self.manager = _CheckpointManager(CheckpointConfig(checkpoint_score_attribute="score"))
        self.trial = SimpleNamespace(run_metadata=SimpleNamespace(checkpoint_manager=self.manager))
        self.snapshots = Snapshots(open_storage(folder), keep_all)
        self.saved = self.written = 0

    def checkpoint(self, *scores: float) -> None:
        for score in scores:
            path = self.folder / "trial" / str(self.saved)
            path.mkdir(parents=True)
            self.saved += 1
            self.snapshots.supersede(self.trial)
            self.manager.register_checkpoint(_TrainingResult(Checkpoint(str(path), LocalFileSystem()), {"score": score}))

    def snapshot(self) -> None:
        self.written += 1
        (self.folder / STATE).write_text(json.dumps({"trials": "x" * self.written}))
        self.snapshots.look_if_due()

    @property
    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("trial/*"))


def test_a_checkpoint_goes_with_the_second_snapshot_after_it_was_superseded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment(tmp_path, monkeypatch)
    experiment.checkpoint(5.0, 4.0, 1.0)
    experiment.snapshot()  # names 2 as the latest
    experiment.checkpoint(2.0, 3.0)
    assert experiment.left == ["0", "1", "2", "3", "4"]
    experiment.snapshot()  # perhaps begun before 3 was there
    assert experiment.left == ["0", "1", "2", "3", "4"]
    experiment.snapshots.look_if_due()  # the same snapshot
    assert experiment.left == ["0", "1", "2", "3", "4"]
    experiment.snapshot()
    assert experiment.left == ["0", "1", "3", "4"]  # of 3 Tune's list tells only with the next checkpoint that it is the latest no more
    assert [Path(result.checkpoint.path).name for result in experiment.manager.best_checkpoint_results] == ["3", "4", "1", "0"]
    experiment.snapshots.delete_rest([experiment.trial])
    assert experiment.left == ["0", "1", "4"]


def test_of_equal_scores_the_later_two_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment(tmp_path, monkeypatch)
    experiment.checkpoint(*[1000.0] * 5)
    experiment.snapshots.delete_rest([experiment.trial])
    kept = [Path(result.checkpoint.path).name for result in experiment.manager.best_checkpoint_results[-module.KEPT_BEST :]]
    assert kept == experiment.left == ["3", "4"]


def test_where_clones_may_need_them_all_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment(tmp_path, monkeypatch, keep_all=True)
    experiment.checkpoint(5.0, 4.0, 3.0, 2.0)
    for _ in range(3):
        experiment.snapshot()
    experiment.snapshots.delete_rest([experiment.trial])
    assert experiment.left == ["0", "1", "2", "3"]


@pytest.mark.parametrize("torn", [b"", b'{"trials": "xx', b'{"trials": {"a": 1}'])
def test_a_torn_snapshot_is_replaced_by_the_last_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bytes) -> None:
    experiment = Experiment(tmp_path, monkeypatch)
    (tmp_path / "basic-variant-state-2026.json").write_bytes(pickle.dumps("a pickle, whatever its name"))
    (tmp_path / "searcher-state.pkl").write_bytes(pickle.dumps("first"))
    (tmp_path / ".validate_storage_marker").write_bytes(b"")
    experiment.snapshot()
    whole = (tmp_path / STATE).read_bytes()
    assert mend(open_storage(tmp_path))
    (tmp_path / "searcher-state.pkl").write_bytes(pickle.dumps("second"))
    (tmp_path / "experiment_state-later.json").write_bytes(b"{")
    (tmp_path / STATE).write_bytes(torn)
    experiment.snapshots.look_if_due()  # Tune is just writing it
    assert mend(open_storage(tmp_path))
    assert (tmp_path / STATE).read_bytes() == whole
    assert (tmp_path / "searcher-state.pkl").read_bytes() == pickle.dumps("first")
    assert not (tmp_path / "experiment_state-later.json").exists()


def test_without_a_whole_snapshot_there_is_nothing_to_resume(tmp_path: Path) -> None:
    assert not mend(open_storage(tmp_path / "nowhere"))
    (tmp_path / STATE).write_bytes(b"")
    assert not mend(open_storage(tmp_path))
