"""Grading in frames a second, ours against the public ``deepen-grade``, on the same LeRobot folder.

The peer lives in an environment of its own (it needs NumPy, pandas and pyarrow, nothing else). Both sides are measured twice: as a whole
command, start-up and report included, and inside a process that has started already, where ours has its Ray and its workers warm.
Repetitions alternate.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.data.size import synthetic
from tests.benchmarks.processes import benchmark_environment, run_measured
from tests.benchmarks.records import Spread, markdown, paired_ratio

__all__ = ["PEER", "measure", "table"]

PEER = "deepen-grade[lerobot]==0.4.1"
REPETITIONS = 3
_TIMEOUT_S = 900.0
_OURS_WARM = """
import json, sys, time
from pathlib import Path
from cluster.runtime.session import ray_session
from cluster.settings import Settings
from trainables.datasets.quality.grading import INLINE_FRAMES, grade_source
from trainables.datasets.sources.lerobot import open_lerobot
settings, source = Settings.from_environment(), open_lerobot(Path(sys.argv[1]))
with ray_session(settings):
    # Enough that Ray measures them, in as many files as there are workers to warm.
    most, some = INLINE_FRAMES // source.episodes[0].length, [episode.index for episode in source.episodes]
    grade_source(open_lerobot(Path(sys.argv[1]), sorted({*some[:most], *some[-most:]})), settings=settings)
    started_s = time.perf_counter()
    grade = grade_source(open_lerobot(Path(sys.argv[1])), settings=settings)
    print(json.dumps({"s": time.perf_counter() - started_s, "frames": grade.frames, "letters": grade.letters()}))
"""
_PEER_WARM = """
import json, sys, time
from deepen_grade.cli import main
arguments = ["grade", sys.argv[1], "--format", "lerobot", "--json", "-o", sys.argv[2], "--quiet"]
started_s = time.perf_counter()
try:
    main(arguments, standalone_mode=False)
except SystemExit:
    pass
print(json.dumps({"s": time.perf_counter() - started_s}))
"""


def measure(folder: Path, gigabytes: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Frames a second of both sides, with and without start-up."""
    data, frames = synthetic(folder, gigabytes, say)
    peer, report = _peer(folder / "peer"), folder / "peer.json"
    environment = benchmark_environment(folder / "ours", {"PYTHONWARNINGS": "ignore"})
    config = folder / "grade.yaml"
    config.write_text(f"dataset: {data}\n", encoding="utf-8")
    seconds: dict[str, list[float]] = {"ours": [], "peer": [], "ours_started": [], "peer_started": []}
    foreign: list[float] = []
    for repetition in range(REPETITIONS):
        whole = [str(peer.with_name("deepen")), "grade", str(data), "--format", "lerobot", "--json", "-o", str(report), "--quiet"]
        # It exits with 1 below its own grade: that is no failure here.
        started_s = time.perf_counter()
        subprocess.run(whole, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=_TIMEOUT_S)
        seconds["peer"].append(time.perf_counter() - started_s)
        started_s = time.perf_counter()
        ours = run_measured([sys.executable, "-m", "trainables.grade", str(config)], environment, _TIMEOUT_S)
        seconds["ours"].append(time.perf_counter() - started_s)
        found = run_measured([str(peer), "-c", _PEER_WARM, str(data), str(report)], dict(os.environ), _TIMEOUT_S)
        seconds["peer_started"].append(found.result["s"])
        warm = run_measured([sys.executable, "-c", _OURS_WARM, str(data)], environment, _TIMEOUT_S)
        seconds["ours_started"].append(warm.result["s"])
        foreign += [ours.foreign_cores, found.foreign_cores, warm.foreign_cores]
        say(f"repetition {repetition}: " + ", ".join(f"{name} {values[-1]:.1f} s" for name, values in seconds.items()))
    return {"frames": frames, "peer": PEER, "seconds": seconds, "foreign_cores": max(foreign)}


def table(section: dict[str, Any]) -> str:
    """Medians of both sides and their ratio, repetition by repetition."""
    rows = []
    frames, seconds = section["frames"], section["seconds"]
    for label, ending in (("whole command", ""), ("started already", "_started")):
        ours, peer = ([frames / value for value in seconds[f"{side}{ending}"]] for side in ("ours", "peer"))
        ratio = paired_ratio(ours, peer)
        middle = [f"{Spread.of(side).median:,.0f}" for side in (ours, peer)]
        rows.append([label, *middle, f"{ratio.median:.1f} × ({ratio.low:.1f} to {ratio.high:.1f})"])
    header = ["", "ours, frames/s", f"{section['peer']}, frames/s", "ratio"]
    note = f"{frames:,} frames; other programs used up to {section['foreign_cores']:.1f} cores meanwhile."
    return f"{markdown(header, rows)}\n\n{note}"


def _peer(folder: Path) -> Path:
    """Python of the peer's environment, made when it is not there."""
    python = folder / "bin" / "python"
    if not (folder / "bin" / "deepen").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", PEER], check=True)
    return python
