"""Runs a sweep under Tune, from a fresh folder or from what a killed driver left in it."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cluster.errors import GaitwayError, StoreError
from cluster.stage import StageContext
from trainables.imitation.config import ImitationConfig
from trainables.ppo.config import PPOConfig
from trainables.sweeps.choices import Pb2Config, PbtConfig
from trainables.sweeps.config import SweepConfig
from trainables.sweeps.place import EXPERIMENT, SweepPlace
from trainables.sweeps.records import SweepInfo, TrialRecord, now
from trainables.sweeps.results import BestCheckpoint, CheckpointRecord, select_best
from trainables.sweeps.room import concurrent_trials
from trainables.sweeps.score import SCORE
from trainables.sweeps.searchers import make_search, tune_space
from trainables.sweeps.snapshots import KEPT_BEST, Snapshots

__all__ = ["SweepOutcome", "run_sweep"]


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep leaves."""

    trials: tuple[TrialRecord, ...]
    best: BestCheckpoint | None
    """None when the sweep was stopped before any trial had a checkpoint."""
    run_id: str
    """MLflow run of the sweep; the trials' runs are its children."""
    status: str
    """finished | stopped"""
    reason: str
    """Why the sweep ended before its trials did; empty otherwise."""


def run_sweep(config: SweepConfig, context: StageContext, place: SweepPlace) -> SweepOutcome:
    """Run or resume a sweep; Ray must be connected and have room for a trial (``room.check_room``).

    Args:
        config: the sweep; ``ppo.warm_start`` is a folder of this machine.
        context: where progress and MLflow are.
        place: where its record and its trials' checkpoints are.

    Raises ``GaitwayError`` when every trial failed, with the first cause.
    """
    _prepare_process()
    from ray import tune
    from ray.tune import ResultGrid

    from trainables.sweeps.ledger import Ledger
    from trainables.sweeps.monitor import SweepMonitor
    from trainables.sweeps.reports import PROGRESS
    from trainables.sweeps.schedulers import make_scheduler
    from trainables.sweeps.stopper import SweepStopper
    from trainables.sweeps.tracker import SweepTracker

    swept = config.swept
    info = _info(config, context)
    snapshots = Snapshots(place.storage.below(EXPERIMENT), keep_all=isinstance(config.scheduler, (PbtConfig, Pb2Config)))
    resuming = place.claim(info)
    ledger = Ledger(place.folder, replace(info, created_at=place.created_at or info.created_at), config)
    past = ledger.past.reports if resuming else ledger.past.reports.head(0)
    stopper = SweepStopper(config, spent=ledger.work)
    scheduler = make_scheduler(config, past[["trial", "progress", "score"]].itertuples(index=False, name=None), ledger.cloned)
    search, num_samples = make_search(config, concurrent_trials(config))
    params = {"metric": config.metric_name, "mode": config.direction, "scheduler": info.scheduler, "searcher": info.searcher}
    params |= {"num_trials": config.total_trials, swept.kind: swept.base.model_dump(mode="json")}
    with context.progress.task("sweep", total=float(swept.budget * config.total_trials), unit=swept.unit.replace("_", " ")) as task:
        tracker = SweepTracker(context.settings, context.experiment, context.folder.name, params, place.folder, ledger.tracked)
        monitor = SweepMonitor(config, ledger, tracker, stopper, task, place, snapshots)
        loggers = _loggers(context)
        status, reason = "failed", "the sweep failed"
        try:
            analysis = tune.run(
                tune.with_resources(_trainable(config), tune.PlacementGroupFactory(swept.bundles(config.cpus_per_trial))),
                name=EXPERIMENT,
                storage_path=place.storage.root,
                storage_filesystem=place.storage.filesystem,
                config=tune_space(config),
                num_samples=num_samples,
                metric=SCORE,
                mode="max",
                scheduler=scheduler,
                search_alg=search,
                stop=stopper,
                checkpoint_config=tune.CheckpointConfig(
                    num_to_keep=None,  # superseded ones are deleted by ``snapshots``
                    checkpoint_score_attribute=SCORE,
                    checkpoint_score_order="max",
                    checkpoint_frequency=1,
                ),
                max_failures=config.max_failures,
                raise_on_failed_trial=False,
                reuse_actors=True,
                resume_config=tune.ResumeConfig(errored=tune.ResumeConfig.ResumeType.RESUME) if resuming else None,
                callbacks=[monitor, *loggers],
                verbose=0,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            )
            for logger in loggers:
                for trial in analysis.trials:
                    logger.log_trial_end(trial)  # of one that was cut short Tune leaves the files open
            monitor.reconcile(analysis.trials)  # when all had ended before, Tune has not made a single step
            monitor.show()
            snapshots.delete_rest(analysis.trials)
            grid = ResultGrid(analysis)
            kept = {trial.trial_id: _checkpoints(grid[index], config, PROGRESS) for index, trial in enumerate(analysis.trials)}
            for trial_id, checkpoints in kept.items():
                if trial_id in ledger.trials and (best_of_trial := select_best([(ledger.trials[trial_id], checkpoints)])):
                    chosen = best_of_trial.checkpoint
                    ledger.set_checkpoint(trial_id, chosen.path, chosen.value, chosen.progress)
            status, reason = ("stopped", "somebody stopped it") if monitor.interrupted else ("finished", stopper.sweep_reason)
        finally:
            monitor.restore_signals()
            ledger.close(status, "the sweep was stopped" if monitor.interrupted else reason)
            if status == "failed":
                tracker.close("FAILED")
            with contextlib.suppress(StoreError):  # what is being raised says more; and the same command pushes again
                place.push()
        best = select_best((ledger.trials[trial_id], found) for trial_id, found in kept.items() if trial_id in ledger.trials)
        if best is None and not monitor.interrupted:
            tracker.close("FAILED")
            raise _all_failed(tuple(ledger.trials.values()))
        tags: dict[str, Any] = {"status": status}
        figures: dict[str, float] = {}
        if best is not None:
            tags |= {"best_trial": best.trial.trial_id, "best_sample": json.dumps(best.trial.sample)}
            figures = {f"best/{swept.unit}": best.checkpoint.progress}
            if best.checkpoint.value is not None:
                figures[f"best/{config.metric_name}"] = best.checkpoint.value
        tracker.close("FINISHED" if status == "finished" else "KILLED", figures, tags)
        ledger.write()
        place.push()
        counts = ", ".join(f"{count} {name}" for name, count in ledger.counts().items())
        task.update(message=f"{counts}" + (f", best {best.trial.trial_id}" if best else "") + (f" ({reason})" if reason else ""))
    return SweepOutcome(tuple(ledger.trials.values()), best, tracker.parent.run_id, status, reason)


