"""Schemas of the OpenAPI document: those of our models, and of bodies that are read by hand."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from cluster.contract import TensorField
from cluster.store.comparison_request import ComparisonRequest
from cluster.store.comparisons import Comparison, Outcome
from cluster.store.shadows import ShadowReport
from serve_apps.gateway.operators import PromoteBody, UndoBody, WeightsBody
from serve_apps.gateway.problems import TITLES

__all__ = ["schemas"]

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_NUMBER: Json = {"type": "number"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_FLAG: Json = {"type": "boolean"}
_ANYTHING: Json = {"type": "object", "additionalProperties": True}
_NAME: Json = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$", "description": "printable text"}
_NUMBERS: Json = {"type": "array", "items": _NUMBER}
_FIELDS: Json = {"type": "object", "additionalProperties": {"anyOf": [_NUMBER, {"type": "array"}]}}


def schemas() -> Json:
    """All schemas by name."""
    from serve_apps.comparison.report import Report
    from serve_apps.comparison.timeline import Timeline

    read = (ComparisonRequest, PromoteBody, WeightsBody, UndoBody, Outcome)
    written = (Comparison, Report, Timeline, ShadowReport, TensorField)
    models = [(model, "validation") for model in read] + [(model, "serialization") for model in written]
    _, made = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    found: Json = made["$defs"]
    # The salt is never told: who knows it can choose episode names that fall to the arm of his liking.
    comparison = found["Comparison"]
    comparison["properties"].pop("salt")
    comparison["required"] = [name for name in comparison.get("required", ()) if name != "salt"]
    report = found["Report"]
    full = report | {"title": "FullReport", "properties": dict(report["properties"]), "required": list(report["required"])}
    full["properties"] |= {"shadows": _list(_ref("ShadowReport")), "timeline": _ref("Timeline")}
    full["required"] += ["shadows", "timeline"]
    return found | {"FullReport": full} | _policies() | _changes() | _inference() | _rest()


def _policies() -> Json:
    version = _object(version=_TEXT, digest=_TEXT, recurrent=_FLAG)
    summary: Json = {
        "policy": _TEXT,
        "robot": _TEXT,
        "task": _TEXT,
        "control_dt_s": _NUMBER,
        "default_version": _TEXT,
        "versions": _list(version),
        "comparison": _or_null(_ANYTHING),
        "feedback": _or_null(_ANYTHING),
    }
    act = _object(
        required=("episode_id", "observation"),
        episode_id=_NAME | {"description": "a new name begins an episode"},
        observation={
            "anyOf": [_FIELDS, _NUMBERS],
            "description": "the contract's fields by name, or all of their numbers in its order; GET /v1/policies/{policy} names them",
        },
        state=_or_null(_ANYTHING) | {"description": "a recurrent policy's state, as it came with the last action"},
        sequence=_or_null({"type": "integer", "minimum": 0, "maximum": 2**53 - 1}) | {"description": "number of the step in its episode"},
        robot_id=_or_null(_NAME) | {"description": "which robot; where robots are assigned it has to be there"},
    )
    action = _object(
        required=("action", "version", "arm", "episode_id", "sequence"),
        action=_FIELDS,
        version=_TEXT,
        arm=_or_null(_TEXT),
        episode_id=_TEXT,
        sequence=_or_null(_COUNT),
        state=_ANYTHING,
    )
    return {
        "Act": act | {"additionalProperties": False},
        "Action": action,
        "Policies": _object(
            policies=_list(_object(**summary)), generation=_TEXT, refused=_or_null(_object(generation=_TEXT, reason=_TEXT)), replica=_TEXT
        ),
        "Policy": _object(**summary, observation=_list(_ref("TensorField")), action=_list(_ref("TensorField"))),
        "Stored": _object(episode_id=_TEXT, stored=_FLAG, repeated=_FLAG),
    }


def _changes() -> Json:
    endpoint = _object(follows=_FLAG | {"description": "whether every replica does what was asked"}, message=_TEXT)
    return {
        "Comparisons": _object(comparisons=_list(_ref("Comparison"))),
        "Started": _object(comparison=_ref("Comparison"), endpoint=endpoint),
        "Stopped": _object(comparison_id=_TEXT, status={"const": "stopped"}),
        "Promoted": _object(
            comparison_id=_TEXT, status={"enum": ["promoted", "kept"]}, arm=_TEXT, version=_TEXT, forced=_FLAG, endpoint=endpoint
        ),
        "Split": _object(
            comparison_id=_TEXT, status=_TEXT, weights={"type": "object", "additionalProperties": _NUMBER}, weights_version=_COUNT
        ),
        "Undone": _object(comparison_id=_TEXT, champion=_TEXT, endpoint=endpoint),
    }


def _inference() -> Json:
    tensor = _object(
        required=("name", "datatype", "shape"),
        name=_NAME,
        datatype={"enum": ["FP32", "FP64", "FP16", "INT64", "INT32", "INT16", "INT8", "UINT8"]},
        shape={"type": "array", "items": _COUNT, "minItems": 1, "maxItems": 8},
        data={"type": "array", "description": "flat or nested; or parameters.binary_data_size and the bytes after the JSON"},
        parameters=_ANYTHING,
    )
    described = _list(_object(name=_TEXT, datatype=_TEXT, shape={"type": "array", "items": {"type": "integer"}}))
    answer = _object(
        required=("model_name", "model_version", "outputs"), id=_TEXT, model_name=_TEXT, model_version=_TEXT, outputs=_list(tensor)
    )
    request = _object(required=("inputs",), id=_TEXT, inputs=_list(tensor), outputs=_list(_ANYTHING), parameters=_or_null(_ANYTHING))
    return {
        "InferenceRequest": request,
        "InferenceResponse": answer,
        "ModelMetadata": _object(name=_TEXT, versions=_list(_TEXT), platform=_TEXT, inputs=described, outputs=described),
        "ModelReady": _object(name=_TEXT, version=_TEXT, ready=_FLAG),
        "ServerMetadata": _object(name=_TEXT, version=_TEXT, extensions=_list(_TEXT)),
    }


def _rest() -> Json:
    problem = _object(
        required=("type", "title", "status", "detail"),
        type={"enum": [f"urn:gaitway:problem:{name}" for name in TITLES]},
        title=_TEXT,
        status={"type": "integer", "minimum": 400, "maximum": 599},
        detail=_TEXT | {"description": "what was given, what is allowed, what to do"},
        field=_TEXT | {"description": "the field that is to blame"},
    )
    return {
        "Problem": problem | {"description": "RFC 9457; no traceback leaves the server", "additionalProperties": False},
        "Live": _object(live=_FLAG),
        "Ready": _object(ready=_FLAG, generation=_TEXT),
        "Document": _ANYTHING,
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(item: Json) -> Json:
    return {"type": "array", "items": item}


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(required: tuple[str, ...] | None = None, **properties: Json) -> Json:
    """An object; all of its properties are required unless ``required`` says which."""
    return {"type": "object", "properties": properties, "required": list(properties if required is None else required)}
