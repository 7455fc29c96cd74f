"""What is learnt in a million steps, over several seeds; every finished run is one line of ``scores.jsonl``, so a killed one goes on.

Two runs at a time, each with a core of its own. A run has two scores: the return of its last 100 training episodes, exploration noise
included, and that of its best checkpoint (by training return) without noise, over 20 episodes of Gymnasium's own environment.
"""

from __future__ import annotations

import json
import math
import os
import queue
import shutil
import statistics
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scipy.stats

from tests.benchmarks.processes import benchmark_environment, run_measured

__all__ = ["BARS", "Bar", "Interval", "append", "interval", "measure", "missing", "read", "table"]

PRESET = "best"
_TIMEOUT_S = 3 * 3600.0


@dataclass(frozen=True)
class Bar:
    """What a score is held against."""

    ours: float
    """What we want to reach."""
    tianshou: float
    """PPO in Tianshou's MuJoCo benchmark (its README): best evaluation within 1M steps, mean of 10 seeds, on the older v3 / v2 tasks."""


BARS = {
    "HalfCheetah-v5": Bar(4000, 5784),
    "Hopper-v5": Bar(2200, 2609),
    "Walker2d-v5": Bar(2800, 3588),
    "InvertedPendulum-v5": Bar(1000, 1000),
}


@dataclass(frozen=True)
class Interval:
    """A mean and half the width of its 95 % interval; the latter is NaN for one value."""

    mean: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.mean:,.0f}" if math.isnan(self.half_width) else f"{self.mean:,.0f} ± {self.half_width:,.0f}"


def interval(values: Sequence[float]) -> Interval:
    """Student's t interval over seeds."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Interval(mean, math.nan)
    quantile = float(scipy.stats.t.ppf(0.975, count - 1))
    return Interval(mean, quantile * statistics.stdev(values) / math.sqrt(count))


def read(path: Path) -> list[dict[str, Any]]:
    """Finished runs; the last line is left out when the program was killed while it was written."""
    runs = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            runs.append(json.loads(line))
        except ValueError:
            continue
    return runs


def append(path: Path, run: dict[str, Any]) -> None:
    """Add one finished run, on a line of its own even after a line that was never finished."""
    broken = path.is_file() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if broken else "") + json.dumps(run) + "\n")


def missing(path: Path, tasks: Iterable[str], seeds: int, env_steps: int) -> list[tuple[str, int]]:
    """(task, seed) of the runs still to be done; seed by seed, so that an early look sees every task."""
    done = {(run["task"], run["seed"]) for run in read(path) if run["total_env_steps"] == env_steps}
    tasks = list(tasks)
    return [(task, seed) for seed in range(seeds) for task in tasks if (task, seed) not in done]


def measure(path: Path, tasks: Iterable[str], seeds: int, env_steps: int, home: Path, say: Callable[[str], None], commit: str) -> None:
    """Do all missing runs. Raises ``GaitwayError`` when one fails; what finished before is kept."""
    cores: queue.SimpleQueue[int] = queue.SimpleQueue()
    usable = sorted(os.sched_getaffinity(0))[:2]
    for core in usable:
        cores.put(core)
    lock = threading.Lock()

    def one(task: str, seed: int) -> None:
        core = cores.get()
        try:
            run = _train(task, seed, env_steps, home / f"{task}-{seed}", core)
        finally:
            cores.put(core)
        with lock:
            append(path, run | {"commit": commit})
            say(
                f"{task:<20} seed {seed}  training {run['episode_return_mean']:>8,.0f}  evaluation {run['evaluation_return_mean']:>8,.0f}"
                f"  {run['wall_s']:>6,.0f} s"
            )

    with ThreadPoolExecutor(len(usable)) as pool:
        futures = [pool.submit(one, task, seed) for task, seed in missing(path, tasks, seeds, env_steps)]
        try:
            for future in futures:
                future.result()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)  # else the rest would still be trained before anybody gets the prompt back
            raise


def _train(task: str, seed: int, env_steps: int, home: Path, core: int) -> dict[str, Any]:
    """One run from start to score, on one core."""
    environment = benchmark_environment(home, {"OMP_NUM_THREADS": "1"})
    settings = (f"task={task}", f"preset={PRESET}", f"total_env_steps={env_steps}", f"seed={seed}")
    chosen = [part for setting in settings for part in ("--set", setting)]
    train = (sys.executable, "-m", "trainables.train", "configs/train/gymnasium_mujoco.yaml", *chosen, "--json")
    result = run_measured(train, environment, _TIMEOUT_S, cores=[core]).result
    score = (sys.executable, "-m", "tests.benchmarks.evaluate_checkpoint", result["checkpoint"], task)
    evaluated = run_measured(score, environment, _TIMEOUT_S, cores=[core]).result
    shutil.rmtree(home)
    return {
        "task": task,
        "seed": seed,
        "total_env_steps": env_steps,
        "env_steps": result["env_steps"],
        "evaluation_return_mean": evaluated["return_mean"],
        "episode_return_mean": result["episode_return_mean"],
        "env_steps_per_s": result["env_steps_per_s"],
        "wall_s": result["wall_s"],
    }


def table(runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of text: task, steps, seeds, both scores with their intervals, bar, which of the scores reach it, Tianshou."""
    rows = []
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["task"], run["total_env_steps"]), []).append(run)
    for (task, env_steps), group in sorted(groups.items(), key=lambda item: (list(BARS).index(item[0][0]), item[0][1])):
        found = [interval([run[figure] for run in group]) for figure in ("episode_return_mean", "evaluation_return_mean")]
        bar = BARS[task]
        reached = [name for name, score in zip(("training", "evaluation"), found, strict=True) if score.mean >= bar.ours]
        rows.append(
            [
                task,
                f"{env_steps:,}",
                str(len(group)),
                *map(str, found),
                f"{bar.ours:,.0f}",
                "both" if len(reached) == 2 else "".join(reached) or "neither",
                f"{bar.tianshou:,.0f}",
            ]
        )
    return rows
