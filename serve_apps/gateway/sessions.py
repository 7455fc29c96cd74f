"""``WS /v1/policies/{policy}/session``: one robot's open connection, an observation in, an action out.

``?robot_id=...&episode_id=...`` name the robot, and the episode to begin with or, after a reconnect, to go on with. The server sends one
metadata frame (msgpack), then answers each frame in the form in which it came
(``cluster.wire.frames``):

- a compact ``OBSERVATION`` frame: by a compact ``ACTION`` frame with the same sequence number;
- ``{observation, sequence?, state?}``, or the contract's fields at the top level, as openpi's client sends them: by ``{action, actions,
  version, arm, episode_id, sequence, server_timing, state?}``;
- ``{type: "reset", episode_id?, robot_id?}``: by ``{type: "reset", episode_id, version, arm}``, an episode has begun;
- ``{type: "outcome", value, fell?, ...}``: by ``{type: "outcome", episode_id, stored, repeated}``, it is on disk.

An observation without a reset begins an episode of its own; so does the first one after an outcome. What is refused is answered with a
JSON text frame, the problem document and the ``sequence``; the session goes on. The server keeps a recurrent policy's state for the
session and sends it with every action, so that the robot can hand it back to another replica after a reconnect.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import orjson

from cluster.store.comparisons import get_episode
from cluster.wire.frames import ACTION, OBSERVATION, STATE, FrameError, pack, read_compact, write_compact
from serve_apps.gateway.auth import Caller
from serve_apps.gateway.connection import SessionConnection, connection_of
from serve_apps.gateway.episodes import Episode
from serve_apps.gateway.live import Live
from serve_apps.gateway.problems import RequestProblemError
from serve_apps.gateway.requests import parse_msgpack, parse_object, read_name, read_outcome
from serve_apps.inference.policy_set import Assignment, LoadedPolicy
from serve_apps.inference.session import PolicySession

__all__ = ["PROTOCOL", "SessionEndpoint"]

logger = logging.getLogger(__name__)

PROTOCOL = "gaitway-session-1"
_POLICY_VIOLATION, _TOO_BIG = 1008, 1009
_ENVELOPE = frozenset({"type", "sequence", "state", "observation", "endpoint", "episode_id", "robot_id", "session_id", "prompt"})

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class SessionEndpoint:
    """The ASGI application of the route."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection to its end."""
        await receive()  # websocket.connect
        try:
            headers = dict(scope["headers"])
            caller = await self._live.gate.admit(headers.get(b"authorization", b"").decode("latin-1"))
            name: str = scope["path_params"]["policy"]
            caller.require("act", name)
            session = _Session(self._live, caller, name, scope["query_string"].decode("latin-1"))
            metadata = await session.open()
        except RequestProblemError as problem:
            await _deny(scope, send, problem)
            return
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": pack(metadata)})
        connection = connection_of(scope)
        if connection is not None:
            connection.take(functools.partial(session.take, connection))
        while (message := await receive())["type"] != "websocket.disconnect":
            frame = message.get("bytes")
            answer = await session.answer(message.get("text") if frame is None else frame)
            # By the short way too, where there is one: an answer must not be overtaken by the next frame's.
            if connection is None or not _written(connection, answer):
                await send(answer)
            if answer["type"] == "websocket.close":
                return
            if connection is not None:
                connection.answered()


