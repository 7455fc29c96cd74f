"""Sweeps measured: ``python -m tests.benchmarks.sweeps [--only overhead|nodes|asha|asha_pidog|pbt] [--seeds N]``.

- overhead: 64 trials that only sleep, 8 at a time: wall time beyond the sleep, per trial of each of the 8 places;
- nodes: the same trials on 1 and on 4 local nodes of 2 CPUs: speed-up over 4;
- asha: environment steps until one trial's policy reaches a target, ASHA against running every trial to its end, same configurations;
- asha_pidog: the same once, on the robot;
- pbt: best last value of a population against the best of the same configurations left alone, same budget.

Prints one table a figure, keeps the raw figures in ``sweeps/results.json`` and writes ``sweeps/RESULTS.md`` from them.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # before any import of Ray

from cluster.config import parse_config, write_text_atomic
from cluster.progress import Progress
from cluster.runtime.head import ensure_head, stop_head
from cluster.runtime.nodes import ensure_local_nodes
from cluster.settings import Settings
from cluster.stage import StageContext
from cluster.store.tracking import prepare
from tests.benchmarks.records import document, markdown, provenance, save_section

FOLDER = Path(__file__).parent
_SLEEPING = "tests.benchmarks.sweeps.sleeping:Sleeping"
_ASHA_TASK = {
    "task": "InvertedPendulum-v5",
    "total_env_steps": 40_000,
    "num_envs": 16,
    "batch_size": 1024,
    "minibatch_size": 256,
    "num_epochs": 6,
    "report_every_env_steps": 4096,
    "hidden": [32, 32],
    "critic_hidden": [32, 32],
    "evaluation": {"episodes": 8, "max_steps": 1001},
}
_ASHA_SPACE = {
    "learning_rate": {"loguniform": [1e-7, 1.0]},
    "initial_action_std": {"loguniform": [0.02, 5.0]},
    "gamma": {"choice": [0.3, 0.5, 0.8, 0.95]},
    "clip": {"uniform": [0.05, 0.4]},
}
"""As wide as somebody searches who knows nothing of the task. Where one configuration in five is good, stopping has little to save."""
_PIDOG_TASK = {
    "task": "pidog_run",
    "total_env_steps": 120_000,
    "num_envs": 32,
    "batch_size": 1024,
    "minibatch_size": 256,
    "num_epochs": 6,
    "report_every_env_steps": 8192,
    "evaluation": {"episodes": 16},
}
_PIDOG_SPACE = {
    "learning_rate": {"loguniform": [1e-6, 1e-1]},
    "initial_action_std": {"loguniform": [0.02, 1.0]},
    "gamma": {"choice": [0.5, 0.9, 0.95, 0.99]},
    "clip": {"uniform": [0.05, 0.4]},
}
_PBT_TASK = _ASHA_TASK | {"task": "Reacher-v5", "total_env_steps": 80_000, "evaluation": {"episodes": 16, "max_steps": 60}}
_PBT_SPACE = {"learning_rate": {"loguniform": [1e-5, 1e-2]}, "clip": {"uniform": [0.05, 0.4]}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=_SECTIONS, action="append")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args(arguments)
    for section in options.only or _SECTIONS:
        with tempfile.TemporaryDirectory(prefix="gaitway-bench-") as place:
            settings = Settings.from_environment(
                {
                    "GAITWAY_HOME": f"{place}/home",
                    "GAITWAY_EXPERIMENTS_PATH": f"{place}/experiments",
                    "GAITWAY_RAY_PORT": "26390",
                    "GAITWAY_DASHBOARD_PORT": "28265",
                    "GAITWAY_HTTP_PORT": "28000",
                }
            )
            source = provenance()
            try:
                measured = _SECTIONS[section](settings, options.seeds)
            finally:
                _disconnect()
                stop_head(settings)
        results = save_section(FOLDER / "results.json", section, source | measured)
        write_text_atomic(FOLDER / "RESULTS.md", render(results))
        print(_TABLES[section](results[section]), flush=True)
    return 0


# Measuring ---------------------------------------------------------------------------------------------------------------


def run(settings: Settings, name: str, **config: Any) -> dict[str, Any]:
    """One sweep -> its result, and ``wall_s`` and ``work``."""
    from trainables import sweep
    from trainables.sweeps.config import SweepConfig

    folder = settings.experiments_path / name
    folder.mkdir(parents=True)
    context = StageContext(folder=folder, settings=settings, progress=Progress(mode="quiet"), experiment="bench")
    started_s = time.perf_counter()
    result = sweep.run(parse_config({"max_failures": 0, **config}, SweepConfig), context)
    wall_s = time.perf_counter() - started_s
    return {**result, "wall_s": wall_s, "work": sum(trial["work"] for trial in result["trials"])}


def _sleeping(step_s: float, steps: int, trials: int = 64) -> dict[str, Any]:
    custom = {"trainable": _SLEEPING, "budget": steps, "parameters": {"step_s": step_s, "x": 0.5}}
    return {"custom": custom, "search_space": {"x": {"uniform": [0.0, 1.0]}}, "scheduler": "fifo", "num_trials": trials}


def measure_overhead(settings: Settings, seeds: int) -> dict[str, Any]:
    """8 and 64 trials of 2 steps of 1.5 s, 8 places; the whole sweep counts, from its start to its written report."""
    connect(settings, ensure_head(settings, num_cpus=8).address)
    prepare(settings)  # a new database file is migrated once, for seconds; it has nothing to do with trials
    walls = {str(trials): run(settings, f"overhead_{trials}", **_sleeping(1.5, 2, trials))["wall_s"] for trials in (8, 64)}
    return {"places": 8, "sleep_s": 3.0, "wall_s": walls}


def measure_nodes(settings: Settings, seeds: int) -> dict[str, Any]:
    """64 trials of 10 steps of 2 s on 1 node, then on 4; on one machine all nodes share its cores."""
    walls = {}
    for nodes in (1, 4):
        head, _ = ensure_local_nodes(settings, nodes, 2)
        connect(settings, head.address)
        walls[str(nodes)] = run(settings, f"nodes_{nodes}", **_sleeping(2.0, 10))["wall_s"]
        _disconnect()
    return {"sleep_s": 20.0, "wall_s": walls}


def measure_asha(settings: Settings, seeds: int) -> dict[str, Any]:
    """Over 64 configurations a seed, InvertedPendulum."""
    return _asha(settings, _ASHA_TASK, _ASHA_SPACE, 64, {"grace_period": 4000, "reduction_factor": 4}, {"target": 950.0}, range(seeds))


def measure_asha_pidog(settings: Settings, seeds: int) -> dict[str, Any]:
    """Over 32 configurations, PiDog from scratch, once; 0.15 m/s is half again what its expert gait makes in this physics."""
    goal = {"metric": "evaluation/forward_velocity_m_s", "target": 0.15}
    return _asha(settings, _PIDOG_TASK, _PIDOG_SPACE, 32, {"grace_period": 16_000, "reduction_factor": 3}, goal, range(1))


def _asha(
    settings: Settings,
    task: dict[str, Any],
    space: dict[str, Any],
    trials: int,
    asha: dict[str, Any],
    goal: dict[str, Any],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Both schedulers over the same configurations; each sweep ends once the target is reached."""
    connect(settings, ensure_head(settings, num_cpus=2).address)
    metric, target = goal.get("metric"), goal["target"]
    runs = []
    for seed in seeds:
        for name, scheduler in (("asha", {"kind": "asha", **asha}), ("random", {"kind": "fifo"})):
            result = run(
                settings,
                f"{name}_{seed}",
                ppo=task | {"seed": seed},
                search_space=space,
                num_trials=trials,
                first_trial_as_written=False,
                scheduler=scheduler,
                stop={"target": target},
                seed=seed,
                **({"metric": metric} if metric else {}),
            )
            reached = result["value"] is not None and result["value"] >= target
            runs.append({"seed": seed, "who": name, "work": result["work"], "reached": reached, "wall_s": result["wall_s"]})
            said = f"{result['work']:>9,} env steps, best {result['value']:.4g}, reached {reached}, {result['wall_s']:.0f} s"
            print(f"{name:<8} seed {seed}: {said}", file=sys.stderr, flush=True)
    return {"target": target, "task": task["task"], "runs": runs}


