"""A checkpoint becomes a bundle: written beside its place, checked, sealed, and only then moved there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cluster.bundle import CARD_FILE, CONTRACT_FILE, MANIFEST_FILE, ONNX_FILE, Bundle, seal
from cluster.config import write_text_atomic
from cluster.contract import PolicyContract, TensorField
from cluster.errors import GaitwayError
from trainables.envs.registry import make_robot_task
from trainables.export.card import model_card, readme
from trainables.export.config import VerificationConfig
from trainables.export.graph import ServedPolicy, write_onnx
from trainables.export.latency import measure_latency
from trainables.export.parity import check_parity
from trainables.export.provenance import provenance
from trainables.export.recorded_parity import check_recorded_parity
from trainables.networks.checkpoint import load_policy
from trainables.networks.interface import PolicyInterface
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
    interface = PolicyInterface.of_metadata(metadata)
    _check_fit(checkpoint, policy, interface)
    example = _example(interface, verification.seed)
    contract = _contract(policy, interface, policy_name, checkpoint, metadata)
    served = ServedPolicy(policy, interface.scaling, [field.size for field in interface.action]).eval()

    out = out.resolve()
    if out.exists() and not (out / MANIFEST_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise GaitwayError(f"{out}: is there and is no bundle; give an empty or a new folder")
    _clear_leftovers(out)
    partial = _beside(out, "partial")
    partial.mkdir(parents=True)
    try:
        onnx_path = partial / ONNX_FILE
        write_onnx(served, onnx_path)
        parity = _parity(served, onnx_path, interface, verification)
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


def _check_fit(checkpoint: Path, policy: Policy, interface: PolicyInterface) -> None:
    given, wanted = (policy.observation_size, policy.action_size), (interface.observation_size, interface.action_size)
    if given != wanted:
        of = "its recording" if interface.is_recorded else f"the task {interface.task}"
        raise GaitwayError(f"{checkpoint}: the policy maps {given[0]} numbers to {given[1]}; {of} wants {wanted[0]} to {wanted[1]}")


def _example(interface: PolicyInterface, seed: int) -> np.ndarray:
    """An observation for people. Shape (observation_size,)."""
    if interface.observed is not None:
        return interface.observed.mean
    task = make_robot_task(interface.task, 1, interface.task_config)
    try:
        return task.reset(seed=seed)[0][0]
    finally:
        task.close()


def _parity(served: ServedPolicy, onnx_path: Path, interface: PolicyInterface, verification: VerificationConfig) -> dict[str, Any]:
    if interface.observed is not None:
        rows = interface.observed.draw(verification.observations, verification.seed)
        return check_recorded_parity(served, onnx_path, rows, verification.tolerance_rad)
    physics = {**(interface.task_config.get("physics") or {}), "preset": verification.physics}
    return check_parity(
        served,
        onnx_path,
        interface.task,
        {**interface.task_config, "physics": physics},
        observations=verification.observations,
        tolerance_rad=verification.tolerance_rad,
        seed=verification.seed,
    )


def _contract(
    policy: Policy, interface: PolicyInterface, policy_name: str, checkpoint: Path, metadata: Mapping[str, Any]
) -> PolicyContract:
    return PolicyContract(
        policy=policy_name,
        robot=interface.robot,
        task=interface.task,
        control_dt_s=interface.control_dt_s,
        observation=interface.observation,
        action=interface.action_fields(policy.chunk_size),
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
