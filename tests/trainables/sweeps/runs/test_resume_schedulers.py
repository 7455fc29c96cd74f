"""A sweep that is stopped in the middle goes on under schedulers that Tune does not restore, and is not stopped again for old reasons."""

import threading
import time
from typing import Any

import pytest

from cluster.config import parse_config
from cluster.stage import StageContext
from trainables import sweep
from trainables.sweeps.config import SweepConfig
from trainables.sweeps.overview import request_stop
from trainables.sweeps.records import REPORTS_FILE, load_sweep, read_lines

BUDGET = 9
pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]


@pytest.mark.parametrize(
    "scheduler",
    [
        {"kind": "median", "grace_period": 2, "min_trials": 2},
        "hyperband",
        {"kind": "pbt", "perturbation_interval": 2},
        {"kind": "pbt", "perturbation_interval": 2, "synchronous": True},
    ],
    ids=["median", "hyperband", "pbt", "synchronous pbt"],
)
def test_it_goes_on(context: StageContext, scheduler: Any) -> None:
    custom = {"trainable": "tests.trainables.sweeps.runs.climb:Climb", "budget": BUDGET, "parameters": {"sleep_s": 0.3}}
    space = {"x": {"uniform": [0.0, 1.0]}}
    data = {"custom": custom, "search_space": space, "num_trials": 6, "scheduler": scheduler, "max_failures": 0, "cpus_per_trial": 0.5}
    config = parse_config(data, SweepConfig)
    folder = context.folder / "rl_model"

    def stop_in_the_middle() -> None:
        while sum(line["progress"] >= 3 for line in read_lines(folder / REPORTS_FILE)) < 3:
            time.sleep(0.05)
        request_stop(context.settings, context.folder.name)

    person = threading.Thread(target=stop_in_the_middle)
    person.start()
    with pytest.raises(KeyboardInterrupt):
        sweep.run(config, context)
    person.join()
    before = load_sweep(folder)
    assert before.status == "stopped"
    assert any(trial.status == "unfinished" for trial in before.trials)
    reached = {trial.trial_id: trial.progress for trial in before.trials}

    sweep.run(config, context)
    after = load_sweep(folder)
    assert after.status == "finished"
    assert len(after.trials) == 6
    assert {trial.status for trial in after.trials} <= {"finished", "stopped early"}, after.trials
    assert any(trial.status == "finished" for trial in after.trials)
    assert set(reached) <= {trial.trial_id for trial in after.trials}
    if config.scheduler.kind != "pbt":  # there a clone may stand behind where it stood
        assert all(trial.progress >= reached.get(trial.trial_id, 0) for trial in after.trials)
    else:
        assert {trial.status for trial in after.trials} == {"finished"}, after.trials
        if config.scheduler.synchronous:  # before and after, everybody meets at the same progress
            assert all(clone.progress == clone.donor_progress for clone in after.lineage), after.lineage
