"""Whole training, ours and what a user would pick instead, in turns.

Every contestant runs in a process of its own and reports its median over iterations after the first. One repetition runs all
contestants of a task one after another, so that a busy machine slows all of them; ratios are taken within a repetition.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import GaitwayError
from tests.benchmarks.processes import benchmark_environment, run_measured
from tests.benchmarks.records import FOLDER, PEERS_FOLDER, Spread, paired_ratio

__all__ = [
    "NO_OVERLAP",
    "OURS",
    "OVERLAP",
    "SB3_REQUIREMENT",
    "TASKS",
    "Contestant",
    "Task",
    "best_peers",
    "contestants",
    "install_sb3",
    "measure",
    "ours",
    "table",
]

SB3_REQUIREMENT = "stable-baselines3==2.9.2"
OURS = ("ours, overlap on", "ours, overlap off")
OVERLAP = ("overlap=true", "num_env_runners=1")
"""Sample in one process while another learns ..."""
NO_OVERLAP = ("overlap=false", "num_env_runners=0")
"""... or both in turns in one."""
RLLIB, SB3 = "RLlib PPO", "SB3 PPO"
_TIMEOUT_S = 600.0
_ENVS = (8, 16, 32)


@dataclass(frozen=True)
class Task:
    """One task as we and as the peers call it."""

    name: str
    gymnasium_id: str
    task_config: dict[str, Any]
    physics_threads: int = 1
    """Threads of our sampling process while another one learns: two where physics takes far longer than learning."""

    def threaded(self, num_threads: int) -> dict[str, Any]:
        """Our task's configuration with so many physics threads."""
        physics = self.task_config.get("physics")
        return {"physics": {**physics, "num_threads": num_threads}} if physics else {"num_threads": num_threads}


TASKS = {
    "HalfCheetah-v5": Task("HalfCheetah-v5", "HalfCheetah-v5", {}),
    "Ant-v5": Task("Ant-v5", "Ant-v5", {}, physics_threads=2),
    "pidog_run": Task("pidog_run", "gaitway/pidog_run-v0", {"physics": {"preset": "medium"}}, physics_threads=2),
}


@dataclass(frozen=True)
class Contestant:
    """Somebody who trains: a name for the table, a setting of its own, a command."""

    name: str
    setting: dict[str, Any]
    command: tuple[str, ...]


def install_sb3() -> None:
    """Put the pinned Stable-Baselines3 into ``build/peers``; everything that it needs is in the project's environment already."""
    if (PEERS_FOLDER / "stable_baselines3").is_dir():
        return
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(PEERS_FOLDER), SB3_REQUIREMENT]
    if subprocess.run(command, check=False).returncode:
        raise GaitwayError(f"cannot install {SB3_REQUIREMENT} into {PEERS_FOLDER}; it is needed to compare with it")


def ours(task: Task, env_steps: int, overrides: Sequence[str], num_threads: int = 1) -> tuple[str, ...]:
    """Our training command with the peers' setting."""
    settings = [f"task={task.name}", "preset=peer", f"total_env_steps={env_steps}", *overrides]
    settings.append(f"task_config={json.dumps(task.threaded(num_threads))}")
    chosen = [part for setting in settings for part in ("--set", setting)]
    return (sys.executable, "-m", "trainables.train", "configs/train/gymnasium_mujoco.yaml", *chosen, "--json")


def _peer(script: str, task: Task, iterations: int, setting: dict[str, Any]) -> tuple[str, ...]:
    options = [part for name, value in setting.items() for part in (f"--{name}", str(value))]
    path = str(FOLDER / "peers" / script)
    return (sys.executable, path, task.gymnasium_id, "--kwargs", json.dumps(task.task_config), "--iterations", str(iterations), *options)


def rllib(task: Task, setting: dict[str, Any], iterations: int = 4) -> Contestant:
    """RLlib's stock PPO."""
    return Contestant(RLLIB, setting, _peer("rllib_ppo.py", task, iterations, setting))


