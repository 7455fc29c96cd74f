"""Population-based training on real trials: what a clone takes over, what it changes, and what is kept of it."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import parse_config
from cluster.stage import StageContext
from trainables import sweep
from trainables.networks.checkpoint import load_policy
from trainables.sweeps.config import SweepConfig
from trainables.sweeps.domain import Domain
from trainables.sweeps.records import REPORTS_FILE, load_sweep, read_lines

SPACE = {"learning_rate": {"loguniform": [1e-4, 1e-2]}, "clip": {"choice": [0.1, 0.2, 0.3]}}


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("scheduler", "space"),
    [
        ({"kind": "pbt", "perturbation_interval": 512, "quantile_fraction": 0.25, "synchronous": True}, SPACE),
        ({"kind": "pb2", "perturbation_interval": 512, "quantile_fraction": 0.25}, {"learning_rate": {"uniform": [1e-4, 1e-2]}}),
    ],
    ids=["pbt", "pb2"],
)
def test_a_clone_takes_over_its_donor_and_steps_at_its_own_rate(
    small_sweep: Callable[..., SweepConfig], context: StageContext, scheduler: dict[str, Any], space: dict[str, Any]
) -> None:
    config = small_sweep(ppo={"total_env_steps": 4096}, search_space=space, num_trials=4, scheduler=scheduler, first_trial_as_written=False)
    result = sweep.run(config, context)
    folder = Path(result["sweep_folder"])
    record = load_sweep(folder)
    assert {trial.status for trial in record.trials} == {"finished"}, record
    assert len(record.trials) == 4
    assert record.lineage, "nobody was cloned"
    reports: dict[str, list[dict[str, Any]]] = {}
    for line in read_lines(folder / REPORTS_FILE):
        reports.setdefault(line["trial"], []).append(line)
    domains = {path: Domain.model_validate(domain) for path, domain in space.items()}
    samples = {trial.trial_id: trial.sample for trial in record.trials}
    last_clone = {}
    for clone in record.lineage:
        assert clone.trial != clone.donor
        for path, (before, after) in clone.changes.items():
            assert before != after
            assert domains[path].holds(after), (path, after)
        last_clone[clone.trial] = clone
    for trial, clone in last_clone.items():
        # What the record calls the trial's configuration is what it explored, and the donor's for the rest.
        for path, (_, after) in clone.changes.items():
            assert samples[trial][path] == after
        # Its counters are the donor's: the first report after the clone lies one report after the donor's checkpoint.
        after_clone = [line for line in reports[trial] if line["progress"] > clone.donor_progress]
        assert after_clone
        assert after_clone[0]["work"] == after_clone[0]["progress"] - clone.donor_progress
        # The explored learning rate is in force: the constant schedule reports what the last update stepped at.
        assert math.isclose(after_clone[-1]["figures"]["learner/learning_rate"], samples[trial]["learning_rate"], rel_tol=1e-6)
    # Nothing that a clone may need is pruned: one checkpoint a report or more, and each holds a policy that loads.
    for trial in record.trials:
        checkpoints = sorted((folder / "tune" / trial.trial_id).glob("checkpoint_*"))
        assert len(checkpoints) >= 4096 // 256 - 1
        if scheduler.get("synchronous"):  # nobody is cloned before his own checkpoint is there
            assert len(checkpoints) >= len(reports[trial.trial_id])
        statistics = load_policy(checkpoints[-1] / "policy")[0].normalizer.count
        # The statistics travel too: the network has seen every step of its line of descent, whoever took it.
        assert statistics.item() == trial.progress


@pytest.mark.usefixtures("ray_session")
def test_nobody_waits_for_a_trial_that_has_failed(context: StageContext) -> None:
    # Half of them fail at their second report, which is where the others wait for them.
    custom = {"trainable": "tests.trainables.sweeps.runs.climb:Climb", "budget": 9, "parameters": {"sleep_s": 0.05}}
    scheduler = {"kind": "pbt", "perturbation_interval": 2, "synchronous": True}
    space = {"x": {"uniform": [0.0, 1.0]}, "fail": {"choice": [True, False]}}
    data = {"custom": custom, "search_space": space, "num_trials": 6, "scheduler": scheduler, "max_failures": 0, "cpus_per_trial": 0.5}
    sweep.run(parse_config(data, SweepConfig), context)
    record = load_sweep(context.folder / "rl_model")
    assert len(record.trials) == 6
    statuses = Counter(trial.status for trial in record.trials)
    assert set(statuses) == {"finished", "failed"}, statuses
    assert all(trial.progress == 9 for trial in record.trials if trial.status == "finished")
    # Those that are left go on comparing, all of them at the same progress.
    assert record.lineage
    assert {clone.donor_progress for clone in record.lineage} <= {2, 4, 6, 8}
    assert all(clone.progress == clone.donor_progress for clone in record.lineage)


def test_exploring_stays_inside_the_search_space() -> None:
    assert Domain(uniform=(0.1, 0.3)).nearest(0.36) == 0.3
    assert Domain(loguniform=(1e-4, 1e-2)).nearest(9e-5) == 1e-4
    assert Domain(randint=(1, 4)).nearest(5) == 3
    assert Domain(choice=("a", "b")).nearest("b") == "b"
    assert not Domain(randint=(1, 4)).holds(4)
    assert not Domain(uniform=(0.0, 2.0)).holds(True)
