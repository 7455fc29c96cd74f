"""What should be served, from the registry's aliases and the database's running comparison."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from cluster.runtime.serve_config import ServedPolicyConfig
from cluster.runtime.served import SERVED, ServedArm, ServedComparison, ServedPolicy, ServedState, ServedVersion
from cluster.settings import Settings
from cluster.storage import join_url

if TYPE_CHECKING:
    from cluster.store.comparisons import Comparison
    from cluster.store.database import Database

__all__ = ["desired_state"]


def desired_state(settings: Settings, policies: Sequence[ServedPolicyConfig], start_comparisons: bool = False) -> ServedState:
    """What the registry and the database say should be served.

    A decision that was written down and interrupted before the alias moved is finished first: alias and split never disagree.

    Args:
        settings: where they are.
        policies: which policies, each with its default version.
        start_comparisons: start the comparison of a ``split`` whose policy has none running.

    Raises:
        StoreError: a version or alias is not registered.
        BundleError: a registered bundle has changed.
    """
    from cluster.store.comparisons import active_comparison, unfinished_decisions
    from cluster.store.database import open_database

    database = open_database(settings)
    try:
        if unfinished_decisions(database):
            importlib.import_module("serve_apps.comparison.promotion").finish_decisions(settings)
        served = {}
        for policy in policies:
            comparison = active_comparison(database, policy.policy)
            if comparison is None and start_comparisons and policy.split is not None:
                comparison = _start_comparison(settings, database, policy)
            served[policy.policy] = _desired_policy(settings, policy, comparison)
    finally:
        database.close()
    # A server's URL may hold a password, and Serve shows user_config to whoever may look: nodes have it in their environment.
    url = None if settings.database_url else settings.gaitway_database_url
    return ServedState(policies=served, database_url=url)


def _start_comparison(settings: Settings, database: Database, policy: ServedPolicyConfig) -> Comparison | None:
    """Start the comparison that a ``split`` asks for; None when its arms are one version, as they are once a challenger has won."""
    from cluster.store.comparisons import Arm, NewComparison
    from cluster.store.registry import get_version

    split = policy.split
    assert split is not None
    versions = {alias: str(get_version(settings, policy.policy, alias).version) for alias in split.arms}
    if len(set(versions.values())) < len(versions):
        return None
    arms = tuple(Arm(name=alias.removeprefix("@"), version=versions[alias], weight=weight) for alias, weight in split.arms.items())
    new = NewComparison(policy=policy.policy, arms=arms, **split.model_dump(exclude={"arms"}))
    plans: Any = importlib.import_module("serve_apps.comparison.plan")
    return cast("Comparison", plans.start_comparison(database, new))


def _desired_policy(settings: Settings, policy: ServedPolicyConfig, comparison: Comparison | None) -> ServedPolicy:
    from cluster.store.registry import get_version

    default = get_version(settings, policy.policy, policy.default)
    found = {str(default.version): default}
    for arm in comparison.arms if comparison else ():
        found.setdefault(arm.version, get_version(settings, policy.policy, arm.version))
    versions = {
        number: ServedVersion(bundle=item.path, digest=item.load().digest, fetch_url=item.fetch_url) for number, item in found.items()
    }
    split = None
    if comparison is not None:
        arms = tuple(ServedArm(**arm.model_dump()) for arm in comparison.arms)
        version = comparison.weights[-1].version
        split = ServedComparison(id=comparison.id, salt=comparison.salt, arms=arms, weights_version=version, unit=comparison.unit)
    feedback = policy.feedback
    if feedback is not None and feedback.folder is None:
        feedback = feedback.model_copy(update={"folder": join_url(settings.storage_url, SERVED)})
    return ServedPolicy(versions=versions, default_version=str(default.version), comparison=split, feedback=feedback)
