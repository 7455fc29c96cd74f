"""What a real arm's recording teaches: the open-loop error of an action-chunk policy on held-out episodes, beside holding still."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.config import load_config
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext
from tests.benchmarks.records import REPOSITORY, markdown

__all__ = ["measure", "table"]

CONFIG = REPOSITORY / "configs" / "imitation" / "so101_chunk.yaml"


def measure(folder: Path, recording: Path, seeds: int) -> dict[str, Any]:
    """Train the configuration on a recording, once a seed.

    Returns:
        ``runs``: by seed, the stage's open-loop report of the chunk policy.
    """
    from cluster.runtime.session import ray_session
    from trainables import imitate

    settings = Settings.from_environment({"GAITWAY_HOME": str(folder / "home"), "GAITWAY_EXPERIMENTS_PATH": str(folder / "experiments")})
    runs = []
    with ray_session(settings):
        for seed in range(seeds):
            config = load_config(CONFIG, imitate.Config, [f"dataset={recording.resolve()}", f"seed={seed}"])
            run = folder / f"arm-{seed}"
            imitate.run(config, StageContext(run, settings, Progress(mode="quiet"), experiment="bench-imitation"))
            runs.append(json.loads((run / "imitation_model" / "open_loop.json").read_text())["chunk"])
    return {"runs": runs}


def table(section: dict[str, Any]) -> str:
    """One row a seed, which also chooses the held-out episodes: mean errors as shares of the joints' half range."""
    rows = []
    for seed, run in enumerate(section["runs"]):
        held = [
            f"{run[f'{kind}{baseline}']['mean']:.1%}"
            for kind in ("one_step", "horizon")
            for baseline in ("", "_hold_state", "_hold_action")
        ]
        rows.append([str(seed), ", ".join(map(str, run["episodes"])), *held, f"{run['ensembled']['mean']:.1%}"])
    size = section["runs"][0]["chunk_size"]
    sides = [f"{label}: {side}" for label in ("next step", f"{size} steps") for side in ("policy", "hold state", "hold action")]
    return markdown(["seed", "held-out episodes", *sides, "next step, ensembled"], rows)
