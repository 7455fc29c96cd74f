"""Reading what a caller sent: bodies, observations, state, outcomes. Whatever passes here is what the contract says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request

from cluster.contract import PolicyContract, TensorField
from cluster.store.comparisons import Outcome
from cluster.wire.frames import FrameError, unpack
from serve_apps.gateway.problems import RequestProblemError
from serve_apps.inference.session import all_finite

__all__ = [
    "MAX_NAME_LENGTH",
    "ActRequest",
    "ObservationReader",
    "is_msgpack",
    "parse_body",
    "parse_msgpack",
    "parse_object",
    "read_body",
    "read_name",
    "read_outcome",
    "read_state",
]

MAX_NAME_LENGTH = 128
_ACT_KEYS = frozenset({"episode_id", "observation", "state", "sequence", "robot_id"})
_NUMBERS = frozenset({int, float})


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body. Raises ``RequestProblemError`` 413 as soon as it is known to be larger than ``limit_bytes``."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit_bytes:
                raise _too_large(limit_bytes)
            parts.append(part)
    except ClientDisconnect:
        raise RequestProblemError(400, "malformed-json", "the client went away before its body was here") from None
    return b"".join(parts)


MSGPACK_TYPES = ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack")


def parse_body(body: bytes, content_type: str) -> dict[str, Any]:
    """A body as its content type says: msgpack with arrays, or JSON."""
    return parse_msgpack(body) if is_msgpack(content_type) else parse_object(body)


def is_msgpack(content_type: str) -> bool:
    """Whether a content type means msgpack."""
    return content_type.partition(";")[0].strip().lower() in MSGPACK_TYPES


def parse_msgpack(body: bytes) -> dict[str, Any]:
    """A msgpack map whose keys are text."""
    try:
        data = unpack(body)
    except FrameError as error:
        raise RequestProblemError(400, "malformed-frame", str(error)) from None
    if not all(isinstance(key, str) for key in data):
        raise RequestProblemError(400, "malformed-frame", "the map has a key that is not text")
    return data


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object. NaN and infinities, which JSON does not have but robots send, are let through to be refused by name."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            data = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestProblemError(400, "malformed-json", f"the body is not JSON: {str(error)[:120]}") from None
    if not isinstance(data, dict):
        raise RequestProblemError(400, "malformed-json", f"the body is a JSON {_kind(data)}; an object is wanted")
    return data


class ActRequest:
    """The envelope of one ``act``: everything but the numbers."""

    __slots__ = ("episode_id", "observation", "robot_id", "sequence", "state")

    def __init__(self, data: dict[str, Any]) -> None:
        if not _ACT_KEYS.issuperset(data):
            unknown = sorted(set(data) - _ACT_KEYS)[0]
            raise _invalid(unknown, f"unknown key; known: {', '.join(sorted(_ACT_KEYS))}")
        for key in ("episode_id", "observation"):
            if key not in data:
                raise _invalid(key, "is required and not given")
        self.episode_id: str = read_name(data["episode_id"], "episode_id")
        self.observation: Any = data["observation"]
        robot_id = data.get("robot_id")
        self.robot_id: str | None = None if robot_id is None else read_name(robot_id, "robot_id")
        sequence = data.get("sequence")
        if sequence is not None and (type(sequence) is not int or not 0 <= sequence < 1 << 53):
            raise _invalid("sequence", "must be a whole number from 0")
        self.sequence: int | None = sequence
        self.state: Any = data.get("state")


class ObservationReader:
    """Turns a request's observation into the flat vector of one contract."""

    def __init__(self, contract: PolicyContract) -> None:
        self._fields = contract.observation
        self._names = frozenset(field.name for field in contract.observation)
        self.size = contract.observation_size

    def read(self, value: Any) -> np.ndarray:
        """The observation, float32. Shape (1, observation_size). Raises ``RequestProblemError`` 422 naming the field that is wrong."""
        if isinstance(value, list):
            return self._flat(value)
        if isinstance(value, dict):
            return self.read_fields(value)
        if isinstance(value, np.ndarray):
            return self.read_numbers(value)
        raise _invalid("observation", f"is a JSON {_kind(value)}; an object of fields or a flat list of {self.size} numbers is wanted")

    def read_numbers(self, values: np.ndarray) -> np.ndarray:
        """A flat array of numbers as an observation, float32. Shape (1, observation_size)."""
        if values.size != self.size:
            raise _invalid("observation", f"has {values.size} numbers; {self.size} are wanted")
        vector = values.reshape(-1)
        if vector.dtype != np.float32:
            return self._flat(vector.tolist())
        if not all_finite(vector):
            return self._flat(vector.tolist())  # which names the field
        return vector.reshape(1, -1)

    def _flat(self, values: list[Any]) -> np.ndarray:
        if len(values) != self.size:
            raise _invalid("observation", f"has {len(values)} numbers; {self.size} are wanted")
        vector = _vector(values)
        if vector is None:
            # Name the contract's field and not a position in fifty numbers.
            start = 0
            for field in self._fields:
                _numbers(values[start : start + field.size], field, f"observation.{field.name}")
                start += field.size
            raise _invalid("observation", "must be finite numbers")
        return vector.reshape(1, -1)

    def read_fields(self, fields: Mapping[str, Any]) -> np.ndarray:
        """Fields by name as an observation, float32. Shape (1, observation_size)."""
        if unknown := sorted(set(fields) - self._names):
            raise _invalid(f"observation.{unknown[0]}", f"unknown field; known: {', '.join(field.name for field in self._fields)}")
        parts = []
        for field in self._fields:
            if field.name not in fields:
                raise _invalid(f"observation.{field.name}", "is required and not given")
            parts.append(_numbers(fields[field.name], field, f"observation.{field.name}"))
        return np.concatenate(parts).reshape(1, -1)


