"""A policy checkpoint: ``policy.json`` (architecture, task, what it was trained with) and ``policy.pt`` (tensors only).

Imitation writes one, every PPO checkpoint carries one, evaluation and export read one; none of them needs RLlib for it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from cluster.config import write_text_atomic
from cluster.errors import GaitwayError
from trainables.networks.policies import Policy, build_policy

__all__ = ["load_policy", "save_policy"]


def save_policy(policy: Policy, folder: Path, metadata: dict[str, Any]) -> None:
    """Write a policy and what it belongs to. ``metadata`` must hold ``task`` (name) and ``task_config`` (resolved mapping)."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / ".policy.pt"
    torch.save({name: tensor.detach().cpu() for name, tensor in policy.state_dict().items()}, temporary)
    os.replace(temporary, folder / "policy.pt")
    write_text_atomic(folder / "policy.json", json.dumps({"architecture": policy.architecture(), **metadata}, indent=2) + "\n")


def load_policy(folder: Path) -> tuple[Policy, dict[str, Any]]:
    """Read a policy checkpoint -> (policy in eval mode, metadata). Only tensors are unpickled (``weights_only``)."""
    try:
        metadata = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
        policy = build_policy(metadata["architecture"])
        policy.load_state_dict(torch.load(folder / "policy.pt", weights_only=True, map_location="cpu"))
    except FileNotFoundError as error:
        raise GaitwayError(f"{folder}: not a policy checkpoint: {Path(error.filename).name} is missing") from None
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise GaitwayError(f"{folder}: not a readable policy checkpoint: {' '.join(str(error).split())[:160]}") from None
    if broken := [name for name, tensor in policy.state_dict().items() if not torch.isfinite(tensor).all()]:
        raise GaitwayError(f"{folder}: {broken[0]} holds NaN or infinity: the training that wrote it has diverged")
    return policy.eval(), metadata
