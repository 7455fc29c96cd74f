"""Runs a sweep under Tune, from a fresh folder or from what a killed driver left in it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config import write_text_atomic
from cluster.errors import ClusterError, GaitwayError
from cluster.stage import StageContext
from trainables.sweeps.config import Domain, SweepConfig, sample_default
from trainables.sweeps.results import BestCheckpoint, CheckpointRecord, TrialRecord, select_best
from trainables.sweeps.score import SCORE, is_figure

__all__ = ["SweepOutcome", "run_sweep"]

EXPERIMENT = "tune"


@dataclass(frozen=True)
class SweepOutcome:
    """What a finished sweep leaves."""

    trials: tuple[TrialRecord, ...]
    best: BestCheckpoint
    run_id: str
    """MLflow run of the sweep; the trials' runs are its children."""


def run_sweep(config: SweepConfig, context: StageContext, folder: Path) -> SweepOutcome:
    """Run or resume the sweep whose Tune experiment is ``folder/tune``; Ray must be connected.

    Raises ``GaitwayError`` when every trial failed (with the first cause), ``ClusterError`` when no node has room for a trial.
    """
    _check_room(config)
    _prepare_process()
    from ray import tune
    from ray.tune import ResultGrid

    from trainables.sweeps.monitor import SweepMonitor
    from trainables.sweeps.scheduler import make_scheduler
    from trainables.sweeps.trial import PPOTrial

    experiment = folder / EXPERIMENT
    resuming = _claim(config, folder)
    bundles = config.ppo.resource_bundles(config.cpus_per_trial)
    budget = config.ppo.total_env_steps
    scheduler = None
    if config.scheduler:
        scheduler = make_scheduler(config.scheduler.grace_period_env_steps, config.scheduler.reduction_factor, budget, experiment)
    with context.progress.task("sweep", total=float(budget * config.num_trials), unit="env steps") as task:
        monitor = SweepMonitor(
            context.settings,
            context.experiment,
            "sweep",
            {"metric": config.metric, "mode": config.mode, "num_trials": config.num_trials, "ppo": config.ppo.model_dump(mode="json")},
            folder / "mlflow.json",
            task,
            config.metric,
            budget,
        )
        try:
            analysis = tune.run(
                tune.with_resources(PPOTrial, tune.PlacementGroupFactory(bundles)),
                name=EXPERIMENT,
                storage_path=str(folder),
                config={
                    "sweep": config.model_dump(mode="json"),
                    "sample": {path: _tune(domain) for path, domain in config.search_space.items()},
                },
                num_samples=config.num_trials,
                metric=SCORE,
                mode="max",
                scheduler=scheduler,
                search_alg=tune.search.BasicVariantGenerator(
                    points_to_evaluate=[_default_point(config)] if config.search_space else None,
                    max_concurrent=config.max_concurrent_trials or 0,
                    random_state=config.seed,
                ),
                checkpoint_config=tune.CheckpointConfig(
                    num_to_keep=2, checkpoint_score_attribute=SCORE, checkpoint_score_order="max", checkpoint_frequency=1
                ),
                time_budget_s=config.time_budget_s,
                max_failures=config.max_failures,
                raise_on_failed_trial=False,
                reuse_actors=True,
                resume_config=tune.ResumeConfig(errored=tune.ResumeConfig.ResumeType.RESUME) if resuming else None,
                callbacks=[monitor],
                verbose=0,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            )
            results = ResultGrid(analysis)
            trials = [_record(result, config) for result in results]
            best = select_best(trials)
            if best is None:
                raise _all_failed(results)
        except BaseException:
            monitor.abandon()
            raise
        tags = {"best_trial": best.trial.trial_id, "best_sample": json.dumps(best.trial.sample)}
        figures = {f"best/{config.metric}": best.checkpoint.value, "best/env_steps": best.checkpoint.env_steps}
        monitor.close({name: value for name, value in figures.items() if value is not None}, tags)
        failed = sum(trial.status == "failed" for trial in trials)
        task.update(message=f"{len(trials)} trials" + (f", {failed} failed" if failed else "") + f", best {best.trial.trial_id}")
    return SweepOutcome(tuple(trials), best, monitor.parent.run_id)


def _tune(domain: Domain) -> Any:
    from ray import tune

    for name, value in domain:
        if value is not None:
            return tune.choice(list(value)) if name == "choice" else getattr(tune, name)(*value)
    raise AssertionError("a domain has one form")


def _default_point(config: SweepConfig) -> dict[str, Any]:
    """The configuration as written, for the first trial; a parameter without a value is drawn like the others."""
    values = {path: sample_default(config.ppo, path) for path in config.search_space}
    return {"sample": {path: value for path, value in values.items() if value is not None}}


