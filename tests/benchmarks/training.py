"""Training against its peers, its physics, its memory limit and its learning bars: ``python -m tests.benchmarks.training``.

Prints one table a figure, keeps the raw figures in ``results.json`` and writes ``RESULTS.md`` from them. ``--only memory`` measures one
section and keeps the others as they were; ``--scores`` also trains for the learning scores, which takes an hour or more and goes on
where it was killed; ``--grid`` first looks for each peer's best setting; ``--quick`` is a short run to see that everything works.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cluster.errors import GaitwayError
from tests.benchmarks import memory, sampling, scores, throughput
from tests.benchmarks.records import FOLDER, load, provenance, save_section
from tests.benchmarks.report import render, text

__all__ = ["main"]

SECTIONS = ("throughput", "sampling", "memory", "scores")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="this section; may be repeated")
    parser.add_argument("--scores", action="store_true", help="the learning scores too")
    parser.add_argument("--grid", action="store_true", help="look for the peers' best settings first")
    parser.add_argument("--quick", action="store_true", help="one short repetition")
    parser.add_argument("--tasks", nargs="+", choices=throughput.TASKS, default=list(throughput.TASKS), help="of throughput and sampling")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--env-steps", type=int, default=60_000, help="of one of our training runs")
    parser.add_argument("--seeds", type=int, default=5, help="of the learning scores")
    parser.add_argument("--score-tasks", nargs="+", choices=scores.BARS, default=list(scores.BARS))
    parser.add_argument("--score-env-steps", type=int, default=1_000_000)
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of results.json, scores.jsonl and RESULTS.md")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repetitions, options.env_steps = 1, min(options.env_steps, 20_000)
    sections = tuple(options.only or ("throughput", "sampling", "memory")) + (("scores",) if options.scores else ())
    try:
        with tempfile.TemporaryDirectory(prefix="gaitway-bench-") as home:
            for section in dict.fromkeys(sections):
                _measure(section, options, Path(home))
    except GaitwayError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _measure(section: str, options: argparse.Namespace, home: Path) -> None:
    """Measure one section, print its table, keep its figures and write the document anew."""
    path, tasks = options.results / "results.json", [throughput.TASKS[name] for name in options.tasks]
    source = provenance()
    if section == "throughput":
        throughput.install_sb3()
        if options.grid:
            found = throughput.measure(tasks, throughput.grid, 1, home, _say)
            save_section(path, "grid", source | {"runs": _kept(path, "grid", options.tasks) + found})
        best = throughput.best_peers(load(path).get("grid", {}).get("runs", []))
        lineup = {task.name: throughput.contestants(task, options.env_steps, best.get(task.name, {})) for task in tasks}
        runs = throughput.measure(tasks, lambda task: lineup[task.name], options.repetitions, home, _say)
        measured = {"runs": _kept(path, section, options.tasks) + runs}
    elif section == "sampling":
        runs = sampling.measure(tasks, options.env_steps, options.repetitions, home, _say)
        measured = {"runs": _kept(path, section, options.tasks) + runs}
    elif section == "memory":
        measured = {"run": memory.measure(options.env_steps, home)}
    else:
        log = options.results / "scores.jsonl"
        try:
            scores.measure(log, options.score_tasks, options.seeds, options.score_env_steps, home, _say, source["commit"])
        finally:
            measured = {"runs": scores.read(log)}
            if measured["runs"]:
                save_section(path, section, source | measured)
    results = save_section(path, section, source | measured)
    print(text(section, results[section]), flush=True)
    (options.results / "RESULTS.md").write_text(render(results), encoding="utf-8")


def _kept(path: Path, section: str, measured: Sequence[str]) -> list[dict]:
    """Earlier runs of the tasks that are not measured now."""
    return [run for run in load(path).get(section, {}).get("runs", []) if run["task"] not in measured]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
