"""A checkpoint becomes a bundle: written beside its place, checked, sealed, and only then moved there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.bundle import CARD_FILE, CONTRACT_FILE, MANIFEST_FILE, ONNX_FILE, Bundle, seal
from cluster.config import write_text_atomic
from cluster.contract import PolicyContract, TensorField
from cluster.errors import GaitwayError
from trainables.envs.registry import make_robot_task
from trainables.envs.robot_task import RobotTask
from trainables.export.card import model_card, readme
from trainables.export.config import VerificationConfig
from trainables.export.graph import ServedPolicy, write_onnx
from trainables.export.latency import measure_latency
from trainables.export.parity import check_parity
from trainables.export.provenance import provenance
from trainables.networks.checkpoint import load_policy
from trainables.networks.policies import Policy

__all__ = ["export_policy"]


def export_policy(
    checkpoint: Path,
    out: Path,
    policy_name: str,
    *,
    label: str = "policy",
    evaluation: Mapping[str, Any] | None = None,
    verification: VerificationConfig | None = None,
) -> Bundle:
    """Export a policy checkpoint as the bundle ``out``; an earlier bundle there is replaced whole.

    Args:
        checkpoint: folder of ``save_policy``.
        out: the bundle's folder.
        policy_name: family under which it is registered and served.
        label: what to call this version in its card.
        evaluation: its summary in ``evaluation.json``, for the card.
        verification: how it is checked.

    Raises:
        GaitwayError: the checkpoint is unreadable or does not fit its task, ``out`` is something else than a bundle, or ONNX Runtime
            and torch disagree; ``out`` is untouched.
    """
    verification = verification or VerificationConfig()
    policy, metadata = load_policy(checkpoint)
    task_config = dict(metadata.get("task_config") or {})
    task = make_robot_task(metadata["task"], 1, task_config)
    example = task.reset(seed=verification.seed)[0][0]
    task.close()
    _check_fit(checkpoint, policy, task)
    contract = _contract(policy, task, policy_name, checkpoint, metadata)
    served = ServedPolicy(policy, task.action_scaling).eval()
    task_config["physics"] = {**(task_config.get("physics") or {}), "preset": verification.physics}

    out = out.resolve()
    if out.exists() and not (out / MANIFEST_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise GaitwayError(f"{out}: is there and is no bundle; give an empty or a new folder")
    _clear_leftovers(out)
    partial = _beside(out, "partial")
    partial.mkdir(parents=True)
    try:
        onnx_path = partial / ONNX_FILE
        write_onnx(served, onnx_path)
        parity = check_parity(
            served,
            onnx_path,
            metadata["task"],
            task_config,
            observations=verification.observations,
            tolerance_rad=verification.tolerance_rad,
            seed=verification.seed,
        )
        latency = measure_latency(onnx_path, verification.latency_batches, verification.latency_calls)
        contract.save(partial / CONTRACT_FILE)
        write_text_atomic(partial / "parity.json", json.dumps(parity, indent=1) + "\n")
        write_text_atomic(partial / "latency.json", json.dumps(latency, indent=1) + "\n")
        write_text_atomic(partial / CARD_FILE, model_card(label, contract, metadata, evaluation, parity, latency))
        write_text_atomic(partial / "README.md", readme(label, contract, example))
        digest = seal(partial)
        for file in partial.iterdir():
            file.chmod(0o644)  # a bundle is for others: serving replicas may run as another user
        _move_into_place(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Bundle.load(out, digest)


def _check_fit(checkpoint: Path, policy: Policy, task: RobotTask) -> None:
    given, wanted = (policy.observation_size, policy.action_size), (task.observation_size, task.action_size)
    if given != wanted:
        raise GaitwayError(
            f"{checkpoint}: the policy maps {given[0]} numbers to {given[1]}; the task {task.name} wants {wanted[0]} to {wanted[1]}"
        )


def _contract(policy: Policy, task: RobotTask, policy_name: str, checkpoint: Path, metadata: Mapping[str, Any]) -> PolicyContract:
    return PolicyContract(
        policy=policy_name,
        robot=task.robot.name,
        task=task.name,
        control_dt_s=task.control_dt_s,
        observation=task.observation_fields,
        action=task.action_fields,
        state=tuple(TensorField(name=name, shape=shape) for name, shape in policy.state_shapes.items()),
        provenance=provenance(checkpoint, metadata),
    )


def _beside(out: Path, suffix: str) -> Path:
    return out.parent / f".{out.name}.{suffix}-{os.getpid()}"


def _clear_leftovers(out: Path) -> None:
    """What killed attempts left beside ``out``."""
    for folder in (*out.parent.glob(f".{out.name}.partial-*"), *out.parent.glob(f".{out.name}.old-*")):
        shutil.rmtree(folder, ignore_errors=True)


def _move_into_place(partial: Path, out: Path) -> None:
    """Rename; a folder cannot be renamed onto a full one, so the earlier bundle steps aside first."""
    if out.exists():
        old = _beside(out, "old")
        os.replace(out, old)
        os.replace(partial, out)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(partial, out)
