"""``python -m serve_apps.comparison.operate``: one change of a comparison that needs the registry, asked for on stdin, answered on stdout.

The registry's client takes seconds to load and stays out of replicas, so the endpoint has operators' requests done here. In:
``{"operation", "comparison_id", "actor", "asked"}``; out: ``{"result": ...}`` or ``{"problem": {"status", "name", "detail", "field"}}``,
one JSON object on the last line.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from typing import Any

from cluster.errors import GaitwayError
from cluster.runtime.serving import refresh
from cluster.settings import Settings
from serve_apps.comparison.promotion import promote, undo
from serve_apps.comparison.refusals import problem_of
from serve_apps.comparison.starting import start

__all__ = ["main", "operate"]


def operate(settings: Settings, operation: str, comparison_id: str, actor: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Do it, then have the endpoint follow.

    Args:
        settings: where the database and the registry are.
        operation: start, promote, undo, or follow: nothing but the following.
        comparison_id: which comparison; empty for start and follow.
        actor: who asks, for the trail.
        asked: the request's body.

    Returns:
        JSON-able: what was done, and ``endpoint``: whether every replica follows, and if not, why.

    Raises:
        GaitwayError: it was refused; see ``serve_apps.comparison.refusals``.
    """
    result: dict[str, Any] = {}
    if operation == "start":
        comparison = start(settings, asked, actor)
        result = {"comparison": comparison.model_dump(mode="json", exclude={"salt"})}
    elif operation == "promote":
        ended = promote(settings, comparison_id, asked.get("arm"), bool(asked.get("force")), actor)
        result = {
            "comparison_id": comparison_id,
            "status": ended.comparison.status,
            "arm": ended.arm,
            "version": ended.version,
            "forced": ended.forced,
        }
    elif operation == "undo":
        result = {"comparison_id": comparison_id, "champion": undo(settings, comparison_id, actor)}
    return result | {"endpoint": _follow(settings)}


def main() -> int:
    """Returns the exit code: 0 also when the request was refused."""
    wanted = json.load(sys.stdin)
    settings = Settings.from_environment()
    # Whatever a library prints must not end up in the answer.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            answer = {"result": operate(settings, **wanted)}
        except GaitwayError as error:
            answer = {"problem": problem_of(error)}
    print(json.dumps(answer))
    return 0


def _follow(settings: Settings) -> dict[str, Any]:
    try:
        refresh(settings)
    except GaitwayError as error:
        return {"follows": False, "message": str(error)}
    return {"follows": True, "message": ""}


if __name__ == "__main__":
    sys.exit(main())
