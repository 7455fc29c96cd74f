"""What the HTTP interface says, as Python values: ``act``, ``outcome`` and their answers."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from cluster.wire.errors import UnreachableError, problem_error
from cluster.wire.http1 import HttpResponse, ProtocolError, encode_request

__all__ = ["ActReply", "EpisodeMemory", "Observation", "RequestWriter", "Retries", "read_act", "read_answer", "read_json"]

Observation = np.ndarray | Sequence[float] | Mapping[str, Any]
"""Flat vector in the contract's order, or one array a field."""

PROBLEM_TYPE = "application/problem+json"


@dataclass(frozen=True)
class ActReply:
    """One action and where it came from."""

    action: dict[str, np.ndarray]
    """Action fields by name, float32, in the units of the contract."""
    version: str
    arm: str | None
    """Arm of the comparison that the episode is in; None: not in one."""
    episode_id: str
    sequence: int | None
    """The number that the request carried."""
    state: dict[str, Any] | None
    """Recurrent state to hand back with the next step; None: the policy has none."""

    @property
    def vector(self) -> np.ndarray:
        """All action fields, flattened and concatenated in the contract's order. Shape (action_size,)."""
        return np.concatenate([value.ravel() for value in self.action.values()])


def read_act(body: bytes) -> ActReply:
    """Decode the answer to ``act``."""
    data = read_json(body)
    try:
        return ActReply(
            action={name: np.asarray(values, dtype=np.float32) for name, values in data["action"].items()},
            version=str(data["version"]),
            arm=data["arm"],
            episode_id=data["episode_id"],
            sequence=data["sequence"],
            state=data.get("state"),
        )
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ProtocolError(f"not an answer to act: {error!r}") from None


def read_json(body: bytes) -> dict[str, Any]:
    """Decode a JSON object. Raises ``ProtocolError`` when it is none: something else answers on that port."""
    try:
        data = json.loads(body)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise ProtocolError(f"not a JSON object: {body[:60]!r}")
    return data


def read_answer(response: HttpResponse) -> bytes:
    """The body of a success.

    Raises:
        ProblemError: the application refused the request.
        UnreachableError: it was not the application that answered (a proxy with nobody behind it), or it is not ready yet.
    """
    if 200 <= response.status < 300:
        return response.body
    if response.headers.get("content-type", "").startswith(PROBLEM_TYPE):
        error = problem_error(response.status, read_json(response.body))
        if response.status not in (429, 503):  # those two pass
            raise error
        raise UnreachableError(str(error))
    text = " ".join(response.body[:120].decode("utf-8", "replace").split())
    raise UnreachableError(f"the server is not ready: HTTP {response.status} {text}")


@dataclass
class EpisodeMemory:
    """What a robot keeps between two steps: the next sequence number and the recurrent state."""

    episode_id: str | None = None
    sequence: int = 0
    state: dict[str, Any] | None = None

    def begin(self, episode_id: str) -> None:
        """Forget the episode before, if this is another."""
        if episode_id != self.episode_id:
            self.episode_id, self.sequence, self.state = episode_id, 0, None

    def advance(self, reply: ActReply) -> None:
        """Take over what a reply brought."""
        self.sequence, self.state = self.sequence + 1, reply.state


@dataclass
class Retries:
    """How long to wait before each further attempt: exponential with jitter, until the window is over."""

    window_s: float
    delay_s: float = 0.02
    longest_delay_s: float = 1.0
    started_s: float = field(default_factory=time.monotonic)

    def next_delay_s(self) -> float | None:
        """Seconds to wait before the next attempt; None: give up."""
        left_s = self.started_s + self.window_s - time.monotonic()
        if left_s <= 0:
            return None
        delay_s = min(self.delay_s * random.uniform(0.5, 1.5), left_s)
        self.delay_s = min(2 * self.delay_s, self.longest_delay_s)
        return delay_s


class RequestWriter:
    """Builds the requests of one robot for one policy."""

    def __init__(self, url: str, policy: str, robot_id: str | None = None, token: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url {url!r}: give http://host:port")
        self.tls = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or (443 if self.tls else 80)
        self.policy, self.robot_id = policy, robot_id
        self._authority = f"[{self.host}]" if ":" in self.host else self.host
        self._authority += f":{self.port}"
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        # A step takes less time than setting up Serve's watch for a disconnect of the client: ask it not to.
        self._act_headers = {**self._headers, "X-Request-Disconnect-Disabled": "?1"}
        self._policy_path = f"/v1/policies/{quote(policy, safe='')}"

    @property
    def endpoint(self) -> str:
        """What to call the server in a message."""
        return f"{'https' if self.tls else 'http'}://{self._authority}{self._prefix}"

    def act(self, memory: EpisodeMemory, observation: Observation) -> bytes:
        """One step of the episode in ``memory``. Raises ``ValueError`` for an observation that is not finite."""
        body: dict[str, Any] = {"episode_id": memory.episode_id, "sequence": memory.sequence, "observation": _plain(observation)}
        if self.robot_id is not None:
            body["robot_id"] = self.robot_id
        if memory.state is not None:
            body["state"] = memory.state
        return self._request("POST", f"{self._policy_path}/act", self._act_headers, body)

    def outcome(
        self,
        episode_id: str,
        value: float,
        fell: bool = False,
        steps: int = 0,
        duration_s: float = 0.0,
        metrics: Mapping[str, float] | None = None,
    ) -> bytes:
        """How an episode ended. Raises ``ValueError`` for a value that is not finite."""
        body = {
            "value": float(value),
            "fell": bool(fell),
            "steps": int(steps),
            "duration_s": float(duration_s),
            "metrics": {name: float(item) for name, item in (metrics or {}).items()},
        }
        return self._request("POST", f"{self._policy_path}/episodes/{quote(episode_id, safe='')}/outcome", self._headers, body)

    def get(self, path: str) -> bytes:
        """Read a route, such as ``/v1/policies``."""
        return self._request("GET", path, self._headers, None)

    def describe(self) -> bytes:
        """Read what the server says of the policy."""
        return self.get(self._policy_path)

    def _request(self, method: str, path: str, headers: Mapping[str, str], body: dict[str, Any] | None) -> bytes:
        content = None if body is None else json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        return encode_request(method, self._prefix + path, self._authority, headers, content)


def _plain(observation: Observation) -> Any:
    if isinstance(observation, Mapping):
        return {name: _plain(values) for name, values in observation.items()}
    if isinstance(observation, np.ndarray):
        return observation.tolist()
    if isinstance(observation, (int, float)):
        return observation
    return [value.item() if isinstance(value, np.generic) else value for value in observation]
