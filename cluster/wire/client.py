"""The robot's side, blocking: ``PolicyClient`` for a control loop in a thread of its own.

    with PolicyClient("http://127.0.0.1:8000", "pidog-run") as client:
        reply = client.act(observation, episode_id="walk-17")
        ...
        client.outcome("walk-17", value=0.21, fell=False, steps=500, duration_s=10.0)

One client is one robot and one persistent connection; it is not shared between threads. The asyncio form is ``aio``.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from cluster.wire.errors import UnreachableError
from cluster.wire.http1 import HttpResponse, ProtocolError, ResponseReader
from cluster.wire.messages import ActReply, EpisodeMemory, Observation, RequestWriter, Retries, read_act, read_answer, read_json

__all__ = ["PolicyClient"]

ResultT = TypeVar("ResultT")


class PolicyClient:
    """One robot calling one policy.

    Args:
        url: base URL of the endpoint, ``http://host:port``.
        policy: policy name.
        robot_id: name of this robot, recorded with its episodes.
        token: bearer token.
        timeout_s: longest wait for one attempt.
        retry_s: how long to go on trying when there is no answer. Repeating is safe: a step carries its number and state,
            and an outcome is stored once.
    """

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
        self._socket: socket.socket | None = None
        self._reader = ResponseReader()

    def act(self, observation: Observation, episode_id: str) -> ActReply:
        """The action for one observation.

        Steps of an episode are numbered, and the recurrent state of the policy is handed back, by the client.

        Args:
            observation: flat vector in the contract's order, or one array a field.
            episode_id: any name that is new for each episode; another one than before starts an episode.

        Raises:
            UnreachableError: no answer within ``retry_s``.
            ProblemError: the server refused the request.
        """
        self._memory.begin(episode_id)
        reply = self._call(self._requests.act(self._memory, observation), read_act)
        self._memory.advance(reply)
        return reply

    def outcome(
        self,
        episode_id: str,
        value: float,
        fell: bool = False,
        steps: int = 0,
        duration_s: float = 0.0,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Report how an episode ended; it is on the server's disk when this returns.

        Args:
            episode_id: an episode that had at least one step.
            value: the metric that is compared, in its own unit.
            fell: whether the robot fell.
            steps: control steps.
            duration_s: length of the episode.
            metrics: further figures by name.

        Returns:
            True when it was new, False when the same outcome was stored before.

        Raises:
            NotFoundError: the server knows no such episode.
            ConflictError: another outcome is stored for it.
        """
        request = self._requests.outcome(episode_id, value, fell, steps, duration_s, metrics)
        return not self._call(request, read_json)["repeated"]

    def describe(self) -> dict[str, Any]:
        """What the server says of the policy: its contract, versions and comparison."""
        return self._call(self._requests.describe(), read_json)

    def get(self, path: str) -> dict[str, Any]:
        """Read a route, such as ``/v1/comparisons``."""
        return self._call(self._requests.get(path), read_json)

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._reader = None, ResponseReader()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _call(self, request: bytes, read: Callable[[bytes], ResultT]) -> ResultT:
        retries = Retries(self._retry_s)
        while True:
            try:
                return read(read_answer(self._exchange(request)))
            except (OSError, ProtocolError, UnreachableError) as error:
                self.close()
                delay_s = retries.next_delay_s()
                if delay_s is None:
                    raise UnreachableError(f"{self._requests.endpoint}: no answer within {self._retry_s:g} s: {error}") from None
                self.retries += 1
                time.sleep(delay_s)

    def _exchange(self, request: bytes) -> HttpResponse:
        deadline_s = time.monotonic() + self._timeout_s
        connection = self._socket or self._connect()
        connection.settimeout(self._timeout_s)
        connection.sendall(request)
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"no answer within {self._timeout_s:g} s")
            connection.settimeout(left_s)
            response = self._reader.feed(connection.recv(1 << 16))
            if response is not None:
                if not response.keep_alive:
                    self.close()
                return response

    def _connect(self) -> socket.socket:
        connection = socket.create_connection((self._requests.host, self._requests.port), timeout=self._timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._requests.tls:
            connection = ssl.create_default_context().wrap_socket(connection, server_hostname=self._requests.host)
        self._socket = connection
        return connection
