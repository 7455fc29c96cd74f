"""How a comparison starts, whoever asks for it: the command line and the endpoint build the same one and refuse the same."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from cluster.config import parse_config
from cluster.settings import Settings
from cluster.store.comparison_request import ComparisonRequest, new_comparison
from cluster.store.comparisons import Comparison
from cluster.store.database import open_database
from cluster.store.tokens import record_audit
from serve_apps.comparison.plan import start_comparison

__all__ = ["start"]


def start(settings: Settings, asked: Mapping[str, Any], actor: str) -> Comparison:
    """Start a comparison; a running endpoint splits new episodes once it follows (``cluster.runtime.serving.refresh``).

    Args:
        settings: where the database and the registry are.
        asked: fields of ``ComparisonRequest``.
        actor: who asks, for the trail.

    Raises:
        UsageError: what is asked for makes no sense.
        StoreError: a version is not registered, or the policy has a comparison that has not ended.
    """
    new = new_comparison(settings, parse_config(asked, ComparisonRequest, source="comparison"))
    with closing(open_database(settings)) as db:
        comparison = start_comparison(db, new)
        with db.write() as connection:
            detail = {"policy": comparison.policy, "arms": {arm.name: arm.version for arm in comparison.arms}}
            record_audit(connection, actor, "comparison.start", comparison.id, detail)
    return comparison
