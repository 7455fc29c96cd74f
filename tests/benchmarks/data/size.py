"""A large synthetic dataset graded and filtered: the peak memory of every process, with the object store's pages that it maps and without.

Linux counts a shared page for every process that touches it, so a worker that reads a block from the object store seems to hold it. Both
figures are sampled ten times a second from ``/proc/<pid>/status``: ``VmRSS``, and ``RssAnon + RssFile``, which leaves shared memory out.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from cluster.lerobot.info import load_info
from tests.benchmarks.data.synthetic import is_spiky
from tests.benchmarks.processes import benchmark_environment, run_measured
from tests.benchmarks.records import markdown

__all__ = ["LIMIT_GIB", "Peaks", "measure", "synthetic", "table"]

LIMIT_GIB = 2.0
_GIB = 2**30
_TIMEOUT_S = 3600.0


class Peaks:
    """Watches a process tree.

    Attributes:
        with_shared: highest resident memory of each process, bytes, by process id.
        without_shared: the same without shared memory.
        names: what each process is.
    """

    def __init__(self) -> None:
        self.with_shared: dict[int, int] = {}
        self.without_shared: dict[int, int] = {}
        self.names: dict[int, str] = {}

    def __call__(self, processes: Sequence[psutil.Process]) -> None:
        """Look at all of them once."""
        for process in processes:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
                name = " ".join(Path(part).name for part in process.cmdline()[:3])[:50]
            except (OSError, psutil.Error):
                continue
            kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "RssAnon", "RssFile"))}
            if "VmRSS" not in kib:
                continue
            own = kib["RssAnon"] + kib["RssFile"]
            self.names[process.pid] = name or self.names.get(process.pid, "")
            self.with_shared[process.pid] = max(self.with_shared.get(process.pid, 0), kib["VmRSS"] * 1024)
            self.without_shared[process.pid] = max(self.without_shared.get(process.pid, 0), own * 1024)

    def largest(self, count: int = 3) -> list[dict[str, Any]]:
        """The processes with the highest peaks."""
        pids = sorted(self.with_shared, key=lambda pid: -self.with_shared[pid])[:count]
        return [
            {"process": self.names[pid], "with_shared_gib": self.with_shared[pid] / _GIB, "gib": self.without_shared[pid] / _GIB}
            for pid in pids
        ]


def synthetic(folder: Path, gigabytes: float, say: Callable[[str], None]) -> tuple[Path, int]:
    """The dataset of that size, made when it is not there, and its frames."""
    data = folder / f"synthetic-{gigabytes:g}"
    if not (data / "meta" / "info.json").is_file():
        say(f"writing {gigabytes:g} GB to {data}")
        command = [sys.executable, "-m", "tests.benchmarks.data.synthetic", str(data), "--gigabytes", str(gigabytes)]
        run_measured(command, benchmark_environment(folder / "ours"), _TIMEOUT_S)
    return data, load_info(data).num_frames


def measure(folder: Path, gigabytes: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Grade the dataset, filter it, and watch."""
    data, frames = synthetic(folder, gigabytes, say)
    stages: dict[str, Any] = {}
    configs = {
        "trainables.grade": f"dataset: {data}\n",
        "trainables.prepare": f"sources: [{{dataset: {data}}}]\nmin_grade: C\n",
    }
    for stage, text in configs.items():
        config, run = folder / f"{stage}.yaml", folder / f"run-{stage}"
        config.write_text(text, encoding="utf-8")
        shutil.rmtree(run, ignore_errors=True)
        peaks, started_s = Peaks(), time.perf_counter()
        command = [sys.executable, "-m", stage, str(config), "--run-folder", str(run)]
        measured = run_measured(command, benchmark_environment(folder / "ours"), _TIMEOUT_S, watch=peaks)
        stages[stage] = {
            "s": time.perf_counter() - started_s,
            "largest": peaks.largest(),
            "processes": len(peaks.names),
            "foreign_cores": measured.foreign_cores,
            "result": {name: value for name, value in measured.result.items() if name in ("letter", "episodes", "frames")},
        }
        worst = stages[stage]["largest"][0]
        say(f"{stage}: {stages[stage]['s']:.0f} s, {worst['with_shared_gib']:.2f} GiB at most ({worst['gib']:.2f} without shared memory)")
        shutil.rmtree(run, ignore_errors=True)
    info = load_info(data)
    size = sum(file.stat().st_size for file in data.rglob("*") if file.is_file())
    spiky = sum(is_spiky(index) for index in range(info.num_episodes))
    return {"bytes": size, "frames": frames, "episodes": info.num_episodes, "spiky": spiky, "stages": stages}


def table(section: dict[str, Any]) -> str:
    """The largest processes of each stage."""
    rows = []
    for stage, found in section["stages"].items():
        for item in found["largest"]:
            figures = [f"{item['with_shared_gib']:.2f}", f"{item['gib']:.2f}", f"{LIMIT_GIB:g}"]
            rows.append([stage, item["process"], *figures, f"{section['frames'] / found['s']:,.0f}"])
    header = ["stage", "process", "peak GiB", "without shared memory", "limit", "frames/s of the command"]
    size = f"{section['bytes'] / 1e9:.1f} GB, {section['episodes']:,} episodes, {section['frames']:,} frames"
    return f"{markdown(header, rows)}\n\n{size}; {section['spiky']:,} episodes have a planted jump."
