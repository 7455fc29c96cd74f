"""The imitation stage: dataset in, two policy checkpoints, their loss curves and an MLflow run out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cluster.config import write_text_atomic
from cluster.errors import GaitwayError
from cluster.lerobot.info import DatasetInfo
from cluster.lerobot.split import split_episodes
from cluster.runtime.session import ray_session
from cluster.stage import StageContext
from cluster.store.tracking import TrackedRun, start_run
from trainables.datasets.lerobot import load_info, read_dataset
from trainables.envs.registry import make_robot_task
from trainables.envs.robot_task import RobotTask
from trainables.imitation.config import ImitationConfig, LstmConfig, MlpConfig
from trainables.imitation.frames import COLUMNS
from trainables.imitation.loop import TrainSpec
from trainables.imitation.plot import plot_history
from trainables.imitation.trainer import discard, train_models
from trainables.networks.checkpoint import save_policy
from trainables.networks.policies import build_policy

__all__ = ["run_stage"]

FOLDERS = {"mlp": "policy", "simple_lstm": "lstm"}
"""Checkpoint folder of each model below ``imitation_model``."""
RUN_FILE = ".training.json"
"""The MLflow run of a training under way."""


def run_stage(config: ImitationConfig, context: StageContext) -> dict[str, Any]:
    """See ``trainables.imitate.run``."""
    info = load_info(config.dataset or Path(context.result("collect", "dataset")))
    task = task_of(info)
    try:
        spec = make_spec(config, info, task)
    finally:
        task.close()
    folder = context.folder / "imitation_model"
    folder.mkdir(parents=True, exist_ok=True)
    name = _identity(config, info, folder)
    storage = context.settings.shared_path / "imitation"
    epochs = {model: getattr(config, model).epochs for model in config.models}
    seen: dict[str, set[int]] = {model: set() for model in config.models}
    with (
        context.progress.task("imitate", total=sum(epochs.values()), unit="epochs") as progress,
        _tracked_run(config, context, info, folder, name) as run,
        ray_session(context.settings),
    ):

        def on_rows(model: str, rows: list[dict[str, float]]) -> None:
            _log(run, model, rows)
            seen[model].update(int(row["epoch"]) for row in rows)
            finished = sum(epochs[other] for other in config.models[: config.models.index(model)])
            progress.update(finished + rows[-1]["epoch"], message=model, validation_loss=rows[-1]["validation_loss"])

        progress.update(0, message="starting Ray Train")
        states = train_models(read_dataset(info.path, columns=COLUMNS), spec, storage, name, folder / ".ray_train", on_rows)
        history = {
            model: {"best_epoch": state["best_epoch"], "best_loss": state["best_loss"], "rows": state["history"]}
            for model, state in states.items()
        }
        for model, record in history.items():
            # What a killed attempt trained was reported to that attempt, and may have died with it.
            _log(run, model, [row for row in record["rows"] if int(row["epoch"]) not in seen[model]])
            run.log_metrics({f"{model}/best_validation_loss": record["best_loss"]}, step=record["best_epoch"])
        checkpoints = {model: _save(model, state, config, info, folder, run.run_id) for model, state in states.items()}
        write_text_atomic(folder / "history.json", json.dumps(history, indent=1) + "\n")
        plot_history(history, folder / "loss_curves.png")
        run.log_artifact(folder / "loss_curves.png")
        run.log_artifact(folder / "history.json")
        progress.update(sum(epochs.values()), message="", **{f"{model}_loss": record["best_loss"] for model, record in history.items()})
    discard(storage, name)
    (folder / RUN_FILE).unlink(missing_ok=True)
    losses = {model: record["best_loss"] for model, record in history.items()}
    return {
        "checkpoint": checkpoints.get("mlp"),
        "lstm_checkpoint": checkpoints.get("simple_lstm"),
        "validation_loss": losses.get("mlp"),
        "lstm_validation_loss": losses.get("simple_lstm"),
        "plot": str(folder / "loss_curves.png"),
        "run_id": run.run_id,
    }


def task_of(info: DatasetInfo) -> RobotTask:
    """The task that a dataset was made on. Raises ``GaitwayError`` when it does not say."""
    if not info.gaitway.get("task"):
        raise GaitwayError(
            f"{info.path}: does not say which task its observations belong to (no meta/gaitway.json); "
            "use a dataset of `gaitway dataset collect` or `gaitway dataset import`"
        )
    return make_robot_task(info.gaitway["task"], 1, info.gaitway.get("task_config") or {})


def make_spec(config: ImitationConfig, info: DatasetInfo, task: RobotTask) -> TrainSpec:
    """What the workers are told, after checking that dataset, task and configuration fit together."""
    info.check_columns(COLUMNS)
    for column, size in (("observation.state", task.observation_size), ("action", task.action_size)):
        if info.features[column].shape != (size,):
            raise GaitwayError(f"{info.path}: {column} has shape {info.features[column].shape}; the task {task.name} wants ({size},)")
    fields: dict[str, slice] = {}
    start = 0
    for field in task.observation_fields:
        fields[field.name] = slice(start, start + field.size)
        start += field.size
    wanted = {*config.mlp.exact_fields, config.simple_lstm.input_field}
    if unknown := sorted(wanted - set(fields)):
        raise GaitwayError(f"imitation: the task {task.name} has no observation field {unknown[0]!r}; it has: {', '.join(fields)}")
    splits = info.splits
    if not splits.get("validation") and info.num_episodes > 1:
        tasks = [episode.tasks[0] if episode.tasks else "" for episode in info.episodes]
        positions = split_episodes(tasks, 0.1, config.seed)
        splits = {name: tuple(info.episodes[index].index for index in indices) for name, indices in positions.items()}
    return TrainSpec(config, task.action_scaling, fields, splits["train"], splits.get("validation", ()))


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


def _log(run: TrackedRun, model: str, rows: list[dict[str, float]]) -> None:
    for row in rows:
        run.log_metrics({f"{model}/{key}": value for key, value in row.items() if key != "epoch"}, step=int(row["epoch"]))


def _save(model: str, state: dict[str, Any], config: ImitationConfig, info: DatasetInfo, folder: Path, run_id: str) -> str:
    """Write the best weights as a policy checkpoint and return its folder."""
    target = folder / FOLDERS[model]
    save_best(model, state, config, info, target, {"run_id": run_id})
    return str(target)


def save_best(model: str, state: dict[str, Any], config: ImitationConfig, info: DatasetInfo, target: Path, extra: dict[str, Any]) -> None:
    """Write the best weights of a fit's state as a policy checkpoint; ``extra`` goes into its metadata."""
    policy = build_policy(state["architecture"])
    policy.load_state_dict(state["best"])
    section: MlpConfig | LstmConfig = getattr(config, model)
    metadata = {
        "task": info.gaitway["task"],
        "task_config": info.gaitway.get("task_config") or {},
        "source": "imitation",
        "dataset": str(info.path),
        "dataset_digest": info.digest or "",
        "dataset_tasks": list(info.tasks),
        "seed": config.seed,
        "validation_loss": state["best_loss"],
        "epochs": state["epoch"],
        "best_epoch": state["best_epoch"],
        "config": section.model_dump(mode="json"),
        **extra,
    }
    save_policy(policy, target, metadata)