def measure_pbt(settings: Settings, seeds: int) -> dict[str, Any]:
    """A population of 8, and the same 8 configurations left alone; the best last value of each."""
    connect(settings, ensure_head(settings, num_cpus=2).address)
    runs = []
    for seed in range(seeds):
        for name, scheduler in (("pbt", {"kind": "pbt", "perturbation_interval": 8_000}), ("fixed", {"kind": "fifo"})):
            result = run(
                settings,
                f"{name}_{seed}",
                ppo=_PBT_TASK | {"seed": seed},
                search_space=_PBT_SPACE,
                num_trials=8,
                first_trial_as_written=False,
                scheduler=scheduler,
                seed=seed,
            )
            last = [trial["last_value"] for trial in result["trials"] if trial["status"] == "finished"]
            runs.append({"seed": seed, "who": name, "best_last": max(last), "best": result["value"], "work": result["work"]})
            print(f"{name:<8} seed {seed}: best last value {max(last):.3f}, best {result['value']:.3f}", file=sys.stderr, flush=True)
    return {"task": _PBT_TASK["task"], "runs": runs}


def connect(settings: Settings, address: str) -> None:
    """Join the cluster that was just started."""
    import logging

    import ray

    os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": settings.as_environment()})


def _disconnect() -> None:
    import ray

    ray.shutdown()


# Telling -----------------------------------------------------------------------------------------------------------------


