"""The imitation stage: dataset in; policy checkpoints, curves, an open-loop report and an MLflow run out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.config import write_text_atomic
from cluster.lerobot.info import DatasetInfo
from cluster.runtime.session import ray_session
from cluster.stage import StageContext
from cluster.store.tracking import TrackedRun, start_run
from trainables.datasets.catalogue import find_dataset
from trainables.datasets.lerobot import load_info
from trainables.imitation.config import ImitationConfig
from trainables.imitation.dagger import Lineage, dagger_gaits, run_dagger
from trainables.imitation.reading import Part
from trainables.imitation.results import FOLDERS, curve_lines, main_model, report_open_loop, save_best, write_history
from trainables.imitation.spec import TrainSpec, make_spec
from trainables.imitation.trainer import discard, train_models

__all__ = ["run_stage"]

RUN_FILE = ".training.json"
"""The MLflow run of a training under way."""


def run_stage(config: ImitationConfig, context: StageContext) -> dict[str, Any]:
    """See ``trainables.imitate.run``."""
    info = load_info(_dataset(config, context))
    spec = make_spec(config, info, context.settings)
    if config.algorithm == "dagger":
        dagger_gaits(info)
    folder = context.folder / "imitation_model"
    folder.mkdir(parents=True, exist_ok=True)
    name = _identity(config, info, folder)
    storage = context.settings.shared_path / "imitation"
    epochs = {model: getattr(config, model).epochs for model in config.models}
    rounds = 1 + (config.dagger.rounds if config.algorithm == "dagger" else 0)
    total = rounds * sum(epochs.values())
    with (
        context.progress.task("imitate", total=total, unit="epochs") as progress,
        _tracked_run(config, context, info, folder, name) as run,
        ray_session(context.settings),
    ):
        # A killed attempt's epochs too: what comes after the last checkpoint is trained again, to the same values.
        logged = {model: run.logged_steps(f"{model}/train_loss") for model in config.models}

        def train(number: int, parts: Sequence[Part], spec: TrainSpec) -> dict[str, dict[str, Any]]:
            before = number * sum(epochs.values())
            label = f"round {number} " if rounds > 1 else ""

            def on_rows(model: str, rows: list[dict[str, float]]) -> None:
                _log(run, model, rows, number, epochs[model], logged[model])
                finished = before + sum(epochs[other] for other in config.models[: config.models.index(model)])
                progress.update(finished + rows[-1]["epoch"], message=f"{label}{model}", validation_loss=rows[-1]["validation_loss"])

            progress.update(before, message=f"{label}starting Ray Train")
            identity = f"{name}-round{number}" if rounds > 1 else name
            states = train_models(parts, spec, storage, identity, folder / ".ray_train", on_rows)
            for model, state in states.items():
                # What a killed attempt trained was reported to that attempt, and may have died with it.
                _log(run, model, state["history"], number, epochs[model], logged[model])
            return states

        extra: dict[str, Any] = {"run_id": run.run_id}
        if config.algorithm == "dagger":
            states, spec, lineage = run_dagger(spec, info, folder / "dagger", name, context.settings, train)
            extra |= {"dataset_digest": _digest(lineage), "lineage": lineage}
        else:
            states = train(0, [Part(info.path)], spec)
        history = write_history(states, config, folder)
        checkpoints = {model: str(folder / FOLDERS[model]) for model in states}
        for model, state in states.items():
            run.log_metrics({f"{model}/best_validation_loss": state["best_loss"]}, step=state["best_epoch"])
            save_best(model, state, spec, info, Path(checkpoints[model]), extra)
        # Along the dataset's own episodes, also after DAgger: what the policy saw of itself is no recording.
        open_loop = report_open_loop(checkpoints, _own_episodes(spec, info), info, folder, run)
        run.log_artifact(folder / "loss_curves.png")
        run.log_artifact(folder / "history.json")
        progress.update(total, message="", **{f"{model}_loss": record["best_loss"] for model, record in history.items()})
    for number in range(rounds):
        discard(storage, f"{name}-round{number}" if rounds > 1 else name)
    (folder / RUN_FILE).unlink(missing_ok=True)
    for line in curve_lines(history):
        context.progress.say(line)
    for model, report in open_loop.items():
        context.progress.say(f"  {model:<12} held-out episodes: {' '.join(report['verdict'])}")
    losses = {model: record["best_loss"] for model, record in history.items()}
    main = main_model(config.models)
    return {
        "checkpoint": checkpoints[main] if main else None,
        "lstm_checkpoint": checkpoints.get("simple_lstm"),
        "validation_loss": losses[main] if main else None,
        "lstm_validation_loss": losses.get("simple_lstm"),
        "plot": str(folder / "loss_curves.png"),
        "run_id": run.run_id,
        "checkpoints": checkpoints,
        "validation_losses": losses,
        "open_loop": {model: _summary(report) for model, report in open_loop.items()},
        "dataset_digest": extra.get("dataset_digest", info.digest or ""),
    }


def _own_episodes(spec: TrainSpec, info: DatasetInfo) -> TrainSpec:
    """``spec`` with the dataset's own episodes only, without those that DAgger added."""
    own = {episode.index for episode in info.episodes}
    sides = {side: tuple(index for index in getattr(spec, side) if index in own) for side in ("train_episodes", "validation_episodes")}
    return replace(spec, **sides)


