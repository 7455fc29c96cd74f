"""What a training leaves: policy checkpoints, curves, the open-loop report, and their traces in MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.config import write_text_atomic
from cluster.lerobot.info import DatasetInfo
from cluster.store.tracking import TrackedRun
from trainables.imitation.config import ChunkConfig, ImitationConfig
from trainables.imitation.open_loop import held_out_episodes, measure, plans_along
from trainables.imitation.plot import plot_history, plot_open_loop, sparkline
from trainables.imitation.spec import TrainSpec
from trainables.networks.checkpoint import load_policy, save_policy
from trainables.networks.policies import Policy, build_policy

__all__ = ["FOLDERS", "best_policy", "curve_lines", "main_model", "report_open_loop", "save_best", "write_history"]

FOLDERS = {"mlp": "policy", "simple_lstm": "lstm", "lstm": "full_lstm", "chunk": "chunk"}
"""Checkpoint folder of each model below ``imitation_model``."""
LOSS_NAMES = {"l1": "mean absolute error", "mse": "mean squared error"}


def main_model(models: tuple[str, ...]) -> str | None:
    """The model that later stages mean by ``imitation``: the MLP, or where it was left out the first that reads the whole observation."""
    return next((name for name in ("mlp", *models) if name in models and name != "simple_lstm"), None)


def best_policy(state: Mapping[str, Any]) -> Policy:
    """The kept weights of a fit's state."""
    policy = build_policy(dict(state["architecture"]))
    policy.load_state_dict(state["best"])
    return policy.eval()


def save_best(model: str, state: Mapping[str, Any], spec: TrainSpec, info: DatasetInfo, target: Path, extra: Mapping[str, Any]) -> None:
    """Write the best weights of a fit's state as a policy checkpoint; ``extra`` goes into its metadata."""
    config: ImitationConfig = spec.config
    interface = spec.interface
    metadata = {
        "task": interface.task,
        "task_config": dict(interface.task_config),
        "source": "imitation",
        "algorithm": config.algorithm,
        "dataset": str(info.path),
        "dataset_digest": info.digest or "",
        "dataset_tasks": list(info.tasks),
        "seed": config.seed,
        "validation_loss": state["best_loss"],
        "epochs": state["epoch"],
        "best_epoch": state["best_epoch"],
        "batch_size": state["batch_size"],
        "config": getattr(config, model).model_dump(mode="json"),
        **({"interface": interface.to_json()} if interface.is_recorded else {}),
        **extra,
    }
    save_policy(best_policy(state), target, metadata)


def write_history(states: Mapping[str, Mapping[str, Any]], config: ImitationConfig, folder: Path) -> dict[str, dict[str, Any]]:
    """``history.json`` and ``loss_curves.png``; returns the former."""
    history = {
        model: {
            "best_epoch": state["best_epoch"],
            "best_loss": state["best_loss"],
            "loss": LOSS_NAMES[getattr(config, model).loss if isinstance(getattr(config, model), ChunkConfig) else "mse"],
            "batch_size": state["batch_size"],
            "rows": state["history"],
        }
        for model, state in states.items()
    }
    write_text_atomic(folder / "history.json", json.dumps(history, indent=1) + "\n")
    plot_history(history, folder / "loss_curves.png")
    return history


def curve_lines(history: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Each model's validation loss as a line of text."""
    lines = []
    for model, record in history.items():
        losses = [row["validation_loss"] for row in record["rows"]]
        kept = f"{record['best_loss']:.3g} (epoch {record['best_epoch']} of {len(losses)})"
        lines.append(f"  {model:<12} {sparkline(losses)}  {losses[0]:.3g} -> {kept}")
    return lines


def report_open_loop(checkpoints: Mapping[str, str], spec: TrainSpec, info: DatasetInfo, folder: Path, run: TrackedRun) -> dict[str, Any]:
    """Measure every model along the held-out episodes: ``open_loop.json``, ``open_loop.png``, figures in MLflow and in the checkpoints.

    Returns:
        ``measure``'s report by model.
    """
    episodes = held_out_episodes(info, spec)
    if not episodes:
        return {}
    reports, first = {}, {}
    for model, place in checkpoints.items():
        policy, metadata = load_policy(Path(place))
        stride = spec.config.chunk.history_stride if model == "chunk" else 1
        plans = [plans_along(policy, spec.interface, episode.observation, stride) for episode in episodes]
        reports[model] = measure(plans, episodes, spec.interface, spec.config.ensemble_decay)
        first[model] = plans[0]
        architecture = metadata.pop("architecture")
        assert architecture == policy.architecture()
        save_policy(policy, Path(place), {**metadata, "open_loop": reports[model]})
        figures = {key: value["mean"] for key, value in reports[model].items() if isinstance(value, dict)}
        run.log_metrics({f"{model}/open_loop/{key}": value for key, value in figures.items()})
    write_text_atomic(folder / "open_loop.json", json.dumps(reports, indent=1) + "\n")
    plot_open_loop(first, episodes[0].action, spec.interface, episodes[0].episode, folder / "open_loop.png")
    for name in ("open_loop.json", "open_loop.png"):
        run.log_artifact(folder / name)
    return reports
