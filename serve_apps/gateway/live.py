"""What the routes work on: the policies that are loaded, the episodes under way, the ledger, the callers. ``apply`` swaps it under them.

Weights and decisions of a running comparison do not wait for a deployment: every replica asks the database for them twice a second, and
looks at a comparison itself after the outcomes that it has stored (``serve_apps.comparison.referee``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.errors import GaitwayError
from cluster.runtime.served import ServedState
from cluster.settings import Settings
from cluster.store.comparisons import Outcome, current_splits
from cluster.store.database import Database
from cluster.store.tokens import Token
from serve_apps.gateway.auth import Gate
from serve_apps.gateway.episodes import Episode, EpisodeTable, Ledger
from serve_apps.gateway.metrics import Metrics
from serve_apps.gateway.problems import RequestProblemError
from serve_apps.gateway.requests import ObservationReader, read_state
from serve_apps.inference.batching import Batcher
from serve_apps.inference.policy_set import Assignment, LoadedPolicy, PolicySet, load_policies
from serve_apps.inference.session import PolicySession

if TYPE_CHECKING:
    from serve_apps.comparison.referee import Ruling

__all__ = ["Live"]

logger = logging.getLogger(__name__)

_FOLLOW_S = 0.5
_LOOK_ANYWAY_S = 10.0
"""Silence is looked at too: an outcome that never comes brings nobody to look."""


class Live:
    """One replica's state.

    Attributes:
        episodes: episodes under way here.
        gate: who may call.
        metrics: what was done here, counted.
        refused: the last state that could not be served: ``generation``, ``reason``; None when the last one is being served.
    """

    def __init__(self) -> None:
        self.episodes = EpisodeTable()
        self.gate = Gate(self._read_token)
        self.metrics = Metrics()
        self.refused: dict[str, str] | None = None
        self._set: PolicySet | None = None
        self._readers: dict[str, ObservationReader] = {}
        self._ledger: Ledger | None = None
        self._batcher = Batcher()
        self._limits = ServedState(policies={})
        self._applying = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None
        self._to_look_at: set[str] = set()
        self._looked_s = self._next_look_s = 0.0

    async def apply(self, user_config: dict[str, Any]) -> None:
        """Serve what ``user_config`` says: load and warm it in a thread, then swap it in at once.

        When something in it cannot serve, a replica that serves already goes on as it is and reports the refusal in
        ``GET /v1/policies``; one that serves nothing yet raises, so that its deployment fails with the reason.
        """
        async with self._applying:
            state = ServedState.model_validate(user_config)
            try:
                loaded = await asyncio.to_thread(load_policies, state, self._set)
                url = state.database_url or Settings.from_environment().gaitway_database_url
                ledger = self._ledger if self._ledger is not None and self._ledger.database.url == url else Ledger(url)
            except GaitwayError as error:
                if self._set is None:
                    raise
                self.refused = {"generation": state.generation, "reason": str(error)}
                logger.error("generation %s refused, %s goes on: %s", state.generation, self._set.generation, error)
                return
            # From here to the end nothing awaits: no request sees one without the other.
            self._readers = {name: ObservationReader(policy.contract) for name, policy in loaded.policies.items()}
            before, self._ledger = self._ledger, ledger
            self._set, self.refused, self._limits = loaded, None, state
            if before is not None and before is not ledger:
                before.close()
            if self._following is None:
                self._following = asyncio.get_running_loop().create_task(self._follow())

    async def close(self) -> None:
        """Stop following; for tests, a replica ends with its process."""
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        if self._ledger is not None:
            self._ledger.close()

    async def end(self, policy: str, episode_id: str, outcome: Outcome) -> bool:
        """Store an outcome durably; True when it is new."""
        new = await self.ledger.end(policy, episode_id, outcome)
        if new:
            self.metrics.outcome(policy)
        served = self.loaded.policies.get(policy)
        if new and served is not None and served.comparison is not None:
            self._to_look_at.add(served.comparison.id)
        return new

    @property
    def loaded(self) -> PolicySet:
        """All policies. Raises 503 before the first are loaded."""
        if self._set is None:
            raise _not_ready()
        return self._set

    @property
    def ledger(self) -> Ledger:
        """The database. Raises 503 before it is known."""
        if self._ledger is None:
            raise _not_ready()
        return self._ledger

    @property
    def batches(self) -> tuple[int, int]:
        """Calls of a policy's graph so far, and the steps in them."""
        return self._batcher.batches, self._batcher.steps

    @property
    def max_body_bytes(self) -> int:
        """Largest body or frame."""
        return self._limits.max_body_bytes

    @property
    def requests_per_s(self) -> float:
        """Limit of a token that has none of its own."""
        return self._limits.requests_per_s

    def policy(self, name: str) -> LoadedPolicy:
        """One policy. Raises 404."""
        policies = self.loaded.policies
        if name not in policies:
            raise RequestProblemError(404, "unknown-policy", f"no policy {name[:128]!r} here; served: {', '.join(policies)}", "policy")
        return policies[name]

    def reader(self, name: str) -> ObservationReader:
        """Reads observations of a policy that is served."""
        return self._readers[name]

    async def begin(self, policy: LoadedPolicy, episode_id: str, robot_id: str | None) -> Episode:
        """The episode, recorded if it is new."""
        episode = self.episodes.find(policy.name, episode_id)
        if episode is None:
            episode = await self.episodes.begin(self.ledger, policy, episode_id, robot_id)
            self.metrics.episode(policy.name, episode.assignment)
        return episode

    async def step(
        self, policy: LoadedPolicy, episode: Episode, observation: np.ndarray, handed: Any = None, sequence: int | None = None
    ) -> tuple[PolicySession, np.ndarray]:
        """One control step of an episode, with the version that it began on; its recurrent state moves on.

        Args:
            policy: the policy as it is served now.
            episode: the episode.
            observation: float32. Shape (1, observation_size).
            handed: recurrent state that the caller hands back: by field, or flat.
            sequence: number of the step in its episode, where the caller counts them.

        Returns:
            The version's session, and the action. Shape (1, action_size).
        """
        started_s = time.perf_counter()
        session = policy.session(episode.assignment.version)
        if session is None:
            # Its comparison is over and its version gone for good; a moving robot still needs an action.
            episode.restart(Assignment(policy.default_version))
            session = policy.versions[policy.default_version]
            if isinstance(handed, dict) and handed.keys() != session.state_fields.keys():
                handed = sequence = None
        state = _incoming_state(session, episode, handed, sequence) if session.state_fields else None
        action, following = await self._batcher.run(session, observation, state)
        if not np.isfinite(action).all():
            detail = "observation: so far from what the policy knows that its action is not finite"
            raise RequestProblemError(422, "invalid-request", detail, "observation")
        episode.moved_on(following, sequence)
        self.metrics.step(policy.name, episode.assignment, time.perf_counter() - started_s)
        return session, action

    async def run(self, session: PolicySession, observation: np.ndarray, state: Mapping[str, np.ndarray] | None) -> Any:
        """A version's graph and no episode. See ``PolicySession.run``."""
        return await self._batcher.run(session, observation, state)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_FOLLOW_S)
            try:
                await self._look()
                await self._take_over_splits()
                self.metrics.followed_s = time.monotonic()
            except RequestProblemError as problem:
                logger.warning("the comparison could not be followed: %s", problem)
            except Exception:
                logger.exception("the comparison could not be followed")

    async def _look(self) -> None:
        """Act on what has come in since the last look."""
        started_s = time.monotonic()
        if started_s < self._next_look_s:
            return
        running = {policy.comparison.id for policy in self.loaded.policies.values() if policy.comparison is not None}
        if time.monotonic() - self._looked_s > _LOOK_ANYWAY_S:
            self._looked_s = time.monotonic()
            self._to_look_at |= running
        waiting, self._to_look_at = self._to_look_at & running, set()
        for comparison_id in waiting:
            ruling = await self.ledger.read(_rule, comparison_id)
            if ruling is not None and ruling.acted:
                logger.warning("comparison %s: %s", comparison_id, ruling.acted)
            if ruling is not None and ruling.decided:
                await asyncio.create_subprocess_exec(sys.executable, "-m", "serve_apps.comparison.apply")
        # Long comparisons take longer to look at; robots share this machine.
        self._next_look_s = time.monotonic() + min(1.0, 10.0 * (time.monotonic() - started_s))

    async def _take_over_splits(self) -> None:
        ids = [policy.comparison.id for policy in self.loaded.policies.values() if policy.comparison is not None]
        if not ids:
            return
        splits = await self.ledger.read(current_splits, ids)
        served = self.loaded  # read again: while we waited, another state may have been applied
        policies = {}
        for name, policy in served.policies.items():
            state = splits.get(policy.comparison.id) if policy.comparison is not None else None
            policies[name] = policy if state is None else policy.follow(*state)
        if any(policies[name] is not policy for name, policy in served.policies.items()):
            self._set = replace(served, policies=policies)

    async def _read_token(self, function: Any, text: str) -> Token | None:
        token: Token | None = await self.ledger.read(function, text)
        return token


def _rule(database: Database, comparison_id: str) -> Ruling | None:
    # Imported by the first look, in its thread: a replica that only acts never pays for the statistics.
    from serve_apps.comparison.referee import rule

    return rule(database, comparison_id)


def _incoming_state(session: PolicySession, episode: Episode, handed: Any, sequence: int | None) -> dict[str, np.ndarray] | None:
    """Recurrent state before this step; None: zeros, the episode begins.

    What the caller hands back comes first: it is right on whichever replica the step arrives. What this replica holds is used
    when it is the state of the step before.
    """
    if handed is not None:
        return read_state(handed, session.state_fields)
    if sequence == 0 or (episode.is_new and sequence is None):
        return None
    follows = episode.sequence is None or sequence is None or sequence == episode.sequence + 1
    if episode.state is not None and follows and episode.state.keys() == session.state_fields.keys():
        return episode.state
    raise RequestProblemError(
        409, "state-required", "this replica does not hold the state of the step before; hand back the state that came with it", "state"
    )


def _not_ready() -> RequestProblemError:
    return RequestProblemError(503, "not-ready", "the policies are not loaded yet; try again")
