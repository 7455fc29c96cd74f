"""Looking at comparisons: after the outcomes that this replica has stored, and now and then at those that have gone silent.

What a look leads to is decided in ``serve_apps.comparison.referee``.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import TYPE_CHECKING

from cluster.store.database import Database
from serve_apps.gateway.episodes import Ledger

if TYPE_CHECKING:
    from serve_apps.comparison.referee import Ruling

__all__ = ["Looks"]

logger = logging.getLogger(__name__)

_LOOK_ANYWAY_S = 10.0
"""Silence is looked at too: an outcome that never comes brings nobody to look."""


class Looks:
    """When one replica looks at which comparison."""

    def __init__(self) -> None:
        self._wanted: set[str] = set()
        self._looked_at_all_s = self._next_s = 0.0

    def want(self, comparison_id: str) -> None:
        """An outcome came in: look at its comparison soon."""
        self._wanted.add(comparison_id)

    async def look(self, ledger: Ledger, running: set[str]) -> None:
        """Look at what is wanted among ``running``, and act on it. Raises ``RequestProblemError`` for what the store refuses."""
        started_s = time.monotonic()
        if started_s < self._next_s:
            return
        if started_s - self._looked_at_all_s > _LOOK_ANYWAY_S:
            self._looked_at_all_s = started_s
            self._wanted |= running
        waiting, self._wanted = self._wanted & running, set()
        for comparison_id in waiting:
            ruling = await ledger.read(_rule, comparison_id)
            if ruling is not None and ruling.acted:
                logger.warning("comparison %s: %s", comparison_id, ruling.acted)
            if ruling is not None and ruling.decided:
                await asyncio.create_subprocess_exec(sys.executable, "-m", "serve_apps.comparison.apply")
        # Long comparisons take longer to look at; robots share this machine.
        self._next_s = time.monotonic() + min(1.0, 10.0 * (time.monotonic() - started_s))


def _rule(database: Database, comparison_id: str) -> Ruling | None:
    # Imported by the first look, in its thread: a replica that only acts never pays for the statistics.
    from serve_apps.comparison.referee import rule

    return rule(database, comparison_id)
