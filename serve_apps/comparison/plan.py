"""What a comparison can be expected to find, and after how many episodes: told when it starts, before robots spend hours on it.

The figures come from simulating the very test that will run (``simulation``): its split, ramp or bandit, its alpha shared by its
challengers, for the challenger with the smallest share; the others are taken to be as good as the champion. Outcomes are the champion's
own past ones of this metric where the ledger has at least 30; a better challenger's are these, shifted so that their mean rises by the
effect. With fewer there are two assumptions instead: outcomes at the two ends of the range, with a mean at three quarters of it, and at
half, where the noise is largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.store.comparisons import Comparison, NewComparison, create_comparison
from cluster.store.database import Database
from cluster.store.episodes import past_outcomes
from serve_apps.comparison.plan_models import Plan, PlannedEffect, Scenario
from serve_apps.comparison.simulation import Design, decided_at, play

__all__ = ["make_plan", "plan_lines", "start_comparison"]

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int], float], Array]
"""Outcomes in [0, 1] whose mean is higher than the champion's by so much."""

_POWER = 0.8
_REPETITIONS = 200
_MOST_MISSES = _REPETITIONS - math.ceil(_POWER * _REPETITIONS)
"""With more of them the power is below the wanted one, whatever the rest would find."""
_EFFECTS = (0.2, 0.1, 0.05)
"""Shares of the metric's range."""
_DEFAULT_BUDGET = 1_000
_LARGEST_BUDGET = 2_000
_HORIZON = 3_000
"""Bounds of what is simulated, in episodes: somebody waits for it."""
_FEWEST_PAST = 30
_BISECTIONS = 5
_SEED = 20_260


def start_comparison(db: Database, new: NewComparison) -> Comparison:
    """Make the plan and start the comparison with it. Raises ``StoreError`` as ``create_comparison``."""
    plan = make_plan(db, new)
    return create_comparison(db, new, None if plan is None else plan.model_dump(mode="json"))


