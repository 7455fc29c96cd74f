"""Sweep PPO, or imitation, over its parameters: ``python -m trainables.sweep configs/sweeps/pidog_asha.yaml``.

Also as a job: ``ray job submit --working-dir . -- python -m trainables.sweep configs/sweeps/pidog_asha.yaml``. Inside a pipeline the
trials start from the imitation stage's policy. A killed or stopped sweep is resumed by running it again with the same
``--run-folder``, or by ``gaitway sweep resume``.
"""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.config import write_text_atomic
from cluster.stage import StageContext, stage_main
from trainables.sweeps.config import SweepConfig

if TYPE_CHECKING:
    from trainables.sweeps.runner import SweepOutcome

__all__ = ["Config", "check", "run", "run_with_outcome"]

Config = SweepConfig


def check(config: SweepConfig) -> None:
    """Raise ``UsageError`` for a figure that is never reported or a searcher whose package is missing."""
    from trainables.sweeps.checks import check_metric
    from trainables.sweeps.searchers import check_packages

    check_packages(config)
    check_metric(config)


def run(config: SweepConfig, context: StageContext) -> dict[str, Any]:
    """Run the sweep under ``<run>/rl_model/`` and copy the best policy to ``<run>/rl_model/best/``.

    Returns:
        checkpoint (policy folder), best_trial, best_config, metric, value, the progress of the best checkpoint (env_steps, or epochs of
        imitation), trials, warm_start, warm_start_max_abs_error, status, sweep_folder, report, run_id.

    Raises:
        KeyboardInterrupt: after Ctrl-C; what trials did is on disk, and the same command goes on.
    """
    return run_with_outcome(config, context)[0]


def run_with_outcome(config: SweepConfig, context: StageContext) -> tuple[dict[str, Any], SweepOutcome]:
    """``run``, and what the sweep left beside the result."""
    from cluster.runtime.session import ray_session
    from trainables.sweeps.place import SweepPlace, choose_storage
    from trainables.sweeps.results import copy_policy
    from trainables.sweeps.room import check_room
    from trainables.sweeps.runner import run_sweep
    from trainables.sweeps.warm_start import resolve_warm_start

    check(config)
    config = resolve_warm_start(config, context)
    folder = context.folder / "rl_model"
    with ray_session(context.settings):
        check_room(config)
        storage = choose_storage(config, context.settings, folder, context.folder.name, _several_nodes())
        outcome = run_sweep(config, context, SweepPlace(folder, storage, context.folder))
        if outcome.best is not None:
            copy_policy(storage, outcome.best.checkpoint.path, folder / "best")
    result = _result(config, outcome, folder)
    write_text_atomic(folder / "result.json", json.dumps(result, indent=2) + "\n")
    _write_report(config, folder, context)
    if outcome.status == "stopped":
        context.progress.say(f"stopped; what trials did is kept. Go on with: gaitway sweep resume {context.folder.name}")
        raise KeyboardInterrupt
    return result, outcome


def _result(config: SweepConfig, outcome: SweepOutcome, folder: Path) -> dict[str, Any]:
    best = outcome.best
    errors = [trial.warm_start_error for trial in outcome.trials if trial.warm_start_error is not None]
    warm_start = config.ppo.warm_start if config.ppo else None
    return {
        "checkpoint": str(folder / "best") if best else None,
        "best_trial": best.trial.trial_id if best else None,
        "best_config": best.trial.sample if best else None,
        "metric": config.metric_name,
        "value": best.checkpoint.value if best else None,
        config.swept.unit: best.checkpoint.progress if best else 0,
        "trials": [trial.summary() for trial in outcome.trials],
        "warm_start": str(warm_start) if warm_start else None,
        "warm_start_max_abs_error": max(errors, default=None),
        "status": outcome.status,
        "reason": outcome.reason,
        "sweep_folder": str(folder),
        "report": str(folder / "report.html") if config.total_trials > 1 else None,
        "run_id": outcome.run_id,
    }


def _write_report(config: SweepConfig, folder: Path, context: StageContext) -> None:
    """The report of a sweep of several trials; one that cannot be made must not cost the sweep."""
    from trainables.sweeps.report import report

    if config.total_trials == 1:
        return
    try:
        report(folder, None)
    except Exception as error:
        traceback.print_exc()
        context.progress.say(f"the report could not be written ({error}); try again with: gaitway sweep report {context.folder.name}")


def _several_nodes() -> bool:
    import ray

    return len([node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]) > 1


if __name__ == "__main__":
    stage_main("trainables.sweep")
