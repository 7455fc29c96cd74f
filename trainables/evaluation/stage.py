"""The evaluation stage: policies in, figures with intervals out."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.bundle import MANIFEST_FILE, Bundle
from cluster.config import write_text_atomic
from cluster.errors import GaitwayError
from cluster.stage import StageContext
from cluster.store.tracking import start_run
from trainables.envs.registry import make_robot_task
from trainables.envs.robot_task import RobotTask
from trainables.evaluation.config import EvaluationConfig
from trainables.evaluation.controllers import Controller, OnnxController, TorchController
from trainables.evaluation.metrics import Episodes, compare, summarise, with_full_length
from trainables.evaluation.report import to_markdown
from trainables.evaluation.rollout import run_episodes
from trainables.networks.checkpoint import load_policy
from trainables.networks.interface import RECORDED
from trainables.networks.policies import Policy
from trainables.networks.sources import find_checkpoints

__all__ = ["run_stage"]

LARGEST_BATCH = 64


@dataclass(frozen=True)
class _Source:
    """A policy to evaluate, from a checkpoint or a bundle."""

    path: Path
    task: str
    task_config: dict[str, Any] | None
    policy: Policy | None
    bundle: Bundle | None

    def controller(self, task: RobotTask) -> Controller:
        if self.policy is not None:
            return TorchController(self.policy)
        assert self.bundle is not None
        return OnnxController(self.bundle.onnx_path, task.action_scaling)


def run_stage(config: EvaluationConfig, context: StageContext) -> dict[str, Any]:
    """See ``trainables.evaluate.run``."""
    torch.set_num_threads(1)  # the networks are small; the physics threads need the cores
    sources = {name: _load(path) for name, path in find_checkpoints(config.policies, context).items()}
    task_name, task_config = _setting(config, sources)
    num_envs = config.num_envs or min(config.episodes, LARGEST_BATCH)
    tables: dict[str, Episodes] = {}
    with context.progress.task("evaluate", unit="robot steps") as progress:
        steps = 0

        def on_step(count: int) -> None:
            nonlocal steps
            steps += count
            progress.update(steps, message=name)

        for name, source in sources.items():
            task = make_robot_task(task_name, num_envs, task_config, config.seed, reward_terms_in_info=False)
            progress.total = len(sources) * -(-config.episodes // num_envs) * num_envs * task.config.max_episode_steps
            try:
                _check_fit(source, task)
                episodes = run_episodes(task, source.controller(task), config.episodes, config.seed, on_step)
                tables[name] = with_full_length(episodes, task.config.max_episode_steps)
            finally:
                task.close()
        report = _report(config, task_name, task_config, sources, tables)
        velocities = {
            f"{name}_m_s": table["forward_velocity_m_s"].mean() for name, table in tables.items() if "forward_velocity_m_s" in table
        }
        progress.update(message="", **velocities)
    return _write(report, tables, context)


def _load(path: Path) -> _Source:
    if (path / MANIFEST_FILE).exists():
        bundle = Bundle.load(path)
        return _Source(path, bundle.contract.task, None, None, bundle)
    policy, metadata = load_policy(path)
    return _Source(path, metadata["task"], metadata["task_config"], policy, None)


def _setting(config: EvaluationConfig, sources: dict[str, _Source]) -> tuple[str, dict[str, Any]]:
    """Task and task settings: one for all policies, under the physics asked for."""
    tasks = {source.task for source in sources.values()}
    if len(tasks) > 1:
        raise GaitwayError(f"evaluation: the policies belong to different tasks ({', '.join(sorted(tasks))}); evaluate each task by itself")
    if RECORDED in tasks:
        path = next(source.path for source in sources.values() if source.task == RECORDED)
        raise GaitwayError(
            f"{path}: learned from recordings, which have no simulated task to play it in; imitation wrote its error along held-out "
            "episodes to open_loop.json, and on the robot versions are compared live (`gaitway ab start`)"
        )
    known = [source.task_config for source in sources.values() if source.task_config is not None]
    task_config = config.task_config if config.task_config is not None else (known[-1] if known else {})
    physics = {"preset": config.physics, "num_threads": config.num_threads or os.cpu_count() or 1}
    return tasks.pop(), {**task_config, "physics": {**(task_config.get("physics") or {}), **physics}}


def _check_fit(source: _Source, task: RobotTask) -> None:
    if source.policy is not None:
        sizes = source.policy.observation_size, source.policy.action_size
    else:
        assert source.bundle is not None
        sizes = source.bundle.contract.observation_size, source.bundle.contract.action_size
    if sizes != (task.observation_size, task.action_size):
        wanted = (task.observation_size, task.action_size)
        raise GaitwayError(
            f"{source.path}: the policy maps {sizes[0]} numbers to {sizes[1]}; the task {task.name} wants {wanted[0]} to {wanted[1]}"
        )


def _report(
    config: EvaluationConfig, task: str, task_config: dict[str, Any], sources: dict[str, _Source], tables: dict[str, Episodes]
) -> dict[str, Any]:
    options: dict[str, Any] = {"seed": config.seed, "resamples": config.resamples}
    first, *others = tables
    return {
        "setting": {
            "task": task,
            "task_config": task_config,
            **config.model_dump(mode="json", include={"episodes", "physics", "seed", "resamples"}),
        },
        "sources": {name: str(source.path) for name, source in sources.items()},
        "policies": {name: summarise(table, **options) for name, table in tables.items()},
        "comparisons": [
            {"challenger": name, "champion": first, "metrics": compare(tables[name], tables[first], **options)} for name in others
        ],
    }


def _write(report: dict[str, Any], tables: dict[str, Episodes], context: StageContext) -> dict[str, Any]:
    folder = context.folder / "evaluation"
    json_path, markdown_path = folder / "evaluation.json", folder / "evaluation.md"
    write_text_atomic(folder / "episodes.json", json.dumps({n: {k: v.tolist() for k, v in t.items()} for n, t in tables.items()}) + "\n")
    write_text_atomic(markdown_path, to_markdown(report))
    write_text_atomic(json_path, json.dumps(report, indent=1) + "\n")
    tags = {"gaitway.stage": "evaluate", "gaitway.run_folder": str(context.folder)}
    with start_run(context.settings, context.experiment, "evaluation", tags=tags, params=report["setting"]) as run:
        for name, summary in report["policies"].items():
            run.log_metrics({f"{name}/{metric}": entry["mean"] for metric, entry in summary.items()})
        run.log_artifact(markdown_path)
        run.log_artifact(json_path)
    return {
        "policies": report["policies"],
        "comparisons": report["comparisons"],
        "json": str(json_path),
        "markdown": str(markdown_path),
    }
