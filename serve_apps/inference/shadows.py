"""Shadow arms: versions that see every step of the traffic and never act.

A step is offered to them once its answer is on its way, and one background thread works the steps off in small batches. The queue is
bounded: what does not fit is dropped and counted, so that a slow shadow costs its own figures and no robot anything. ONNX Runtime
lets the event loop go on while it computes.

A recurrent shadow keeps a state of its own for each episode. One that has missed a step of an episode would go on from a state that
the robot never was in: it sits the rest of that episode out, and those steps are counted.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.contract import component_names
from cluster.latency import LatencyHistogram
from cluster.store.shadows import ComponentSums, ShadowSums
from serve_apps.inference.policy_set import LoadedPolicy
from serve_apps.inference.session import PolicySession

if TYPE_CHECKING:
    from serve_apps.gateway.episodes import Episode

__all__ = ["ShadowMemory", "ShadowRunner", "Shadows"]

logger = logging.getLogger(__name__)

QUEUE_STEPS = 4096
"""A second of eighty robots at 50 Hz; beyond it, waiting steps only use memory."""
BATCH_STEPS = 16
_GATHER_S = 2e-3
"""Between the first step that waits and its batch: its answer leaves meanwhile, and company arrives."""


class ShadowMemory:
    """What the shadows know of one episode; only their thread touches it, but for ``broken``."""

    __slots__ = ("broken", "sequence", "states")

    def __init__(self) -> None:
        self.broken = False
        """Whether a step of it was dropped."""
        self.sequence: int | None = None
        self.states: dict[_Shadow, dict[str, np.ndarray] | None] = {}
        """Recurrent state of each shadow; None: it sits the episode out."""


_Step = tuple["Shadows", "Episode", np.ndarray, np.ndarray, bool, int | None]


class _Shadow:
    """One shadow arm of one comparison: its version, and its figures so far."""

    def __init__(self, comparison_id: str, arm: str, version: str, session: PolicySession) -> None:
        self.comparison_id, self.arm, self.version, self.session = comparison_id, arm, version, session
        self.dropped = 0
        self._lock = threading.Lock()
        self._steps = self._errors = self._sat_out = 0
        self._latency = LatencyHistogram()
        self._sum_abs = np.zeros(session.contract.action_size)
        self._max_abs = np.zeros(session.contract.action_size)

    def sits_out(self) -> None:
        with self._lock:
            self._sat_out += 1

    def ran(self, duration_s: float, actions: np.ndarray, taken: np.ndarray) -> np.ndarray:
        """Count a run. Both shapes (steps, action_size). Returns which steps have a finite action. Shape (steps,)."""
        finite: np.ndarray = np.isfinite(actions).all(axis=1)
        with self._lock:
            self._steps += len(actions)
            self._latency.add(duration_s, len(actions))
            if not finite.all():
                self._errors += int((~finite).sum())
                actions, taken = actions[finite], taken[finite]
            if len(actions):
                distance = np.abs(actions.astype(np.float64) - taken)
                self._sum_abs += distance.sum(axis=0)
                np.maximum(self._max_abs, distance.max(axis=0), out=self._max_abs)
        return finite

    def failed(self) -> None:
        with self._lock:
            self._steps += 1
            self._errors += 1

    def sums(self) -> ShadowSums:
        """All so far."""
        contract = self.session.contract
        units = [field.unit for field in contract.action for _ in range(field.size)]
        with self._lock:
            distances = zip(component_names(contract.action), units, self._sum_abs.tolist(), self._max_abs.tolist(), strict=True)
            return ShadowSums(
                comparison_id=self.comparison_id,
                arm=self.arm,
                version=self.version,
                steps=self._steps,
                errors=self._errors,
                dropped=self.dropped,
                sat_out=self._sat_out,
                latency=self._latency.to_json(),
                components=tuple(ComponentSums(name=name, unit=unit, sum_abs=total, max_abs=most) for name, unit, total, most in distances),
            )


class Shadows:
    """The shadow arms of one policy."""

    __slots__ = ("_runner", "arms")

    def __init__(self, runner: ShadowRunner, arms: tuple[_Shadow, ...]) -> None:
        self._runner = runner
        self.arms = arms

    def offer(self, episode: Episode, observation: np.ndarray, action: np.ndarray, first: bool, sequence: int | None) -> None:
        """A step that was answered; it is run once the event loop has sent its answer.

        Args:
            episode: the episode that it is of.
            observation: float32, not written to again. Shape (1, observation_size).
            action: what was answered. Shape (1, action_size).
            first: whether the episode began with it.
            sequence: its number, where the caller counts.
        """
        runner = self._runner
        if len(runner.queue) + len(runner.fresh) >= runner.capacity:
            for arm in self.arms:
                arm.dropped += 1
            if episode.shadow is None:
                episode.shadow = ShadowMemory()
            episode.shadow.broken = True
            return
        runner.fresh.append((self, episode, observation, action, first, sequence))
        if len(runner.fresh) == 1:
            # After everybody whose step ran in this round has been answered.
            asyncio.get_running_loop().call_soon(runner.hand_over)


class ShadowRunner:
    """Runs the shadows of one event loop's traffic.

    Args:
        capacity: most steps that may wait.

    Attributes:
        of: shadows by policy; a policy without any is not in it.
    """

    def __init__(self, capacity: int = QUEUE_STEPS) -> None:
        self.of: dict[str, Shadows] = {}
        self.capacity = capacity
        self.fresh: list[_Step] = []
        """Offered in this round of the event loop."""
        self.queue: deque[_Step] = deque()
        """For the thread."""
        self._known: dict[tuple[str, str], _Shadow] = {}
        self._stored: dict[tuple[str, str], ShadowSums] = {}
        self._awake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def follow(self, policies: Mapping[str, LoadedPolicy]) -> None:
        """Run the shadows that these policies name from now on; figures of an arm that stays go on."""
        self.of = {name: shadows for name, policy in policies.items() if (shadows := self._shadows(policy)) is not None}
        if self.of and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="shadows", daemon=True)
            self._thread.start()

    def changed(self) -> list[ShadowSums]:
        """Figures that are not yet stored, of past comparisons too."""
        sums = {key: shadow.sums() for key, shadow in self._known.items()}
        return [item for key, item in sums.items() if item != self._stored.get(key) and item.steps + item.dropped + item.sat_out > 0]

    def stored(self, sums: Sequence[ShadowSums]) -> None:
        """They are on disk. An arm that no longer runs is then forgotten."""
        self._stored |= {(item.comparison_id, item.arm): item for item in sums}
        wanted = {(shadow.comparison_id, shadow.arm) for shadows in self.of.values() for shadow in shadows.arms}
        wanted |= {(item.comparison_id, item.arm) for item in self.changed()}
        for key in [key for key in self._known if key not in wanted and not self.queue]:
            del self._known[key]
            self._stored.pop(key, None)

    def hand_over(self) -> None:
        """Give this round's steps to the thread."""
        self.queue.extend(self.fresh)
        self.fresh.clear()
        if not self._awake.is_set():
            self._awake.set()

    def close(self, timeout_s: float = 2.0) -> None:
        """Work off what waits, for at most ``timeout_s``, and end the thread. May be called from any thread but the event loop's."""
        self._closed = True
        self._awake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
            self.queue.clear()
            self._thread = None

    def _shadows(self, policy: LoadedPolicy) -> Shadows | None:
        comparison = policy.comparison
        found = []
        for arm in comparison.arms if comparison is not None else ():
            if not arm.shadow:
                continue
            assert comparison is not None
            key, session = (comparison.id, arm.name), policy.versions[arm.version]
            known = self._known.get(key)
            if known is None or known.session is not session:
                self._known[key] = known = _Shadow(comparison.id, arm.name, arm.version, session)
            found.append(known)
        return Shadows(self, tuple(found)) if found else None

    def _work(self) -> None:
        while not self._closed:
            self._awake.wait()
            self._awake.clear()
            time.sleep(_GATHER_S)
            while self.queue:
                batch = [self.queue.popleft() for _ in range(min(BATCH_STEPS, len(self.queue)))]
                try:
                    _run_batch(batch)
                except Exception:  # a defect here must not end the thread: the shadows would stand still without a word
                    logger.exception("a batch of shadow steps was lost")