def _claim(config: SweepConfig, folder: Path) -> bool:
    """Make the folder this configuration's; True when an unfinished experiment of the same configuration is there to be resumed."""
    marker, experiment = folder / "sweep.json", folder / EXPERIMENT
    warm_start = config.ppo.warm_start
    weights = hashlib.sha256((warm_start / "policy.pt").read_bytes()).hexdigest() if warm_start else None
    identity = json.dumps({"config": config.model_dump(mode="json"), "warm_start_sha256": weights}, indent=2) + "\n"
    same = marker.is_file() and marker.read_text(encoding="utf-8") == identity
    resuming = same and any(experiment.glob("experiment_state-*.json"))
    if not resuming:
        shutil.rmtree(experiment, ignore_errors=True)
        if not same:
            (folder / "mlflow.json").unlink(missing_ok=True)
        write_text_atomic(marker, identity)
    return resuming


def _check_room(config: SweepConfig) -> None:
    """Tune would wait for ever, in silence, for CPUs that no node has."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    bundles, ppo = config.ppo.resource_bundles(config.cpus_per_trial), config.ppo
    for resource in ("CPU", "GPU"):
        amounts = [bundle.get(resource, 0.0) for bundle in bundles]
        largest = max((node.get(resource, 0.0) for node in nodes), default=0.0)
        total = sum(node.get(resource, 0.0) for node in nodes)
        if largest < max(amounts) or total < sum(amounts):
            raise ClusterError(
                f"one trial needs {sum(amounts):g} {resource}s ({max(amounts):g} in one process, {ppo.num_env_runners} env runners, "
                f"{ppo.num_learners} learners), the cluster has {total:g} and its largest node {largest:g}; lower cpus_per_trial, "
                "ppo.num_env_runners, ppo.num_learners or ppo.gpus_per_learner"
            )


def _prepare_process() -> None:
    """Keep Tune's pages, its advice and its chdir out of the way, and its snapshots frequent: a crash costs what came after the last."""
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "2")
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.")
    logging.getLogger("ray.tune").setLevel(logging.ERROR)


def _record(result: Any, config: SweepConfig) -> TrialRecord:
    history = result.metrics_dataframe
    reports = [] if history is None else [row for row in history.to_dict("records") if SCORE in row]
    checkpoints = tuple(
        CheckpointRecord(checkpoint.path, int(metrics["env_steps"]), float(metrics[SCORE]), _number(metrics, config.metric))
        for checkpoint, metrics in result.best_checkpoints
    )
    metrics = result.metrics or {}
    env_steps = int(metrics.get("env_steps", 0))
    ended = "finished" if env_steps >= config.ppo.total_env_steps else "stopped early"
    best = max(reports, key=lambda report: report[SCORE], default=None)
    return TrialRecord(
        trial_id=metrics.get("trial_id") or Path(result.path).name,
        status=ended if result.error is None else "failed",
        sample=(result.config or {}).get("sample", {}),
        env_steps=env_steps,
        last_value=_number(metrics, config.metric),
        best_value=None if best is None else _number(best, config.metric),
        best_env_steps=None if best is None else int(best["env_steps"]),
        error=None if result.error is None else _cause(result),
        warm_start_error=max(
            (float(report["warm_start_error"]) for report in reports if report.get("warm_start_error") is not None), default=None
        ),
        last_figures={name: float(value) for name, value in metrics.items() if is_figure(name, value)},
        checkpoints=checkpoints,
    )


def _number(figures: Mapping[str, Any], name: str) -> float | None:
    """A figure of a report; None when it is not there (a data frame fills the gap with NaN)."""
    value = figures.get(name)
    return None if value is None or math.isnan(value) else float(value)


def _cause(result: Any) -> str:
    """The last exception of a failed trial's traceback that says something, without Ray's layers around it.

    RLlib wraps what an environment raises in a RuntimeError without a message; only Tune's error file has the whole chain.
    """
    written = _error_file(result)
    text = written.read_text(encoding="utf-8", errors="replace") if written.is_file() else str(result.error)
    lines = [line for line in text.splitlines() if line.strip()]
    spoken = [line for line in lines if re.match(r"[A-Za-z_][\w.]*: \S", line)]
    return (spoken or lines or [type(result.error).__name__])[-1].strip()[:300]


def _error_file(result: Any) -> Path:
    return Path(result.path) / "error.txt"


def _all_failed(results: Any) -> GaitwayError:
    first = next((result for result in results if result.error is not None), None)
    if first is None:
        return GaitwayError("no trial got as far as a checkpoint; give the sweep more time (time_budget_s) or env steps")
    return GaitwayError(f"all {len(results)} trials failed; the first: {_cause(first)} (log: {_error_file(first)})")
