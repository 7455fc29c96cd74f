"""What the routes work on: the policies that are loaded, the episodes under way, the ledger, the callers. ``apply`` swaps it under them.

Weights and decisions of a running comparison do not wait for a deployment: every replica asks the database for them twice a second, and
looks at a comparison itself after the outcomes that it has stored (``serve_apps.comparison.referee``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from cluster.errors import GaitwayError
from cluster.runtime.served import ServedState
from cluster.settings import Settings
from cluster.store.comparisons import Outcome, current_splits
from cluster.store.episodes import get_outcome
from cluster.store.shadows import record_shadow_figures
from cluster.store.tokens import Token
from serve_apps.feedback.collector import Feedback
from serve_apps.gateway.auth import Gate
from serve_apps.gateway.episodes import Episode, EpisodeTable, Ledger
from serve_apps.gateway.looks import Looks
from serve_apps.gateway.metrics import Metrics
from serve_apps.gateway.problems import RequestProblemError
from serve_apps.gateway.requests import ObservationReader, read_state
from serve_apps.inference.batching import Batcher, Result
from serve_apps.inference.policy_set import Assignment, LoadedPolicy, PolicySet, load_policies
from serve_apps.inference.session import PolicySession, all_finite
from serve_apps.inference.shadows import ShadowRunner

__all__ = ["Live"]

logger = logging.getLogger(__name__)

_FOLLOW_S = 0.5
_STORE_SHADOWS_S = 5.0

Done = Callable[[np.ndarray | Exception], None]


class Live:
    """One replica's state.

    Args:
        replica: its name, different from every other's.

    Attributes:
        episodes: episodes under way here.
        gate: who may call.
        metrics: what was done here, counted.
        feedback: served episodes on their way into datasets.
        refused: the last state that could not be served: ``generation``, ``reason``; None when the last one is being served.
    """

    def __init__(self, replica: str = "") -> None:
        self.episodes = EpisodeTable(on_evicted=self._give_up)
        self.gate = Gate(self._read_token)
        self.metrics = Metrics(replica)
        self.refused: dict[str, str] | None = None
        self._set: PolicySet | None = None
        self._readers: dict[str, ObservationReader] = {}
        self._ledger: Ledger | None = None
        self._replica = replica
        self._batcher = Batcher()
        self._shadows = ShadowRunner()
        self.feedback = Feedback(replica)
        self._limits = ServedState(policies={})
        self._applying = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None
        self._looks = Looks()
        self._stored_shadows_s = 0.0

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
            self._shadows.follow(loaded.policies)
            self.feedback.follow(state, loaded.policies)
            if before is not None and before is not ledger:
                before.close()
            if self._following is None:
                self._following = asyncio.get_running_loop().create_task(self._follow())

    async def close(self) -> None:
        """Stop following and bring what is known here to safety."""
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        await asyncio.gather(asyncio.to_thread(self._shadows.close), asyncio.to_thread(self.feedback.close))
        if self._ledger is not None:
            with contextlib.suppress(RequestProblemError):  # logged before; the process ends
                await self._store_shadows()
            self._ledger.close()

    async def end(self, policy: str, episode_id: str, outcome: Outcome) -> bool:
        """Store an outcome durably, with what was measured of the episode here; True when it is new.

        Of an episode that moved between replicas that is the last one's part alone.
        """
        episode = self.episodes.find(policy, episode_id)
        new = await self.ledger.end(policy, episode_id, outcome, None if episode is None else episode.measured.to_json())
        if new:
            self.metrics.outcome(policy)
        collector = self.feedback.of.get(policy)
        if collector is not None and episode is not None:
            collector.end(episode, outcome, "outcome")
        served = self.loaded.policies.get(policy)
        if new and served is not None and served.comparison is not None:
            self._looks.want(served.comparison.id)
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
        if episode is not None:
            return episode
        episode = await self.episodes.begin(self.ledger, policy, episode_id, robot_id)
        self.metrics.episode(policy.name, episode.assignment)
        collector = self.feedback.of.get(policy.name)
        if collector is not None:
            collector.begin(episode, robot_id)
        return episode

    async def expected(self, policy: LoadedPolicy, episode_id: str, robot_id: str | None) -> Assignment:
        """What an episode that has not begun will be assigned to."""
        return await self.episodes.expected(self.ledger, policy, episode_id, robot_id)

    async def step(
        self,
        policy: LoadedPolicy,
        episode: Episode,
        observation: np.ndarray,
        handed: Any = None,
        sequence: int | None = None,
        received_s: float | None = None,
    ) -> tuple[PolicySession, np.ndarray]:
        """One control step of an episode, with the version that it began on; its recurrent state moves on.

        Args:
            policy: the policy as it is served now.
            episode: the episode.
            observation: float32, not written to again. Shape (1, observation_size).
            handed: recurrent state that the caller hands back: by field, or flat.
            sequence: number of the step in its episode, where the caller counts them.
            received_s: when the observation had arrived, by ``time.perf_counter``; None: now.

        Returns:
            The version's session, and the action. Shape (1, action_size).
        """
        received_s = perf_counter() if received_s is None else received_s
        session, state = self._prepared(policy, episode, handed, sequence)
        try:
            result = await self._batcher.run(session, observation, state)
        except Exception:
            episode.measured.failed()
            raise
        return session, self._acted(policy, episode, observation, result, sequence, received_s)

    def step_soon(
        self, policy: LoadedPolicy, episode: Episode, observation: np.ndarray, handed: Any, received_s: float, done: Done
    ) -> None:
        """``step`` for who waits in no task: ``done`` is called once, from the event loop, with the action or with what ``step`` raises.

        Raises ``RequestProblemError`` for recurrent state that is missing or wrong; ``done``, which must not raise, is not called then.
        """
        session, state = self._prepared(policy, episode, handed, None)

        def ran(result: Result | Exception) -> None:
            if isinstance(result, Exception):
                episode.measured.failed()
                done(result)
                return
            try:
                action = self._acted(policy, episode, observation, result, None, received_s)
            except RequestProblemError as problem:
                done(problem)
            else:
                done(action)

        self._batcher.submit(session, observation, state, ran)

    def _prepared(
        self, policy: LoadedPolicy, episode: Episode, handed: Any, sequence: int | None
    ) -> tuple[PolicySession, dict[str, np.ndarray] | None]:
        """The version that the episode runs on, and its recurrent state before this step."""
        session = policy.session(episode.assignment.version)
        if session is None:
            # Its comparison is over and its version gone for good; a moving robot still needs an action.
            episode.restart(Assignment(policy.default_version))
            session = policy.versions[policy.default_version]
            if isinstance(handed, dict) and handed.keys() != session.state_fields.keys():
                handed = sequence = None
        return session, _incoming_state(session, episode, handed, sequence) if session.state_fields else None

    def _acted(
        self, policy: LoadedPolicy, episode: Episode, observation: np.ndarray, result: Result, sequence: int | None, received_s: float
    ) -> np.ndarray:
        """What follows from a step; the action."""
        action, following = result
        if not all_finite(action):
            episode.measured.failed()
            detail = "observation: so far from what the policy knows that its action is not finite"
            raise RequestProblemError(422, "invalid-request", detail, "observation")
        shadows = self._shadows.of.get(policy.name)
        if shadows is not None:
            shadows.offer(episode, observation, action, episode.is_new, sequence)
        episode.moved_on(following, sequence)
        latency_s = perf_counter() - received_s
        episode.measured.step(latency_s)
        self.metrics.step(policy.name, episode.assignment, latency_s)
        if episode.recording is not None:
            episode.recording.add(episode.assignment, observation, action, received_s, latency_s, sequence)
        return action

    async def run(self, session: PolicySession, observation: np.ndarray, state: Mapping[str, np.ndarray] | None) -> Any:
        """A version's graph and no episode. See ``PolicySession.run``."""
        return await self._batcher.run(session, observation, state)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_FOLLOW_S)
            try:
                await self._looks.look(self.ledger, self._compared())
                await self._take_over_splits()
                self.metrics.followed_s = time.monotonic()
                if time.monotonic() - self._stored_shadows_s > _STORE_SHADOWS_S:
                    await self._store_shadows()
                    for collector, recording in self.feedback.silent():
                        collector.give_up(recording, await self.ledger.read(get_outcome, collector.policy, recording.episode_id))
            except RequestProblemError as problem:
                logger.warning("the comparison could not be followed: %s", problem)
            except Exception:
                logger.exception("the comparison could not be followed")

    def _compared(self) -> set[str]:
        """Comparisons that run here."""
        return {policy.comparison.id for policy in self.loaded.policies.values() if policy.comparison is not None}

    async def _take_over_splits(self) -> None:
        compared = self._compared()
        if not compared:
            return
        splits = await self.ledger.read(current_splits, sorted(compared))
        served = self.loaded  # read again: while we waited, another state may have been applied
        policies = {}
        for name, policy in served.policies.items():
            state = splits.get(policy.comparison.id) if policy.comparison is not None else None
            policies[name] = policy if state is None else policy.follow(*state)
        if any(policies[name] is not policy for name, policy in served.policies.items()):
            self._set = replace(served, policies=policies)
            self._shadows.follow(policies)

    async def _store_shadows(self) -> None:
        self._stored_shadows_s = time.monotonic()
        sums = self._shadows.changed()
        if sums:
            await self.ledger.write(record_shadow_figures, self._replica, sums)
        self._shadows.stored(sums)

    def _give_up(self, policy: str, episode: Episode) -> None:
        collector = self.feedback.of.get(policy)
        if collector is not None:
            collector.end(episode, None, "evicted")

    async def _read_token(self, function: Any, text: str) -> Token | None:
        token: Token | None = await self.ledger.read(function, text)
        return token


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