def sb3(task: Task, setting: dict[str, Any], iterations: int = 4) -> Contestant:
    """Stable-Baselines3's PPO."""
    return Contestant(SB3, setting, _peer("sb3_ppo.py", task, iterations, setting))


def grid(task: Task) -> list[Contestant]:
    """The settings among which each peer's best is looked for."""
    stock = [{"runners": runners, "envs": envs} for runners in (1, 2) for envs in _ENVS]
    stable = [{"envs": envs, "vectorisation": "dummy"} | threads for envs in _ENVS for threads in ({}, {"torch-threads": 1})]
    stable.append({"envs": _ENVS[0], "vectorisation": "subprocess"})
    return [rllib(task, setting, 2) for setting in stock] + [sb3(task, setting, 2) for setting in stable]


def contestants(task: Task, env_steps: int, best: dict[str, dict[str, Any]]) -> list[Contestant]:
    """Ours both ways, then the peers, each with its best setting for this task."""
    # Like the peers' number of environments, the physics threads are the best for the task: both cores of a small machine have work.
    both = [
        Contestant(OURS[0], {"runners": 1, "physics threads": task.physics_threads}, ours(task, env_steps, OVERLAP, task.physics_threads)),
        Contestant(OURS[1], {"runners": 0, "physics threads": 2}, ours(task, env_steps, NO_OVERLAP, 2)),
    ]
    stock, stable = best.get(RLLIB, {"runners": 2, "envs": 16}), best.get(SB3, {"envs": 8, "vectorisation": "dummy"})
    return [*both, rllib(task, stock), sb3(task, stable)]


def measure(
    tasks: Iterable[Task], lineup: Callable[[Task], list[Contestant]], repetitions: int, home: Path, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Run every contestant of every task in turns; one record a run: task, name, setting, repetition and what it printed."""
    environment = benchmark_environment(home, {"PYTHONPATH": str(PEERS_FOLDER)})
    runs = []
    for repetition in range(repetitions):
        for task in tasks:
            order = lineup(task)
            shift = repetition % len(order)  # nobody always goes first
            for contestant in order[shift:] + order[:shift]:
                measured = run_measured(contestant.command, environment, _TIMEOUT_S)
                figures = {key: value for key, value in measured.result.items() if isinstance(value, int | float)}
                figures["foreign_cores"] = measured.foreign_cores
                runs.append(
                    {"task": task.name, "name": contestant.name, "setting": contestant.setting, "repetition": repetition, **figures}
                )
                setting = " ".join(f"{key}={value}" for key, value in contestant.setting.items())
                say(f"{repetition + 1}/{repetitions} {task.name:<16}{contestant.name:<20}{setting:<34}{figures['env_steps_per_s']:>9,.0f}")
    return runs


def best_peers(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """The fastest setting of every peer: {task: {name: setting}}."""
    best: dict[str, dict[str, dict[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: run["env_steps_per_s"]):
        best.setdefault(run["task"], {})[run["name"]] = run["setting"]
    return best


def table(runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of text: task, who, its setting, median and extremes of env steps/s, and how many times as fast both of ours are."""
    rates: dict[str, dict[str, list[float]]] = {}
    settings: dict[tuple[str, str], str] = {}
    for run in sorted(runs, key=lambda run: run["repetition"]):
        rates.setdefault(run["task"], {}).setdefault(run["name"], []).append(run["env_steps_per_s"])
        settings[run["task"], run["name"]] = " ".join(f"{key}={value}" for key, value in run["setting"].items())
    rows = []
    for task, by_name in rates.items():
        for name, values in by_name.items():
            spread = Spread.of(values)
            ratios = []
            for mine in OURS:
                ratio = paired_ratio(by_name[mine], values) if mine in by_name and name not in OURS else None
                ratios.append(f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})" if ratio else "")
            rows.append([task, name, settings[task, name], f"{spread.median:,.0f}", f"{spread.low:,.0f}–{spread.high:,.0f}", *ratios])
    return rows
