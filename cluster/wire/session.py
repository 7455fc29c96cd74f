"""The robot's session for programs without asyncio: ``Session``, an ``AsyncSession`` in a thread of its own.

with Session("http://127.0.0.1:8000", "pidog-run", token=token, deadline_s=0.02, fallback="hold") as session:
    session.reset()
    action = session.act(observation)
    robot.move(action.vector)
    session.outcome(distance_m)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from cluster.wire.aio_session import AsyncSession
from cluster.wire.messages import Observation
from cluster.wire.session_memory import SessionAction, SessionEpisode

__all__ = ["Session"]

ResultT = TypeVar("ResultT")


class Session:
    """See ``AsyncSession``: the same arguments, methods and errors, without ``await``. One call at a time."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._session = AsyncSession(*arguments, **keywords)
        self._loop = asyncio.new_event_loop()
        # A thread of its own keeps the connection alive, and reconnects, while the robot's program does something else.
        self._thread = threading.Thread(target=self._loop.run_forever, name="gaitway-session", daemon=True)
        self._thread.start()

    @property
    def metadata(self) -> dict[str, Any]:
        """See ``AsyncSession.metadata``."""
        return self._session.metadata

    @property
    def episode(self) -> SessionEpisode | None:
        """The episode under way."""
        return self._session.episode

    @property
    def reconnects(self) -> int:
        """Connections beyond the first."""
        return self._session.reconnects

    @property
    def stale_replies(self) -> int:
        """Replies that came too late and were dropped."""
        return self._session.stale_replies

    def act(self, observation: Observation) -> SessionAction:
        """See ``AsyncSession.act``."""
        return self._run(self._session.act(observation))

    def reset(self, episode_id: str | None = None) -> SessionEpisode:
        """See ``AsyncSession.reset``."""
        return self._run(self._session.reset(episode_id))

    def outcome(
        self, value: float, fell: bool = False, steps: int = 0, duration_s: float = 0.0, metrics: Mapping[str, float] | None = None
    ) -> bool:
        """See ``AsyncSession.outcome``."""
        return self._run(self._session.outcome(value, fell, steps, duration_s, metrics))

    def close(self) -> None:
        """Close the connection and end the thread; the session cannot be used again."""
        if not self._thread.is_alive():
            return
        self._run(self._session.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        try:
            self._run(self._session.__aenter__())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self, call: Coroutine[Any, Any, ResultT]) -> ResultT:
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C in the caller's thread must not leave a step under way
            raise
