"""Steps that are there together run together; nobody waits for company.

A batch is what has arrived by the time the event loop comes round: under one robot every step runs alone and at once, under eighty the
runtime's cost is shared. A policy that takes long runs in a thread, so that others are answered meanwhile; what arrives while it runs
is its next batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import numpy as np

from serve_apps.inference.session import PolicySession

__all__ = ["Batcher", "Result"]

Result = tuple[np.ndarray, dict[str, np.ndarray]]
Done = Callable[[Result | Exception], None]
_Waiting = tuple[np.ndarray, Mapping[str, np.ndarray] | None, Done]

_LONGEST_INLINE_S = 1e-3
"""A step of a policy slower than this would hold up everybody else's."""


class Batcher:
    """Runs the steps of one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[PolicySession, list[_Waiting]] = {}
        self._scheduled = False
        self._busy: set[PolicySession] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.steps = 0
        """Steps run so far."""
        self.batches = 0
        """Batches that they made."""

    async def run(self, session: PolicySession, observation: np.ndarray, state: Mapping[str, np.ndarray] | None) -> Result:
        """One step.

        Args:
            session: the version.
            observation: float32. Shape (1, observation_size).
            state: recurrent state by field, each of shape (1, *field.shape); None: zeros.

        Returns:
            The action, shape (1, action_size), and the next state by field.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def settle(result: Result | Exception) -> None:
            if future.done():
                return  # whoever asked went away
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.submit(session, observation, state, settle)
        return await future

    def submit(self, session: PolicySession, observation: np.ndarray, state: Mapping[str, np.ndarray] | None, done: Done) -> None:
        """The same for who waits in no task: ``done`` is called with what ``run`` would return or raise; it must not raise."""
        self._waiting.setdefault(session, []).append((observation, state, done))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)  # after everybody who is ready to run in this round

    def _flush(self) -> None:
        self._scheduled = False
        for session in [session for session in self._waiting if session not in self._busy]:
            batch = self._waiting.pop(session)
            self.steps += len(batch)
            self.batches += 1
            if session.step_s <= _LONGEST_INLINE_S:
                _answer(batch, _run(session, batch))
                continue
            self._busy.add(session)
            task = asyncio.get_running_loop().create_task(self._run_aside(session, batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run_aside(self, session: PolicySession, batch: list[_Waiting]) -> None:
        result = await asyncio.to_thread(_run, session, batch)
        self._busy.discard(session)
        _answer(batch, result)
        if session in self._waiting:
            self._flush()


def _run(session: PolicySession, batch: list[_Waiting]) -> list[Result] | Exception:
    try:
        if len(batch) == 1:
            observation, state, _ = batch[0]
            return [session.run(observation, state)]
        states = None
        if session.state_fields:
            zeros = session.initial_state()
            each = [zeros if state is None else state for _, state, _ in batch]
            states = {name: np.concatenate([state[name] for state in each]) for name in session.state_fields}
        actions, following = session.run(np.concatenate([observation for observation, _, _ in batch]), states)
        return [(actions[row : row + 1], {name: value[row : row + 1] for name, value in following.items()}) for row in range(len(batch))]
    except Exception as error:  # ONNX Runtime raises classes of its own that share only Exception
        return error


def _answer(batch: list[_Waiting], result: list[Result] | Exception) -> None:
    for row, (_, _, done) in enumerate(batch):
        done(result if isinstance(result, Exception) else result[row])
