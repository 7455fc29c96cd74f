"""Which episodes are under way here: recorded in the database once, then found in memory.

The database is slow beside a policy (a commit takes milliseconds, a policy tens of microseconds) and blocks, so it is touched
once when an episode begins and once when it ends, each time in a thread of its own.
"""

from __future__ import annotations

import asyncio
import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from cluster.errors import StoreError
from cluster.store.comparisons import (
    EpisodeRow,
    Outcome,
    OutcomeConflictError,
    UnknownComparisonError,
    UnknownEpisodeError,
    get_episode,
    record_episode,
    record_outcome,
    robot_assignment,
)
from cluster.store.database import Database
from serve_apps.feedback.recording import Recording
from serve_apps.gateway.problems import RequestProblemError
from serve_apps.inference.measured import MeasuredEpisode
from serve_apps.inference.policy_set import Assignment, LoadedPolicy
from serve_apps.inference.shadows import ShadowMemory

__all__ = ["Episode", "EpisodeTable", "Ledger"]

ResultT = TypeVar("ResultT")


class Ledger:
    """The database, asked from the event loop."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        # SQLite writes one at a time; more threads would only wait for its lock.
        self._writers = ThreadPoolExecutor(1 if self.database.is_sqlite else 8, thread_name_prefix="ledger-write")
        # A report over many episodes must not stand before an outcome.
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="ledger-read")

    async def read(self, function: Callable[..., ResultT], *arguments: object) -> ResultT:
        """Run ``function(database, ...)`` in a thread. Raises ``RequestProblemError`` for what the store refuses."""
        return await self._call(self._readers, function, *arguments)

    async def find(self, function: Callable[..., ResultT], *arguments: object) -> ResultT:
        """A short question that a robot waits for, which does not stand behind a report; else as ``read``."""
        return await self._call(self._writers, function, *arguments)

    async def begin(self, row: EpisodeRow) -> EpisodeRow:
        """Record an episode, or find how it was recorded before."""
        return await self._call(self._writers, record_episode, row)

    async def end(self, policy: str, episode_id: str, outcome: Outcome, server: Mapping[str, Any] | None = None) -> bool:
        """Store an outcome durably; True when it is new, False when it repeats the stored one."""
        return await self._call(self._writers, record_outcome, episode_id, outcome, policy=policy, server=server)

    async def write(self, function: Callable[..., ResultT], *arguments: object) -> ResultT:
        """Run a ``function(database, ...)`` that writes in a thread. Raises as ``read`` does."""
        return await self._call(self._writers, function, *arguments)

    def close(self) -> None:
        """Give the threads and connections back."""
        self._writers.shutdown(wait=False)
        self._readers.shutdown(wait=False)
        self.database.close()

    async def _call(self, threads: ThreadPoolExecutor, function: Callable[..., ResultT], *arguments: object, **keywords: object) -> ResultT:
        try:
            work = functools.partial(function, self.database, *arguments, **keywords)
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        except UnknownEpisodeError as error:
            raise RequestProblemError(404, "unknown-episode", str(error), "episode_id") from None
        except UnknownComparisonError as error:
            raise RequestProblemError(404, "unknown-comparison", str(error)) from None
        except OutcomeConflictError as error:
            raise RequestProblemError(409, "outcome-conflict", str(error)) from None
        except StoreError as error:
            raise RequestProblemError(503, "store-unavailable", str(error)) from None


class Episode:
    """One episode under way, as this replica remembers it."""

    __slots__ = ("assignment", "episode_id", "is_new", "measured", "recording", "sequence", "shadow", "state")

    def __init__(self, episode_id: str, assignment: Assignment, is_new: bool) -> None:
        self.episode_id = episode_id
        self.restart(assignment)
        self.is_new = is_new
        """Whether no step of it has been taken, here or on another replica."""
        self.measured = MeasuredEpisode()
        self.shadow: ShadowMemory | None = None
        """What the shadows know of it; None: nothing."""
        self.recording: Recording | None = None
        """Its steps so far, when it is one of those that are written; else None."""

    def restart(self, assignment: Assignment) -> None:
        """Begin on another version, as if no step had been taken."""
        self.assignment = assignment
        self.is_new = True
        self.state: dict[str, np.ndarray] | None = None
        """Recurrent state after the last step here."""
        self.sequence: int | None = None
        """Number of that step."""

    def moved_on(self, state: dict[str, np.ndarray], sequence: int | None) -> None:
        """A step was taken."""
        self.is_new = False
        if state:
            self.state, self.sequence = state, sequence


class EpisodeTable:
    """The latest ``capacity`` episodes of this replica; one that fell out is read from the database again."""

    def __init__(self, capacity: int = 20_000, on_evicted: Callable[[str, Episode], None] | None = None) -> None:
        self._episodes: OrderedDict[tuple[str, str], Episode] = OrderedDict()
        self._on_evicted = on_evicted
        self._robots: OrderedDict[tuple[str, str], Assignment] = OrderedDict()
        self._capacity = capacity

    def __len__(self) -> int:
        return len(self._episodes)

    def find(self, policy: str, episode_id: str) -> Episode | None:
        """The episode if it is remembered."""
        episode = self._episodes.get((policy, episode_id))
        if episode is not None:
            self._episodes.move_to_end((policy, episode_id))
        return episode

    async def expected(self, ledger: Ledger, policy: LoadedPolicy, episode_id: str, robot_id: str | None) -> Assignment:
        """What a new episode will be assigned to. Raises 422 when robots are assigned and none is named."""
        if not policy.by_robot:
            return policy.assign(episode_id)
        if robot_id is None:
            raise RequestProblemError(
                422,
                "invalid-request",
                "robot_id: the running comparison assigns robots, not episodes; name yours: in the body of act, "
                "as ?robot_id=... of a session, or in its reset",
                "robot_id",
            )
        return policy.assign(episode_id, robot_id, await self._held(ledger, policy, robot_id))

    async def begin(self, ledger: Ledger, policy: LoadedPolicy, episode_id: str, robot_id: str | None) -> Episode:
        """Record the episode's assignment, or take over the one that it already has, and remember it."""
        # An episode that is recorded goes on whatever is compared by now, and who drives it was said when it began.
        stored = await ledger.find(get_episode, policy.name, episode_id) if policy.by_robot and robot_id is None else None
        is_new = stored is None
        if stored is None:
            chosen = await self.expected(ledger, policy, episode_id, robot_id)
            row = EpisodeRow(
                policy=policy.name,
                episode_id=episode_id,
                version=chosen.version,
                comparison_id=chosen.comparison_id,
                arm=chosen.arm,
                propensity=chosen.propensity,
                weights_version=chosen.weights_version,
                robot_id=robot_id,
            )
            stored = await ledger.begin(row)
            # A row of the same moment is this one, with the arm that its robot holds.
            is_new = stored is row or stored.started_at == row.started_at
        # Two first steps of one episode may be under way at once: both find the same row, and must share one memory.
        known = self.find(policy.name, episode_id)
        if known is not None:
            return known
        episode = Episode(episode_id, _assignment(stored), is_new)
        self._episodes[policy.name, episode_id] = episode
        if len(self._episodes) > self._capacity:
            (name, _), oldest = self._episodes.popitem(last=False)
            if self._on_evicted is not None:
                self._on_evicted(name, oldest)
        return episode

    async def _held(self, ledger: Ledger, policy: LoadedPolicy, robot_id: str) -> Assignment | None:
        """What the robot's first episode of the running comparison got; None: it has had none. What it got once never changes."""
        assert policy.comparison is not None
        key = policy.comparison.id, robot_id
        if key in self._robots:
            self._robots.move_to_end(key)
            return self._robots[key]
        first = await ledger.find(robot_assignment, *key)
        if first is None:
            return None
        held = self._robots[key] = _assignment(first)
        if len(self._robots) > self._capacity:
            self._robots.popitem(last=False)
        return held


def _assignment(row: EpisodeRow) -> Assignment:
    return Assignment(row.version, row.comparison_id, row.arm, row.propensity, row.weights_version)
