"""Refusals of an operator's request as an HTTP caller is told them, in the words of the command line."""

from __future__ import annotations

from typing import Any

from cluster.errors import BundleError, ClusterError, GaitwayError, StoreError, StoreUnavailableError, UsageError
from cluster.store.comparisons import UnknownComparisonError
from cluster.store.registry import UnknownVersionError

__all__ = ["problem_of"]


def problem_of(error: GaitwayError) -> dict[str, Any]:
    """What the caller is told: ``status``, ``name``, ``detail``, and ``field`` where one is to blame."""
    detail, field = str(error), None
    if isinstance(error, UsageError):
        source, _, rest = detail.partition(": ")
        if source == "comparison" and ": " in rest:
            field, detail = rest.partition(": ")[0], rest
        return {"status": 422, "name": "invalid-request", "detail": detail, "field": field}
    if isinstance(error, UnknownComparisonError):
        return {"status": 404, "name": "unknown-comparison", "detail": detail, "field": None}
    if isinstance(error, UnknownVersionError):
        return {"status": 404, "name": "unknown-version", "detail": detail, "field": None}
    if isinstance(error, (StoreUnavailableError, ClusterError)):
        return {"status": 503, "name": "store-unavailable", "detail": detail, "field": None}
    assert isinstance(error, (StoreError, BundleError))
    return {"status": 409, "name": "comparison-conflict", "detail": detail, "field": None}