def overhead_table(section: dict[str, Any]) -> str:
    """Seconds a trial beyond its sleep: over the whole sweep, and without what starting a sweep and 8 processes costs once."""
    places, sleep_s, few, many = section["places"], section["sleep_s"], section["wall_s"]["8"], section["wall_s"]["64"]
    cells = [f"{few:.1f}", f"{many:.1f}", f"{many * places / 64 - sleep_s:.2f}", f"{(many - few) * places / 56 - sleep_s:.2f}", "1.0"]
    trials = f"of {sleep_s:g} s, {places} at a time"
    return markdown(
        ["sleeping trials", "8: wall s", "64: wall s", "s a trial, start-up included", "s a trial beyond the first 8", "at most"],
        [[trials, *cells]],
    )


def nodes_table(section: dict[str, Any]) -> str:
    """Speed-up over the number of nodes."""
    one, four = section["wall_s"]["1"], section["wall_s"]["4"]
    return markdown(
        ["64 trials of, s", "1 node, s", "4 nodes, s", "efficiency", "at least"],
        [[f"{section.get('sleep_s', 10.0):g}", f"{one:.1f}", f"{four:.1f}", f"{one / (4 * four):.2f}", "0.9"]],
    )


def asha_table(section: dict[str, Any]) -> str:
    """Environment steps to the target; the ratio of the medians, and the median of the ratios seed by seed."""
    asha, random = ([run for run in section["runs"] if run["who"] == who] for who in ("asha", "random"))
    pairs = [(mine["work"], other["work"]) for mine, other in zip(asha, random, strict=True) if mine["reached"] and other["reached"]]
    ratios = [mine / other for mine, other in pairs]
    cells = [
        section["task"],
        f"{section['target']:g}",
        f"{sum(run['reached'] for run in asha)} / {sum(run['reached'] for run in random)} of {len(asha)}",
        f"{_median([mine for mine, _ in pairs]):,.0f}",
        f"{_median([other for _, other in pairs]):,.0f}",
        _ratio_of_medians(pairs),
        _with_interval(ratios),
        "0.5",
    ]
    header = ["task", "target", "reached: ASHA / random", "ASHA: median env steps", "random", "ratio of medians (95 %)"]
    return markdown([*header, "seed by seed, median (95 %)", "at most"], [cells])


def pbt_table(section: dict[str, Any]) -> str:
    """Best last values, and the difference with its interval."""
    pbt, fixed = ([run["best_last"] for run in section["runs"] if run["who"] == who] for who in ("pbt", "fixed"))
    differences = [mine - other for mine, other in zip(pbt, fixed, strict=True)]
    cells = [section["task"], str(len(pbt)), f"{_median(pbt):.3f}", f"{_median(fixed):.3f}", _with_interval(differences)]
    return markdown(["task", "seeds", "PBT, median", "best fixed, median", "difference, median (95 %)"], [cells])


def _median(values: Sequence[float]) -> float:
    return float(stats.scoreatpercentile(values, 50)) if values else math.nan


def _ratio_of_medians(pairs: Sequence[tuple[float, float]]) -> str:
    """With a bootstrap interval over the pairs (percentile method, Efron and Tibshirani 1993, chapter 13)."""
    if len(pairs) < 2:
        return f"{pairs[0][0] / pairs[0][1]:.3f}" if pairs else "none"
    drawn = np.array(pairs)[np.random.default_rng(0).integers(len(pairs), size=(10_000, len(pairs)))]
    ratios = np.median(drawn[..., 0], axis=1) / np.median(drawn[..., 1], axis=1)
    mine, other = np.median(np.array(pairs), axis=0)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return f"{mine / other:.3f} ({low:.3f} to {high:.3f})"


def _with_interval(values: Sequence[float]) -> str:
    """Median with the interval that order statistics give, whatever the distribution (Conover 1999, section 3.2)."""
    if not values:
        return "none"
    if len(values) == 1:
        return f"{values[0]:.3f}"
    ordered = sorted(values)
    low = int(stats.binom.ppf(0.025, len(values), 0.5))
    return f"{_median(values):.3f} ({ordered[max(low - 1, 0)]:.3f} to {ordered[min(len(values) - low, len(values) - 1)]:.3f})"


_SECTIONS = {
    "overhead": measure_overhead,
    "nodes": measure_nodes,
    "asha": measure_asha,
    "asha_pidog": measure_asha_pidog,
    "pbt": measure_pbt,
}
_TABLES = {"overhead": overhead_table, "nodes": nodes_table, "asha": asha_table, "asha_pidog": asha_table, "pbt": pbt_table}
_TITLES = {
    "overhead": "Scheduling overhead",
    "nodes": "Several nodes",
    "asha": "ASHA against running every trial to its end",
    "asha_pidog": "The same on PiDog, once",
    "pbt": "Population-based training against the best fixed configuration",
}


def render(results: dict[str, Any]) -> str:
    """The document of all sections measured so far."""
    return document("Sweeps: measured", "make bench-sweeps", _TITLES, _TABLES, results)


if __name__ == "__main__":
    raise SystemExit(main())
