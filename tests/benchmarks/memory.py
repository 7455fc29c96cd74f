"""Peak resident memory of a training run with many environments, read from Linux's own high-water mark of every process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.processes import benchmark_environment, run_measured
from tests.benchmarks.throughput import TASKS, ours

__all__ = ["LIMIT_GIB", "PeakMemory", "measure", "table"]

LIMIT_GIB = 1.5
_NUM_ENVS = 256
_GIB = 2**30
_TIMEOUT_S = 600.0


class PeakMemory:
    """Watches a process tree.

    Attributes:
        peaks_bytes: high-water mark of the resident memory of every process seen, by process id.
        names: what each process is.
        peak_together_bytes: largest sum over the tree at one moment; memory that processes share is counted once.
    """

    def __init__(self) -> None:
        self.peaks_bytes: dict[int, int] = {}
        self.names: dict[int, str] = {}
        self.peak_together_bytes = 0

    def __call__(self, processes: Sequence[psutil.Process]) -> None:
        """Look at all of them once; those that ended meanwhile keep what was seen before."""
        together = 0
        for process in processes:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
                together += process.memory_full_info().pss
                command = process.cmdline()
            except (OSError, psutil.Error):
                continue
            peak_kib = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
            if peak_kib:
                self.peaks_bytes[process.pid] = int(peak_kib[0]) * 1024
                self.names[process.pid] = " ".join(Path(part).name for part in command[:3])[:60]
        self.peak_together_bytes = max(self.peak_together_bytes, together)


def measure(env_steps: int, home: Path) -> dict[str, Any]:
    """Train HalfCheetah-v5 with 256 environments; peaks in GiB: of the largest process, and of all together."""
    watch = PeakMemory()
    command = ours(TASKS["HalfCheetah-v5"], env_steps, [f"num_envs={_NUM_ENVS}", f"batch_size={_NUM_ENVS * 32}"])
    measured = run_measured(command, benchmark_environment(home), _TIMEOUT_S, watch=watch)
    largest = max(watch.peaks_bytes, key=lambda pid: watch.peaks_bytes[pid])
    return {
        "num_envs": _NUM_ENVS,
        "process": watch.names[largest],
        "process_gib": watch.peaks_bytes[largest] / _GIB,
        "together_gib": watch.peak_together_bytes / _GIB,
        "processes": len(watch.peaks_bytes),
        "foreign_cores": measured.foreign_cores,
    }


def table(run: dict[str, Any]) -> list[list[str]]:
    """Rows of text: what, peak in GiB, limit."""
    return [
        [f"training process ({run['process']})", f"{run['process_gib']:.2f}", f"{LIMIT_GIB}"],
        [f"all {run['processes']} processes of the run, Ray's own included, shared memory once", f"{run['together_gib']:.2f}", ""],
    ]
