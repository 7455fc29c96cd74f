"""The policy that a sweep's PPO trials start from, found from what a person writes."""

from __future__ import annotations

import shutil
from pathlib import Path

from cluster.errors import GaitwayError, UsageError
from cluster.stage import StageContext
from trainables.ppo.config import PPOConfig
from trainables.sweeps.config import SweepConfig
from trainables.sweeps.place import WARM_START

__all__ = ["resolve_warm_start"]

_POLICY_FILE = "policy.json"
_PLACES = ("", "rl_model/best", "imitation_model/policy")
"""Where a policy is inside a run folder; trained beats imitated."""


def resolve_warm_start(config: SweepConfig, context: StageContext) -> SweepConfig:
    """The configuration with ``ppo.warm_start`` an absolute policy folder of this machine, or None.

    In order: ``warm_start``, ``ppo.warm_start``, what the pipeline's imitation stage made. The sweep keeps a copy, which serves where the
    original is not there any more, or is on another machine. Raises ``UsageError`` when neither is there.
    """
    if config.custom is not None or config.imitation is not None:
        return config
    ppo = config.ppo or PPOConfig()
    given = config.warm_start or ppo.warm_start or context.results.get("imitate", {}).get("checkpoint")
    if given is None:
        return config
    text, kept = str(given), context.folder / "rl_model" / WARM_START
    try:
        folder = _of_registered(text, context) if text.startswith("models:/") else _of_path(text, context)
        _keep(folder, kept)
    except GaitwayError:
        if not (kept / _POLICY_FILE).is_file():
            raise
        context.progress.say(f"warm_start {text} is not there; the sweep's own copy of it is used")
        folder = kept.resolve()
    # Found once: whoever runs the resolved configuration again starts from the very same folder.
    return config.model_copy(update={"warm_start": None, "ppo": ppo.model_copy(update={"warm_start": folder})})


def _keep(folder: Path, kept: Path) -> None:
    """Copy a policy folder, the file by which it is recognised last."""
    if folder == kept.resolve():
        return
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == _POLICY_FILE):
        if path.is_file():
            shutil.copyfile(path, kept / path.name)


def _of_path(text: str, context: StageContext) -> Path:
    path = Path(text).expanduser()
    for start in (path, context.settings.experiments_path / path):
        for place in _PLACES:
            if (start / place / _POLICY_FILE).is_file():
                return (start / place).resolve()
    raise UsageError(f"warm_start {text}: no policy checkpoint is there; give a folder with policy.json and policy.pt, or a run folder")


def _of_registered(text: str, context: StageContext) -> Path:
    """The checkpoint that a registered version was exported from: a bundle holds the graph, not what training goes on from."""
    from cluster.store.registry import get_version

    name, _, version = text.removeprefix("models:/").replace("@", "/").partition("/")
    if not version:
        raise UsageError(f"warm_start {text}: write models:/NAME/VERSION or models:/NAME@ALIAS")
    contract = get_version(context.settings, name, version).load().contract
    source = contract.provenance.source.partition(": ")[2]
    if not (Path(source) / _POLICY_FILE).is_file():
        raise UsageError(f"warm_start {text}: the policy checkpoint that it was exported from ({source or 'unknown'}) is not there")
    return Path(source)
