"""What our sampler keeps of a plain loop, and our whole training of the physics alone.

- the sampler: ``sampling_env_steps_per_s`` of a training run without overlap, over the plain loop (physics, one network, noise) with
  as many environments and threads;
- end to end: ``env_steps_per_s`` of a training run with overlap, over batched physics alone on two threads.

All sides of a task take turns; of ``mujoco.rollout`` and the thread pool the one with the better median counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.physics_only import METHODS, make_workload, physics_rate, plain_loop_rate
from tests.benchmarks.processes import benchmark_environment, run_measured
from tests.benchmarks.records import Spread, paired_ratio
from tests.benchmarks.throughput import NO_OVERLAP, OVERLAP, Task, ours

__all__ = ["measure", "measure_floor", "shares", "table"]

_TIMEOUT_S = 300.0
_PHYSICS_THREADS = 2


def measure(
    tasks: Iterable[Task], env_steps: int, repetitions: int, home: Path, say: Callable[[str], None], sampler_threads: int
) -> list[dict[str, Any]]:
    """One record a figure: task, repetition, side, method, threads, num_envs, env_steps_per_s."""
    environment, runs = benchmark_environment(home), []
    for repetition in range(repetitions):
        for task in tasks:
            found = []
            for side, overrides, figure in (
                ("sampler", NO_OVERLAP, "sampling_env_steps_per_s"),
                ("end to end", OVERLAP, "env_steps_per_s"),
            ):
                result = run_measured(ours(task, env_steps, overrides), environment, _TIMEOUT_S)
                num_envs = yaml.safe_load((Path(result["run_folder"]) / "config.yaml").read_text(encoding="utf-8"))["num_envs"]
                found.append({"side": side, "method": "", "threads": sampler_threads, "env_steps_per_s": result[figure]})
            found += measure_floor(task, num_envs, sampler_threads)
            for record in found:
                runs.append({"task": task.name, "repetition": repetition, "num_envs": num_envs, **record})
                method = f"{record['side']} {record['method']} x{record['threads']}"
                say(f"{repetition + 1}/{repetitions} {task.name:<16}{method:<36}{record['env_steps_per_s']:>9,.0f}")
    return runs


def measure_floor(task: Task, num_envs: int, sampler_threads: int, steps: int = 60) -> list[dict[str, Any]]:
    """Physics alone on two threads and the plain loop on the sampler's, each both ways."""
    workload = make_workload(task.name, task.task_config)
    records = []
    for method in METHODS:
        alone = physics_rate(method, workload, num_envs, _PHYSICS_THREADS, steps)
        records.append({"side": "physics", "method": method, "threads": _PHYSICS_THREADS, "env_steps_per_s": alone})
        plain = plain_loop_rate(method, workload, num_envs, sampler_threads, steps)
        records.append({"side": "plain loop", "method": method, "threads": sampler_threads, "env_steps_per_s": plain})
    return records


def _rates(runs: Sequence[dict[str, Any]], task: str) -> dict[tuple[str, str], list[float]]:
    """{(side, method): rates in the order of the repetitions}."""
    rates: dict[tuple[str, str], list[float]] = {}
    for run in sorted(runs, key=lambda run: run["repetition"]):
        if run["task"] == task:
            rates.setdefault((run["side"], run["method"]), []).append(run["env_steps_per_s"])
    return rates


def _fastest(rates: dict[tuple[str, str], list[float]], side: str) -> tuple[str, list[float]]:
    """Method with the best median, and its rates."""
    ways = {method: values for (name, method), values in rates.items() if name == side}
    method = max(ways, key=lambda way: Spread.of(ways[way]).median)
    return method, ways[method]


def shares(runs: Sequence[dict[str, Any]], task: str) -> dict[str, Spread]:
    """Share of the plain loop that the sampler keeps, and of the physics that training keeps."""
    rates = _rates(runs, task)
    return {
        "sampler": paired_ratio(rates["sampler", ""], _fastest(rates, "plain loop")[1]),
        "end to end": paired_ratio(rates["end to end", ""], _fastest(rates, "physics")[1]),
    }


def table(runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of text: task, environments, our figure, what it is held against, the share with its extremes."""
    rows = []
    for task in dict.fromkeys(run["task"] for run in runs):
        rates, kept = _rates(runs, task), shares(runs, task)
        first = next(run for run in runs if run["task"] == task and run["side"] == "sampler")
        for side, against, threads in (
            ("sampler", "plain loop", first["threads"]),
            ("end to end", "physics", _PHYSICS_THREADS),
        ):
            method, floor = _fastest(rates, against)
            share = kept[side]
            rows.append(
                [
                    task,
                    str(first["num_envs"]),
                    side,
                    f"{Spread.of(rates[side, '']).median:,.0f}",
                    f"{against}, {method}, {threads} threads",
                    f"{Spread.of(floor).median:,.0f}",
                    f"{share.median:.2f} ({share.low:.2f}–{share.high:.2f})",
                ]
            )
    return rows
