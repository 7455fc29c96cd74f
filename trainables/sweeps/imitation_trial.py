"""A Tune trial that clones an expert: one model of an ``ImitationConfig``, an epoch a report, in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cluster.errors import UsageError
from trainables.imitation.config import ImitationConfig
from trainables.sweeps.results import POLICY_FOLDER
from trainables.sweeps.trial import SweepTrial

__all__ = ["ImitationTrial", "read_frames"]


def read_frames(config: ImitationConfig) -> dict[str, Any]:
    """What all trials train on, read once by the driver.

    Returns:
        info (``DatasetInfo``), spec (``TrainSpec``), train and validation (``Frames``).

    Raises:
        UsageError: the configuration names no dataset.
        GaitwayError: the dataset does not fit its task.
    """
    from cluster.lerobot.info import load_info
    from cluster.settings import Settings
    from trainables.datasets.catalogue import find_dataset
    from trainables.datasets.lerobot import load_frames
    from trainables.imitation.frames import gather_frames
    from trainables.imitation.spec import hold_out, make_spec

    if config.dataset is None:
        raise UsageError("imitation.dataset: name a LeRobot v3.0 folder, such as one that `gaitway dataset collect` made")
    if config.algorithm != "bc":
        raise UsageError(f"imitation.algorithm: trials clone a dataset that is there (bc); {config.algorithm} records another for each")
    settings = Settings.from_environment()
    info = load_info(find_dataset(settings, str(config.dataset)))
    spec = make_spec(config, info, settings)
    if spec.streamed:
        raise UsageError(f"{info.path}: trials hold their data in memory; raise imitation.streaming.memory_gb or sweep on a part of it")
    train, validation = hold_out(gather_frames([load_frames(info.path, columns=spec.columns)], spec.scaling, *spec.sides), spec)
    return {"info": info, "spec": spec, "train": train, "validation": validation}


class ImitationTrial(SweepTrial):
    """Reports ``train/loss`` and ``validation/loss`` after every epoch. ``training`` is an ``ImitationConfig``."""

    def build(self) -> None:
        """The network, untrained."""
        from trainables.imitation.fits import make_fit

        torch.set_num_threads(max(1, int(self.sweep.cpus_per_trial)))
        config: ImitationConfig = self.training
        train, validation, spec = self.shared["train"], self.shared["validation"], self.shared["spec"]
        self._spec = spec.with_config(config)
        self._model = config.models[0]
        sizes = train.observation.shape[1], train.target.shape[1]
        device = torch.device("cuda" if config.use_gpu else "cpu")
        self._fit = make_fit(self._model, config, *sizes, spec.fields, 0, device, spec.interface)
        self._fit.attach(train, validation)
        self._fit.prepare()

    def advance(self) -> dict[str, float]:
        """One epoch; one that no longer improves counts as the last."""
        self._fit.run_epoch()
        self.progress = self._fit.epoch
        self.finished = self._fit.finished
        row = self._fit.history[-1]
        return {
            "train/loss": row["train_loss"],
            "validation/loss": row["validation_loss"],
            "train/learning_rate": row["learning_rate"],
            "validation/best_loss": self._fit.best_loss,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """The fit, and the best weights so far as a policy."""
        from trainables.imitation.loop import STATE_FILE
        from trainables.imitation.results import save_best

        folder, state = Path(checkpoint_dir), self._fit.state_dict()
        torch.save({self._model: state}, folder / STATE_FILE)
        save_best(self._model, state, self._spec, self.shared["info"], folder / POLICY_FOLDER, {"trial_id": self.trial_id})

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Weights, optimizer and counters."""
        from trainables.imitation.loop import load_state

        self._fit.load_state_dict(load_state(Path(checkpoint_dir))[self._model])
        self.progress = self._fit.epoch

    def close(self) -> None:
        """Nothing is held."""
