"""A split that follows a schedule: the challengers' share grows stage by stage, as long as nothing speaks against it.

A stage is over once its episodes, drawn with its share, are counted; the next begins if no challenger has broken a guardrail, episodes
were split as the weights say, and no verdict has been reached. The challengers divide the share as their weights stood at the start. The
last stage stays: all of the traffic is the verdict's to give. Where somebody has set a share that is no stage's, the ramp
stands still; setting a stage's share takes it up again from there.
"""

from __future__ import annotations

from cluster.store.comparisons import Comparison
from serve_apps.comparison.counted import Counted

__all__ = ["current_stage", "describe_ramp", "next_stage"]

_SAME_SHARE = 1e-9


def current_stage(comparison: Comparison) -> int | None:
    """Index of the stage whose share is in force; None: no stage's is."""
    latest = comparison.weights[-1]
    names = [arm.name for arm in comparison.acting_arms]
    together = sum(latest.share(name, names) for name in names[1:])
    return next((k for k, stage in enumerate(comparison.ramp) if abs(stage.share - together) < _SAME_SHARE), None)


def next_stage(counted: Counted) -> tuple[dict[str, float], str] | None:
    """The weights of the stage that is due, and why; None: none is."""
    comparison = counted.comparison
    stage = current_stage(comparison)
    if stage is None or stage + 1 >= len(comparison.ramp):
        return None
    needed, ready = comparison.ramp[stage].episodes, counted.episodes_with(comparison.weights[-1].version)
    if ready < needed:
        return None
    first = comparison.weights[0].weights
    began = comparison.model_copy(update={"arms": tuple(arm.model_copy(update={"weight": first[arm.name]}) for arm in comparison.arms)})
    following = comparison.ramp[stage + 1]
    reason = f"ramp: stage {stage + 2} of {len(comparison.ramp)}, challengers get {100 * following.share:g} %, after {ready} episodes"
    return began.at_stage(following), reason


def describe_ramp(counted: Counted) -> str:
    """Where it stands."""
    comparison = counted.comparison
    stage = current_stage(comparison)
    if stage is None:
        return "ramp: stands still, the challengers' share is no stage's"
    here = comparison.ramp[stage]
    ready = counted.episodes_with(comparison.weights[-1].version)
    goal = f"{ready} of {here.episodes} episodes counted" if stage + 1 < len(comparison.ramp) else "the last"
    return f"ramp: stage {stage + 1} of {len(comparison.ramp)}, challengers get {100 * here.share:g} %: {goal}"
