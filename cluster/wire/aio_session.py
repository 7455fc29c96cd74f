"""The robot's session for asyncio: ``AsyncSession``, an open WebSocket that survives replicas, proxies and networks.

async with AsyncSession("http://127.0.0.1:8000", "pidog-run", token=token, deadline_s=0.02, fallback="hold") as session:
    await session.reset()
    while walking:
        action = await session.act(observation)
        robot.move(action.vector)
    await session.outcome(distance_m)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from cluster.wire.errors import ProblemError, UnreachableError, problem_error
from cluster.wire.frames import pack
from cluster.wire.http1 import ProtocolError
from cluster.wire.messages import Observation, Retries, read_json
from cluster.wire.session_memory import Fallback, SessionAction, SessionEpisode, SessionMemory, session_url

__all__ = ["AsyncSession", "refusal"]

ResultT = TypeVar("ResultT")

_LOST = (OSError, WebSocketException, ProtocolError, UnreachableError)


class AsyncSession:
    """One robot, one policy, one open session. One call at a time.

    Args:
        url: endpoint, ``http://host:port`` or ``https://``.
        policy: policy to call.
        robot_id: this robot's name, kept with its episodes.
        token: a robot's token.
        deadline_s: longest wait for one action; None: ``retry_s``. Past it the fallback is returned, or ``DeadlineError`` raised, while
            the session goes on, reconnecting if it must; the late reply is dropped by its sequence number.
        fallback: an action in the contract's order, ``"hold"`` for the last one, or None: raise.
        chunk_steps: actions taken of each chunk before the next is asked for, where the policy answers with chunks.
        timeout_s: longest wait for a connection, and for one answer before the connection is given up for a new one.
        retry_s: how long to go on trying while there is no answer; then ``UnreachableError``.
    """

    def __init__(
        self,
        url: str,
        policy: str,
        robot_id: str | None = None,
        token: str | None = None,
        deadline_s: float | None = None,
        fallback: Fallback = None,
        chunk_steps: int = 1,
        timeout_s: float = 2.0,
        retry_s: float = 10.0,
    ) -> None:
        self._url, self._policy, self._robot_id = url, policy, robot_id
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._deadline_s, self._timeout_s, self._retry_s = deadline_s, timeout_s, retry_s
        self._memory = SessionMemory(chunk_steps, fallback)
        self._socket: ClientConnection | None = None
        self._connecting: asyncio.Task[ClientConnection] | None = None
        self.reconnects = 0
        """Connections beyond the first."""
        self._connections = 0
        self._silent_since_s: float | None = None
        session_url(url, policy, None, None)  # raises at once for what is no URL

    @property
    def metadata(self) -> dict[str, Any]:
        """What the server said when the session was opened: contract, sizes, control period."""
        return self._memory.metadata

    @property
    def episode(self) -> SessionEpisode | None:
        """The episode under way."""
        return self._memory.episode

    @property
    def stale_replies(self) -> int:
        """Replies that came too late and were dropped."""
        return self._memory.stale_replies

    async def act(self, observation: Observation) -> SessionAction:
        """The action for one observation.

        Raises:
            ValueError: the observation is not the contract's.
            DeadlineError: no action within ``deadline_s``, and no fallback.
            UnreachableError: no answer within ``retry_s``.
            ProblemError: the server refused the observation, or this robot.
        """
        if (ready := self._memory.next_of_chunk()) is not None:
            return ready
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._persist(lambda: self._step(observation))
        except TimeoutError:
            # Short deadlines never let one attempt run into its own time limit: a connection that is silent for long is given up here.
            if self._silent_since_s is not None and time.monotonic() - self._silent_since_s > self._timeout_s:
                self._give_up_connection()
            return self._memory.late(time.monotonic() - started_s)

    async def reset(self, episode_id: str | None = None) -> SessionEpisode:
        """Begin an episode; the server chooses its name unless it is given."""
        message = {"type": "reset", "robot_id": self._robot_id} | ({} if episode_id is None else {"episode_id": episode_id})
        return self._memory.began(await self._persist(lambda: self._exchange(message, "reset")))

    async def outcome(
        self, value: float, fell: bool = False, steps: int = 0, duration_s: float = 0.0, metrics: Mapping[str, float] | None = None
    ) -> bool:
        """End the episode; True when its outcome is new. When this returns, it is on the server's disk.

        Safe to repeat: the server stores one outcome an episode.
        """
        message = {
            "type": "outcome",
            "value": float(value),
            "fell": bool(fell),
            "steps": int(steps),
            "duration_s": float(duration_s),
            "metrics": {name: float(item) for name, item in (metrics or {}).items()},
        }
        if self.episode is not None:
            message["episode_id"] = self.episode.episode_id
        reply = await self._persist(lambda: self._exchange(message, "outcome"))
        self._memory.ended()
        return not reply["repeated"]

    async def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._connecting
            self._connecting = None
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()

    async def __aenter__(self) -> Self:
        await self._persist(self._connected)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    # One attempt ---------------------------------------------------------------------------------------------------------

    async def _step(self, observation: Observation) -> SessionAction:
        socket = await self._connected()
        if self._memory.needs_reset:
            await self.reset()
        sequence = self._memory.number()
        vector: np.ndarray = self._memory.flat(observation)
        await socket.send(self._memory.ask(vector, sequence))
        self._silent_since_s = self._silent_since_s or time.monotonic()
        async with asyncio.timeout(self._timeout_s):
            while True:
                frame = await socket.recv()
                self._silent_since_s = None
                if (action := self._memory.take(frame, sequence)) is not None:
                    return action

    async def _exchange(self, message: dict[str, Any], kind: str) -> dict[str, Any]:
        socket = await self._connected()
        await socket.send(pack(message))
        async with asyncio.timeout(self._timeout_s):
            while (reply := self._memory.read(await socket.recv(), kind)) is None:
                pass
        return reply

    async def _connected(self) -> ClientConnection:
        """The open connection. An attempt goes on when its caller's deadline has passed, for the next call to find."""
        if self._socket is not None:
            return self._socket
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
        connecting = self._connecting
        try:
            self._socket = await asyncio.shield(connecting)
        finally:
            if connecting.done():
                self._connecting = None
        return self._socket

    async def _connect(self) -> ClientConnection:
        address = session_url(self._url, self._policy, self._memory.resumes, self._robot_id)
        try:
            socket = await connect(
                address, additional_headers=self._headers, open_timeout=self._timeout_s, compression=None, proxy=None, max_size=1 << 20
            )
        except InvalidStatus as error:
            raise refusal(error) from None
        try:
            async with asyncio.timeout(self._timeout_s):
                self._memory.opened(await socket.recv())
        except BaseException:
            await socket.close()
            raise
        self.reconnects += self._connections > 0
        self._connections += 1
        return socket

    async def _persist(self, attempt: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Try until it works, ``retry_s`` is over, or the server's refusal is one that will not pass."""
        retries = Retries(self._retry_s)
        while True:
            try:
                return await attempt()
            except (*_LOST, TimeoutError, ProblemError) as error:
                if isinstance(error, ProblemError) and error.status not in (429, 503):
                    raise
                if not isinstance(error, ProblemError):
                    self._give_up_connection()
                delay_s = retries.next_delay_s()
                if delay_s is None:
                    raise UnreachableError(f"{self._url}: no answer within {self._retry_s:g} s: {error or type(error).__name__}") from None
                await asyncio.sleep(delay_s)

    def _give_up_connection(self) -> None:
        socket, self._socket, self._silent_since_s = self._socket, None, None
        if socket is not None:
            socket.transport.abort()  # its close would wait for a peer that may be gone


def refusal(error: InvalidStatus) -> Exception:
    """What a refused handshake means: the server's own refusal, or somebody else who is not ready."""
    response = error.response
    if response.headers.get("content-type", "").startswith("application/problem+json") and response.body:
        problem = problem_error(response.status_code, read_json(bytes(response.body)))
        return problem if response.status_code not in (429, 503) else UnreachableError(str(problem))
    return UnreachableError(f"the server is not ready: HTTP {response.status_code}")
