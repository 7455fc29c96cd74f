"""What our sampler keeps of a plain loop, and our whole training of the physics alone.

- the sampler: ``sampling_env_steps_per_s`` of a training run without overlap, over the plain loop (physics, one network, noise) with
  as many environments and physics threads;
- end to end: ``env_steps_per_s`` of a training run with overlap, over batched physics alone on two threads.

All sides of a task take turns; of ``mujoco.rollout`` and the thread pool the one with the better median counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.physics_only import METHODS, make_workload, physics_rate, plain_loop_rate
from tests.benchmarks.processes import ForeignLoad, benchmark_environment, run_measured
from tests.benchmarks.records import Spread, paired_ratio
from tests.benchmarks.throughput import NO_OVERLAP, OVERLAP, Task, ours

__all__ = ["Share", "measure", "measure_floor", "shares", "table"]

_TIMEOUT_S = 600.0
_PHYSICS_THREADS = 2


def measure(tasks: Iterable[Task], env_steps: int, repetitions: int, home: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """One record a figure: task, repetition, side, method, threads, num_envs, env_steps_per_s."""
    environment, runs = benchmark_environment(home), []
    for repetition in range(repetitions):
        for task in tasks:
            found = []
            for side, overrides, threads, figure in (
                ("end to end", OVERLAP, 1, "env_steps_per_s"),
                ("sampler", NO_OVERLAP, 1, "sampling_env_steps_per_s"),
                ("sampler", NO_OVERLAP, 2, "sampling_env_steps_per_s"),
            ):
                measured = run_measured(ours(task, env_steps, overrides, threads), environment, _TIMEOUT_S)
                result = measured.result
                num_envs = yaml.safe_load((Path(result["run_folder"]) / "config.yaml").read_text(encoding="utf-8"))["num_envs"]
                mine = {"side": side, "method": "", "threads": threads, "env_steps_per_s": result[figure]}
                found.append(mine | {"foreign_cores": measured.foreign_cores})
            found += measure_floor(task, num_envs)
            for record in found:
                runs.append({"task": task.name, "repetition": repetition, "num_envs": num_envs, **record})
                method = f"{record['side']} {record['method']} x{record['threads']}"
                say(f"{repetition + 1}/{repetitions} {task.name:<16}{method:<36}{record['env_steps_per_s']:>9,.0f}")
    return runs


def measure_floor(task: Task, num_envs: int, steps: int = 200) -> list[dict[str, Any]]:
    """Physics alone on two threads, and the plain loop on one and on two, each both ways."""
    workload = make_workload(task.name, task.task_config)
    records = []
    for method in METHODS:
        for side, rate, threads in (
            ("physics", physics_rate, _PHYSICS_THREADS),
            ("plain loop", plain_loop_rate, 1),
            ("plain loop", plain_loop_rate, 2),
        ):
            foreign, cpu_s = ForeignLoad(), time.process_time()
            record = {"side": side, "method": method, "threads": threads}
            record["env_steps_per_s"] = rate(method, workload, num_envs, threads, steps)
            records.append(record | {"foreign_cores": foreign.cores(time.process_time() - cpu_s)})
    return records


def _rates(runs: Sequence[dict[str, Any]], task: str) -> dict[tuple[str, int, str], list[float]]:
    """{(side, threads, method): rates in the order of the repetitions}."""
    rates: dict[tuple[str, int, str], list[float]] = {}
    for run in sorted(runs, key=lambda run: run["repetition"]):
        if run["task"] == task:
            rates.setdefault((run["side"], run["threads"], run["method"]), []).append(run["env_steps_per_s"])
    return rates


def _fastest(rates: dict[tuple[str, int, str], list[float]], side: str, threads: int) -> tuple[str, list[float]]:
    """Method with the best median, and its rates."""
    ways = {method: values for (name, count, method), values in rates.items() if (name, count) == (side, threads)}
    method = max(ways, key=lambda way: Spread.of(ways[way]).median)
    return method, ways[method]


@dataclass(frozen=True)
class Share:
    """One figure of ours and what it is held against."""

    side: str
    threads: int
    rates: list[float]
    against: str
    floor: list[float]

    @property
    def kept(self) -> Spread:
        """Ours over the floor."""
        return paired_ratio(self.rates, self.floor)


def shares(runs: Sequence[dict[str, Any]], task: str) -> list[Share]:
    """What the sampler keeps of the plain loop with as many threads, and whole training of the physics on two."""
    rates, found = _rates(runs, task), []
    for side, threads, against, floor_threads in (
        ("sampler", 1, "plain loop", 1),
        ("sampler", 2, "plain loop", 2),
        ("end to end", 1, "physics", _PHYSICS_THREADS),
    ):
        method, floor = _fastest(rates, against, floor_threads)
        count = "1 thread" if floor_threads == 1 else f"{floor_threads} threads"
        found.append(Share(side, threads, rates[side, threads, ""], f"{against}, {method}, {count}", floor))
    return found


def table(runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of text: task, environments, our figure, what it is held against, the share with its extremes."""
    rows = []
    for task in dict.fromkeys(run["task"] for run in runs):
        num_envs = next(run["num_envs"] for run in runs if run["task"] == task)
        for share in shares(runs, task):
            mine, floor, kept = f"{Spread.of(share.rates).median:,.0f}", f"{Spread.of(share.floor).median:,.0f}", share.kept
            side = "end to end, overlap on" if share.side == "end to end" else f"{share.side}, {share.threads} physics thread(s)"
            rows.append([task, str(num_envs), side, mine, share.against, floor, f"{kept.median:.2f} ({kept.low:.2f}–{kept.high:.2f})"])
    return rows
