"""Every scheduler and every searcher runs a real sweep of a trainable that costs nothing, to the end."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from cluster.config import parse_config
from cluster.errors import UsageError
from cluster.stage import StageContext
from trainables import sweep
from trainables.sweeps.config import SweepConfig
from trainables.sweeps.overview import describe, find_sweep, list_sweeps, request_stop
from trainables.sweeps.records import SweepRecord, load_sweep
from trainables.sweeps.searchers import check_packages

CLIMB = {"trainable": "tests.trainables.sweeps.runs.climb:Climb", "budget": 9}
UNIFORM = {"x": {"uniform": [0.0, 1.0]}}
pytestmark = pytest.mark.usefixtures("ray_session")


def run(context: StageContext, **changes: Any) -> tuple[dict[str, Any], SweepRecord]:
    data = {"custom": CLIMB, "search_space": UNIFORM, "num_trials": 6, "scheduler": "fifo", "max_failures": 0, "cpus_per_trial": 0.5}
    result = sweep.run(parse_config(data | changes, SweepConfig), context)
    return result, load_sweep(Path(result["sweep_folder"]))


@pytest.mark.parametrize(
    "searcher",
    [
        "random",
        {"kind": "optuna", "sampler": "tpe", "startup_trials": 2},
        {"kind": "optuna", "sampler": "gp", "startup_trials": 2},
        {"kind": "optuna", "sampler": "cma", "startup_trials": 1},
        {"kind": "bayesopt", "startup_trials": 2},
    ],
    ids=lambda searcher: searcher if isinstance(searcher, str) else searcher.get("sampler", searcher["kind"]),
)
def test_every_searcher_proposes_inside_the_space_and_tries_what_is_written_first(context: StageContext, searcher: Any) -> None:
    custom = CLIMB | {"parameters": {"x": 0.25}}
    space = UNIFORM if searcher == {"kind": "bayesopt", "startup_trials": 2} else UNIFORM | {"y": {"uniform": [1.0, 2.0]}}
    result, record = run(context, custom=custom, searcher=searcher, search_space=space)
    assert len(record.trials) == 6
    assert {trial.status for trial in record.trials} == {"finished"}
    values = [trial.sample["x"] for trial in record.trials]
    assert all(0.0 <= value <= 1.0 for value in values)
    assert len(set(values)) >= 5
    if "y" not in space or searcher == "random":  # a searcher that learns takes whole points only, and y is not written
        assert record.trials[0].sample["x"] == 0.25
    best = max(record.trials, key=lambda trial: -abs(trial.sample["x"] - 0.7))
    assert result["best_trial"] == best.trial_id
    assert result["value"] == best.best_value == pytest.approx(1 - (best.sample["x"] - 0.7) ** 2)
    assert json.loads((Path(result["checkpoint"]) / "policy.json").read_text())["x"] == best.sample["x"]


def test_a_grid_is_tried_whole_with_every_seed(context: StageContext) -> None:
    space = {"x": {"choice": [0.1, 0.7]}, "y": {"choice": ["a", "b", "c"]}}
    result, record = run(context, searcher="grid", search_space=space, seeds_per_configuration=2)
    tried = defaultdict(list)
    for trial in record.trials:
        tried[trial.sample["x"], trial.sample["y"]].append(trial.seed)
    assert len(tried) == 6
    assert all(sorted(seeds) == [0, 1] for seeds in tried.values())
    assert len({trial.configuration for trial in record.trials}) == 6
    assert record.info.num_trials == 12
    assert result["value"] == pytest.approx(1.001)  # the better seed of x = 0.7


@pytest.mark.parametrize("searcher", ["random", {"kind": "optuna", "startup_trials": 2}], ids=["random", "optuna"])
def test_seeds_share_their_configuration(context: StageContext, searcher: Any) -> None:
    _, record = run(context, searcher=searcher, num_trials=3, seeds_per_configuration=2)
    groups = defaultdict(list)
    for trial in record.trials:
        groups[trial.configuration].append((trial.sample["x"], trial.seed))
    assert len(record.trials) == 6
    assert len(groups) == 3
    for members in groups.values():
        assert len({x for x, _ in members}) == 1
        assert sorted(seed for _, seed in members) == [0, 1]


@pytest.mark.parametrize(
    "scheduler", ["hyperband", {"kind": "median", "grace_period": 2, "min_trials": 2}, {"kind": "asha", "grace_period": 2}]
)
def test_every_scheduler_brings_a_sweep_to_its_end(context: StageContext, scheduler: Any) -> None:
    space = {"x": {"choice": [0.7, 0.0, 0.1, 0.2, 0.6, 0.65]}}
    result, record = run(context, scheduler=scheduler, search_space=space, searcher="grid", first_trial_as_written=False)
    assert len(record.trials) == 6
    assert all(trial.status in ("finished", "stopped early") for trial in record.trials)
    assert any(trial.status == "finished" for trial in record.trials)
    stopped = [trial for trial in record.trials if trial.status == "stopped early"]
    assert all(trial.reason and trial.progress < 9 for trial in stopped)
    assert result["value"] > 0.9


def test_stop_rules_and_budgets_say_why(context: StageContext) -> None:
    result, record = run(context, stop={"target": 0.5}, search_space={"x": {"choice": [0.7]}}, cpus_per_trial=2)
    assert result["status"] == "finished"
    assert result["reason"] == "the target objective = 0.5 was reached"
    assert record.trials[0].status == "stopped early"
    assert record.trials[0].reason == result["reason"]
    assert record.trials[0].best_value == pytest.approx(5 / 9)
    assert record.trials[0].progress == 5
    # The policy that reached the target is kept: its checkpoint is awaited.
    assert result["value"] == pytest.approx(5 / 9)
    assert record.trials[0].checkpoint_progress == 5


def test_figures_and_the_work_budget_end_trials(context: StageContext) -> None:
    _, record = run(context, stop={"figures": {"climb/share": {"at_least": 0.3}}}, num_trials=2)
    assert {trial.progress for trial in record.trials} == {3}
    assert {trial.reason for trial in record.trials} == {"its figures reached the stop rule"}


def test_a_spent_work_budget_ends_the_sweep(context: StageContext) -> None:
    result, record = run(context, work_budget=12, cpus_per_trial=2)
    assert result["reason"] == "the sweep's work budget of 12 steps is spent"
    assert sum(trial.work for trial in record.trials) == 12


def test_a_trial_that_always_fails_is_marked_and_the_rest_goes_on(context: StageContext) -> None:
    space = {"fail": {"choice": [True, False]}}
    result, record = run(context, searcher="grid", search_space=space, max_failures=1)
    failed, finished = sorted(record.trials, key=lambda trial: trial.status)
    assert (failed.status, finished.status) == ("failed", "finished")
    assert failed.error is not None
    assert failed.error.endswith("GaitwayError: x = 0.5 always fails")
    assert 'climb.py", line' in (failed.traceback or "")
    assert "\x1b" not in (failed.traceback or "")
    assert failed.restarts == 1
    assert failed.progress == 1
    assert result["best_trial"] == finished.trial_id


def test_sweeps_are_found_by_name_and_trials_by_what_they_are(context: StageContext) -> None:
    result, _ = run(context)
    settings = context.settings
    assert find_sweep(settings, None) == find_sweep(settings, "small") == find_sweep(settings, "small_1") == context.folder
    assert find_sweep(settings, str(context.folder)) == context.folder
    with pytest.raises(UsageError, match="sweep large: no such sweep; the newest: small_1"):
        find_sweep(settings, "large")
    (summary,) = list_sweeps(settings)
    assert (summary["name"], summary["status"], summary["trials_by_status"]) == ("small_1", "finished", {"finished": 6})
    everything = describe(settings, "small_1")
    assert everything["trials"][0]["trial_id"] == result["best_trial"]
    assert everything["work"] == 6 * 9
    chosen = everything["trials"][2]
    for text in (chosen["trial_id"], f"x={chosen['sample']['x']}"):
        assert [trial["trial_id"] for trial in describe(settings, "small_1", text)["trials"]] == [chosen["trial_id"]]
    with pytest.raises(UsageError, match="does not run: it is finished"):
        request_stop(settings, "small_1")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for searcher, words in (({"kind": "optuna", "sampler": "cma"}, r"gaitway\[cma\]"), ("bayesopt", r"gaitway\[bayesopt\]")):
        config = parse_config({"custom": CLIMB, "search_space": UNIFORM, "searcher": searcher}, SweepConfig)
        with pytest.raises(UsageError, match=words):
            check_packages(config)
