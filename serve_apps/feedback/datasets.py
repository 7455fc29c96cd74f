"""From served episodes to one LeRobot v3.0 folder. Only the writer imports this: a replica loads no pyarrow.

The flat observation is ``observation.state`` and the flat action ``action``, named component by component, as in every dataset of ours: an
imitation trains on what was served. The contract, with every field's shape and unit, is kept beside them. Further columns are
``step_time_s``, the time of the step since the episode's first, and ``latency_s``, from the observation's arrival to its action;
``timestamp`` is the frame's place at the control rate, rounded to whole frames a second, as LeRobot wants it.

Who drove an episode and how it ended is in the episodes' metadata, in columns that begin with ``gaitway/``. Among them ``ended``:
``outcome``; ``elsewhere``: the outcome, and maybe the last steps, came by way of another replica; ``silent``: none came; ``evicted``,
``closed``: the replica forgot it or ended before.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from cluster.contract import PolicyContract, component_names
from cluster.errors import StoreError
from cluster.lerobot.episodes import Episode
from cluster.lerobot.features import Feature
from cluster.lerobot.folder import write_dataset
from cluster.lerobot.layout import INFO_PATH
from cluster.lerobot.metadata import DatasetSpec
from cluster.storage import Storage, open_storage, shown_url

__all__ = ["clear_leftovers", "write_served"]

_ABANDONED_S = 3600.0
"""A hidden folder that nobody has touched for this long is a killed writer's."""


def write_served(messages: Sequence[dict[str, Any]], number: int) -> tuple[str, int]:
    """Write episodes of one policy as a dataset that appears whole or not at all.

    Args:
        messages: as ``pipe`` sends them; all of one policy, contract and folder.
        number: counts this writer's datasets; part of the name.

    Returns:
        Where it is, and its size in bytes.

    Raises:
        GaitwayError: the folder is full, does not answer, or an episode does not fit.
        OSError: the disk refused.
    """
    first = messages[0]
    contract, policy = PolicyContract.model_validate(first["contract"], strict=False), str(first["policy"])
    storage = open_storage(first["folder"]).below(policy)
    limit_gb = float(first["settings"]["max_gb"])
    if _size_bytes(storage) >= 1e9 * limit_gb:
        raise StoreError(f"{shown_url(storage.url)}: holds max_gb {limit_gb:g} already; move datasets away or raise feedback.max_gb")
    replica = re.sub(r"[^A-Za-z0-9-]+", "-", str(first["replica"])).strip("-") or "replica"
    # A writer that is started again counts anew: its process id keeps the names apart.
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}_{replica}_{os.getpid()}-{number:04d}"
    spec = _spec(contract, policy, replica)
    episodes = [_episode(message, contract) for message in messages]
    if storage.is_local:
        path = Path(storage.path(name))
        write_dataset(path, episodes, spec)
        return str(path), _folder_bytes(path)
    with tempfile.TemporaryDirectory(prefix="gaitway-served-") as scratch:
        path = Path(scratch) / name
        write_dataset(path, episodes, spec)
        size = _folder_bytes(path)
        # An object store has no rename: a folder is a dataset once its info.json is there, which therefore goes last.
        info = (path / INFO_PATH).read_bytes()
        (path / INFO_PATH).unlink()
        storage.upload_folder(path, name)
        storage.write_bytes(f"{name}/{INFO_PATH}", info)
    return shown_url(storage.below(name).url), size


def clear_leftovers(folder: str, policy: str) -> None:
    """Remove the hidden folders that killed writers left, and nobody else's."""
    storage = open_storage(folder).below(policy)
    if not storage.is_local:
        return
    for path in Path(storage.root).glob(".*"):
        if path.is_dir() and re.search(r"\.(partial|staging)-", path.name) and time.time() - path.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(path, ignore_errors=True)


def _spec(contract: PolicyContract, policy: str, replica: str) -> DatasetSpec:
    features = (
        Feature("observation.state", "float32", (contract.observation_size,), component_names(contract.observation)),
        Feature("action", "float32", (contract.action_size,), component_names(contract.action)),
        Feature("step_time_s", "float64", (1,), unit="s"),
        Feature("latency_s", "float64", (1,), unit="s"),
    )
    return DatasetSpec(
        fps=max(1, round(1.0 / contract.control_dt_s)),
        features=features,
        robot_type=contract.robot,
        provenance={
            "task": contract.task,
            "robot": contract.robot,
            "control_dt_s": contract.control_dt_s,
            "contract": contract.interface(),
            "lineage": {"kind": "served", "policy": policy, "replica": replica},
        },
    )


def _episode(message: dict[str, Any], contract: PolicyContract) -> Episode:
    about: dict[str, Any] = {"episode_id": message["episode_id"], **message["about"]}
    # One type a column, whatever an episode has: what has structure of its own is JSON.
    about |= {name: json.dumps(value) for name, value in about.items() if isinstance(value, (dict, list))}
    numbers: np.ndarray = message["numbers"]
    size = contract.observation_size
    columns = {
        "observation.state": numbers[:, :size],
        "action": numbers[:, size:],
        "step_time_s": message["times"][:, 0],
        "latency_s": message["times"][:, 1],
    }
    key = f"{about['started_at']} {message['number']:012d}"
    return Episode(key, contract.task, columns, about)


def _folder_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _size_bytes(storage: Storage) -> int:
    """Of all that is in the place."""
    if storage.is_local:
        return _folder_bytes(Path(storage.root)) if Path(storage.root).is_dir() else 0
    from pyarrow.fs import FileSelector

    selector = FileSelector(storage.root, recursive=True, allow_not_found=True)
    return sum(item.size or 0 for item in storage.filesystem.get_file_info(selector))