def _run_batch(batch: Sequence[_Step]) -> None:
    by_policy: dict[Shadows, list[_Step]] = {}
    for step in batch:
        by_policy.setdefault(step[0], []).append(step)
    for shadows, steps in by_policy.items():
        stateless = [arm for arm in shadows.arms if not arm.session.state_fields]
        for arm in stateless:
            _run(arm, steps)
        recurrent = [arm for arm in shadows.arms if arm.session.state_fields]
        if recurrent:
            for part in _one_step_an_episode(steps):
                _run_recurrent(recurrent, part)


def _one_step_an_episode(steps: Sequence[_Step]) -> list[list[_Step]]:
    """In order, each part with at most one step of an episode: the next one needs the state that it leaves."""
    parts: list[list[_Step]] = []
    seen: dict[int, int] = {}
    for step in steps:
        place = seen.get(id(step[1]), 0)
        seen[id(step[1])] = place + 1
        if place == len(parts):
            parts.append([])
        parts[place].append(step)
    return parts


def _run_recurrent(arms: Sequence[_Shadow], steps: Sequence[_Step]) -> None:
    continued = []
    for _, episode, _, _, first, sequence in steps:
        memory = episode.shadow
        if memory is None:
            memory = episode.shadow = ShadowMemory()
        gap = sequence is not None and memory.sequence is not None and sequence != memory.sequence + 1
        memory.broken |= gap and not first
        memory.sequence = sequence
        continued.append((memory, first))
    for arm in arms:
        going: list[_Step] = []
        states: list[dict[str, np.ndarray]] = []
        for step, (memory, first) in zip(steps, continued, strict=True):
            state = None if memory.broken else arm.session.initial_state() if first else memory.states.get(arm)
            if state is None:
                memory.states[arm] = None
                arm.sits_out()
                continue
            going.append(step)
            states.append(state)
        if not going:
            continue
        for step, following in zip(going, _run(arm, going, states), strict=True):
            memory = step[1].shadow
            assert memory is not None
            memory.states[arm] = following


def _run(arm: _Shadow, steps: Sequence[_Step], states: Sequence[dict[str, np.ndarray]] = ()) -> list[dict[str, np.ndarray] | None]:
    """Run one shadow on some steps. Returns the state after each; None where it failed."""
    observations = np.concatenate([step[2] for step in steps])
    taken = np.concatenate([step[3] for step in steps])
    fields = arm.session.state_fields
    state = {name: np.concatenate([each[name] for each in states]) for name in fields} if fields else None
    started_s = time.perf_counter()
    try:
        actions, following = arm.session.run(observations, state)
        duration_s = time.perf_counter() - started_s
        finite = arm.ran(duration_s, actions, taken)
    except Exception as error:  # ONNX Runtime raises classes of its own that share only Exception
        if len(steps) > 1:
            # One observation may be what it fails at: the others shall not count as failures.
            alone: list[Any] = [_run(arm, [step], states[row : row + 1]) for row, step in enumerate(steps)]
            return [result[0] for result in alone]
        logger.debug("shadow %s of %s failed: %s", arm.arm, arm.comparison_id, error)
        arm.failed()
        return [None]
    return [{name: value[row : row + 1] for name, value in following.items()} if good else None for row, good in enumerate(finite.tolist())]
