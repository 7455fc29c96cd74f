"""``python -m serve_apps.comparison.apply``: the registry follows decisions that were written down, and the endpoint the registry.

A replica that has written a decision starts it in a process of its own: the registry's client is large, and a robot waits for nobody.
"""

from __future__ import annotations

import contextlib
import sys

from cluster.errors import GaitwayError
from cluster.runtime.serving import refresh
from cluster.settings import Settings
from serve_apps.comparison.promotion import finish_decisions


def main() -> int:
    """Returns the exit code."""
    settings = Settings.from_environment()
    try:
        finished = finish_decisions(settings)
    except GaitwayError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if finished:
        # Replicas follow the decision already; a deployment that says the same spares new ones the detour.
        with contextlib.suppress(GaitwayError):
            refresh(settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