def _dataset(config: ImitationConfig, context: StageContext) -> Path:
    """The configured folder or named dataset; else what the stage prepare made, else the stage collect."""
    if config.dataset is None:
        return Path(context.result("prepare" if "prepare" in context.results else "collect", "dataset"))
    return find_dataset(context.settings, str(config.dataset))


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    """Mean errors as shares of the components' half range, and what they say."""
    return {**{key: value["mean"] for key, value in report.items() if isinstance(value, dict)}, "verdict": report["verdict"]}


def _digest(lineage: Lineage) -> str:
    """Of an aggregated dataset: of its parts' digests in order."""
    return hashlib.sha256(json.dumps([part["digest"] for part in lineage]).encode()).hexdigest()


def _identity(config: ImitationConfig, info: DatasetInfo, folder: Path) -> str:
    """Equal exactly when a killed training may be continued: same place, same data, same configuration."""
    made_of = {
        "folder": str(folder),
        "dataset": info.digest or [str(info.path), info.num_frames],
        "config": config.model_dump(mode="json", exclude={"dataset"}),
    }
    return "imitation-" + hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def _tracked_run(config: ImitationConfig, context: StageContext, info: DatasetInfo, folder: Path, name: str) -> TrackedRun:
    """A new MLflow run, or the one that a killed attempt at the same training began."""
    file = folder / RUN_FILE
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        earlier = {}
    if earlier.get("name") == name:
        return start_run(context.settings, context.experiment, "imitation", run_id=earlier["run_id"])
    tags = {"gaitway.stage": "imitate", "gaitway.run_folder": str(context.folder), "gaitway.dataset_digest": info.digest or ""}
    run = start_run(context.settings, context.experiment, "imitation", tags=tags, params=config.model_dump(mode="json"))
    write_text_atomic(file, json.dumps({"name": name, "run_id": run.run_id}))
    return run


def _step(row: dict[str, float], number: int, epochs: int) -> int:
    """An epoch's place on MLflow's axis; rounds follow each other."""
    return number * epochs + int(row["epoch"])


def _log(run: TrackedRun, model: str, rows: list[dict[str, float]], number: int, epochs: int, logged: set[int]) -> None:
    """Write those rows whose steps are not ``logged``, and add them there."""
    for row in rows:
        step = _step(row, number, epochs)
        if step not in logged:
            run.log_metrics({f"{model}/{key}": value for key, value in row.items() if key != "epoch"}, step=step)
            logged.add(step)