def read_state(value: Any, fields: Mapping[str, TensorField]) -> dict[str, np.ndarray]:
    """Recurrent state that a caller hands back, by field or as one flat array: float32, each of shape (1, *field.shape).

    Raises ``RequestProblemError`` 422.
    """
    if isinstance(value, np.ndarray):
        value = _split_flat(value, fields)
    if not isinstance(value, dict):
        raise _invalid("state", f"is a JSON {_kind(value)}; the object that came with the last action is wanted")
    if unknown := sorted(set(value) - set(fields)):
        raise _invalid(f"state.{unknown[0]}", f"unknown field; known: {', '.join(fields) or 'none, this version keeps no state'}")
    state = {}
    for name, field in fields.items():
        if name not in value:
            raise _invalid(f"state.{name}", "is required and not given")
        state[name] = _numbers(value[name], field, f"state.{name}").reshape(1, *field.shape)
    return state


def _split_flat(values: np.ndarray, fields: Mapping[str, TensorField]) -> dict[str, np.ndarray]:
    sizes = [field.size for field in fields.values()]
    if values.size != sum(sizes):
        raise _invalid("state", f"has {values.size} numbers; {sum(sizes)} are wanted")
    return dict(zip(fields, np.split(values.reshape(-1), np.cumsum(sizes)[:-1]), strict=True))


def read_outcome(data: dict[str, Any]) -> Outcome:
    """How an episode ended. Raises ``RequestProblemError`` 422 naming the field that is wrong."""
    try:
        return Outcome.model_validate(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise _invalid(field, f"unknown key; known: {', '.join(Outcome.model_fields)}") from None
        message = "is required and not given" if first["type"] == "missing" else first["msg"]
        raise _invalid(field, f"{message[:1].lower()}{message[1:]}") from None


def _numbers(value: Any, field: TensorField, where: str) -> np.ndarray:
    """``value`` as flat float32; nested lists must have the field's shape, a scalar stands for one number."""
    if isinstance(value, np.ndarray):
        if value.shape not in (field.shape, (field.size,)):
            raise _invalid(where, f"has shape {list(value.shape)}; {list(field.shape)} is wanted")
        value = value.reshape(-1).tolist()
    values = value if isinstance(value, list) else [value] if field.size == 1 else None
    if values is None:
        raise _invalid(where, f"is a JSON {_kind(value)}; a list of {field.size} numbers is wanted")
    if len(field.shape) > 1 and len(values) == field.shape[0] and all(isinstance(row, list) for row in values):
        values = _flatten(values, field.shape, where)
    if len(values) != field.size:
        raise _invalid(where, f"has {len(values)} numbers; {field.size} are wanted")
    vector = _vector(values)
    if vector is None:
        for index, item in enumerate(values):
            if type(item) not in _NUMBERS:
                raise _invalid(where, f"number {index} is a JSON {_kind(item)}; a number is wanted")
        raise _invalid(where, "every number must be finite (no NaN, no infinity) and fit 32 bits")
    return vector


def _vector(values: list[Any]) -> np.ndarray | None:
    """Flat float32 if every item is a finite number, else None. NumPy alone would take "1.5", true and null for numbers."""
    if not _NUMBERS.issuperset(map(type, values)):
        return None
    try:
        with np.errstate(over="ignore"):
            vector = np.array(values, dtype=np.float64).astype(np.float32)
    except OverflowError:
        return None
    return vector if np.isfinite(vector).all() else None


def _flatten(values: Sequence[Any], shape: tuple[int, ...], where: str) -> list[Any]:
    if not isinstance(values, list) or len(values) != shape[0]:
        raise _invalid(where, f"must have shape {list(shape)}")
    if len(shape) == 1:
        return values
    return [item for row in values for item in _flatten(row, shape[1:], where)]


def read_name(value: Any, where: str) -> str:
    """A name that somebody chose. Raises ``RequestProblemError`` 422."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_LENGTH or not value.isprintable():
        raise _invalid(where, f"must be text of 1 to {MAX_NAME_LENGTH} printable characters")
    return value


def _invalid(field: str, detail: str) -> RequestProblemError:
    return RequestProblemError(422, "invalid-request", f"{field}: {detail}", field)


def _too_large(limit_bytes: int) -> RequestProblemError:
    return RequestProblemError(413, "body-too-large", f"the body may have at most {limit_bytes} bytes")


def _kind(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null", int: "number", float: "number"}
    return names.get(type(value), type(value).__name__)
