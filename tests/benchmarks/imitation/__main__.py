"""Imitation measured: ``make bench-imitation``, or ``python -m tests.benchmarks.imitation [--only reading|gaits|arm]``.

- reading: LeRobot v3.0 into training batches, frames a second, against loops that people write;
- gaits: the five expert gaits imitated, loss and closed-loop speed;
- arm: a real arm's recording, open-loop error; only with ``--recording FOLDER`` (a LeRobot v3.0 folder).

Prints one table a figure, keeps the raw figures in ``imitation/results.json`` and writes ``imitation/RESULTS.md`` from them.
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
from tests.benchmarks.imitation import arm, gaits, reading
from tests.benchmarks.records import document, provenance, save_section

FOLDER = Path(__file__).parent
TITLES = {
    "reading": "A LeRobot v3.0 folder into training batches",
    "gaits": "The five expert gaits",
    "arm": "A real arm's recording",
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=list(TITLES), help="one figure; default: all")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("build/bench-imitation"),
        help="where datasets and runs go; gaits learned there are not learned again",
    )
    parser.add_argument("--recording", type=Path, help="of arm: LeRobot v3.0 folder of a real arm")
    parser.add_argument("--frames", type=int, default=1_000_000, help="of reading: size of the synthetic dataset")
    parser.add_argument("--repetitions", type=int, default=3, help="of reading and arm: turns, or seeds")
    given = parser.parse_args()
    folder = given.folder.resolve()
    if given.only == "arm" and given.recording is None:
        parser.error("--only arm needs --recording FOLDER")
    chosen = [given.only] if given.only else [name for name in TITLES if name != "arm" or given.recording is not None]
    results: dict[str, Any] = {}
    for name in chosen:
        section = provenance()
        if name == "reading":
            dataset = folder / f"noise-{given.frames}"
            if not (dataset / "meta" / "info.json").is_file():
                reading.make_dataset(dataset, given.frames)
            section |= {"frames": given.frames, "sides": reading.measure(dataset, given.repetitions)}
        elif name == "gaits":
            section["arms"] = gaits.measure(folder, list(gaits.ARMS), gaits.EPISODES, "production", _say)
        else:
            section |= arm.measure(folder, given.recording, given.repetitions)
        results = save_section(FOLDER / "results.json", name, section)
        print(_TABLES[name](section))
    write_text_atomic(FOLDER / "RESULTS.md", document("Imitation: measured", "make bench-imitation", TITLES, _TABLES, results))


_TABLES = {
    "reading": lambda section: (
        f"{section['frames']:,} frames in random order, batches of 256 as tensors.\n\n{reading.table(section['sides'])}"
    ),
    "gaits": lambda section: gaits.table(section["arms"]),
    "arm": arm.table,
}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
