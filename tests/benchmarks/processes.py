"""One measured command in a process of its own: bounded in time, its last line of stdout is the result as JSON.

Beside each result stands how much of the machine everybody else used meanwhile: a peer that was measured while a compiler ran is slow
for no fault of its own, and the reader should see it.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.errors import GaitwayError
from tests.benchmarks.records import REPOSITORY

__all__ = ["ForeignLoad", "Measured", "benchmark_environment", "last_json_line", "run_measured", "tree"]

_POLL_S = 0.2


@dataclass(frozen=True)
class Measured:
    """What a command printed last, and how many cores other programs used while it ran."""

    result: dict[str, Any]
    foreign_cores: float


class ForeignLoad:
    """How many cores are busy with something else, from now on."""

    def __init__(self) -> None:
        self._started_s, self._busy_s = time.monotonic(), _busy_s()

    def cores(self, own_cpu_s: float) -> float:
        """Mean number of busy cores since the start without ``own_cpu_s``, the CPU time that the measurement itself took."""
        elapsed_s = time.monotonic() - self._started_s
        return max(0.0, (_busy_s() - self._busy_s - own_cpu_s) / elapsed_s)


def benchmark_environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, but with databases and run folders under ``home`` and with no Ray cluster to attach to."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GAITWAY_") and name != "RAY_ADDRESS"}
    ours = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "GAITWAY_HOME": str(home / "home"),
        "GAITWAY_EXPERIMENTS_PATH": str(home / "experiments"),
    }
    return kept | ours | dict(extra or {})


def last_json_line(text: str) -> dict[str, Any]:
    """The last line that is not empty, read as a JSON object. Raises ``GaitwayError`` when it is not one."""
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        value = json.loads(lines[-1])
    except (IndexError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise GaitwayError(f"the last line of the output should be a JSON object, given {lines[-1][:200] if lines else 'no output'!r}")
    return value


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it; those that ended meanwhile are left out."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def run_measured(
    command: Sequence[str],
    environment: Mapping[str, str],
    timeout_s: float,
    cores: Sequence[int] | None = None,
    watch: Callable[[list[psutil.Process]], None] | None = None,
) -> Measured:
    """Run a command to its end.

    Args:
        command: program and arguments; runs in the repository's root.
        environment: all of its environment variables.
        timeout_s: when it takes longer it is killed with everything below it.
        cores: CPU cores that it may use; None: all.
        watch: called a few times a second with the running processes.

    Raises:
        GaitwayError: it failed, took too long, or printed no JSON; the message ends with its last line of stderr.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        foreign, own_cpu_s = ForeignLoad(), {}
        process = subprocess.Popen(command, cwd=REPOSITORY, env=dict(environment), stdout=output, stderr=errors, stdin=subprocess.DEVNULL)
        if cores is not None:
            psutil.Process(process.pid).cpu_affinity(list(cores))
        deadline_s = time.monotonic() + timeout_s
        known: list[psutil.Process] = []
        try:
            while process.poll() is None:
                known = tree(process.pid) or known
                own_cpu_s |= {found.pid: used_s for found in known if (used_s := _cpu_s(found)) is not None}
                if watch is not None:
                    watch(known)
                if time.monotonic() > deadline_s:
                    raise GaitwayError(f"{_shown(command)}: not finished after {timeout_s:.0f} s, killed")
                time.sleep(_POLL_S)
        finally:
            _end([*tree(process.pid), *known])
            process.wait()
        foreign_cores = foreign.cores(sum(own_cpu_s.values()))
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            lines = [line for line in errors.read().splitlines() if line.strip()]
            raise GaitwayError(f"{_shown(command)}: exit code {process.returncode}: {lines[-1][:300] if lines else 'no message'}")
        return Measured(last_json_line(output.read()), foreign_cores)


def _busy_s() -> float:
    """CPU time that all cores together have been busy, stolen time included: a hypervisor's other guests slow us as well."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def _cpu_s(process: psutil.Process) -> float | None:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return None
    return times.user + times.system


def _end(processes: Sequence[psutil.Process]) -> None:
    """Kill what is left. psutil compares start times: a process id that somebody else got meanwhile is not touched."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def _shown(command: Sequence[str]) -> str:
    return " ".join([Path(command[0]).name, *command[1:]])
