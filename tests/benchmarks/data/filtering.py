"""Does filtering by grade help? Imitation on a polluted dataset, on what the grader keeps of it, and on a random subset of that size.

Repetition 0 was looked at while the grader was made, so repetitions count from 1. Each spoils 30 % of the same clean episodes anew
(``pollution``), lets the grader choose without the labels (no defects: grade C or better, what ``gaitway dataset filter`` is told to
do), trains one policy on each dataset with the repetition's seed, and plays each policy on the simulated robot from the same starts. The
clean dataset is the ceiling. Every finished run is one line of ``filtering.jsonl`` in the folder, so a killed benchmark goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.config import parse_config
from cluster.lerobot.episodes import Episode
from cluster.lerobot.folder import write_dataset
from cluster.lerobot.info import load_info
from cluster.lerobot.metadata import DatasetSpec
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext
from tests.benchmarks.data.pollution import KINDS, pollute
from tests.benchmarks.records import markdown
from tests.benchmarks.scores import append, interval, read

__all__ = ["ARMS", "detection_table", "measure", "table"]

ARMS = ("polluted", "random subset", "filtered", "clean")
SHARE = 0.3
MIN_GRADE = "C"
EPISODES = 64
GAITS = ("walk_forward", "walk_backward", "trot_forward", "stand", "sit")


def measure(folder: Path, repetitions: int, seconds: float, epochs: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Do all runs that are missing, and return all.

    Args:
        folder: where datasets, runs and ``filtering.jsonl`` go.
        repetitions: spoilt datasets, and training seeds.
        seconds: recorded of each gait, in episodes of 5 s.
        epochs: of each training.
        say: told of each run.
    """
    from cluster.runtime.session import ray_session

    settings = Settings.from_environment({"GAITWAY_HOME": str(folder / "home"), "GAITWAY_EXPERIMENTS_PATH": str(folder / "experiments")})
    path, setting = folder / "filtering.jsonl", {"seconds": seconds, "epochs": epochs}

    def finished() -> list[dict[str, Any]]:
        return [run for run in read(path) if run["setting"] == setting and run["repetition"] <= repetitions]

    done = {(run["repetition"], run["arm"]) for run in finished()}
    missing = [(repetition, arm) for repetition in range(1, repetitions + 1) for arm in ARMS if (repetition, arm) not in done]
    if not missing:
        return finished()
    folder.mkdir(parents=True, exist_ok=True)
    with ray_session(settings):
        clean = _collect(folder / "clean", settings, seconds)
        for repetition in sorted({repetition for repetition, _ in missing}):
            arms, facts = _datasets(clean, folder / f"data-{repetition}", repetition, settings)
            for arm in ARMS:
                if (repetition, arm) not in missing:
                    continue
                scores = _train_and_play(arms[arm], folder / f"run-{repetition}-{arm.replace(' ', '-')}", repetition, epochs, settings)
                append(path, {"setting": setting, "repetition": repetition, "arm": arm, **scores, **(facts if arm == "filtered" else {})})
                say(f"repetition {repetition}  {arm:<14} return {scores['return']:8.2f}  validation loss {scores['validation_loss']:.4f}")
    return finished()


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return of each dataset's policies with its 95 % interval over the repetitions."""
    rows = []
    for arm in ARMS:
        own = [run for run in runs if run["arm"] == arm]
        if not own:
            continue
        found = interval([run["return"] for run in own])
        loss, falls = (np.mean([run[name] for run in own]) for name in ("validation_loss", "fell"))
        bounds = f"{found.mean - found.half_width:.2f} to {found.mean + found.half_width:.2f}"
        episodes = f"{np.mean([run['episodes'] for run in own]):.0f}"
        rows.append([arm, str(len(own)), episodes, f"{found.mean:.2f}", bounds, f"{loss:.4f}", f"{falls:.1%}"])
    header = ["dataset", "repetitions", "episodes", "return", "95 % interval", "validation loss", "falls"]
    return markdown(header, rows)


def detection_table(runs: Sequence[dict[str, Any]]) -> str:
    """What the grader found of each kind, over all repetitions, and what it took for spoilt that was not."""
    filtered = [run for run in runs if run["arm"] == "filtered"]
    planted, found = (sum((Counter(run[name]) for run in filtered), Counter()) for name in ("planted", "found"))
    wrong, checks = sum(run["false_alarms"] for run in filtered), sum((Counter(run["checks"]) for run in filtered), Counter())
    rows = [[kind, str(planted[kind]), str(found[kind]), _named(checks, kind)] for kind in KINDS]
    total, hit = sum(planted.values()), sum(found.values())
    rows.append(
        ["all", str(total), str(hit), f"recall {hit / total:.1%}, precision {hit / max(1, hit + wrong):.1%} ({wrong} false alarms)"]
    )
    return markdown(["kind", "planted", "found", "by"], rows)


