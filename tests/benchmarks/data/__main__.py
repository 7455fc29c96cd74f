"""Dataset quality measured: ``make bench-data``, or ``python -m tests.benchmarks.data [--only filtering|grading|memory]``.

- filtering: imitation on a polluted dataset, on what the grader keeps, on a random subset of that size, on the clean one;
- grading: frames a second against the public ``deepen-grade`` on the same LeRobot folder;
- memory: a large synthetic dataset graded and filtered, peak memory of every process.

Prints one table a figure, keeps the raw figures in ``data/results.json`` and writes ``data/RESULTS.md`` from them.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # before any import of Ray
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from cluster.config import write_text_atomic
from tests.benchmarks.data import filtering, rate, size
from tests.benchmarks.records import document, provenance, save_section

FOLDER = Path(__file__).parent
TITLES = {
    "filtering": "Imitation after filtering by grade",
    "grading": "Grading against deepen-grade, frames/s",
    "memory": "Memory of grading and filtering",
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=list(TITLES), help="one figure; default: all")
    parser.add_argument(
        "--folder", type=Path, default=Path("build/bench-data"), help="where datasets and runs go; finished runs there are not repeated"
    )
    parser.add_argument("--repetitions", type=int, default=6, help="of filtering: spoilt datasets and training seeds")
    parser.add_argument("--seconds", type=float, default=200.0, help="of filtering: recorded of each gait")
    parser.add_argument("--epochs", type=int, default=40, help="of filtering: of each training")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of grading and memory: size of the synthetic dataset")
    given = parser.parse_args()
    folder = given.folder.resolve()
    results: dict[str, Any] = {}
    for name in [given.only] if given.only else list(TITLES):
        section = provenance()
        if name == "filtering":
            section["runs"] = filtering.measure(folder, given.repetitions, given.seconds, given.epochs, _say)
        elif name == "grading":
            section |= rate.measure(folder, given.gigabytes, _say)
        else:
            section |= size.measure(folder, given.gigabytes, _say)
        results = save_section(FOLDER / "results.json", name, section)
        print(_TABLES[name](section))
    write_text_atomic(FOLDER / "RESULTS.md", document("Dataset quality: measured", "make bench-data", TITLES, _TABLES, results))


def _filtering(section: dict[str, Any]) -> str:
    return f"{filtering.table(section['runs'])}\n\n{filtering.detection_table(section['runs'])}"


_TABLES = {"filtering": _filtering, "grading": rate.table, "memory": size.table}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
