"""The exact commands that carry on from a sweep: evaluate, export and train the winner, resume the sweep.

Stages take a configuration file, so the commands come with small files that ``write_files`` puts into ``<sweep folder>/winner/``.
"""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from cluster.config import write_text_atomic
from trainables.sweeps.analysis.numbers import plain
from trainables.sweeps.records import SweepRecord, TrialRecord

__all__ = ["commands", "write_files"]

_POLICY = "policy"
"""Folder inside of a trial's checkpoint that evaluation, export and warm starts read."""
_KINDS = {"ppo": ("ppo", "rl", "trainables.train"), "imitate": ("imitation", "imitation", "trainables.imitate")}
"""Trainable -> (section of the sweep's configuration, name of its policy in evaluation and export, stage that trains one)."""


def commands(record: SweepRecord, winner: TrialRecord | None, sample: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What to type next; of a custom trainable only how to resume, because Gaitway knows no policy of it.

    Args:
        record: the sweep.
        winner: its best trial; None while there is none.
        sample: the winner's parameters at its best report.

    Returns:
        [{purpose, command, note, file, content}]: ``file`` (absolute path) must hold ``content`` (YAML) before the command runs; both
        None for commands without a file.
    """
    listed = []
    if winner and sample is not None and record.info.trainable in _KINDS:
        listed += _with_checkpoint(record, winner) if winner.checkpoint else []
        listed += _training(record, winner, sample)
    if record.status != "finished":
        note = "Only if its driver was killed: the record says that it is running." if record.status == "running" else ""
        command = f"gaitway sweep resume {shlex.quote(record.info.run_folder)}"
        listed.append(_entry("Go on with the sweep where it stopped", command, note))
    return listed


def write_files(listed: list[dict[str, Any]]) -> list[Path]:
    """Write the configuration files of ``commands``, atomically; returns their paths."""
    paths = []
    for entry in listed:
        if entry["file"] is not None:
            path = Path(entry["file"])
            write_text_atomic(path, entry["content"])
            paths.append(path)
    return paths


def _with_checkpoint(record: SweepRecord, winner: TrialRecord) -> list[dict[str, Any]]:
    _, role, _ = _KINDS[record.info.trainable]
    policy, listed = _policy_folder(record, winner), []
    if "://" in policy:
        local = _file(record, _POLICY).with_suffix("")
        code = f"import pyarrow.fs; pyarrow.fs.copy_files({policy!r}, {str(local)!r})"
        listed.append(
            _entry("Fetch its policy from the object store", f"mkdir -p {shlex.quote(str(local))} && python -c {shlex.quote(code)}")
        )
        policy = str(local)
    listed.append(
        _entry(
            "Evaluate it on fresh episodes, with 95 % intervals",
            "python -m trainables.evaluate {file}",
            file=_file(record, "evaluate"),
            content={"policies": {role: policy}},
        )
    )
    listed.append(
        _entry(
            "Export it to ONNX with its contract, ready to register and serve",
            "python -m trainables.export {file}",
            file=_file(record, "export"),
            content={"policies": {role: policy}, "policy_name": _policy_name(record)},
        )
    )
    return listed


def _training(record: SweepRecord, winner: TrialRecord, sample: dict[str, Any]) -> list[dict[str, Any]]:
    _, _, stage = _KINDS[record.info.trainable]
    file, content = _file(record, "train"), _train_config(record, winner, sample)
    note = "The population changed them while it trained; these are those of the winner's best report." if record.lineage else ""
    listed = [_entry("Train a policy with its parameters from the start", f"python -m {stage} {{file}}", note, file, content)]
    if record.info.trainable == "ppo" and winner.checkpoint:
        policy = _policy_folder(record, winner)
        if "://" in policy:
            policy = str(_file(record, _POLICY).with_suffix(""))
        command = f"python -m {stage} {shlex.quote(str(file))} --set {shlex.quote(f'warm_start={policy}')}"
        listed.append(_entry("Train on from its weights, for its whole budget again", command, "With the same file."))
    return listed


def _train_config(record: SweepRecord, winner: TrialRecord, sample: dict[str, Any]) -> dict[str, Any]:
    """The trainable's own configuration with the winner's parameters, as its trial had them."""
    shared = _section(record)
    config = copy.deepcopy(shared)
    for path, value in sample.items():
        node, (*parents, key) = config, path.split(".")
        for part in parents:
            if not isinstance(node.get(part), dict):
                node[part] = {}
            node = node[part]
        node[key] = plain(value)
    config["seed"] = winner.seed
    if record.info.trainable == "imitate":
        config["models"] = list(shared.get("models", ["mlp"]))[:1]  # the only one that a sweep trains
    else:
        # A trial is judged on the task as the sweep configures it, not as the trial's reward weights bend it.
        evaluation = config.setdefault("evaluation", {})
        evaluation["task_config"] = evaluation.get("task_config") or copy.deepcopy(shared.get("task_config", {}))
        config |= {"metric": record.info.metric, "mode": record.info.mode, "constraints": record.info.config.get("constraints", {})}
    return config


def _section(record: SweepRecord) -> dict[str, Any]:
    """What all trials share; empty: the defaults."""
    return record.info.config.get(_KINDS[record.info.trainable][0]) or {}


def _policy_folder(record: SweepRecord, winner: TrialRecord) -> str:
    """Where the winner's policy is: in its checkpoint, or where the sweep copied the best one."""
    checkpoint, copied = str(winner.checkpoint).rstrip("/"), Path(record.info.run_folder) / "rl_model" / "best"
    inside = f"{checkpoint}/{_POLICY}"
    if ("://" in checkpoint or not (Path(inside) / "policy.json").is_file()) and (copied / "policy.json").is_file():
        return str(copied)
    return inside


def _file(record: SweepRecord, what: str) -> Path:
    name = re.sub(r"_\d{8}_\d{6}(_\d+)?$", "", record.info.name)  # what a run is named after should not carry another's time
    return record.folder.resolve() / "winner" / f"{_slug(name) or 'sweep'}_{what}.yaml"


def _policy_name(record: SweepRecord) -> str:
    task = str(_section(record).get("task", "pidog_run"))
    return _slug(task.rpartition(":")[2]).replace("_", "-").lower() or "policy"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_")[:60]


def _entry(purpose: str, command: str, note: str = "", file: Path | None = None, content: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "purpose": purpose,
        "command": command.replace("{file}", shlex.quote(str(file))),
        "note": note or None,
        "file": None if file is None else str(file),
        "content": None if content is None else yaml.safe_dump(plain(content), sort_keys=False, allow_unicode=True),
    }
