"""A Tune trial: one PPO run inside one process.

The environment steps, the policy and the learner all live here, so a trial costs one process and no serialisation. Tune reuses
the process for the next trial, which saves the imports; only the networks are built again.
"""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

import pyarrow.fs
from ray import tune

from cluster.errors import GaitwayError
from trainables.nonfinite import NON_FINITE_FILE, NonFiniteError
from trainables.ppo.config import PPOConfig
from trainables.ppo.run import PPORun
from trainables.sweeps.config import SweepConfig, apply_sample
from trainables.sweeps.score import SCORE, score

__all__ = ["PPOTrial"]


class PPOTrial(tune.Trainable):
    """Reports the starting policy first, then after every ``report_every_env_steps``.

    ``config``: ``sweep`` (a dumped ``SweepConfig``) and ``sample`` (dotted parameter -> value).
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Build the run."""
        self._baselines: dict[str, dict[str, float]] = {}
        self._refuse_to_go_on()
        self._build(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial's place in this process."""
        self._run.close()
        self._refuse_to_go_on()
        self._build(new_config)
        return True

    def _refuse_to_go_on(self) -> None:
        """Tune restarts what failed; a trial that met a NaN stays stopped, and its report stays what it was."""
        report = self._storage.storage_filesystem.get_file_info(self._non_finite_path())
        if report.type == pyarrow.fs.FileType.File:
            raise GaitwayError(f"this trial stopped at a number that was not finite; its report is {self._non_finite_path()}")

    def _non_finite_path(self) -> str:
        return posixpath.join(self._storage.trial_fs_path, NON_FINITE_FILE)

    def _build(self, config: dict[str, Any]) -> None:
        self._sweep = SweepConfig.model_validate(config["sweep"])
        ppo = apply_sample(self._sweep.ppo, config["sample"])
        # Checkpoints are compared on the task as it is configured, not as a trial's reward weights bend it.
        evaluation = ppo.evaluation.model_copy(update={"task_config": ppo.evaluation.task_config or self._sweep.ppo.task_config})
        self._run = PPORun(ppo.model_copy(update={"evaluation": evaluation}))
        self._started = False

    def step(self) -> dict[str, Any]:
        """Evaluate the starting policy, or train to the next report."""
        if not self._started:
            self._started = True
            if self._run.env_steps == 0 and self._run.config.evaluation.episodes:
                warm = self._run.config.warm_start is not None
                return self._report(self._baseline() | ({"warm_start_error": self._run.warm_start_error()} if warm else {}))
        try:
            return self._report(self._run.advance())
        except NonFiniteError as error:
            with self._storage.storage_filesystem.open_output_stream(self._non_finite_path()) as stream:
                stream.write(error.report().encode())
            raise

    def _baseline(self) -> dict[str, float]:
        """Figures of the starting policy. All trials start from the same warm start, so one evaluation serves those of this process."""
        if self._run.config.warm_start is None:
            return self._run.evaluate()
        key = PPOConfig.model_dump_json(self._run.config, include={"warm_start", "task", "evaluation"})
        if key not in self._baselines:
            self._baselines[key] = self._run.evaluate()
        return self._baselines[key]

    def _report(self, figures: dict[str, float]) -> dict[str, Any]:
        env_steps = self._run.env_steps
        done = env_steps >= self._run.config.total_env_steps
        return {**figures, SCORE: score(figures, self._sweep), "env_steps": env_steps, "done": done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """RLlib's checkpoint with ``policy/`` inside."""
        self._run.save(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Continue where the checkpoint was written."""
        self._run.restore(Path(checkpoint_dir))
        self._started = True

    def cleanup(self) -> None:
        """Free environments and env runners."""
        self._run.close()
