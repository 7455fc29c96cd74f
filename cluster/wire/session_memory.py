"""What a robot keeps of its session, without input or output: the episode, the sequence number, the state, the chunk of actions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import numpy as np

from cluster.wire.errors import DeadlineError, ProblemError, problem_error
from cluster.wire.frames import ACTION, OBSERVATION, STATE, FrameError, read_compact, unpack, write_compact
from cluster.wire.http1 import ProtocolError
from cluster.wire.messages import Observation

__all__ = ["Fallback", "SessionAction", "SessionEpisode", "SessionMemory", "session_url"]

Fallback = np.ndarray | str | None
"""What to do when no action comes in time: this action, ``"hold"`` the last one, or None: raise ``DeadlineError``."""

_SEQUENCES = 1 << 32


@dataclass(frozen=True)
class SessionEpisode:
    """One episode of a session."""

    episode_id: str
    version: str
    arm: str | None
    """Arm of the comparison that the episode is in; None: not in one."""


@dataclass(frozen=True)
class SessionAction:
    """What to do now."""

    vector: np.ndarray
    """Action in the contract's order and units; of a chunk, this step's row. Shape (action_size,), float32."""
    sequence: int
    """Number of the request that it answers."""
    is_fallback: bool
    """Whether no action came in time and this is the fallback."""
    chunk_step: int = 0
    """Which row of a chunk of actions it is."""


def session_url(url: str, policy: str, episode_id: str | None, robot_id: str | None) -> str:
    """``ws://host:port/v1/policies/{policy}/session?...`` of an endpoint ``http://host:port``. Raises ``ValueError``."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.hostname:
        raise ValueError(f"url {url!r}: give http://host:port")
    query = {key: value for key, value in (("episode_id", episode_id), ("robot_id", robot_id)) if value is not None}
    path = f"{parts.path.rstrip('/')}/v1/policies/{quote(policy, safe='')}/session"
    return f"{scheme}://{parts.netloc}{path}" + (f"?{urlencode(query)}" if query else "")


