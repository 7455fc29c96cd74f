"""Open-loop error: what a policy would have commanded along held-out episodes, against what was commanded.

The robot goes where the recording goes, whatever the policy says, so this is no proof that it can do the task; it is what can be
known without a robot. Holding the last state and holding the last action are the baselines: at a high frame rate they are strong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cluster.lerobot.info import DatasetInfo
from trainables.datasets.lerobot import load_frames
from trainables.imitation.frames import flat_rows
from trainables.imitation.interface import relative_base
from trainables.imitation.spec import VALIDATION_SHARE, TrainSpec
from trainables.networks.interface import PolicyInterface
from trainables.networks.policies import ChunkPolicy, Policy

__all__ = ["HeldOut", "ensemble", "held_out_episodes", "measure", "plans_along"]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """One held-out episode, in physical units."""

    episode: int
    observation: np.ndarray
    """Shape (frames, observation_size), float32."""
    action: np.ndarray
    """Shape (frames, action_size)."""


def held_out_episodes(info: DatasetInfo, spec: TrainSpec) -> list[HeldOut]:
    """The validation episodes, at most ``open_loop_episodes`` of them, spread evenly; of a single episode its last part."""
    indices = spec.validation_episodes or spec.train_episodes
    most = spec.config.open_loop_episodes
    chosen = [indices[place] for place in np.unique(np.linspace(0, len(indices) - 1, min(most, len(indices))).round().astype(int))]
    columns = load_frames(info.path, episodes=chosen, columns=spec.columns)
    observation, action = (flat_rows(columns, side) for side in spec.sides)
    episodes = []
    for index in chosen:
        rows = np.flatnonzero(columns["episode_index"] == index)
        if not spec.validation_episodes:
            rows = rows[np.arange(len(rows)) >= (1 - VALIDATION_SHARE) * len(rows)]
        episodes.append(HeldOut(int(index), observation[rows].astype(np.float32), action[rows].astype(np.float64)))
    return [episode for episode in episodes if len(episode.action) > 1]


@torch.inference_mode()
def plans_along(policy: Policy, interface: PolicyInterface, observation: np.ndarray, history_stride: int = 1) -> np.ndarray:
    """What the policy commands at every frame. Shape (frames, chunk_size, action_size), in physical units."""
    policy = policy.eval()
    frames = torch.from_numpy(observation)
    if isinstance(policy, ChunkPolicy):
        back = history_stride * torch.arange(policy.history - 1, -1, -1)
        plans = policy(frames[(torch.arange(len(frames))[:, None] - back).clamp_min(0)])
    elif not policy.state_shapes:
        plans = policy.plan(frames, {})[0]
    else:
        state, steps = policy.initial_state(1), []
        for frame in frames.split(1):
            plan, state = policy.plan(frame, state)
            steps.append(plan)
        plans = torch.cat(steps)
    return interface.scaling.to_physical(plans.numpy().astype(np.float64))


def ensemble(plans: np.ndarray, decay: float) -> np.ndarray:
    """Temporal ensembling: the weighted mean of all plans for a step, weights exp(-decay * i) with i = 0 the oldest (ACT).

    Args:
        plans: a plan at every frame. Shape (frames, chunk_size, action_size).
        decay: 0 weights all the same; larger ones trust older plans more.

    Returns:
        Shape (frames, action_size).
    """
    frames, size, _ = plans.shape
    total, weights = np.zeros_like(plans[:, 0]), np.zeros((frames, 1))
    for age in range(min(size, frames)):  # the plan made ``age`` steps ago
        oldest = np.minimum(np.arange(frames), size - 1)[age:, None]
        weight = np.exp(-decay * (oldest - age))
        total[age:] += weight * plans[: frames - age, age]
        weights[age:] += weight
    return total / weights


def measure(
    plans: Sequence[np.ndarray], episodes: Sequence[HeldOut], interface: PolicyInterface, ensemble_decay: float | None = None
) -> dict[str, Any]:
    """Mean absolute errors of a policy's plans and of the baselines, over the same frames.

    Args:
        plans: of each episode, as ``plans_along`` gives them.
        episodes: the held-out ones.
        interface: names, units and scaling of the actions.
        ensemble_decay: of temporal ensembling; None: not measured.

    Returns:
        ``components``, ``units``, ``frames``, ``episodes``; for ``one_step``, ``horizon`` (of chunks), their baselines with
        ``_hold_state`` (None where a present value is not observed) and ``_hold_action``, and ``ensembled``: ``per_component`` in
        physical units and ``mean``, the mean of the components as shares of their half range; ``by_step``, the share at each step
        of a chunk; ``verdict``, sentences.
    """
    size = plans[0].shape[1]
    present = _present(interface)
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}

    def add(name: str, predicted: np.ndarray, wanted: np.ndarray) -> None:
        sums[name] = sums.get(name, 0.0) + np.abs(predicted - wanted).sum(axis=0)
        counts[name] = counts.get(name, 0) + len(wanted)

    for plan, episode in zip(plans, episodes, strict=True):
        action, frames = episode.action, len(episode.action)
        state = None if present is None else episode.observation[:, present].astype(np.float64)
        # From the second frame on: before the first there is no action to hold.
        for ahead in range(min(size, frames - 1)):
            now, wanted = slice(1, frames - ahead), action[1 + ahead :]
            add(f"step{ahead}", plan[now, ahead], wanted)
            add(f"action{ahead}", action[: frames - 1 - ahead], wanted)
            if state is not None:
                add(f"state{ahead}", state[now], wanted)
        if ensemble_decay is not None and size > 1:
            add("ensembled", ensemble(plan, ensemble_decay)[1:], action[1:])

    moving = interface.scaling.high - interface.scaling.low > 0
    scale = np.asarray(interface.scaling.scale, dtype=np.float64)

    def figures(names: Sequence[str]) -> dict[str, Any]:
        error = sum(sums[name] for name in names) / sum(counts[name] for name in names)
        return {"per_component": error.tolist(), "mean": float((error / scale)[moving].mean()) if moving.any() else 0.0}

    report: dict[str, Any] = {
        "components": [
            name for field in interface.action for name in (field.components or [f"{field.name}[{place}]" for place in range(field.size)])
        ],
        "units": [field.unit for field in interface.action for _ in range(field.size)],
        "frames": sum(len(episode.action) for episode in episodes),
        "episodes": [episode.episode for episode in episodes],
        "chunk_size": size,
    }
    steps = [ahead for ahead in range(size) if f"step{ahead}" in sums]
    families = {"": "step", "_hold_state": "state", "_hold_action": "action"}
    for suffix, family in families.items():
        if family == "state" and present is None:
            continue
        report[f"one_step{suffix}"] = figures([f"{family}0"])
        if size > 1:
            report[f"horizon{suffix}"] = figures([f"{family}{ahead}" for ahead in steps])
    if size > 1:
        report["by_step"] = [figures([f"step{ahead}"])["mean"] for ahead in steps]
    if "ensembled" in sums:
        report["ensembled"] = figures(["ensembled"])
    return {**report, "verdict": _verdict(report)}


def _present(interface: PolicyInterface) -> list[int] | None:
    """Where the present value of every action component is in the observation; None where one of them is not observed."""
    base = relative_base(interface)
    return None if base is None or 0.0 in base["gain"] else base["index"]


def _verdict(report: Mapping[str, Any]) -> list[str]:
    said = []
    for label, key in (("One step ahead", "one_step"), (f"Over {report['chunk_size']} steps", "horizon")):
        if key not in report:
            continue
        ours = report[key]["mean"]
        baselines = {"state": report.get(f"{key}_hold_state"), "action": report.get(f"{key}_hold_action")}
        known = {name: value["mean"] for name, value in baselines.items() if value is not None}
        lost = [f"holding the last {name} ({100 * value:.2g} %)" for name, value in known.items() if ours >= value]
        beaten = [f"holding the last {name} ({100 * value:.2g} %)" for name, value in known.items() if ours < value]
        text = f"{label} it errs by {100 * ours:.2g} % of the components' half range"
        parts = ([f"better than {' and '.join(beaten)}"] if beaten else []) + ([f"NOT better than {' or '.join(lost)}"] if lost else [])
        said.append(text + (": " + ", ".join(parts) if parts else "") + ".")
    return said