def _info(config: SweepConfig, context: StageContext) -> SweepInfo:
    from trainables.sweeps.place import warm_start_sha256
    from trainables.sweeps.schedulers import rungs

    swept = config.swept
    return SweepInfo(
        name=context.folder.name,
        trainable=swept.kind,
        unit=swept.unit,
        metric=config.metric_name,
        mode=config.direction,
        trial_budget=swept.budget,
        num_trials=config.total_trials,
        scheduler=config.scheduler.kind,
        searcher=getattr(config.searcher, "sampler", config.searcher.kind),
        search_space={path: domain.model_dump(mode="json", exclude_none=True) for path, domain in config.search_space.items()},
        config=config.model_dump(mode="json"),
        created_at=now(),
        run_folder=str(context.folder),
        rungs=rungs(config),
        warm_start_sha256=warm_start_sha256(config),
    )


def _trainable(config: SweepConfig) -> Any:
    """The class of the trials, with what they all share sent once through Ray's object store: other nodes may see no disk of ours."""
    from ray import tune

    from trainables.sweeps.custom import CustomConfig, load_trainable
    from trainables.sweeps.trial import PPOTrial

    base = config.swept.base
    shared: dict[str, Any] = {}
    trial: Any = PPOTrial
    if isinstance(base, CustomConfig):
        trial = load_trainable(base.trainable)
    elif isinstance(base, ImitationConfig):
        from trainables.sweeps.imitation_trial import ImitationTrial, read_frames

        trial, shared = ImitationTrial, read_frames(base)
    elif isinstance(base, PPOConfig) and base.warm_start is not None:
        shared = {"warm_start": {path.name: path.read_bytes() for path in sorted(base.warm_start.iterdir()) if path.is_file()}}
    return tune.with_parameters(trial, sweep=config.model_dump(mode="json"), shared=shared)


def _loggers(context: StageContext) -> list[Any]:
    """TensorBoard, CSV and JSON files beside the checkpoints; Weights & Biases for those who have set its key."""
    import importlib.util

    from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback

    from trainables.sweeps.event_files import EventFiles

    loggers: list[Any] = [CSVLoggerCallback(), JsonLoggerCallback(), EventFiles()]
    if os.environ.get("WANDB_API_KEY"):
        if importlib.util.find_spec("wandb") is None:
            context.progress.say("WANDB_API_KEY is set, but the package wandb is not installed: pip install 'gaitway[wandb]'")
        else:
            from ray.air.integrations.wandb import WandbLoggerCallback

            loggers.append(WandbLoggerCallback(project=context.experiment, group=context.folder.name))
    return loggers


def _prepare_process() -> None:
    """Keep Tune's pages, its advice and its chdir out of the way, and its snapshots frequent: a crash costs what came after the last."""
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "2")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.")
    logging.getLogger("ray.tune").setLevel(logging.ERROR)


def _checkpoints(result: Any, config: SweepConfig, progress: str) -> list[CheckpointRecord]:
    """A trial's best ones: these are there, whatever else a snapshot from before a crash may name."""
    return [
        CheckpointRecord(checkpoint.path, int(metrics[progress]), float(metrics[SCORE]), _number(metrics, config.metric_name))
        for checkpoint, metrics in result.best_checkpoints[-KEPT_BEST:]  # from the lowest score to the highest
        if SCORE in metrics
    ]


def _number(figures: Mapping[str, Any], name: str) -> float | None:
    """A figure of a report; None when it is not there (a data frame fills the gap with NaN)."""
    value = figures.get(name)
    return None if value is None or math.isnan(value) else float(value)


def _all_failed(trials: tuple[TrialRecord, ...]) -> GaitwayError:
    failed = [trial for trial in trials if trial.status == "failed"]
    if not failed:
        return GaitwayError("no trial got as far as a checkpoint; give the sweep more time (time_budget_s) or a larger budget")
    return GaitwayError(f"all {len(trials)} trials failed; the first: {failed[0].error} (trial {failed[0].trial_id})")
