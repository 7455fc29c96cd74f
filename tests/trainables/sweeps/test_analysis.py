"""Small sweeps whose right answers were worked out by hand."""

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from trainables.sweeps.analysis import analyse
from trainables.sweeps.analysis.importance import MIN_CONFIGURATIONS
from trainables.sweeps.analysis.numbers import plain, student_interval
from trainables.sweeps.analysis.stopping import Prediction, stopping
from trainables.sweeps.analysis.words import duration, in_unit, number, percent
from trainables.sweeps.records import Clone

STOPPED = {"status": "stopped early", "reason": "below the rung's best third"}


def ramp(end: int, final: float, steps: int = 5) -> list[tuple[int, float]]:
    """A straight curve from 0 to ``final`` at ``end``."""
    return [(end * step // steps, final * step / steps) for step in range(steps + 1)]


def test_best_and_last_are_both_named(make_sweep) -> None:
    analysis = analyse(make_sweep({"a": [(100, 0.2), (600, 0.9), (1000, 0.4)], "b": [(100, 0.5), (1000, 0.6)]}))
    assert analysis["best"]["trial"] == "a"
    assert analysis["best"]["at_best"] == {"value": 0.9, "progress": 600}
    assert analysis["best"]["at_last"] == {"value": 0.4, "progress": 1000}
    assert [trial["rank"] for trial in analysis["trials"]] == [1, 2]
    assert analysis["summary"][0] == (
        "Trial 1 won: evaluation/forward_velocity_m_s reached 0.9 m/s at best, after 600 env steps, "
        "and 0.4 m/s at its last report, after 1,000 env steps."
    )


def test_less_is_better_when_the_mode_says_so(make_sweep) -> None:
    analysis = analyse(make_sweep({"a": [(500, 3.0), (1000, 2.0)], "b": [(500, 1.5), (1000, 4.0)]}, mode="min"))
    assert (analysis["best"]["trial"], analysis["best"]["at_best"]["value"]) == ("b", 1.5)


def test_a_trial_that_breaks_constraints_ranks_below_one_that_keeps_them(make_sweep) -> None:
    broken = {"best_value": 9.0, "best_score": -1.2e9, "best_progress": 1000}
    analysis = analyse(make_sweep({"a": [(1000, 9.0)], "b": [(1000, 0.1)]}, {"a": broken}))
    assert [(trial["rank"], trial["keeps_constraints"]) for trial in analysis["trials"]] == [(2, False), (1, True)]
    alone = analyse(make_sweep({"a": [(1000, 9.0)]}, {"a": broken}))
    assert "No trial kept the constraints" in alone["summary"][1]


def test_equal_scores_go_to_the_trial_that_needed_less(make_sweep) -> None:
    analysis = analyse(make_sweep({"a": [(900, 1.0)], "b": [(300, 1.0)], "c": [(300, 1.0)]}))
    assert [trial["rank"] for trial in analysis["trials"]] == [3, 1, 2]


def test_seeds_are_averaged_with_students_interval(make_sweep) -> None:
    curves = {name: [(1000, value)] for name, value in {"a": 1.0, "b": 2.0, "c": 3.0, "d": 9.0, "e": 1.5, "f": 1.7}.items()}
    groups = {"a": ("x", 0), "b": ("x", 1), "c": ("x", 2), "d": ("lucky", 0), "e": ("y", 0), "f": ("y", 1)}
    trials = {name: {"configuration": group, "seed": seed} for name, (group, seed) in groups.items()}
    trials["d"]["last_value"] = 8.0
    found = analyse(make_sweep(curves, trials))["configurations"]
    assert found["several_seeds"]
    assert [row["configuration"] for row in found["rows"]] == ["lucky", "x", "y"]
    assert found["best_by_mean"] == "x"  # one seed is no mean
    lucky, x, _ = found["rows"]
    assert (lucky["n"], lucky["mean_best"], lucky["mean_last"], lucky["interval_best"]) == (1, 9.0, 8.0, None)
    # mean 2, s = 1, n = 3: half width t(0.975, 2) / sqrt(3) = 4.302653 / 1.732051
    assert x["mean_best"] == pytest.approx(2.0)
    assert x["interval_best"] == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)
    assert (x["trials"], x["best_trial"]) == ([1, 2, 3], 3)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_the_interval_is_scipys(values: list[float]) -> None:
    if np.std(values) < 1e-6:
        return
    expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert student_interval(values) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_one_value_has_no_interval() -> None:
    assert student_interval([1.0]) is None


def test_rungs_count_who_reached_them_and_who_was_cut(make_sweep) -> None:
    curves = {"a": ramp(1000, 1.0), "b": ramp(100, 0.1), "c": ramp(320, 0.2), "d": ramp(50, 0.1)}
    found = analyse(make_sweep(curves, {"b": STOPPED, "c": STOPPED, "d": STOPPED}))
    assert [(rung["progress"], rung["reached"], rung["cut"]) for rung in found["rungs"]] == [(100, 3, ["b"]), (300, 2, ["c"])]
    # a and c pass 100 with their reports at 200 and 128, b at 100: 0.2, 0.08, 0.1
    assert found["rungs"][0]["median_value"] == pytest.approx(0.1)
    assert [trial["cut_at_rung"] for trial in found["trials"]] == [None, 100, 300, None]  # d stopped before any rung


def test_budget_spent_and_saved(make_sweep) -> None:
    curves = {"a": ramp(1000, 1.0), "b": ramp(100, 0.1), "c": ramp(300, 0.2), "d": ramp(400, 0.2)}
    found = analyse(make_sweep(curves, {"b": STOPPED, "c": STOPPED, "d": {"status": "failed", "work": 500}}))["budget"]
    assert found["spent"] == 1000 + 100 + 300 + 500
    assert found["spent_by_status"] == {"finished": 1000, "stopped early": 400, "failed": 500}
    assert found["full"] == 4000
    assert (found["saved"], found["saved_share"]) == (900 + 700, 0.4)
    assert found["repeated"] == 100
    assert found["trial_s"] == pytest.approx(100 + 10 + 30 + 40)  # the record has 0.1 s per step
    assert found["saved_s"] == pytest.approx(1600 * 0.1)


def test_the_predicted_final_value_is_the_textbooks(make_sweep) -> None:
    """An independent least squares and Student's t of scipy, on five finished trials and one stopped at 100."""
    at_rung, final = [0.10, 0.20, 0.30, 0.35, 0.50], [0.9, 1.1, 1.7, 1.6, 2.2]
    curves = {f"t{index}": [(100, x), (1000, y)] for index, (x, y) in enumerate(zip(at_rung, final, strict=True))}
    found = analyse(make_sweep({**curves, "s": [(100, 0.15)]}, {"s": STOPPED}))["stopping"]
    line = stats.linregress(at_rung, final)
    x = np.array(at_rung)
    residual = np.sqrt(np.sum((np.array(final) - line.intercept - line.slope * x) ** 2) / 3)
    scale = residual * np.sqrt(1 + 1 / 5 + (0.15 - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2))
    predicted = stats.t(3, loc=line.intercept + line.slope * 0.15, scale=scale)
    (entry,) = found["trials"]
    assert entry["predicted"] == pytest.approx(predicted.mean())
    assert entry["interval"] == pytest.approx(predicted.interval(0.95))
    assert entry["probability"] == pytest.approx(predicted.sf(2.2))
    excess = integrate.quad(predicted.sf, 2.2, np.inf)[0]  # E[max(0, Y - w)] is the integral of P(Y > u) over u > w
    assert entry["regret"] == pytest.approx(excess, rel=1e-6)
    assert found["probability_any"] == pytest.approx(entry["probability"])
    assert found["expected_regret"] == pytest.approx(excess, rel=1e-6)
    assert found["relations"] == [
        {"progress": 100, "n": 5, "slope": pytest.approx(line.slope), "rank_correlation": pytest.approx(stats.spearmanr(at_rung, final)[0])}
    ]


def test_the_answer_does_not_depend_on_the_sign_of_the_metric(make_sweep) -> None:
    curves = {f"t{index}": [(100, index / 10), (1000, index + 0.3 * math.sin(index))] for index in range(6)}
    curves["s"] = [(100, 0.25)]
    up = analyse(make_sweep(curves, {"s": STOPPED}))["stopping"]
    turned = {name: [(progress, -value) for progress, value in curve] for name, curve in curves.items()}
    down = analyse(make_sweep(turned, {"s": STOPPED}, mode="min"))["stopping"]
    assert down["trials"][0]["predicted"] == pytest.approx(-up["trials"][0]["predicted"])
    assert down["trials"][0]["interval"] == pytest.approx([-up["trials"][0]["interval"][1], -up["trials"][0]["interval"][0]])
    assert down["expected_regret"] == pytest.approx(up["expected_regret"])


def test_a_prediction_never_falls_below_what_was_reached(make_sweep) -> None:
    curves = {f"t{index}": [(100, index / 10), (1000, 5.0 + index)] for index in range(5)}
    found = analyse(make_sweep({**curves, "s": [(50, 7.0), (100, 0.0)]}, {"s": STOPPED}))["stopping"]
    assert found["trials"][0]["predicted"] == pytest.approx(7.0)
    assert found["trials"][0]["interval"][0] == pytest.approx(7.0)


@pytest.mark.parametrize(
    ("finished", "reason"),
    [(0, "not enough data: 0 finished trials reported"), (3, "not enough data: 3 finished trials reported"), (4, None)],
)
def test_four_finished_trials_are_needed(make_sweep, finished: int, reason: str | None) -> None:
    curves = {f"t{index}": [(100, index / 10), (1000, index % 3)] for index in range(finished)}
    found = analyse(make_sweep({**curves, "s": [(100, 0.25)]}, {"s": STOPPED}))["stopping"]
    assert (found["reason"] or "").startswith(reason or "")
    assert (found["reason"] is None) == (reason is None)


def test_nothing_stopped_nothing_to_regret(make_sweep) -> None:
    assert analyse(make_sweep({"a": [(1000, 1.0)]}))["stopping"]["reason"] == "no trial was stopped early"


@given(location=st.floats(-5, 5), scale=st.floats(0.01, 5), degrees=st.integers(2, 40), target=st.floats(-5, 5))
def test_expected_excess_against_quadrature(location: float, scale: float, degrees: int, target: float) -> None:
    prediction = Prediction(location, scale, degrees)
    density = stats.t(degrees, loc=location, scale=scale)
    expected = integrate.quad(density.sf, target, max(target, location) + 20 * scale)[0]
    expected += integrate.quad(density.sf, max(target, location) + 20 * scale, np.inf)[0]
    assert prediction.expected_excess(target) == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert prediction.probability_above(target) == pytest.approx(density.sf(target))


def test_expected_regret_of_several_stopped_trials_against_sampling(make_sweep) -> None:
    curves = {f"t{index}": [(100, index / 10), (1000, index + 0.8 * math.sin(3 * index))] for index in range(8)}
    stopped = {f"s{index}": [(100, 0.5 + index / 20)] for index in range(3)}
    record = make_sweep({**curves, **stopped}, dict.fromkeys(stopped, STOPPED))
    seen = {
        trial: SimpleNamespace(progress=rows["progress"].to_numpy(), value=rows["value"].to_numpy())
        for trial, rows in record.reports.groupby("trial")
    }
    found = stopping(record, seen)  # type: ignore[arg-type]
    generator = np.random.default_rng(0)
    line = stats.linregress([index / 10 for index in range(8)], [index + 0.8 * math.sin(3 * index) for index in range(8)])
    x = np.arange(8) / 10
    y = np.array([index + 0.8 * math.sin(3 * index) for index in range(8)])
    residual = np.sqrt(np.sum((y - line.intercept - line.slope * x) ** 2) / 6)
    at = np.array([0.5, 0.55, 0.6])
    scale = residual * np.sqrt(1 + 1 / 8 + (at - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2))
    draws = (line.intercept + line.slope * at + scale * generator.standard_t(6, (400_000, 3))).max(axis=1)
    excess = np.maximum(0, draws - y.max())
    assert found["expected_regret"] == pytest.approx(excess.mean(), abs=4 * excess.std() / math.sqrt(len(excess)))
    assert found["probability_any"] == pytest.approx((draws > y.max()).mean(), abs=0.005)


def searched(
    make_sweep: Any, count: int, value: Any, space: dict[str, Any] | None = None, sample: Any = None, **options: Any
) -> dict[str, Any]:
    """A sweep of ``count`` trials with random samples and ``value(sample)`` as the outcome."""
    generator = np.random.default_rng(1)
    draw = sample or (lambda: {"learning_rate": float(10 ** generator.uniform(-5, -2)), "clip": float(generator.uniform(0.1, 0.3))})
    samples = {f"t{index}": draw() for index in range(count)}
    curves = {name: [(1000, float(value(sample)))] for name, sample in samples.items()}
    trials = {name: {"sample": sample} for name, sample in samples.items()}
    return analyse(make_sweep(curves, trials, **({"search_space": space} if space else {}), **options))["importance"]


def test_ped_anova_finds_the_parameter_that_matters(make_sweep) -> None:
    found = searched(make_sweep, 60, lambda sample: -((math.log10(sample["learning_rate"]) + 3) ** 2) + 0.01 * sample["clip"])
    assert found["reason"] is None
    assert found["values"][0]["parameter"] == "learning_rate"
    assert found["values"][0]["importance"] > 0.8
    assert sum(entry["importance"] for entry in found["values"]) == pytest.approx(1)


def test_ped_anova_finds_the_choice_that_matters_among_lists_none_and_booleans(make_sweep) -> None:
    generator = np.random.default_rng(2)
    choices = [[64, 64], None, True, "tanh", 3]
    space = {"hidden": {"choice": choices}, "clip": {"uniform": [0.1, 0.3]}, "num_epochs": {"randint": [2, 9]}}

    def sample() -> dict[str, Any]:
        clip, epochs = float(generator.uniform(0.1, 0.3)), int(generator.integers(2, 9))
        return {"hidden": choices[int(generator.integers(5))], "clip": clip, "num_epochs": epochs}

    found = searched(make_sweep, 80, lambda drawn: (drawn["hidden"] is None) + 0.1 * generator.random(), space, sample)
    assert found["values"][0]["parameter"] == "hidden"
    assert found["values"][0]["importance"] > 0.6


@pytest.mark.parametrize(
    "space",
    [
        {"learning_rate": {"loguniform": [1e-4, 1e-3]}, "clip": {"uniform": [0.19, 0.2]}},  # values outside
        {"learning_rate": {"grid": [1e-5, 1e-3]}, "clip": {"quniform": [0.1, 0.3, 0.1]}},  # off the steps
        {"learning_rate": {"randint": [0, 3]}, "clip": {"randn": [0, 1]}},  # no whole numbers; a domain that is not known
        {"learning_rate": "sometimes", "clip": {}},
    ],
)
def test_domains_that_do_not_fit_are_widened(make_sweep, space: dict[str, Any]) -> None:
    found = searched(make_sweep, 30, lambda sample: sample["clip"], space)
    assert found["values"][0]["parameter"] == "clip"


def test_a_first_trial_without_a_number_is_left_out(make_sweep) -> None:
    samples = iter([{"learning_rate": None, "clip": 0.2}] + [{"learning_rate": 10**-i, "clip": 0.1 + i / 100} for i in range(2, 17)])
    found = searched(make_sweep, 16, lambda sample: sample["clip"], sample=lambda: next(samples))
    assert (found["reason"], found["configurations"]) == (None, 15)


@pytest.mark.parametrize(
    ("count", "value", "space", "reason"),
    [
        (MIN_CONFIGURATIONS - 1, lambda sample: sample["clip"], None, "needs 10 configurations that ended with a value; this sweep has 9"),
        (20, lambda sample: 1.0, None, "all configurations reached the same value"),
        (20, lambda sample: sample["clip"], {"clip": {"uniform": [0.1, 0.3]}}, "only clip varied"),
    ],
)
def test_why_there_is_no_importance(make_sweep, count: int, value: Any, space: Any, reason: str) -> None:
    found = searched(make_sweep, count, value, space)
    assert found["values"] == []
    assert found["reason"].startswith(reason)


def test_a_parameter_that_never_varied_is_named(make_sweep) -> None:
    generator = np.random.default_rng(3)
    space = {"a": {"uniform": [0, 1]}, "b": {"uniform": [0, 1]}, "c": {"uniform": [0, 1]}}
    found = searched(
        make_sweep, 20, lambda sample: sample["a"], space, lambda: {"a": generator.random(), "b": generator.random(), "c": 0.5}
    )
    assert found["constant"] == ["c"]
    assert {entry["parameter"] for entry in found["values"]} == {"a", "b"}


def population(make_sweep) -> dict[str, Any]:
    """Trial c copies b at 300, b copies c at 600; b wins at 900. a is never copied."""
    curves = {
        "a": [(300, 0.1), (600, 0.2), (900, 0.3)],
        "b": [(300, 0.5), (600, 0.4), (900, 1.0)],
        "c": [(300, 0.1), (600, 0.8), (900, 0.9)],
    }
    clones = [
        Clone("t1", "c", "b", 300, 300, {"learning_rate": (1e-3, 2e-3)}),
        Clone("t2", "b", "c", 600, 600, {"learning_rate": (2e-3, 4e-3), "clip": (0.2, 0.25)}),
    ]
    samples = {"a": (5e-4, 0.1), "b": (4e-3, 0.25), "c": (2e-3, 0.2)}
    trials = {name: {"sample": {"learning_rate": rate, "clip": clip}} for name, (rate, clip) in samples.items()}
    return analyse(make_sweep(curves, trials, clones, scheduler="pbt", rungs=(), trial_budget=900))


def test_the_winners_ancestors(make_sweep) -> None:
    found = population(make_sweep)["lineage"]
    steps = [(step["trial"], step["from_progress"], step["to_progress"]) for step in found["ancestors"]]
    assert steps == [("b", 0, 300), ("c", 300, 600), ("b", 600, 900)]
    assert [step["sample"]["learning_rate"] for step in found["ancestors"]] == [1e-3, 2e-3, 4e-3]
    assert found["ancestors"][0]["clone"] is None
    assert found["ancestors"][2]["clone"]["changes"] == {"learning_rate": [2e-3, 4e-3], "clip": [0.2, 0.25]}
    assert [clone["donor_number"] for clone in found["clones"]] == [2, 3]


def test_samples_that_are_no_longer_in_force_follow_from_the_clones(make_sweep) -> None:
    found = population(make_sweep)["lineage"]["segments"]
    samples = {(segment["trial"], segment["start"]): segment["sample"] for segment in found}
    assert samples["b", 0] == {"learning_rate": 1e-3, "clip": 0.2}  # c's after its clone, with the change undone
    assert samples["c", 0] is None  # overwritten and never copied: nothing tells
    assert samples["a", 0] == {"learning_rate": 5e-4, "clip": 0.1}


def test_the_winners_parameters_are_those_of_its_best_report(make_sweep) -> None:
    curves = {"a": [(300, 0.9), (600, 0.1)], "b": [(300, 0.2), (600, 0.3)]}
    clone = Clone("t", "a", "b", 300, 300, {"clip": (0.2, 0.3)})
    copied_back = Clone("t", "b", "a", 200, 200, {"clip": (0.1, 0.2)})
    trials = {"a": {"sample": {"clip": 0.3}}, "b": {"sample": {"clip": 0.2}}}
    best = analyse(make_sweep(curves, trials, [copied_back, clone], trial_budget=600))["best"]
    assert (best["trial"], best["at_best"]["progress"], best["sample"]) == ("a", 300, {"clip": 0.1})


def test_without_clones_there_is_no_lineage(make_sweep) -> None:
    assert analyse(make_sweep({"a": [(1000, 1.0)]}))["lineage"] is None


def test_failures_carry_their_reasons(make_sweep) -> None:
    failed = {"status": "failed", "error": "ValueError: no", "traceback": "Traceback …\nValueError: no", "restarts": 2, "best_score": None}
    analysis = analyse(make_sweep({"a": [], "b": [(1000, 1.0)]}, {"a": failed}))
    assert [(item["number"], item["error"], item["restarts"]) for item in analysis["failures"]] == [(1, "ValueError: no", 2)]
    assert analysis["summary"][-1] == "1 trial failed; the first: ValueError: no"


@pytest.mark.parametrize(
    ("curves", "trials", "status", "first"),
    [
        ({}, {}, "running", "No trial has reported a value yet."),
        ({"a": []}, {"a": {"status": "pending"}}, "running", "No trial has reported a value yet."),
        ({"a": [(0, None)]}, {}, "finished", "No trial reported a value."),
        ({"a": [(1000, 1.0)]}, {}, "finished", "Trial 1 won: evaluation/forward_velocity_m_s reached 1 m/s at best"),
        ({"a": [(10, 1.0)]}, {"a": {"status": "running"}}, "running", "Trial 1 leads:"),
    ],
)
def test_degenerate_sweeps_are_analysed(make_sweep, curves: Any, trials: Any, status: str, first: str) -> None:
    analysis = analyse(make_sweep(curves, trials, status=status))
    assert analysis["summary"][0].startswith(first)
    json.dumps(analysis, allow_nan=False)


def test_everything_is_json(make_sweep) -> None:
    trials = {"a": {"sample": {"learning_rate": math.inf, "clip": [math.nan]}, "best_value": math.nan, "best_score": -math.inf}}
    text = json.dumps(analyse(make_sweep({"a": [(0, None), (1000, 0.5)], "b": [(1000, 0.5)]}, trials)), allow_nan=False)
    assert json.loads(text)["curves"][0]["value"] == [None, 0.5]


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_plain_is_always_json(value: Any) -> None:
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == plain(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.00015, "1.5e-4"), (150000, "150,000"), (0.27424, "0.2742"), (-1234567.8, "-1,234,568"), (2.0, "2"), (True, "true"),
     ([64, 0.5], "[64, 0.5]"), (math.nan, "–"), ("tanh", "tanh"), (1e-3, "0.001"), (3e-5, "3e-5")],
)  # fmt: skip
def test_how_numbers_are_written(value: Any, text: str) -> None:
    assert number(value) == text


def test_units_and_durations_are_written_out() -> None:
    assert in_unit(0.5, "evaluation/forward_velocity_m_s") == "0.5 m/s"
    assert in_unit(0.5, "evaluation/return") == "0.5"
    assert in_unit(3.0, "env_steps_per_s") == "3 per s"
    assert [duration(seconds) for seconds in (4.5, 200, 7500, 90000)] == ["4.5 s", "3 min 20 s", "2 h 5 min", "1 d 1 h"]
    assert [percent(share) for share in (None, 0.0, 0.004, 0.613)] == ["–", "0 %", "under 1 %", "61 %"]