class SessionMemory:
    """One robot's side of one session.

    Args:
        chunk_steps: how many actions of a chunk are taken before the next is asked for; 1 for policies without chunks.
        fallback: what to do when no action comes in time.
    """

    def __init__(self, chunk_steps: int, fallback: Fallback) -> None:
        if chunk_steps < 1:
            raise ValueError(f"chunk_steps {chunk_steps}: must be at least 1")
        if isinstance(fallback, str) and fallback != "hold":
            raise ValueError(f'fallback {fallback!r}: give an action, "hold" or None')
        self._chunk_steps, self._fallback = chunk_steps, fallback
        self.metadata: dict[str, Any] = {}
        self.episode: SessionEpisode | None = None
        """The episode under way; None before the first and between two."""
        self.stale_replies = 0
        """Replies that came too late and were dropped."""
        self._offered: str | None = None
        self._sequence = 0
        self._state: np.ndarray | None = None
        self._hand_back = False
        self._chunk: np.ndarray | None = None
        self._row = 0
        self._last: SessionAction | None = None

    # Connecting ----------------------------------------------------------------------------------------------------------

    def opened(self, frame: bytes | str) -> None:
        """Take the metadata frame of a new connection; the episode under way goes on there."""
        metadata = self._map(frame)
        try:
            sizes = [int(metadata[f"{name}_size"]) for name in ("observation", "action", "state")]
            fields = metadata["contract"]["observation"]
            self._observation_fields = [(str(field["name"]), int(np.prod(field["shape"]))) for field in fields]
            self._action_fields = [tuple(field["shape"]) for field in metadata["contract"]["action"]]
            found = SessionEpisode(metadata["episode_id"], metadata["version"], metadata["arm"])
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"not the metadata of a session: {error!r}") from None
        self._observation_size, self._action_size, self._state_size = sizes
        rows = {shape[0] if len(shape) > 1 else 1 for shape in self._action_fields}
        if self._chunk_steps > 1 and (len(rows) != 1 or self._chunk_steps > next(iter(rows))):
            shapes = ", ".join(str(list(shape)) for shape in self._action_fields)
            raise ValueError(f"chunk_steps {self._chunk_steps}: the policy's action fields have the shapes {shapes}")
        if isinstance(self._fallback, np.ndarray) and self._fallback.size != self._row_size:
            raise ValueError(f"fallback: has {self._fallback.size} numbers; {self._row_size} are wanted")
        self._hand_back = bool(self.metadata)  # another connection, perhaps to another replica, which holds no state
        self.metadata = metadata
        self._offered = found.episode_id
        if self.episode is not None:
            self.episode = replace(found, episode_id=self.episode.episode_id)

    @property
    def resumes(self) -> str | None:
        """The episode that a new connection goes on with: the one under way, or the one that may have begun unheard."""
        return self.episode.episode_id if self.episode is not None else self._offered

    @property
    def needs_reset(self) -> bool:
        """Whether an observation now would begin an episode whose name we would not know."""
        return self.episode is None and self._offered is None

    @property
    def _row_size(self) -> int:
        return self._action_size // max(1, self._action_fields[0][0]) if self._chunk_steps > 1 else self._action_size

    # Stepping ------------------------------------------------------------------------------------------------------------

    def next_of_chunk(self) -> SessionAction | None:
        """The next action of the chunk that is here; None: ask for another."""
        if self._chunk is None or self._row >= self._chunk_steps:
            return None
        action = SessionAction(self._chunk[self._row], self._sequence, is_fallback=False, chunk_step=self._row)
        self._row += 1
        self._last = action
        return action

    def number(self) -> int:
        """A sequence number that no earlier request of this connection, or of the one before it, has had."""
        self._sequence = (self._sequence + 1) % _SEQUENCES
        return self._sequence

    def ask(self, observation: np.ndarray, sequence: int) -> bytes:
        """The frame that asks for an action; after a reconnect it hands the recurrent state back."""
        if self._hand_back and self._state_size:
            # Before the first answer the state is what it is at reset.
            state = np.zeros(self._state_size, np.float32) if self._state is None else self._state
            return write_compact(OBSERVATION, sequence, observation, state, flags=STATE)
        return write_compact(OBSERVATION, sequence, observation)

    def take(self, frame: bytes | str, sequence: int) -> SessionAction | None:
        """The action in a frame; None when it answers an earlier question. Raises ``ProblemError`` for a refusal."""
        if isinstance(frame, str):
            problem = _problem(frame)
            if problem.problem.get("sequence") not in (None, sequence):
                self.stale_replies += 1
                return None
            raise problem
        try:
            answered, numbers, state = read_compact(frame, ACTION, self._action_size, self._state_size)
        except FrameError as error:
            raise ProtocolError(str(error)) from None
        if answered != sequence:
            self.stale_replies += 1
            return None
        if state is not None:
            self._state = state
        self._hand_back = False
        if self.episode is None:
            self.episode = SessionEpisode(self.metadata["episode_id"], self.metadata["version"], self.metadata["arm"])
        self._chunk, self._row = self._rows(numbers), 0
        return self.next_of_chunk()

    def late(self, waited_s: float) -> SessionAction:
        """What to do without an action. Raises ``DeadlineError`` when there is no fallback."""
        vector: np.ndarray | None = None
        if isinstance(self._fallback, np.ndarray):
            vector = np.asarray(self._fallback, dtype=np.float32).reshape(-1)
        elif self._fallback == "hold" and self._last is not None:
            vector = self._last.vector
        if vector is None:
            raise DeadlineError(f"no action within {1e3 * waited_s:.0f} ms")
        return SessionAction(vector, self._sequence, is_fallback=True)

    # Episodes ------------------------------------------------------------------------------------------------------------

    def began(self, reply: Mapping[str, Any]) -> SessionEpisode:
        """Take the answer to a reset."""
        self.episode = SessionEpisode(str(reply["episode_id"]), str(reply["version"]), reply["arm"])
        self._forget()
        return self.episode

    def ended(self) -> None:
        """The episode's outcome is stored."""
        self.episode = self._offered = None
        self._forget()

    def read(self, frame: bytes | str, kind: str) -> dict[str, Any] | None:
        """The answer to a reset or an outcome; None for a frame that answers something earlier. Raises ``ProblemError``."""
        if isinstance(frame, bytes) and frame[:1] < b"\x80":
            self.stale_replies += 1
            return None
        message = self._map(frame)
        return message if message.get("type") == kind else None

    def flat(self, observation: Observation) -> np.ndarray:
        """An observation as one vector in the contract's order. Shape (observation_size,), float32. Raises ``ValueError``."""
        if isinstance(observation, Mapping):
            names = [name for name, _ in self._observation_fields]
            if set(observation) != set(names):
                raise ValueError(f"observation has the fields {sorted(observation)}; {names} are wanted")
            parts = [np.asarray(observation[name], dtype=np.float32).reshape(-1) for name in names]
            for part, (name, size) in zip(parts, self._observation_fields, strict=True):
                if part.size != size:
                    raise ValueError(f"observation.{name} has {part.size} numbers; {size} are wanted")
            return np.concatenate(parts)
        vector = np.ascontiguousarray(observation, dtype=np.float32).reshape(-1)
        if vector.size != self._observation_size:
            raise ValueError(f"observation has {vector.size} numbers; {self._observation_size} are wanted")
        return vector

    def _forget(self) -> None:
        self._state = self._chunk = self._last = None
        self._row, self._hand_back = 0, False

    def _rows(self, numbers: np.ndarray) -> np.ndarray:
        """Actions of a chunk. Shape (rows, row_size)."""
        if self._chunk_steps == 1:
            return numbers.reshape(1, -1)
        parts, start = [], 0
        for shape in self._action_fields:
            size = int(np.prod(shape))
            parts.append(numbers[start : start + size].reshape(shape[0], -1))
            start += size
        return np.concatenate(parts, axis=1)

    def _map(self, frame: bytes | str) -> dict[str, Any]:
        if isinstance(frame, str):
            raise _problem(frame)
        try:
            return unpack(frame)
        except FrameError as error:
            raise ProtocolError(str(error)) from None


def _problem(text: str) -> ProblemError:
    try:
        problem = json.loads(text)
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or not isinstance(problem.get("status"), int):
        raise ProtocolError(f"not a problem document: {text[:60]!r}")
    return problem_error(problem["status"], problem)
