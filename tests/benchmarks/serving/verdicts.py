"""The comparison engine measured: how often equal arms are told apart, how soon different ones are, and how long a look takes.

``python -m tests.benchmarks.serving.verdicts`` prints the table; ``measure`` and ``table`` are for the document of all figures.

- Promise: 2,000 comparisons of two equal arms each, a look after every one of 400 episodes, alpha 0.05.
- Power: successes 75 against 95 %, the episodes per arm within which four of five comparisons promote. The fixed-sample test of the
  same alpha and power, which may be looked at once, needs 49 (two-sided, as planners reckon: 1.96 and 0.84 standard errors).
- Look: one referee's look at a comparison in SQLite with two guardrails, wall-clock, the best of some.
"""

from __future__ import annotations

import math
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert

from cluster.settings import Settings
from cluster.store.comparisons import Arm, Guardrail, NewComparison, create_comparison
from cluster.store.database import Database, open_database
from cluster.store.tables import episodes, outcomes
from serve_apps.comparison.report import report
from serve_apps.comparison.simulation import Design, decided_at, play
from tests.benchmarks.records import markdown

__all__ = ["fill", "measure", "table"]

ALPHA, COMPARISONS, EPISODES = 0.05, 2000, 400
FIXED_SAMPLE_PER_ARM = 49
LIMIT = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / COMPARISONS)
DESIGNS = {
    "half and half": Design(shares=(0.5, 0.5)),
    "ramp 10, 25, 50 %": Design(shares=(0.9, 0.1), ramp=((0.1, 50), (0.25, 100), (0.5, 200))),
    "bandit": Design(shares=(0.5, 0.5), bandit_uniform_share=0.2),
}
_LOOK_SIZES = (1_000, 5_000, 20_000)


def measure(quick: bool = False) -> dict[str, Any]:
    """All figures; some twenty seconds."""
    comparisons = 200 if quick else COMPARISONS
    promise = [
        {"split": name, "outcomes": label} | _equal(design, mean, comparisons)
        for name, design in DESIGNS.items()
        for label, mean in (("10 %", 0.1), ("50 %", 0.5), ("75 %", 0.75), ("95 %", 0.95), ("partial credit, Beta(2, 5)", None))
    ]
    power = [{"split": name} | _power(design, comparisons) for name, design in DESIGNS.items()]
    return {
        "alpha": ALPHA,
        "comparisons": comparisons,
        "episodes": EPISODES,
        "limit": LIMIT,
        "promise": promise,
        "power": power,
        "looks": [{"episodes": size, "seconds": _look_s(size)} for size in (_LOOK_SIZES[:1] if quick else _LOOK_SIZES)],
    }


def table(section: dict[str, Any]) -> str:
    """The figures as Markdown tables."""
    rows = [
        [run["split"], run["outcomes"], f"{100 * run['promoted']:.2f} %", f"{100 * run['kept']:.2f} %", f"{100 * section['limit']:.2f} %"]
        for run in section["promise"]
    ]
    promise = markdown(
        ["split", "equal arms, successes", "wrong promotions", "wrong keepings", "at most (alpha + 3 standard errors)"], rows
    )
    rows = [
        [
            run["split"],
            f"{run['episodes']}",
            f"{run['per_arm']:.0f}",
            f"{FIXED_SAMPLE_PER_ARM}",
            f"{run['per_arm'] / FIXED_SAMPLE_PER_ARM:.2f}",
        ]
        for run in section["power"]
    ]
    power = markdown(["split", "75 -> 95 % at 80 % power: episodes in all", "per arm (half of them)", "fixed sample", "ratio"], rows)
    looks = markdown(
        ["counted episodes", "one look, ms"], [[f"{run['episodes']:,}", f"{1e3 * run['seconds']:.0f}"] for run in section["looks"]]
    )
    return "\n\n".join((promise, power, looks))


def _potential(generator: np.random.Generator, means: tuple[float | None, float | None], comparisons: int) -> NDArray[np.float64]:
    arms = [
        generator.beta(2.0, 5.0, (comparisons, EPISODES))
        if mean is None
        else (generator.random((comparisons, EPISODES)) < mean).astype(np.float64)
        for mean in means
    ]
    return np.stack(arms, axis=-1)


def _equal(design: Design, mean: float | None, comparisons: int) -> dict[str, float]:
    generator = np.random.default_rng(41)
    histories = play(design, _potential(generator, (mean, mean), comparisons), generator)
    promoted, kept = (decided_at(histories, 1, ALPHA, better) > 0 for better in (True, False))
    return {"promoted": float(promoted.mean()), "kept": float(kept.mean())}


def _power(design: Design, comparisons: int) -> dict[str, float]:
    generator = np.random.default_rng(42)
    histories = play(design, _potential(generator, (0.75, 0.95), comparisons), generator)
    found = decided_at(histories, 1, ALPHA)
    needed = int(np.sort(np.where(found > 0, found, EPISODES + 1))[math.ceil(0.8 * comparisons) - 1])
    return {"episodes": needed, "per_arm": needed / 2.0}


def _look_s(size: int) -> float:
    with (
        tempfile.TemporaryDirectory(prefix="gaitway-bench-") as place,
        closing(open_database(Settings.from_environment({"GAITWAY_HOME": place}))) as db,
    ):
        comparison_id = fill(db, size)
        times = []
        for _ in range(5):
            started_s = time.perf_counter()
            report(db, comparison_id, intervals=False)
            times.append(time.perf_counter() - started_s)
    return min(times)


def fill(db: Database, size: int) -> str:
    """A comparison with so many counted episodes; its key."""
    arms = tuple(Arm(name=name, version=version, weight=0.5) for name, version in (("champion", "1"), ("challenger", "2")))
    guardrails = (Guardrail(name="fell", at_most=0.1), Guardrail(name="server_latency_p99_ms", above=20.0, at_most=0.1))
    new = NewComparison(policy="bench", arms=arms, metric="success", low=0.0, high=1.0, guardrails=guardrails)
    comparison = create_comparison(db, new)
    generator, now = np.random.default_rng(43), datetime.now(UTC)
    arm_of = generator.integers(2, size=size)
    assigned = [
        {
            "policy": "bench",
            "episode_id": f"e{k}",
            "comparison_id": comparison.id,
            "sequence": k + 1,
            "arm": arms[arm_of[k]].name,
            "version": arms[arm_of[k]].version,
            "propensity": 0.5,
            "robot_id": f"r{k % 50}",
            "started_at": now,
            "weights_version": 1,
        }
        for k in range(size)
    ]
    ended = [
        {
            "policy": "bench",
            "episode_id": f"e{k}",
            "payload_sha256": "",
            "value": float(generator.random()),
            "fell": bool(generator.random() < 0.05),
            "steps": 500,
            "duration_s": 10.0,
            "metrics": {"latency_p99_ms": 5.0, "distance_m": 3.0},
            "received_at": now,
            "late": False,
            "server": {"steps": 500, "error_steps": 0, "latency_p50_ms": 0.4, "latency_p99_ms": 2.5, "latency_max_ms": 9.0},
        }
        for k in range(size)
    ]
    with db.write() as connection:
        connection.execute(insert(episodes), assigned)
        connection.execute(insert(outcomes), ended)
    return comparison.id


if __name__ == "__main__":
    print(table(measure()))