class _Session:
    def __init__(self, live: Live, caller: Caller, name: str, query: str) -> None:
        self._live, self._caller, self._name = live, caller, name
        given = dict(parse_qsl(query))
        self._robot_id = read_name(given["robot_id"], "robot_id") if "robot_id" in given else None
        self._next_id = read_name(given["episode_id"], "episode_id") if "episode_id" in given else secrets.token_hex(12)
        self._episode: Episode | None = None
        self._assignment = Assignment("")

    async def open(self) -> dict[str, Any]:
        """The metadata frame."""
        policy = self._live.policy(self._name)
        self._assignment = assignment = await self._expected(policy)
        session = policy.session(assignment.version) or policy.versions[policy.default_version]
        contract = session.contract
        return {
            "protocol": PROTOCOL,
            "policy": self._name,
            "robot": contract.robot,
            "control_dt_s": contract.control_dt_s,
            "episode_id": self._next_id,
            "version": assignment.version,
            "arm": assignment.arm,
            "observation_size": contract.observation_size,
            "action_size": contract.action_size,
            "state_size": session.state_size,
            "contract": contract.interface(),
        }

    def take(self, connection: SessionConnection, frame: bytes) -> bool:
        """Answer a compact frame of an episode under way where it arrives; False: it has to go the long way, which says why."""
        received_s, episode, live = time.perf_counter(), self._episode, self._live
        if episode is None or not frame or frame[0] != OBSERVATION:
            return False
        try:
            self._caller.require("act", self._name)
            policy, reader = live.policy(self._name), live.reader(self._name)
            known = policy.session(episode.assignment.version)
            sequence, numbers, state = read_compact(frame, OBSERVATION, reader.size, known.state_size if known else 0)
            observation = reader.read_numbers(numbers)
            live.gate.recheck(self._caller)
            self._caller.spend(live.requests_per_s)

            def done(result: np.ndarray | Exception) -> None:
                if isinstance(result, Exception):
                    connection.reply(orjson.dumps(self._refusal(result, sequence)), text=True)
                else:
                    connection.reply(_action_frame(episode, sequence, result))

            live.step_soon(policy, episode, observation, state, received_s, done)
        except (RequestProblemError, FrameError):
            return False
        return True

    async def answer(self, frame: bytes | str | None) -> dict[str, Any]:
        """The ASGI message that answers a frame."""
        received_s, sequence = time.perf_counter(), None
        try:
            self._caller.require("act", self._name)  # a token may be revoked while its session is open
        except RequestProblemError as problem:
            return {"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": str(problem)[:120]}
        try:
            self._live.gate.recheck(self._caller)
            self._caller.spend(self._live.requests_per_s)
            if not frame:
                raise RequestProblemError(400, "malformed-frame", "an empty frame")
            if len(frame) > self._live.max_body_bytes:
                return {"type": "websocket.close", "code": _TOO_BIG, "reason": f"at most {self._live.max_body_bytes} bytes a frame"}
            if isinstance(frame, bytes) and frame[0] < 0x80:
                sequence = int.from_bytes(frame[4:8], "little")
                return {"type": "websocket.send", "bytes": await self._compact(frame, received_s)}
            message = parse_msgpack(frame) if isinstance(frame, bytes) else parse_object(frame.encode())
            sequence = message.get("sequence")
            reply = await self._message(message, received_s)
            if isinstance(frame, bytes):
                return {"type": "websocket.send", "bytes": pack(reply)}
            return _text(reply)
        except Exception as error:
            return _text(self._refusal(error, sequence if type(sequence) is int else None))

    def _refusal(self, error: Exception, sequence: int | None) -> dict[str, Any]:
        """The problem document that answers a frame; a defect is logged."""
        if not isinstance(error, RequestProblemError):
            logger.error("a session of %s failed", self._name, exc_info=error)
            error = RequestProblemError(500, "internal-error", "the server failed; its log says why")
        retry = {} if error.retry_after_s is None else {"retry_after_s": error.retry_after_s}
        return error.document() | {"sequence": sequence} | retry

    async def _compact(self, frame: bytes, received_s: float) -> bytes:
        policy, reader, episode = self._live.policy(self._name), self._live.reader(self._name), self._episode
        assignment = self._assignment if episode is None else episode.assignment
        known = policy.session(assignment.version)
        try:
            sequence, numbers, state = read_compact(frame, OBSERVATION, reader.size, known.state_size if known else 0)
        except FrameError as error:
            raise RequestProblemError(400, "malformed-frame", str(error)) from None
        observation = reader.read_numbers(numbers)
        if episode is None:
            episode = await self._begin(policy, self._next_id)
        _, action = await self._live.step(policy, episode, observation, state, received_s=received_s)
        return _action_frame(episode, sequence, action)

    async def _message(self, message: dict[str, Any], received_s: float) -> dict[str, Any]:
        kind = message.get("type", message.get("endpoint", "observation"))
        if not isinstance(kind, str):
            raise RequestProblemError(422, "invalid-request", "type: must be text", "type")
        if message.get("sequence") is not None and type(message["sequence"]) is not int:
            raise RequestProblemError(422, "invalid-request", "sequence: must be a whole number", "sequence")
        if kind in ("observation", "infer"):
            return await self._observation(message, received_s)
        if kind == "reset":
            return await self._reset(message)
        if kind == "outcome":
            return await self._outcome(message)
        raise RequestProblemError(422, "invalid-request", f"type: {kind[:32]!r}; observation, reset or outcome is wanted", "type")

    async def _observation(self, message: dict[str, Any], received_s: float) -> dict[str, Any]:
        policy, reader = self._live.policy(self._name), self._live.reader(self._name)
        given = message.get("observation")
        if given is None:
            given = {key: value for key, value in message.items() if key not in _ENVELOPE}
        observation = reader.read(given)
        episode = self._episode or await self._begin(policy, self._next_id)
        session, action = await self._live.step(policy, episode, observation, message.get("state"), received_s=received_s)
        reply: dict[str, Any] = {
            "action": split_action(session, action),
            "actions": action,  # as openpi's clients expect it: (steps, action_size)
            "version": episode.assignment.version,
            "arm": episode.assignment.arm,
            "episode_id": episode.episode_id,
            "sequence": message.get("sequence"),
            "server_timing": {"infer_ms": 1e3 * (time.perf_counter() - received_s)},
        }
        if session.state_fields and episode.state is not None:
            reply["state"] = {name: value[0] for name, value in episode.state.items()}
        return reply

    async def _reset(self, message: dict[str, Any]) -> dict[str, Any]:
        given = message.get("episode_id")
        if message.get("robot_id") is not None:
            self._robot_id = read_name(message["robot_id"], "robot_id")
        unused = self._episode is None  # the episode that the metadata frame spoke of has not begun: it begins now
        episode_id = read_name(given, "episode_id") if given is not None else self._next_id if unused else secrets.token_hex(12)
        episode = await self._begin(self._live.policy(self._name), episode_id)
        return {"type": "reset", "episode_id": episode_id, "version": episode.assignment.version, "arm": episode.assignment.arm}

    async def _outcome(self, message: dict[str, Any]) -> dict[str, Any]:
        outcome = read_outcome({key: value for key, value in message.items() if key not in ("type", "episode_id", "sequence")})
        if message.get("episode_id") is not None:
            episode_id = read_name(message["episode_id"], "episode_id")
        elif self._episode is not None:
            episode_id = self._episode.episode_id
        else:
            raise RequestProblemError(422, "invalid-request", "episode_id: no episode is under way in this session", "episode_id")
        new = await self._live.end(self._name, episode_id, outcome)
        if self._episode is not None and episode_id == self._episode.episode_id:
            self._episode, self._next_id = None, secrets.token_hex(12)
            with contextlib.suppress(RequestProblemError):  # the outcome is stored, whatever the next episode will lack
                self._assignment = await self._live.expected(self._live.policy(self._name), self._next_id, self._robot_id)
        return {"type": "outcome", "episode_id": episode_id, "stored": True, "repeated": not new, "sequence": message.get("sequence")}

    async def _begin(self, policy: LoadedPolicy, episode_id: str) -> Episode:
        self._episode = await self._live.begin(policy, episode_id, self._robot_id)
        return self._episode

    async def _expected(self, policy: LoadedPolicy) -> Assignment:
        """What the first episode is, or will be, assigned to; an episode is recorded only once it acts."""
        known = self._live.episodes.find(self._name, self._next_id)
        if known is not None:
            return known.assignment
        stored = await self._live.ledger.read(get_episode, self._name, self._next_id)
        if stored is not None:
            return Assignment(stored.version, stored.comparison_id, stored.arm, stored.propensity, stored.weights_version)
        return await self._live.expected(policy, self._next_id, self._robot_id)