def _named(checks: Counter[str], kind: str) -> str:
    own = {name.partition(":")[2]: count for name, count in checks.items() if name.startswith(f"{kind}:")}
    return ", ".join(f"{name} {count}" for name, count in sorted(own.items(), key=lambda item: -item[1]))


def _context(folder: Path, settings: Settings) -> StageContext:
    return StageContext(folder, settings, Progress(mode="quiet"), experiment="bench-data")


def _collect(folder: Path, settings: Settings, seconds: float) -> Path:
    from trainables import collect

    if not (folder / "data" / "meta" / "info.json").is_file():
        config = parse_config({"gaits": dict.fromkeys(GAITS, seconds), "robots_per_task": 10}, collect.Config)
        collect.run(config, _context(folder, settings))
    return folder / "data"


def _datasets(clean: Path, folder: Path, repetition: int, settings: Settings) -> tuple[dict[str, Path], dict[str, Any]]:
    """Write the datasets of a repetition; also what the grader found."""
    from trainables.datasets.quality.grading import grade_source
    from trainables.datasets.sources.lerobot import open_lerobot

    source = open_lerobot(clean)
    episodes = [episode for piece in source.pieces() for episode in source.read(piece)]
    info = load_info(clean)
    provenance = {name: value for name, value in info.gaitway.items() if name in ("task", "task_config", "robot", "references")}
    spec = DatasetSpec(source.fps, source.features, source.robot_type, provenance, validation_fraction=0.15, seed=repetition)
    spoilt, labels = pollute(episodes, SHARE, repetition)

    def write(name: str, chosen: Sequence[Episode]) -> Path:
        # The split is drawn anew: nobody who has a polluted dataset knows a clean part to validate on.
        free = [Episode(item.key, item.task, item.columns, item.about) for item in chosen]
        write_dataset(folder / name, free, spec, overwrite=True)
        return folder / name

    arms = {"polluted": write("polluted", spoilt), "clean": clean}
    grade = grade_source(open_lerobot(arms["polluted"]), settings=settings)
    # Episodes are numbered in the order of their keys, so both have the same.
    kept = grade.kept(MIN_GRADE)
    arms["filtered"] = write("filtered", [episode for episode in spoilt if episode.key in kept])
    drawn = np.random.default_rng([repetition, 32]).permutation(len(spoilt))[: len(kept)]
    arms["random subset"] = write("random", [spoilt[index] for index in sorted(drawn.tolist())])
    out = {episode.key: episode for episode in grade.episodes if episode.key not in kept}
    facts = {
        "planted": dict(Counter(labels.values())),
        "found": dict(Counter(kind for key, kind in labels.items() if key in out)),
        "false_alarms": sum(key not in labels for key in out),
        "false_reasons": [f"{item.task}: {item.reason}"[:300] for key, item in out.items() if key not in labels][:20],
        "checks": dict(
            Counter(f"{labels[key]}:{check}" for key, item in out.items() if key in labels for check in {d.check for d in item.defects})
        ),
    }
    return arms, facts


def _train_and_play(dataset: Path, folder: Path, seed: int, epochs: int, settings: Settings) -> dict[str, Any]:
    from trainables import imitate
    from trainables.envs.registry import make_robot_task
    from trainables.evaluation.controllers import TorchController
    from trainables.evaluation.rollout import run_episodes
    from trainables.networks.checkpoint import load_policy

    config = parse_config(
        {"dataset": str(dataset), "models": ["mlp"], "mlp": {"epochs": epochs}, "patience": epochs, "seed": seed}, imitate.Config
    )
    result = imitate.run(config, _context(folder, settings))
    policy, metadata = load_policy(Path(result["checkpoint"]))
    # All five gaits alike: what was recorded is what is asked for.
    asked = {**metadata["task_config"], "command": {"gaits": dict.fromkeys(GAITS, 1.0)}}
    task = make_robot_task(metadata["task"], EPISODES, asked, 0, reward_terms_in_info=False)
    try:
        played = run_episodes(task, TorchController(policy), EPISODES, seed=2_000_003)
    finally:
        task.close()
    return {
        "episodes": load_info(dataset).num_episodes,
        "return": float(played["return"].mean()),
        "forward_velocity_m_s": float(played["forward_velocity_m_s"].mean()),
        "fell": float(played["fell"].mean()),
        "validation_loss": float(result["validation_loss"]),
    }
