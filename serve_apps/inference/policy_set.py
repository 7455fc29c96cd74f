"""Every version that may answer, loaded: built aside from what is serving, then swapped in by one assignment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cluster.contract import PolicyContract
from cluster.errors import BundleError
from cluster.runtime.served import ServedComparison, ServedPolicy, ServedState
from cluster.store.bundles import load_bundle
from serve_apps.comparison.assignment import assign
from serve_apps.inference.session import PolicySession

__all__ = ["Assignment", "LoadedPolicy", "PolicySet", "load_policies"]


@dataclass(frozen=True)
class Assignment:
    """Which version drives an episode, and why."""

    version: str
    comparison_id: str | None = None
    arm: str | None = None
    propensity: float = 1.0
    weights_version: int | None = None


@dataclass(frozen=True)
class LoadedPolicy:
    """One policy, ready."""

    name: str
    versions: Mapping[str, PolicySession]
    """Versions that get new episodes."""
    retired: Mapping[str, PolicySession]
    """Versions that got them until the last change: episodes that began on one end on it."""
    default_version: str
    comparison: ServedComparison | None

    @property
    def contract(self) -> PolicyContract:
        """The default version's contract; every version takes the same observation and gives the same action."""
        return self.versions[self.default_version].contract

    @property
    def by_robot(self) -> bool:
        """Whether robots are assigned and not episodes: an episode then has to say whose it is."""
        return self.comparison is not None and self.comparison.unit == "robot"

    def assign(self, episode_id: str, robot_id: str | None = None, held: Assignment | None = None) -> Assignment:
        """Version of a new episode: the same for the same episode, or robot, on every replica.

        Args:
            episode_id: the episode.
            robot_id: its robot; needed where robots are assigned.
            held: what this robot's first episode of this comparison got: it keeps that, through changes of the split. When its arm has
                been taken away, its episodes go where new robots go, and are not counted: it would be in two arms.
        """
        comparison = self.comparison
        if comparison is None:
            return Assignment(self.default_version)
        weights = {arm.name: arm.weight for arm in comparison.arms}
        if held is not None and held.arm is not None and weights[held.arm] > 0:
            return held
        unit = robot_id if self.by_robot else episode_id
        if unit is None:
            raise ValueError(f"comparison {comparison.id} assigns robots: give the robot_id")
        index, propensity = assign(comparison.salt, unit, list(weights.values()))
        arm = comparison.arms[index]
        if propensity == 1.0 or held is not None:
            return Assignment(arm.version)  # nothing is compared while one arm has everything
        return Assignment(arm.version, comparison.id, arm.name, propensity, comparison.weights_version)

    def follow(self, version: int, weights: Mapping[str, float], status: str, winner: str | None) -> LoadedPolicy:
        """The policy under its comparison's state in the database, which may be ahead of what was deployed; itself when it is not."""
        comparison = self.comparison
        if comparison is None:
            return self
        if status != "running":
            default = winner if status == "promoted" and winner in self.versions else self.default_version
            return replace(self, comparison=None, default_version=default)
        if version <= comparison.weights_version:
            return self
        arms = tuple(arm.model_copy(update={"weight": weights[arm.name]}) for arm in comparison.arms)
        return replace(self, comparison=comparison.model_copy(update={"arms": arms, "weights_version": version}))

    def session(self, version: str) -> PolicySession | None:
        """A version that is loaded, or None."""
        return self.versions.get(version) or self.retired.get(version)


@dataclass(frozen=True)
class PolicySet:
    """All policies of one generation."""

    generation: str
    policies: Mapping[str, LoadedPolicy] = field(default_factory=dict)


def load_policies(state: ServedState, previous: PolicySet | None = None) -> PolicySet:
    """Load, verify and warm everything in ``state``; sessions of ``previous`` with the same digest are taken over.

    Raises ``BundleError`` naming the bundle when one cannot serve; ``previous`` is untouched.
    """
    before = previous.policies if previous is not None else {}
    loaded = {name: _load(name, policy, before.get(name)) for name, policy in state.policies.items()}
    return PolicySet(generation=state.generation, policies=loaded)


def _load(name: str, policy: ServedPolicy, before: LoadedPolicy | None) -> LoadedPolicy:
    earlier = (
        {} if before is None else {session.bundle.digest: session for session in (*before.retired.values(), *before.versions.values())}
    )
    versions = {
        number: earlier.get(version.digest) or PolicySession(load_bundle(version.bundle, version.digest, version.fetch_url))
        for number, version in policy.versions.items()
    }
    reference = versions[policy.default_version].contract
    for number, session in versions.items():
        if session.contract.policy != name:
            raise BundleError(f"{session.bundle.path}: is a version of the policy {session.contract.policy!r}, not of {name!r}")
        for label in ("observation", "action", "control_dt_s"):
            if getattr(session.contract, label) != getattr(reference, label):
                raise BundleError(
                    f"policy {name}: versions {policy.default_version} and {number} differ in {label}; "
                    "versions that share traffic must take the same observation, give the same action and run at the same rate"
                )
    # In use and gone: kept for one more change, long enough for the episodes that are under way.
    retired = {} if before is None else {number: session for number, session in before.versions.items() if number not in versions}
    return LoadedPolicy(name, versions, retired, policy.default_version, policy.comparison)
