"""The export stage: checkpoints in, sealed bundles out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cluster.stage import StageContext
from trainables.export.bundle import export_policy
from trainables.export.config import ExportConfig
from trainables.networks.sources import find_checkpoints

__all__ = ["run_stage"]


def run_stage(config: ExportConfig, context: StageContext) -> dict[str, Any]:
    """See ``trainables.export.run``."""
    torch.set_num_threads(1)
    sources = find_checkpoints(config.policies, context)
    evaluations = context.results.get("evaluate", {}).get("policies", {})
    final = list(sources)[-1]
    bundles, digests = {}, {}
    with context.progress.task("export", total=len(sources), unit="bundles") as progress:
        for done, (name, checkpoint) in enumerate(sources.items()):
            progress.update(done, message=name)
            bundle = export_policy(
                checkpoint,
                _place(context.folder, name, final),
                config.policy_name,
                label=name,
                evaluation=evaluations.get(name),
                verification=config.verification,
            )
            bundles[name], digests[name] = str(bundle.path), bundle.digest
        progress.update(len(sources), message="")
    return {"bundles": bundles, "digests": digests, "final": bundles[final], "policy": config.policy_name}


def _place(folder: Path, name: str, final: str) -> Path:
    if name == final:
        return folder / "final_model"
    if name == "imitation":
        return folder / "imitation_model" / "bundle"
    return folder / "bundles" / name
