import math
import random
from pathlib import Path

import pytest

from cluster.config import parse_config
from cluster.errors import UsageError
from trainables.sweeps.config import SweepConfig
from trainables.sweeps.records import TrialRecord
from trainables.sweeps.results import CheckpointRecord, copy_folder_atomic, select_best
from trainables.sweeps.schedulers import make_scheduler, rungs
from trainables.sweeps.score import score

SPACE = {"learning_rate": {"loguniform": [1e-4, 1e-3]}}


def trial(name: str, *scores: float, status: str = "finished") -> tuple[TrialRecord, list[CheckpointRecord]]:
    checkpoints = [CheckpointRecord(f"{name}/{index}", 1000 * index, value, value) for index, value in enumerate(scores)]
    return TrialRecord(trial_id=name, number=1, configuration="", status=status, sample={}), checkpoints


def test_the_best_checkpoint_wins_not_the_best_last_one() -> None:
    trials = [trial("a", 0.1, 0.9, 0.2), trial("b", 0.1, 0.5, 0.6), trial("c", 0.3, 0.8, status="failed")]
    best = select_best(trials)
    assert best is not None
    assert (best.trial.trial_id, best.checkpoint.path) == ("a", "a/1")


def test_the_choice_does_not_depend_on_the_order_of_trials() -> None:
    trials = [trial("a", 0.1, 0.7), trial("b", 0.7, 0.2), trial("c", 0.7, 0.7), trial("d", math.nan)]
    for seed in range(10):
        random.Random(seed).shuffle(trials)
        best = select_best(trials)
        assert best is not None
        assert best.checkpoint.path == "b/0"  # equal scores: fewer steps, then the lower trial id


def test_without_checkpoints_there_is_no_best() -> None:
    assert select_best([trial("a"), trial("b")]) is None


def test_mode_min_turns_the_order_around() -> None:
    smaller_is_better = SweepConfig(search_space=SPACE, metric="evaluation/energy_j", mode="min")
    assert score({"evaluation/energy_j": 1.0}, smaller_is_better) > score({"evaluation/energy_j": 2.0}, smaller_is_better)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_broken_constraint_ranks_below_everything_that_keeps_it(mode: str) -> None:
    config = SweepConfig(search_space=SPACE, metric="v", mode=mode, constraints={"fell": {"at_most": 0.1}, "length": {"at_least": 400}})
    ranked = [
        {"v": 0.0, "fell": 0.1, "length": 400.0},
        {"v": 9.0, "fell": 0.2, "length": 400.0},
        {"v": 99.0, "fell": 0.2, "length": 300.0},
        {"v": math.nan, "fell": 0.0, "length": 500.0},
    ]
    scores = [score(figures, config) for figures in ranked]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4


def test_a_metric_that_is_never_reported_is_named_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"'evaluation/velocity' is never reported; known: evaluation/return"):
        score({"evaluation/return": 1.0}, SweepConfig(search_space=SPACE, metric="evaluation/velocity"))


class Running:
    """A trial as the scheduler sees it."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def test_a_restored_scheduler_remembers_the_rungs() -> None:
    ppo = {"total_env_steps": 400, "report_every_env_steps": 100, "batch_size": 100, "minibatch_size": 50, "num_envs": 4}
    asha = {"kind": "asha", "grace_period": 100, "reduction_factor": 2}
    config = parse_config({"ppo": ppo, "search_space": SPACE, "scheduler": asha}, SweepConfig)
    assert rungs(config) == (100, 200)
    past = [("a", 100.0, 0.5), ("a", 200.0, 0.9), ("b", 100.0, 0.4), ("b", 200.0, 0.8), ("c", 100.0, 0.3)]

    def decision(past: list[tuple[str, float, float]], value: float) -> str:
        scheduler = make_scheduler(config, past, lambda clone: None)
        scheduler.set_search_properties("score", "max")
        late = Running("d")
        scheduler.on_trial_add(None, late)
        return scheduler.on_trial_result(None, late, {"progress": 100, "score": value})

    assert decision(past, 0.35) == "STOP"
    assert decision(past, 0.45) == "CONTINUE"
    assert decision([], 0.35) == "CONTINUE"


def test_a_copied_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for name, text in (("one", "1"), ("two", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(text)
        copy_folder_atomic(tmp_path / name, tmp_path / "best")
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["two.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "one", "two"]
