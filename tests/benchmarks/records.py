"""What was measured, kept: ``results.json`` holds the raw figures of every section, ``RESULTS.md`` is written from it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.config import write_text_atomic

__all__ = ["FOLDER", "PEERS_FOLDER", "REPOSITORY", "Spread", "document", "load", "markdown", "paired_ratio", "provenance", "save_section"]

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1]
PEERS_FOLDER = REPOSITORY / "build" / "peers"
"""Where Stable-Baselines3 is installed, away from the project's own environment; git ignores it."""
_PACKAGES = ("ray", "torch", "mujoco", "gymnasium", "stable_baselines3")


@dataclass(frozen=True)
class Spread:
    """Median and extremes of a figure over its repetitions."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ``ValueError`` when there is none."""
        if not values:
            raise ValueError("a spread needs at least one value")
        return cls(statistics.median(values), min(values), max(values))


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours over theirs, repetition by repetition: the two sides of one repetition ran right after each other."""
    return Spread.of([mine / other for mine, other in zip(ours, theirs, strict=True)])


def load(path: Path) -> dict[str, Any]:
    """All sections measured so far; empty when there are none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def save_section(path: Path, name: str, section: dict[str, Any]) -> dict[str, Any]:
    """Replace one section, keep the others; returns all of them."""
    results = load(path) | {name: section}
    write_text_atomic(path, json.dumps(results, indent=1, sort_keys=True) + "\n")
    return results


def provenance() -> dict[str, Any]:
    """When, on what machine, with which versions and at which commit something is measured."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "load_average": round(os.getloadavg()[0], 1),
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    """Of the project's environment, or of the peers' folder."""
    for found in importlib.metadata.distributions(name=package):
        return found.version
    for found in importlib.metadata.distributions(name=package, path=[str(PEERS_FOLDER)]):
        return found.version
    return "not installed"


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    """Short hash; ``+`` when tracked files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown"


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def document(
    heading: str, command: str, titles: Mapping[str, str], tables: Mapping[str, Callable[[dict[str, Any]], str]], results: dict[str, Any]
) -> str:
    """The Markdown document of all sections measured so far, in the order of ``titles``."""
    parts = [f"# {heading}", f"Written by `{command}` from `results.json`; do not edit."]
    for name, title in titles.items():
        if name in results:
            section = results[name]
            where = f"<sub>{section['date']} · {section['cores']} cores, {section['cpu']} · commit {section['commit']}</sub>"
            parts += [f"## {title}", tables[name](section), where]
    return "\n\n".join(parts) + "\n"
