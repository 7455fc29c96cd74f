"""One episode as it is served, step by step, in memory that is taken in whole blocks and counted against a budget."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.contract import PolicyContract

if TYPE_CHECKING:
    from serve_apps.inference.policy_set import Assignment

__all__ = ["BLOCK_STEPS", "Budget", "Recording"]

BLOCK_STEPS = 256
"""Five seconds at 50 Hz; blocks are never copied while the robot waits, as one growing array would be."""


class Budget:
    """Bytes that recordings of one policy may hold, from their first step until they are written. For several threads."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Take ``count`` bytes; False when they are not there."""
        with self._lock:
            if self.used_bytes + count > self.limit_bytes:
                return False
            self.used_bytes += count
            return True

    def exchange(self, held: int, count: int) -> None:
        """Hold ``count`` bytes from now on in the place of ``held``."""
        with self._lock:
            self.used_bytes += count - held


class Recording:
    """What is kept of an episode while it goes on. Only the event loop adds to it.

    Attributes:
        contract: contract of the policy.
        episode_id: the episode.
        about: what else is known of it, JSON-able.
        budget: what its memory is taken from.
        steps: steps so far.
        held_bytes: memory taken so far.
        last_s: when its last step came, by ``time.perf_counter``.
        closed: whether nothing more is added.
        lost: why it is not complete and will not be written; empty: it is.
    """

    __slots__ = (
        "_assignment",
        "_began_s",
        "_block",
        "_blocks",
        "_observation_size",
        "_sequence",
        "_spans",
        "_times",
        "about",
        "budget",
        "closed",
        "contract",
        "episode_id",
        "held_bytes",
        "last_s",
        "lost",
        "steps",
    )

    def __init__(self, contract: PolicyContract, episode_id: str, about: dict[str, Any], budget: Budget, now_s: float) -> None:
        self.contract, self.episode_id, self.budget = contract, episode_id, budget
        self.about = {**about, "started_at": datetime.now(UTC).isoformat()}
        self.steps = self.held_bytes = 0
        self.last_s = self._began_s = now_s
        self.closed = False
        self.lost = ""
        self._observation_size = contract.observation_size
        self._blocks: list[tuple[np.ndarray, np.ndarray]] = []
        self._block = self._times = np.empty((0, 0), np.float32)
        self._assignment: Assignment | None = None
        self._spans: list[dict[str, Any]] = []
        self._sequence: int | None = None

    def add(
        self, assignment: Assignment, observation: np.ndarray, action: np.ndarray, received_s: float, latency_s: float, sequence: int | None
    ) -> None:
        """A step.

        Args:
            assignment: what drove it.
            observation: float32. Shape (1, observation_size).
            action: float32. Shape (1, action_size).
            received_s: when the observation had arrived, by ``time.perf_counter``.
            latency_s: from then until the action was there.
            sequence: number of the step, where the caller counts; a gap loses the recording: steps went elsewhere.
        """
        if self.closed:
            return
        if sequence is not None:
            if self._sequence is not None and sequence != self._sequence + 1:
                self.lose("some of its steps were answered elsewhere, or twice")
                return
            self._sequence = sequence
        place = self.steps % BLOCK_STEPS
        if place == 0 and not self._grow():
            return
        if assignment is not self._assignment:
            self._assignment = assignment
            self._spans.append({"from_step": self.steps, "version": assignment.version, "arm": assignment.arm})
            if self.steps == 0:
                self._began_s = received_s
        row = self._block[place]
        row[: self._observation_size] = observation[0]
        row[self._observation_size :] = action[0]
        times = self._times[place]
        times[0] = received_s - self._began_s
        times[1] = latency_s
        self.last_s = received_s
        self.steps += 1

    def lose(self, why: str) -> None:
        """Give up what was recorded."""
        self.lost, self.closed = why, True
        self._free()
        self.budget.exchange(self.held_bytes, 0)
        self.held_bytes = 0

    def take_content(self) -> dict[str, Any]:
        """All of it, for ``messages``; it is then no longer kept here.

        ``numbers`` are observations and actions, float32, shape (steps, observation_size + action_size); ``times`` are seconds since
        the first step and latency in seconds, float64, shape (steps, 2).
        """
        numbers, times = (np.concatenate(parts)[: self.steps] for parts in zip(*self._blocks, strict=True))
        self._free()
        return {"episode_id": self.episode_id, "about": self.about | {"versions": self._spans}, "numbers": numbers, "times": times}

    def _free(self) -> None:
        self._blocks.clear()
        self._block = self._times = np.empty((0, 0), np.float32)

    def _grow(self) -> bool:
        width = self._observation_size + self.contract.action_size
        size = BLOCK_STEPS * (4 * width + 16)
        if not self.budget.take(size):
            self.lose("the buffer is full")
            return False
        self.held_bytes += size
        self._block, self._times = np.empty((BLOCK_STEPS, width), np.float32), np.empty((BLOCK_STEPS, 2))
        self._blocks.append((self._block, self._times))
        return True