def make_plan(db: Database, new: NewComparison) -> Plan | None:
    """What a comparison can be expected to find; a few seconds, and the same each time. None: nothing is compared."""
    if not new.challengers:
        return None
    size = new.episodes_per_robot if new.unit == "robot" else 1
    budget = min(new.max_episodes or _DEFAULT_BUDGET, _LARGEST_BUDGET)
    scenarios = tuple(_scenario(new, which, max(1, budget // size), max(1, _HORIZON // size)) for which in _outcomes(db, new, size))
    return Plan(
        power=_POWER,
        budget=budget,
        horizon=_HORIZON,
        repetitions=_REPETITIONS,
        episodes_per_robot=size if new.unit == "robot" else None,
        scenarios=scenarios,
    )


def plan_lines(comparison: Comparison) -> list[str]:
    """A comparison's plan for a terminal; nothing when it was started without one."""
    return [] if comparison.plan is None else Plan.model_validate(comparison.plan).lines(comparison.metric)


@dataclass(frozen=True)
class _Outcomes:
    """What the champion is taken to bring."""

    words: str
    mean: float
    draw: Draw


def _outcomes(db: Database, new: NewComparison, size: int) -> list[_Outcomes]:
    past = past_outcomes(db, new.policy, new.arms[0].version, new.metric)
    by_robot: dict[str, list[float]] = {}
    for value, robot_id in past:
        by_robot.setdefault(robot_id or "", []).append((min(max(value, new.low), new.high) - new.low) / (new.high - new.low))
    # As many episodes of one robot as it will be measured by make one observation.
    found = [float(np.mean(own[k : k + size])) for own in by_robot.values() for k in range(0, len(own) - size + 1, size)]
    if len(found) >= _FEWEST_PAST:
        what = "robots' means of past outcomes" if new.unit == "robot" else "past outcomes"
        return [_Outcomes(f"with {len(found)} {what} of version {new.arms[0].version}", float(np.mean(found)), _resampled(np.array(found)))]
    return [_Outcomes(f"if outcomes are either {new.low:g} or {new.high:g}", mean, _two_point(mean)) for mean in (0.75, 0.5)]


def _two_point(mean: float) -> Draw:
    return lambda generator, shape, effect: (generator.random(shape) < mean + effect).astype(np.float64)


def _resampled(past: Array) -> Draw:
    if np.isin(past, (0.0, 1.0)).all():
        return _two_point(float(past.mean()))

    def draw(generator: np.random.Generator, shape: tuple[int, int], effect: float) -> Array:
        shift, most = 0.0, 1.0
        for _ in range(30 if effect > 0 else 0):  # values stop at the end of the range: the shift is more than the effect
            middle = (shift + most) / 2.0
            shift, most = (middle, most) if np.minimum(past + middle, 1.0).mean() < past.mean() + effect else (shift, middle)
        return np.minimum(generator.choice(past, shape) + shift, 1.0)

    return draw


def _scenario(new: NewComparison, outcomes: _Outcomes, budget: int, horizon: int) -> Scenario:
    width = new.high - new.low
    size = new.episodes_per_robot if new.unit == "robot" else 1
    effects = []
    units: int | None = 0
    for share in (share for share in _EFFECTS if outcomes.mean + share <= 1.0 + 1e-9):
        # What is smaller than an effect beyond the horizon is beyond it too.
        units, by_arm = (None, np.zeros(0)) if units is None else _needed(new, outcomes.draw, share, horizon)
        arms = {arm.name: round(size * part) for arm, part in zip(new.acting_arms, by_arm, strict=True)} if units is not None else {}
        effects.append(PlannedEffect(effect=share * width, episodes=None if units is None else units * size, episodes_per_arm=arms))
    least = _smallest(new, outcomes, budget)
    return Scenario(
        outcomes=outcomes.words,
        champion_mean=new.low + width * outcomes.mean,
        effects=tuple(effects),
        smallest_effect=None if least is None else least * width,
    )


def _needed(new: NewComparison, draw: Draw, effect: float, horizon: int) -> tuple[int | None, Array]:
    """Observations within which the effect is found with the wanted power, and how many of them each arm gets."""
    length, rank = min(250, horizon), math.ceil(_POWER * _REPETITIONS) - 1
    while True:
        found, counts = _simulate(new, draw, effect, length)
        times = np.sort(np.where(found > 0, found, np.iinfo(np.int64).max))
        if times[rank] <= length:
            units = int(times[rank])
            return units, counts(units)
        if length == horizon:
            return None, np.zeros(0)
        length = min(4 * length, horizon)


def _smallest(new: NewComparison, outcomes: _Outcomes, budget: int) -> float | None:
    """Least effect, as a share of the range, that is found within the budget with the wanted power."""

    def is_found(effect: float) -> bool:
        return bool((_simulate(new, outcomes.draw, effect, budget)[0] > 0).mean() >= _POWER)

    low, high = 0.0, 1.0 - outcomes.mean
    if not is_found(high):
        return None
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if is_found(middle) else (middle, high)
    return high


def _simulate(new: NewComparison, draw: Draw, effect: float, length: int) -> tuple[NDArray[np.int64], Callable[[int], Array]]:
    """When each simulated comparison promotes, and a function that counts the mean number of observations of each arm by then.

    Once the wanted power is out of reach the rest are taken not to promote.
    """
    arms = new.acting_arms
    total = sum(arm.weight for arm in arms)
    design = Design(
        shares=tuple(arm.weight / total for arm in arms),
        ramp=tuple((stage.share, max(1, stage.episodes // (new.episodes_per_robot if new.unit == "robot" else 1))) for stage in new.ramp),
        bandit_uniform_share=new.bandit_uniform_share if new.bandit else None,
    )
    weakest = min(range(1, len(arms)), key=lambda position: arms[position].weight)
    generator = np.random.default_rng(_SEED)
    shape = (_REPETITIONS, length)
    potential = np.stack([draw(generator, shape, effect if position == weakest else 0.0) for position in range(len(arms))], axis=-1)
    histories = play(design, potential, generator)
    found = decided_at(histories, weakest, new.alpha / (len(arms) - 1), most_misses=_MOST_MISSES)

    def counts(units: int) -> Array:
        return np.array([(histories.index[:, :units] == position).mean() * units for position in range(len(arms))])

    return found, counts
