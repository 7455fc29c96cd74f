"""Which parameters decided: PED-ANOVA (Watanabe, Bansal, Hutter, "PED-ANOVA", IJCAI 2023), as Optuna computes it.

The importance of a parameter says how differently its values are distributed among the best configurations and among all. Only
which configurations are the best enters, not by how much: so trials that were stopped early count, at the best score that they reached.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainables.sweeps.analysis.numbers import finite
from trainables.sweeps.records import SweepRecord

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["MIN_CONFIGURATIONS", "importance"]

MIN_CONFIGURATIONS = 10
"""Fewer configurations than this say nothing: five of them are then already half (Optuna advises five or more in the best group)."""
_IN_THE_BEST_GROUP = 5
_COUNTED = ("finished", "stopped early")


def importance(record: SweepRecord) -> dict[str, Any]:
    """Shares of importance, largest first.

    Returns:
        values: [{parameter, importance}], summing to 1; empty with ``reason`` saying why.
        configurations: how many were compared; best_share: which share of them is the best group;
        stopped_early: how many of them were cut; constant: parameters that did not vary.
    """
    observations, stopped = _observations(record)
    parameters = [name for name in record.info.search_space if all(name in sample for sample, _ in observations)]
    distinct = {name: len({_text(sample[name]) for sample, _ in observations}) for name in parameters}
    outcome: dict[str, Any] = {
        "method": "PED-ANOVA",
        "values": [],
        "reason": None,
        "configurations": len(observations),
        "best_share": None,
        "stopped_early": stopped,
        "constant": [
            name for name in parameters if len(observations) > 1 and len({_text(sample[name]) for sample, _ in observations}) == 1
        ],
    }
    varied = [name for name in parameters if distinct[name] > 1]
    columns = {name: _column(record.info.search_space[name], [sample[name] for sample, _ in observations]) for name in varied}
    scores = [score for _, score in observations]
    if not record.info.search_space:
        outcome["reason"] = "the sweep has no search space: nothing varied"
    elif len(observations) < MIN_CONFIGURATIONS:
        outcome["reason"] = f"needs {MIN_CONFIGURATIONS} configurations that ended with a value; this sweep has {len(observations)}"
    elif len(set(scores)) < 2:
        outcome["reason"] = "all configurations reached the same value"
    elif not varied:
        outcome["reason"] = "no parameter varied"
    elif len(varied) == 1:
        outcome["reason"] = f"only {varied[0]} varied: there is nothing to compare it with"
    else:
        outcome["best_share"] = min(0.5, max(0.1, _IN_THE_BEST_GROUP / len(observations)))
        shares = _ped_anova(columns, scores, outcome["best_share"])
        outcome["values"] = [{"parameter": name, "importance": share} for name, share in shares.items()]
    return outcome


def _observations(record: SweepRecord) -> tuple[list[tuple[dict[str, Any], float]], int]:
    """(sample, mean score over seeds) of every configuration that ended with a score, and how many of them were stopped early."""
    groups: dict[str, list[Any]] = {}
    for trial in record.trials:
        if trial.status in _COUNTED and finite(trial.best_score) is not None:
            groups.setdefault(trial.configuration, []).append(trial)
    observations = [
        (trials[0].sample, math.fsum(float(trial.best_score) for trial in trials) / len(trials))
        for trials in groups.values()
        if all(_fits(record.info.search_space[name], value) for name, value in trials[0].sample.items() if name in record.info.search_space)
    ]
    return observations, sum(all(trial.status == "stopped early" for trial in trials) for trials in groups.values())


def _fits(domain: Any, value: Any) -> bool:
    """A first trial that runs the configuration as written may have no number where the domain has numbers, such as null for "off"."""
    return _form(domain)[0] in ("choice", "grid") or not _numeric(_form(domain)[1]) or finite(value) is not None


def _column(domain: Any, values: list[Any]) -> tuple[BaseDistribution, list[Any]]:
    """An Optuna distribution that holds every value, and the values as it wants them.

    Values outside of the domain widen it: the first trial runs the configuration as written, and population-based training perturbs
    beyond. Steps are left out: PED-ANOVA puts numbers on a grid of its own.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    form, bounds = _form(domain)
    numbers = [finite(value) for value in values]
    if form in ("choice", "grid") or not all(number is not None for number in numbers):
        texts = [_text(value) for value in values]
        listed = [_text(value) for value in bounds] if form in ("choice", "grid") else []
        return CategoricalDistribution(list(dict.fromkeys([*listed, *texts]))), texts
    known = [number for number in numbers if number is not None]
    limits = [float(bound) for bound in bounds[:2]] if form in _RANGES and _numeric(bounds) else []
    if form == "randint" and limits:
        limits[1] -= 1
    low, high = min([*known, *limits]), max([*known, *limits])
    if "int" in form and all(number.is_integer() for number in (*known, *limits)):
        return IntDistribution(int(low), int(high)), [int(number) for number in known]
    return FloatDistribution(low, high, log="log" in form and low > 0), known


_RANGES = ("uniform", "loguniform", "quniform", "qloguniform", "randint", "lograndint", "qrandint", "qlograndint")


def _form(domain: Any) -> tuple[str, list[Any]]:
    """("uniform", [low, high]) of {"uniform": [low, high]}; ("", []) of what has another shape."""
    if isinstance(domain, dict):
        given = [(name, bounds) for name, bounds in domain.items() if bounds is not None]
        if len(given) == 1 and isinstance(given[0][1], (list, tuple)):
            return str(given[0][0]), list(given[0][1])
    return "", []


def _numeric(bounds: Sequence[Any]) -> bool:
    return len(bounds) >= 2 and all(finite(bound) is not None for bound in bounds)


def _ped_anova(columns: dict[str, tuple[BaseDistribution, list[Any]]], scores: list[float], best_share: float) -> dict[str, float]:
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # otherwise a line about the study in memory
    try:
        study = optuna.create_study(direction="maximize")
        distributions = {name: distribution for name, (distribution, _) in columns.items()}
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={name: values[row] for name, (_, values) in columns.items()}, distributions=distributions, value=score
                )
                for row, score in enumerate(scores)
            ]
        )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=best_share)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(verbosity)


def _text(value: Any) -> str:
    """One text for each value of a choice, lists, None and booleans included."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
