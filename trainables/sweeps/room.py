"""Whether a cluster has room for a sweep's trials, and for how many at a time. Tune would wait for ever, in silence."""

from __future__ import annotations

from typing import Any

from cluster.errors import UsageError
from trainables.sweeps.config import SweepConfig

__all__ = ["check_room", "concurrent_trials", "missing"]

_RESOURCES = ("CPU", "GPU")


def check_room(config: SweepConfig) -> None:
    """Raise ``UsageError``, saying what is missing, when not even one trial fits."""
    nodes = _nodes()
    if _trials_that_fit(config, nodes) == 0:
        raise UsageError(f"{missing(config, nodes)}; lower cpus_per_trial or the configuration's env runners, learners or GPUs")


def concurrent_trials(config: SweepConfig) -> int:
    """Trials that fit on the cluster at a time, at least 1."""
    return max(1, _trials_that_fit(config, _nodes()))


def missing(config: SweepConfig, nodes: list[dict[str, float]] | None = None) -> str:
    """What one trial needs and what the cluster has, in words."""
    nodes = _nodes() if nodes is None else nodes
    bundles = config.swept.bundles(config.cpus_per_trial)
    parts = []
    for resource in _RESOURCES:
        amounts = [bundle.get(resource, 0.0) for bundle in bundles]
        if sum(amounts) == 0:
            continue
        total, largest = sum(node.get(resource, 0.0) for node in nodes), max((node.get(resource, 0.0) for node in nodes), default=0.0)
        each = f" in {len(bundles)} processes, {max(amounts):g} in the largest" if len(bundles) > 1 else ""
        parts.append(
            f"needs {sum(amounts):g} {resource}s{each}, the cluster has {total:g} on {len(nodes)} node(s), {largest:g} on the largest"
        )
    return "one trial " + "; ".join(parts)


def _nodes() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _trials_that_fit(config: SweepConfig, nodes: list[dict[str, float]]) -> int:
    """Trials placed one after another, each bundle on the first node with room, the largest bundles first."""
    free: list[dict[str, Any]] = [dict(node) for node in nodes]
    bundles = sorted(config.swept.bundles(config.cpus_per_trial), key=lambda bundle: -sum(bundle.values()))
    for count in range(config.total_trials):
        if not all(_place(bundle, free) for bundle in bundles):
            return count
    return config.total_trials


def _place(bundle: dict[str, float], free: list[dict[str, Any]]) -> bool:
    for node in free:
        if all(node.get(resource, 0.0) >= amount for resource, amount in bundle.items()):
            for resource, amount in bundle.items():
                node[resource] -= amount
            return True
    return False
