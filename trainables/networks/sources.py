"""Which checkpoint a stage means by ``imitation``, ``lstm`` or ``rl`` when the configuration gives no folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cluster.stage import StageContext

__all__ = ["FROM_PIPELINE", "check_sources", "find_checkpoints"]

FROM_PIPELINE: dict[str, tuple[tuple[str, str], ...]] = {
    "imitation": (("imitate", "checkpoint"),),
    "lstm": (("imitate", "lstm_checkpoint"),),
    "rl": (("sweep", "checkpoint"), ("train", "checkpoint")),
}
"""Policy name -> (stage, key of its result); the first stage that ran counts."""


def check_sources(policies: Mapping[str, Path | None]) -> None:
    """For a configuration's validator: a policy without a folder must be one that the pipeline makes. Raises ``ValueError``."""
    for name, path in policies.items():
        if not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"policies: the name {name!r} is used in paths and metrics; use letters, digits, - and _ only")
        if path is None and name not in FROM_PIPELINE:
            raise ValueError(f"policies.{name}: give a folder; only {', '.join(FROM_PIPELINE)} can be left to the pipeline")


def find_checkpoints(policies: Mapping[str, Path | None], context: StageContext) -> dict[str, Path]:
    """A folder for every policy. Raises ``GaitwayError`` naming the stage that has not run."""
    found = {}
    for name, path in policies.items():
        if path is None:
            sources = FROM_PIPELINE[name]
            stage, key = next((source for source in sources if source[0] in context.results), sources[0])
            path = Path(context.result(stage, key))
        found[name] = path
    return found
