"""Sweep PPO over its parameters: ``python -m trainables.sweep configs/sweeps/pidog_asha.yaml``.

Also as a job: ``ray job submit --working-dir . -- python -m trainables.sweep configs/sweeps/pidog_asha.yaml``. Inside a pipeline the
trials start from the imitation stage's policy. A killed sweep is resumed by running it again with the same ``--run-folder``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.config import write_text_atomic
from cluster.errors import UsageError
from cluster.stage import StageContext, stage_main
from trainables.sweeps.config import SweepConfig

if TYPE_CHECKING:
    from trainables.sweeps.runner import SweepOutcome

__all__ = ["Config", "run", "run_with_outcome"]

Config = SweepConfig


def run(config: SweepConfig, context: StageContext) -> dict[str, Any]:
    """Run the sweep under ``<run>/rl_model/`` and copy the best policy to ``<run>/rl_model/best/``.

    Returns:
        checkpoint (policy folder), best_trial, best_config, metric, value, env_steps, trials, warm_start, warm_start_max_abs_error,
        sweep_folder, run_id.
    """
    return run_with_outcome(config, context)[0]


def run_with_outcome(config: SweepConfig, context: StageContext) -> tuple[dict[str, Any], SweepOutcome]:
    """``run``, and what the sweep left beside the result."""
    from cluster.runtime.session import ray_session
    from trainables.sweeps.results import copy_folder_atomic
    from trainables.sweeps.runner import run_sweep

    warm_start = config.ppo.warm_start or context.results.get("imitate", {}).get("checkpoint")
    if warm_start is not None:
        if not (Path(warm_start) / "policy.json").is_file():
            raise UsageError(f"ppo.warm_start {warm_start}: no policy checkpoint is there; give a folder with policy.json and policy.pt")
        ppo = config.ppo.model_copy(update={"warm_start": Path(warm_start).expanduser().resolve()})
        config = config.model_copy(update={"ppo": ppo})
    folder = context.folder / "rl_model"
    folder.mkdir(parents=True, exist_ok=True)
    with ray_session(context.settings):
        outcome = run_sweep(config, context, _shared_folder(folder, context))
        trial, checkpoint = outcome.best.trial, outcome.best.checkpoint
        copy_folder_atomic(Path(checkpoint.path) / "policy", folder / "best")
    result = {
        "checkpoint": str(folder / "best"),
        "best_trial": trial.trial_id,
        "best_config": trial.sample,
        "metric": config.metric,
        "value": checkpoint.value,
        "env_steps": checkpoint.env_steps,
        "trials": [record.as_json() for record in outcome.trials],
        "warm_start": str(warm_start) if warm_start is not None else None,
        "warm_start_max_abs_error": max(
            (record.warm_start_error for record in outcome.trials if record.warm_start_error is not None), default=None
        ),
        "sweep_folder": str(folder),
        "run_id": outcome.run_id,
    }
    write_text_atomic(folder / "result.json", json.dumps(result, indent=2) + "\n")
    return result, outcome


def _shared_folder(folder: Path, context: StageContext) -> Path:
    """Where trials on any node can write: the run folder on one machine, the shared storage on several."""
    import ray

    if len([node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]) <= 1:
        return folder
    shared = context.settings.shared_path / "sweeps" / context.folder.name
    shared.mkdir(parents=True, exist_ok=True)
    return shared


if __name__ == "__main__":
    stage_main("trainables.sweep")
