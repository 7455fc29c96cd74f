"""Would what was stopped early have won? Answered from the trials that ran to their end.

For each progress p at which trials were stopped, the final best values y of finished trials are regressed on their values x at p by least
squares. A stopped trial with value x0 at p is then predicted with the textbook prediction interval of a new observation
(Montgomery, Peck, Vining, "Introduction to Linear Regression Analysis", section 2.5):

    y0 = a + b x0  ±  t(0.975, n - 2) * s * sqrt(1 + 1/n + (x0 - mean(x))² / sum((x - mean(x))²))

so the unknown final value is Student's t with n - 2 degrees of freedom around y0. From it follow the probability of passing the winner and
the expected regret E[max(0, y - winner)]. Predictions are cut at the best value that the trial had reached: it cannot lose that any more.

Two limits, both said in the report: what finished is what the scheduler favoured, so stopped trials lie at or beyond the edge of what the
line was fitted to; and trials are taken as independent in the sweep's total.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.integrate import quad
from scipy.special import gammaln, stdtr, stdtrit

from trainables.sweeps.analysis.numbers import Curve, finite
from trainables.sweeps.analysis.ranking import best_trial, cut_rung
from trainables.sweeps.records import SweepRecord, TrialRecord

__all__ = ["MIN_FINISHED", "Prediction", "stopping"]

_Points = tuple[np.ndarray, np.ndarray]

MIN_FINISHED = 4
"""Finished trials that a line needs: two degrees of freedom are left, the fewest with which a t distribution has a useful mean."""


@dataclass(frozen=True)
class Prediction:
    """A final value that was never seen, in units where more is better: Student's t, location and scale."""

    location: float
    scale: float
    degrees: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Prediction interval."""
        half_width = float(stdtrit(self.degrees, (1 + level) / 2)) * self.scale
        return self.location - half_width, self.location + half_width

    def probability_above(self, value: float) -> float:
        """P(final value > ``value``)."""
        if self.scale == 0:
            return float(self.location > value)
        return float(stdtr(self.degrees, (self.location - value) / self.scale))

    def expected_excess(self, value: float) -> float:
        """E[max(0, final value - ``value``)]: with z = (value - location) / scale, scale * ((d + z²) / (d - 1) * pdf(z) - z * sf(z))."""
        if self.scale == 0:
            return max(0.0, self.location - value)
        d, z = self.degrees, (value - self.location) / self.scale
        log_pdf = gammaln((d + 1) / 2) - gammaln(d / 2) - math.log(d * math.pi) / 2 - (d + 1) / 2 * math.log1p(z * z / d)
        return max(0.0, float(self.scale * ((d + z * z) / (d - 1) * math.exp(log_pdf) - z * stdtr(d, -z))))


def stopping(record: SweepRecord, curves: dict[str, Curve]) -> dict[str, Any]:
    """Every trial that was stopped early, with what it would probably have reached.

    Returns:
        reason: why there is nothing to say, or None;
        winner_value; trials: one entry a stopped trial, the likeliest winner first, each with its own ``reason`` or with predicted,
        interval, probability, regret (all in the metric's unit); relations: one a progress at which trials were stopped
        (n, slope, rank_correlation of Spearman); probability_any, expected_regret: over all stopped trials that could be predicted.
    """
    stopped = [trial for trial in record.trials if trial.status == "stopped early"]
    winner = best_trial(record)
    winner_value = finite(winner.best_value) if winner else None
    outcome: dict[str, Any] = {
        "reason": None,
        "winner_value": winner_value,
        "trials": [],
        "relations": [],
        "probability_any": None,
        "expected_regret": None,
    }
    if not stopped:
        return {**outcome, "reason": "no trial was stopped early"}
    if winner_value is None:
        return {**outcome, "reason": "no trial has reported a value"}
    sign = 1.0 if record.info.mode == "max" else -1.0
    finished = [trial for trial in record.trials if trial.status == "finished" and finite(trial.best_value) is not None]
    seen = {trial_id: _in_order(curve) for trial_id, curve in curves.items()}
    lines: dict[int, _Line | str] = {}
    predictions: list[Prediction] = []
    for trial in stopped:
        if trial.progress not in lines:
            lines[trial.progress] = _Line.fit(finished, seen, trial.progress, sign)
        entry, prediction = _entry(trial, record, seen, lines[trial.progress], sign, sign * winner_value)
        outcome["trials"].append(entry)
        predictions += [prediction] if prediction else []
    outcome["trials"].sort(key=lambda entry: (-(-1 if entry["probability"] is None else entry["probability"]), entry["number"]))
    outcome["relations"] = [
        {"progress": progress, "n": line.count, "slope": line.slope, "rank_correlation": line.rank_correlation}
        for progress, line in sorted(lines.items())
        if isinstance(line, _Line)
    ]
    if predictions:
        outcome["probability_any"] = 1 - math.prod(1 - prediction.probability_above(sign * winner_value) for prediction in predictions)
        outcome["expected_regret"] = _expected_maximum(predictions, sign * winner_value)
    else:
        outcome["reason"] = f"not enough data: {outcome['trials'][0]['reason']}"
    return outcome


@dataclass(frozen=True)
class _Line:
    """Least squares of final best values on values at one progress; more is better in both."""

    count: int
    mean_x: float
    mean_y: float
    slope: float
    sum_squares_x: float
    deviation: float
    rank_correlation: float | None

    @classmethod
    def fit(cls, finished: list[TrialRecord], seen: dict[str, _Points], progress: int, sign: float) -> _Line | str:
        """The line, or why there is none."""
        pairs = [
            (sign * value, sign * float(trial.best_value))
            for trial in finished
            if trial.best_value is not None and (value := _value_at(seen.get(trial.trial_id), progress)) is not None
        ]
        if len(pairs) < MIN_FINISHED:
            return f"{len(pairs)} finished trial{'' if len(pairs) == 1 else 's'} reported around its end, {MIN_FINISHED} are needed"
        x, y = np.array(pairs).T
        sum_squares_x = float(((x - x.mean()) ** 2).sum())
        if sum_squares_x == 0:
            return "the finished trials all had the same value there"
        slope = float(((x - x.mean()) * (y - y.mean())).sum()) / sum_squares_x
        residuals = y - y.mean() - slope * (x - x.mean())
        deviation = math.sqrt(float((residuals**2).sum()) / (len(x) - 2))
        return cls(len(x), float(x.mean()), float(y.mean()), slope, sum_squares_x, deviation, _spearman(x, y))

    def predict(self, x: float) -> Prediction:
        """Of a new trial with the value ``x``."""
        away = x - self.mean_x
        scale = self.deviation * math.sqrt(1 + 1 / self.count + away**2 / self.sum_squares_x)
        return Prediction(self.mean_y + self.slope * away, scale, self.count - 2)


def _entry(
    trial: TrialRecord, record: SweepRecord, seen: dict[str, _Points], line: _Line | str, sign: float, target: float
) -> tuple[dict[str, Any], Prediction | None]:
    value = _value_at(seen.get(trial.trial_id), trial.progress)
    entry: dict[str, Any] = {
        "trial": trial.trial_id,
        "number": trial.number,
        "progress": trial.progress,
        "rung": cut_rung(trial, record.info.rungs),
        "value": value,
        "best_value": finite(trial.best_value),
        "reason": line if isinstance(line, str) else "it has reported no value at its end" if value is None else None,
        "predicted": None,
        "interval": None,
        "probability": None,
        "regret": None,
    }
    if isinstance(line, str) or value is None:
        return entry, None
    prediction = line.predict(sign * value)
    reached = sign * (value if trial.best_value is None else trial.best_value)
    low, high = (sign * max(end, reached) for end in prediction.interval())
    entry |= {
        "predicted": sign * max(prediction.location, reached),
        "interval": [min(low, high), max(low, high)],
        "probability": prediction.probability_above(target),
        "regret": prediction.expected_excess(target),
    }
    return entry, prediction


def _in_order(curve: Curve) -> _Points:
    """The finite reports of a trial by progress."""
    seen = np.isfinite(curve.value) & np.isfinite(curve.progress)
    x, y = curve.progress[seen], curve.value[seen]
    order = np.argsort(x, kind="stable")
    return x[order], y[order]


def _value_at(points: _Points | None, progress: float) -> float | None:
    """The value at a progress, linear between the reports around it; None outside of them."""
    if points is None or not len(points[0]) or not points[0][0] <= progress <= points[0][-1]:
        return None
    return float(np.interp(progress, *points))


def _expected_maximum(predictions: list[Prediction], target: float) -> float:
    """E[max(0, highest final value - target)] of independent predictions: the integral of P(highest > target + u) over u > 0."""
    spread = max(prediction.scale for prediction in predictions)
    if spread == 0:
        return max(0.0, *(prediction.location - target for prediction in predictions))
    locations = np.array([prediction.location for prediction in predictions]) - target
    scales = np.array([max(prediction.scale, 1e-12 * spread) for prediction in predictions])
    degrees = np.array([prediction.degrees for prediction in predictions])

    def above(u: float) -> float:
        return float(-np.expm1(np.log1p(-stdtr(degrees, (locations - u * spread) / scales)).sum()))

    with np.errstate(divide="ignore"):  # a certain win: log 0
        return spread * float(quad(above, 0, np.inf, limit=200)[0])


def _spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    from scipy.stats import rankdata

    ranks_x, ranks_y = rankdata(x), rankdata(y)
    return float(np.corrcoef(ranks_x, ranks_y)[0, 1]) if np.ptp(ranks_x) and np.ptp(ranks_y) else None
