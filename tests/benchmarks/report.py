"""``RESULTS.md`` from the raw figures: one section a figure, each with its own date, machine and versions."""

from __future__ import annotations

from typing import Any

from tests.benchmarks import memory, sampling, scores, throughput
from tests.benchmarks.records import Spread, markdown

__all__ = ["render", "text"]

_HEADERS = {
    "throughput": ["task", "who", "setting", "env steps/s", "min–max", "ours, overlap on ÷ it", "ours, overlap off ÷ it"],
    "sampling": ["task", "envs", "ours", "env steps/s", "against", "env steps/s", "share kept (min–max)"],
    "scores": ["task", "env steps", "seeds", "training return", "evaluation return", "bar", "reached by", "Tianshou PPO"],
    "memory": ["HalfCheetah-v5, 256 environments", "peak GiB", "limit GiB"],
}
_TITLES = {
    "throughput": "Training throughput",
    "sampling": "Sampling",
    "scores": "Learning",
    "memory": "Memory",
}
_NOTES = {
    "throughput": "Batch 4096, minibatch 256, 10 epochs, 64-64 tanh, learning rate 3e-4, all on the CPU, each in a process of its own: "
    "medians over the repetitions, contestants in turns, ratios within a repetition. The peers run the best setting of a grid "
    "(RLlib: 1–2 runners × 8–32 environments; SB3: 8–32 environments in-process or in subprocesses, torch threads).",
    "sampling": "The plain loop is batched MuJoCo, one 64-64 network and Gaussian noise, nothing else; the physics alone is batched MuJoCo "
    "under random controls. Both run as `mujoco.rollout` and as a thread pool over persistent `MjData`; the faster counts.",
    "scores": "Mean ± 95 % interval (Student's t) over seeds. Training return: the last 100 training episodes, with exploration noise. "
    "Evaluation return: mean actions of the checkpoint with the best training return, 20 episodes of Gymnasium's own environment. "
    "Tianshou's figures are the ones that it publishes: the best evaluation within 1M steps, 10 seeds, the tasks' older versions.",
    "memory": "Largest high-water mark of resident memory (`VmHWM`) of one process, and the largest sum over the run's processes.",
}
_DISTURBED_CORES = 0.25
"""A section during which others typically used more than this is marked."""


def rows(name: str, section: dict[str, Any]) -> list[list[str]]:
    """A section's table without its header."""
    if name == "memory":
        return memory.table(section["run"])
    return {"throughput": throughput.table, "sampling": sampling.table, "scores": scores.table}[name](section["runs"])


def text(name: str, section: dict[str, Any]) -> str:
    """A section's table for a terminal."""
    lines = [_HEADERS[name], *rows(name, section)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def _provenance(section: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in section["versions"].items())
    runs = section["runs"] if "runs" in section else [section["run"]]
    foreign = [run["foreign_cores"] for run in runs if "foreign_cores" in run]
    load = ""
    if foreign:
        typical, most = Spread.of(foreign).median, max(foreign)
        load = f" · other programs used {typical:.1f} cores meanwhile, {most:.1f} at most"
        load += f" (**disturbed, above {_DISTURBED_CORES}: measure again on an idle machine**)" if typical > _DISTURBED_CORES else ""
    commits = ", ".join(dict.fromkeys(run.get("commit", section["commit"]) for run in runs))
    machine = f"{section['cores']} cores, {section['cpu']}"
    return f"{section['date']} · {machine} · commit {commits} · {versions}{load}"


def render(results: dict[str, Any]) -> str:
    """The whole document; sections that were never measured are named as such."""
    parts = ["# Training: measured", "Written by `make bench-training` from `results.json`; do not edit."]
    for name, title in _TITLES.items():
        parts.append(f"## {title}")
        if name in results:
            section = results[name]
            parts += [_NOTES[name], markdown(_HEADERS[name], rows(name, section)), f"<sub>{_provenance(section)}</sub>"]
        else:
            parts.append("Not measured yet.")
    return "\n\n".join(parts) + "\n"
