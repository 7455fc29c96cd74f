"""Where a bundle comes from: code, configuration, data and library versions."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from cluster.contract import Provenance

__all__ = ["git_commit", "provenance"]

LIBRARIES = ("gaitway", "torch", "onnx", "onnxruntime", "onnxscript", "ray", "mujoco", "gymnasium", "numpy")
SETTINGS = ("architecture", "task", "task_config", "config", "seed")
"""Parts of a checkpoint's metadata that say how it was made, apart from where and when."""


def provenance(checkpoint: Path, checkpoint_metadata: Mapping[str, Any]) -> Provenance:
    """Provenance of a bundle made now from ``checkpoint``."""
    settings = {key: checkpoint_metadata[key] for key in SETTINGS if key in checkpoint_metadata}
    return Provenance(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=git_commit(Path(__file__).resolve().parents[2]),
        config_sha256=hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        dataset_digest=str(checkpoint_metadata.get("dataset_digest") or ""),
        run_id=str(checkpoint_metadata.get("run_id") or ""),
        source=f"{checkpoint_metadata.get('source', 'checkpoint')}: {checkpoint}",
        versions={name: _version(name) for name in LIBRARIES},
    )


def git_commit(repository: Path) -> str:
    """Commit of the code, with ``-dirty`` when a tracked file was changed; empty outside a git checkout or without git."""
    # A wheel below somebody else's checkout (a virtual environment in it) is not that checkout's code.
    if not (repository / ".git").exists():
        return ""
    commit = _git(repository, "rev-parse", "HEAD")
    if not commit:
        return ""
    return commit + ("-dirty" if _git(repository, "status", "--porcelain", "--untracked-files=no") else "")


def _git(repository: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
