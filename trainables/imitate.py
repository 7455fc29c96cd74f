"""Stage: behaviour cloning of a dataset's expert. ``python -m trainables.imitate CONFIG.yaml``."""

from __future__ import annotations

from typing import Any

from cluster.stage import StageContext, stage_main
from trainables.imitation.config import ImitationConfig

__all__ = ["Config", "run"]

Config = ImitationConfig


def run(config: ImitationConfig, context: StageContext) -> dict[str, Any]:
    """Train the policies into ``<run folder>/imitation_model``: ``policy/``, ``lstm/``, ``loss_curves.png``, ``history.json``.

    Returns ``checkpoint`` (the MLP's folder), ``lstm_checkpoint``, ``validation_loss``, ``lstm_validation_loss``, ``plot`` and ``run_id``;
    None for a model that the configuration leaves out. Killed, the same call continues from the last checkpoint.

    Raises:
        GaitwayError: the dataset does not belong to a task or does not fit it, or training failed.
    """
    from trainables.imitation.stage import run_stage

    return run_stage(config, context)


if __name__ == "__main__":
    stage_main("trainables.imitate")
