"""Stage: imitation of the actions in a dataset. ``python -m trainables.imitate CONFIG.yaml``."""

from __future__ import annotations

from typing import Any

from cluster.stage import StageContext, stage_main
from trainables.imitation.config import ImitationConfig

__all__ = ["Config", "run"]

Config = ImitationConfig


def run(config: ImitationConfig, context: StageContext) -> dict[str, Any]:
    """Train the policies into ``<run folder>/imitation_model``.

    Its files: a checkpoint folder for each model (``policy/`` the MLP, ``lstm/`` the ``simple_lstm``, ``full_lstm/``, ``chunk/``),
    ``loss_curves.png``, ``history.json``, ``open_loop.json`` and ``open_loop.png`` (errors along held-out episodes), and the rounds of
    DAgger in ``dagger/``.

    Returns ``checkpoint`` (the MLP's folder; without one, that of the first model that reads the whole observation),
    ``lstm_checkpoint`` (of ``simple_lstm``), ``validation_loss``, ``lstm_validation_loss``, ``plot`` and ``run_id``; None for a model
    that the configuration leaves out. Of all models: ``checkpoints``, ``validation_losses``, ``open_loop``; ``dataset_digest`` is
    that of all data trained on. Killed, the same call continues from the last checkpoint.

    Raises:
        GaitwayError: the dataset does not fit its task, its robot or the configuration, a number in it is not finite, or training
            failed.
    """
    from trainables.imitation.stage import run_stage

    return run_stage(config, context)


if __name__ == "__main__":
    stage_main("trainables.imitate")