def split_action(session: PolicySession, action: np.ndarray) -> dict[str, Any]:
    """The flat action as one array a field. Views: nothing is copied."""
    fields, start, parts = session.contract.action, 0, {}
    for field in fields:
        values = action[0, start : start + field.size]
        parts[field.name] = values.reshape(field.shape) if field.shape else float(values[0])
        start += field.size
    return parts


def _action_frame(episode: Episode, sequence: int, action: np.ndarray) -> bytes:
    if episode.state is not None:
        return write_compact(ACTION, sequence, action, *episode.state.values(), flags=STATE)
    return write_compact(ACTION, sequence, action)


def _written(connection: SessionConnection, answer: dict[str, Any]) -> bool:
    if answer["type"] == "websocket.close":
        return False
    text = answer.get("text")
    return connection.write(answer["bytes"]) if text is None else connection.write(text.encode(), text=True)


def _text(message: dict[str, Any]) -> dict[str, Any]:
    return {"type": "websocket.send", "text": orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY).decode()}


async def _deny(scope: dict[str, Any], send: Send, problem: RequestProblemError) -> None:
    """Refuse the handshake with the problem's status; where the server cannot say it so, accept and close with it."""
    if "websocket.http.response" in scope.get("extensions", {}):
        body = orjson.dumps(problem.document())
        headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "websocket.http.response.start", "status": problem.status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
        return
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 4000 + problem.status, "reason": f"{problem.name}: {problem}"[:120]})
