"""Stage: checkpoint -> ONNX + contract, parity check, latency. ``python -m trainables.export CONFIG.yaml``."""

from __future__ import annotations

from typing import Any

from cluster.stage import StageContext
from trainables.export.config import ExportConfig

__all__ = ["Config", "run"]

Config = ExportConfig


def run(config: ExportConfig, context: StageContext) -> dict[str, Any]:
    """Export every policy: the last to ``<run folder>/final_model``, imitation's to ``imitation_model/bundle``, others to ``bundles/NAME``.

    Returns ``bundles`` (name -> folder), ``digests`` (name -> SHA-256 of the manifest), ``final`` (folder) and ``policy`` (family).

    Raises:
        GaitwayError: a checkpoint is unreadable, or ONNX Runtime and torch disagree; nothing is left in that policy's place.
    """
    from trainables.export.stage import run_stage

    return run_stage(config, context)
