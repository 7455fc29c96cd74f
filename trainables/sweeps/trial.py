"""Tune trials: what every kind of training has in common, and PPO's.

A trial is one process: environment steps, policy and learner all live in it, so it costs no serialisation. Tune reuses the process
for the next trial, which saves the imports; only the networks are built again.
"""

from __future__ import annotations

import posixpath
import tempfile
from abc import abstractmethod
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
from ray import tune

from cluster.errors import GaitwayError
from trainables.nonfinite import NON_FINITE_FILE, NonFiniteError
from trainables.ppo.config import PPOConfig
from trainables.sweeps.config import SweepConfig
from trainables.sweeps.reports import NODE, PROGRESS, WORK
from trainables.sweeps.score import SCORE, score
from trainables.sweeps.searchers import parameters, seed_index
from trainables.sweeps.swept import Swept, apply_sample

__all__ = ["PPOTrial", "SweepTrial"]


class SweepTrial(tune.Trainable):
    """One trial of a sweep. A subclass answers ``build``, ``advance``, ``close`` and Tune's two for checkpoints.

    Tune's ``config`` is the sample, dotted parameter -> value; ``sweep`` is a dumped ``SweepConfig``.

    Attributes:
        sweep: the sweep.
        training: this trial's own configuration (of PPO, of imitation, or ``CustomConfig``).
        progress: how far it is, in the sweep's unit; a subclass keeps it.
        finished: set by a subclass whose training is over before its budget.
        shared: what the driver has read for all trials.
    """

    sweep: SweepConfig
    training: Any
    progress: int = 0
    finished: bool = False
    shared: dict[str, Any]

    def setup(self, config: dict[str, Any], sweep: dict[str, Any] | None = None, shared: dict[str, Any] | None = None) -> None:
        """Build the trial.

        Args:
            config: the sample.
            sweep: the dumped ``SweepConfig``.
            shared: what the driver has read for all trials; this node may not see the driver's disk.
        """
        assert sweep is not None
        self.sweep, self.shared = SweepConfig.model_validate(sweep), shared or {}
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial's place, or its configuration, in this process."""
        self.close()
        self._start(new_config)
        return True

    def _start(self, config: dict[str, Any]) -> None:
        self._refuse_to_go_on()
        base = self.sweep.swept.base
        training = apply_sample(base, parameters(config))
        self.progress, self.finished = 0, False
        self.training = training.model_copy(update={"seed": training.seed + seed_index(config)})
        self.build()

    def step(self) -> dict[str, Any]:
        """Work until the next report."""
        before = self.progress
        try:
            figures = self.advance()
        except NonFiniteError as error:
            with self._storage.storage_filesystem.open_output_stream(self._non_finite_path()) as stream:
                stream.write(error.report().encode())
            raise
        swept = Swept.of(self.training)
        standing = {PROGRESS: self.progress, swept.unit: self.progress, WORK: self.progress - before, NODE: _node_id()}
        done = self.finished or self.progress >= swept.budget
        return {**figures, SCORE: score(figures, self.sweep), **standing, "done": done}

    def cleanup(self) -> None:
        """Free what the trial holds."""
        self.close()

    @abstractmethod
    def build(self) -> None:
        """Make everything anew from ``training``."""

    @abstractmethod
    def advance(self) -> dict[str, float]:
        """Work until the next report, moving ``progress`` on; returns the figures."""

    @abstractmethod
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write everything that the trial needs to go on, and ``policy/`` where there is one."""

    @abstractmethod
    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Go on from a checkpoint, its progress included, under the present ``training``.

        Under population-based training it may be another trial's.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what ``build`` made."""

    def _refuse_to_go_on(self) -> None:
        """Tune restarts what failed; a trial that met a NaN stays stopped, and its report stays what it was."""
        report = self._storage.storage_filesystem.get_file_info(self._non_finite_path())
        if report.type == pyarrow.fs.FileType.File:
            raise GaitwayError(f"this trial stopped at a number that was not finite; its report is {self._non_finite_path()}")

    def _non_finite_path(self) -> str:
        return posixpath.join(self._storage.trial_fs_path, NON_FINITE_FILE)


def _node_id() -> str:
    """Ray's id of the node that this process runs on; the addresses of several nodes on one machine are the same."""
    return str(ray.get_runtime_context().get_node_id())[:12]


class PPOTrial(SweepTrial):
    """Reports the starting policy first, then after every ``report_every_env_steps``. ``training`` is a ``PPOConfig``."""

    def setup(self, config: dict[str, Any], sweep: dict[str, Any] | None = None, shared: dict[str, Any] | None = None) -> None:
        """See ``SweepTrial.setup``; ``shared["warm_start"]``: files of the policy to start from, by name."""
        self._baselines: dict[str, dict[str, float]] = {}
        self._warm_start: tempfile.TemporaryDirectory[str] | None = None
        if files := (shared or {}).get("warm_start"):
            self._warm_start = tempfile.TemporaryDirectory(prefix="gaitway-warm-start-")
            for name, content in files.items():
                (Path(self._warm_start.name) / name).write_bytes(content)
        super().setup(config, sweep, shared)

    def build(self) -> None:
        """Networks, environments, env runners."""
        from trainables.ppo.run import PPORun

        base = self.sweep.swept.base
        assert isinstance(base, PPOConfig)
        ppo: PPOConfig = self.training
        # Checkpoints are compared on the task as it is configured, not as a trial's reward weights bend it.
        evaluation = ppo.evaluation.model_copy(update={"task_config": ppo.evaluation.task_config or base.task_config})
        changes: dict[str, Any] = {"evaluation": evaluation}
        if self._warm_start is not None:
            changes["warm_start"] = Path(self._warm_start.name)
        self._run = PPORun(ppo.model_copy(update=changes))
        self._started = False

    def advance(self) -> dict[str, float]:
        """Evaluate the starting policy, or train to the next report."""
        if not self._started:
            self._started = True
            if self._run.env_steps == 0 and self._run.config.evaluation.episodes:
                warm = self._run.config.warm_start is not None
                return self._baseline() | ({"warm_start_error": self._run.warm_start_error()} if warm else {})
        figures = self._run.advance()
        self.progress = self._run.env_steps
        return figures

    def _baseline(self) -> dict[str, float]:
        """Figures of the starting policy. All trials start from the same warm start, so one evaluation serves those of this process."""
        if self._run.config.warm_start is None:
            return self._run.evaluate()
        key = PPOConfig.model_dump_json(self._run.config, include={"warm_start", "task", "evaluation"})
        if key not in self._baselines:
            self._baselines[key] = self._run.evaluate()
        return self._baselines[key]

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """RLlib's checkpoint with ``policy/`` inside."""
        self._run.save(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Weights, statistics, optimizer and counters."""
        self._run.restore(Path(checkpoint_dir))
        self.progress = self._run.env_steps
        self._started = True

    def close(self) -> None:
        """Free environments and env runners."""
        self._run.close()

    def cleanup(self) -> None:
        """Free what the trial holds."""
        super().cleanup()
        if self._warm_start is not None:
            self._warm_start.cleanup()
