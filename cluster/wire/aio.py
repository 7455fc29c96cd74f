"""The robot's side for asyncio: ``AsyncPolicyClient``, one robot and one persistent connection, many in one event loop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from cluster.wire.errors import UnreachableError
from cluster.wire.http1 import HttpResponse, ProtocolError, ResponseReader
from cluster.wire.messages import ActReply, EpisodeMemory, Observation, RequestWriter, Retries, read_act, read_answer, read_json

__all__ = ["AsyncPolicyClient"]

ResultT = TypeVar("ResultT")


class AsyncPolicyClient:
    """One robot calling one policy; arguments, results and errors are those of ``PolicyClient``. One call at a time."""

    def __init__(
        self,
        url: str,
        policy: str,
        robot_id: str | None = None,
        token: str | None = None,
        timeout_s: float = 2.0,
        retry_s: float = 10.0,
    ) -> None:
        self._requests = RequestWriter(url, policy, robot_id, token)
        self._timeout_s, self._retry_s = timeout_s, retry_s
        self._memory = EpisodeMemory()
        self.retries = 0
        """Attempts beyond the first of all calls so far."""
        self._connection: _Connection | None = None

    async def act(self, observation: Observation, episode_id: str) -> ActReply:
        """The action for one observation; see ``PolicyClient.act``."""
        self._memory.begin(episode_id)
        reply = await self._call(self._requests.act(self._memory, observation), read_act)
        self._memory.advance(reply)
        return reply

    async def outcome(
        self,
        episode_id: str,
        value: float,
        fell: bool = False,
        steps: int = 0,
        duration_s: float = 0.0,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Report how an episode ended; see ``PolicyClient.outcome``."""
        request = self._requests.outcome(episode_id, value, fell, steps, duration_s, metrics)
        return not (await self._call(request, read_json))["repeated"]

    async def describe(self) -> dict[str, Any]:
        """What the server says of the policy: its contract, versions and comparison."""
        return await self._call(self._requests.describe(), read_json)

    async def get(self, path: str) -> dict[str, Any]:
        """Read a route, such as ``/v1/comparisons``."""
        return await self._call(self._requests.get(path), read_json)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def _call(self, request: bytes, read: Callable[[bytes], ResultT]) -> ResultT:
        retries = Retries(self._retry_s)
        while True:
            try:
                return read(read_answer(await self._exchange(request)))
            except (OSError, ProtocolError, UnreachableError) as error:
                self.close()
                delay_s = retries.next_delay_s()
                if delay_s is None:
                    raise UnreachableError(f"{self._requests.endpoint}: no answer within {self._retry_s:g} s: {error}") from None
                self.retries += 1
                await asyncio.sleep(delay_s)
            except asyncio.CancelledError:
                self.close()  # its answer may still come, and would be taken for the next one's
                raise

    async def _exchange(self, request: bytes) -> HttpResponse:
        if self._connection is None:
            async with asyncio.timeout(self._timeout_s):
                _, self._connection = await asyncio.get_running_loop().create_connection(
                    _Connection,
                    self._requests.host,
                    self._requests.port,
                    ssl=ssl.create_default_context() if self._requests.tls else None,
                )
        connection = self._connection
        response = await connection.exchange(request, self._timeout_s)
        if not response.keep_alive:
            self.close()
        return response


class _Connection(asyncio.Protocol):
    """One connection with one request under way."""

    def __init__(self) -> None:
        self._reader = ResponseReader()
        self._answer: asyncio.Future[HttpResponse] | None = None
        self._transport: asyncio.Transport | None = None

    async def exchange(self, request: bytes, timeout_s: float) -> HttpResponse:
        """Send and wait. Raises ``OSError`` (``TimeoutError`` included) or ``ProtocolError``; the connection is then of no use."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the server closed the idle connection")
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        timer = loop.call_later(timeout_s, self._fail, TimeoutError(f"no answer within {timeout_s:g} s"))
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            timer.cancel()
            self._answer = None

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        try:
            response = self._reader.feed(data)
        except (ProtocolError, ValueError) as error:
            self._fail(error)
            return
        if response is not None and self._answer is not None and not self._answer.done():
            self._answer.set_result(response)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio."""
        if self._answer is not None and error is None:
            try:
                response = self._reader.feed(b"")  # a body may end with the connection
            except ProtocolError as broken:
                error = broken
            else:
                if response is not None and not self._answer.done():
                    self._answer.set_result(response)
        self._fail(error or ConnectionResetError("the server closed the connection"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
