"""The Open Inference Protocol v2 over HTTP, with its binary tensor extension: what Triton's clients, KServe and Seldon speak.

A policy is a model. Its inputs are ``observation`` (batch, observation_size) and one tensor a state field, its outputs ``action`` and
``<field>_next``: the graph as it was exported, batched as the caller likes. Without more this is the default version, or the one in the
path, and nothing is recorded. With ``parameters: {"episode_id": ...}`` and a batch of one it is a step of that episode, with the version
that the running comparison gives it.

Protocol: kserve/open-inference-protocol, ``inference_rest.md``; binary data: Triton's ``extension_binary_data.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response

from cluster import __version__
from cluster.contract import ACTION_OUTPUT, OBSERVATION_INPUT
from serve_apps.gateway.live import Live
from serve_apps.gateway.problems import JsonResponse, RequestProblemError
from serve_apps.gateway.requests import parse_object, read_body, read_name
from serve_apps.inference.policy_set import LoadedPolicy
from serve_apps.inference.session import PolicySession

__all__ = ["InferenceProtocol"]

_HEADER_LENGTH = "inference-header-content-length"
_DATATYPES = {"FP32": "<f4", "FP64": "<f8", "FP16": "<f2", "INT64": "<i8", "INT32": "<i4", "INT16": "<i2", "INT8": "<i1", "UINT8": "<u1"}
_LARGEST_BATCH = 4096


class InferenceProtocol:
    """Handlers of ``/v2``."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def server(self, _request: Request) -> Response:
        """``GET /v2``."""
        return JsonResponse({"name": "gaitway", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def metadata(self, request: Request) -> Response:
        """``GET /v2/models/{model}[/versions/{version}]``."""
        policy, _, session = self._model(request)
        tensors = {
            "inputs": [(OBSERVATION_INPUT, (session.contract.observation_size,)), *((n, f.shape) for n, f in session.state_fields.items())],
            "outputs": [(ACTION_OUTPUT, (session.contract.action_size,))]
            + [(f"{name}_next", field.shape) for name, field in session.state_fields.items()],
        }
        described = {
            label: [{"name": name, "datatype": "FP32", "shape": [-1, *shape]} for name, shape in entries]
            for label, entries in tensors.items()
        }
        return JsonResponse({"name": policy.name, "versions": list(policy.versions), "platform": "onnx_onnxv1", **described})

    async def ready(self, request: Request) -> Response:
        """``GET /v2/models/{model}[/versions/{version}]/ready``."""
        policy, version, _ = self._model(request)
        return JsonResponse({"name": policy.name, "version": version, "ready": True})

    async def infer(self, request: Request) -> Response:
        """``POST /v2/models/{model}[/versions/{version}]/infer``."""
        body = await read_body(request, self._live.max_body_bytes)
        received_s = perf_counter()
        policy, version, session = self._model(request)
        message, binary = _split(body, request.headers.get(_HEADER_LENGTH))
        tensors = _read_tensors(message, binary)
        parameters = message.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise _invalid("parameters", "must be an object")
        observation = _batch(tensors, OBSERVATION_INPUT, (session.contract.observation_size,))
        state: dict[str, np.ndarray] | None = None
        if given := [name for name in session.state_fields if name in tensors]:
            state = {name: _batch(tensors, name, field.shape, len(observation)) for name, field in session.state_fields.items()}
        if unknown := sorted(set(tensors) - {OBSERVATION_INPUT, *given}):
            raise _invalid(
                "inputs", f"no input {unknown[0][:64]!r}; the model takes {', '.join([OBSERVATION_INPUT, *session.state_fields])}"
            )
        if parameters.get("episode_id") is not None:
            if len(observation) != 1:
                raise _invalid("inputs", f"an episode takes one step at a time, this is a batch of {len(observation)}")
            robot_id = parameters.get("robot_id")
            robot_id = None if robot_id is None else read_name(robot_id, "parameters.robot_id")
            episode = await self._live.begin(policy, read_name(parameters["episode_id"], "parameters.episode_id"), robot_id)
            session, action = await self._live.step(policy, episode, observation, state, received_s=received_s)
            following: Mapping[str, np.ndarray] = episode.state or {}
            version = episode.assignment.version
        else:
            action, following = await self._live.run(session, observation, state)
        outputs = {ACTION_OUTPUT: action, **{f"{name}_next": value for name, value in following.items()}}
        return _answer(message, policy.name, version, outputs)

    def _model(self, request: Request) -> tuple[LoadedPolicy, str, PolicySession]:
        policy = self._live.policy(request.path_params["policy"])
        version = request.path_params.get("version") or policy.default_version
        if version not in policy.versions:
            known = ", ".join(policy.versions)
            raise RequestProblemError(
                404, "unknown-policy", f"policy {policy.name} has no version {version[:64]!r} loaded; loaded: {known}"
            )
        return policy, version, policy.versions[version]


def _split(body: bytes, header_length: str | None) -> tuple[dict[str, Any], bytes]:
    """The JSON part and what follows it."""
    if header_length is None:
        return parse_object(body), b""
    if not header_length.isdigit() or int(header_length) > len(body):
        raise _invalid(_HEADER_LENGTH, f"{header_length[:20]!r} is not a length within the body's {len(body)} bytes")
    return parse_object(body[: int(header_length)]), body[int(header_length) :]


def _read_tensors(message: dict[str, Any], binary: bytes) -> dict[str, np.ndarray]:
    inputs = message.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(item, dict) for item in inputs):
        raise _invalid("inputs", "must be a list of tensors")
    tensors: dict[str, np.ndarray] = {}
    for item in inputs:
        name, shape, datatype = read_name(item.get("name"), "inputs.name"), item.get("shape"), item.get("datatype")
        where = f"inputs.{name}"
        if not isinstance(datatype, str) or datatype not in _DATATYPES:
            raise _invalid(where, f"datatype {str(datatype)[:16]!r} is not one of {', '.join(_DATATYPES)}")
        if not isinstance(shape, list) or not 0 < len(shape) <= 8 or not all(type(axis) is int and axis >= 0 for axis in shape):
            raise _invalid(where, "shape must be a list of whole numbers")
        count = 1
        for axis in shape:
            count *= axis
        parameters = item.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        dtype = np.dtype(_DATATYPES[datatype])
        if size is not None:
            if type(size) is not int or size != count * dtype.itemsize or size > len(binary):
                raise _invalid(where, f"shape {shape} of {datatype} takes {count * dtype.itemsize} bytes; {len(binary)} are there")
            values, binary = np.frombuffer(binary[:size], dtype=dtype), binary[size:]
        else:
            values = _numbers(item.get("data"), where)
        if values.size != count:
            raise _invalid(where, f"shape {shape} takes {count} numbers; {values.size} are there")
        with np.errstate(over="ignore"):
            tensors[name] = values.reshape(shape).astype(np.float32)
        if not np.isfinite(tensors[name]).all():
            raise _invalid(where, "every number must be finite (no NaN, no infinity) and fit 32 bits")
    if binary:
        raise _invalid("inputs", f"{len(binary)} bytes follow the last tensor")
    return tensors


def _numbers(data: Any, where: str) -> np.ndarray:
    """Numbers of nested or flat lists."""
    flat: list[Any] = []
    waiting = [data]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(reversed(item))
        elif type(item) in (int, float):
            flat.append(item)
        else:
            raise _invalid(where, "data must be numbers, in one list or in nested ones")
    try:
        return np.array(flat, dtype=np.float64)
    except OverflowError:
        raise _invalid(where, "every number must be finite (no NaN, no infinity) and fit 32 bits") from None


def _batch(tensors: dict[str, np.ndarray], name: str, shape: tuple[int, ...], batch: int | None = None) -> np.ndarray:
    tensor = tensors.get(name)
    if tensor is None:
        raise _invalid("inputs", f"the input {name!r} is missing")
    if tensor.shape[1:] != shape or not 0 < len(tensor) <= _LARGEST_BATCH or (batch is not None and len(tensor) != batch):
        wanted = [batch or -1, *shape]
        raise _invalid(f"inputs.{name}", f"has shape {list(tensor.shape)}; {wanted} with 1 to {_LARGEST_BATCH} rows is wanted")
    return tensor


def _answer(message: dict[str, Any], model: str, version: str, outputs: dict[str, np.ndarray]) -> Response:
    asked = message.get("outputs")
    wanted: dict[str, Any] = {name: {} for name in outputs}
    if asked:
        if not isinstance(asked, list) or not all(isinstance(item, dict) for item in asked):
            raise _invalid("outputs", "must be a list of objects")
        wanted = {read_name(item.get("name"), "outputs.name"): item.get("parameters") or {} for item in asked}
        if unknown := sorted(set(wanted) - set(outputs)):
            raise _invalid("outputs", f"no output {unknown[0][:64]!r}; the model gives {', '.join(outputs)}")
    parameters = message.get("parameters") or {}
    described, blobs = [], []
    for name, how in wanted.items():
        values = outputs[name]
        entry: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(values.shape)}
        if isinstance(how, dict) and how.get("binary_data", parameters.get("binary_data_output", False)) is True:
            blobs.append(np.ascontiguousarray(values, dtype="<f4").tobytes())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = values.reshape(-1).tolist()
        described.append(entry)
    content: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if isinstance(message.get("id"), str):
        content["id"] = message["id"]
    head = orjson.dumps(content)
    if not blobs:
        return Response(head, media_type="application/json")
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return Response(b"".join([head, *blobs]), headers=headers, media_type="application/octet-stream")


def _invalid(field: str, detail: str) -> RequestProblemError:
    return RequestProblemError(422, "invalid-request", f"{field}: {detail}", field)
