"""``GET /v1/openapi.json``: every HTTP route, its bodies, its answers and its problems, as OpenAPI 3.1.

Schemas come from the models that read and write them; where there is none, because a body is read by hand for speed, they stand here.
The session, a WebSocket, is beyond OpenAPI; ``sessions`` describes it.
"""

from __future__ import annotations

from typing import Any

from cluster import __version__
from serve_apps.gateway.openapi_schemas import schemas
from serve_apps.gateway.problems import STATUSES, TITLES

__all__ = ["document"]

Json = dict[str, Any]

_ALWAYS = ("unauthorized", "forbidden", "too-many-requests", "not-ready", "store-unavailable")
_WITH_PATH = ("not-found", "method-not-allowed")
"""A name with a slash in it makes another path."""
_WITH_BODY = ("malformed-json", "body-too-large", "invalid-request")
_REGISTRY = ("comparison-conflict", "unknown-version", "busy", "operation-timeout")


def document() -> Json:
    """The document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Gaitway policy endpoint",
            "version": __version__,
            "description": "Robot policies served live, and the comparison of their versions. Robots that call at 50 Hz use the session, "
            "a WebSocket at /v1/policies/{policy}/session?robot_id=...&episode_id=...",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "tags": [
            {"name": "policies", "description": "What robots call"},
            {"name": "comparisons", "description": "What operators look at and change"},
            {"name": "open inference protocol", "description": "What Triton's clients, KServe and Seldon speak"},
            {"name": "health", "description": "Is it up"},
        ],
        "paths": {**_policies(), **_comparisons(), **_models(), **_health()},
        "components": {
            "schemas": schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "`gaitway token create` makes one"}},
        },
    }


def _policies() -> Json:
    policy = _parameter("policy", "name of a policy that is served")
    episode = _parameter("episode_id", "the episode, as its first act named it")
    known = ("unknown-policy",)
    return {
        "/v1/policies": {"get": _operation("list_policies", "What is served", "policies", _json("Policies"))},
        "/v1/policies/{policy}": {
            "parameters": [policy],
            "get": _operation("describe_policy", "One policy, with its contract", "policies", _json("Policy"), known, path=True),
        },
        "/v1/policies/{policy}/act": {
            "parameters": [policy],
            "post": _operation(
                "act",
                "One control step",
                "policies",
                _json("Action", "application/msgpack"),
                (*known, "malformed-frame", "state-required"),
                body=_body("Act", required=True, binary=True),
                path=True,
            ),
        },
        "/v1/policies/{policy}/episodes/{episode_id}/outcome": {
            "parameters": [policy, episode],
            "post": _operation(
                "outcome",
                "How an episode ended; it is on disk when this answers",
                "policies",
                _json("Stored"),
                (*known, "malformed-frame", "unknown-episode", "outcome-conflict"),
                body=_body("Outcome", required=True, binary=True),
                path=True,
            ),
        },
    }


def _comparisons() -> Json:
    comparison = _parameter("comparison_id", "the comparison's id")
    known = ("unknown-comparison",)
    tag = "comparisons"
    page = {"description": "The page", "content": {"text/html": {"schema": {"type": "string"}}}}
    root = "/v1/comparisons/{comparison_id}"

    def change(name: str, summary: str, answer: str, body: str, problems: tuple[str, ...], required: bool = False) -> Json:
        operation = _operation(
            f"{name}_comparison", summary, tag, _json(answer), (*known, *problems), body=_body(body, required), path=True
        )
        return {"parameters": [comparison], "post": operation}

    started = _json("Started") | {"description": "It runs", "headers": {"Location": {"schema": {"type": "string"}}}}
    return {
        "/v1/comparisons": {
            "get": _operation("list_comparisons", "All comparisons, the newest first", tag, _json("Comparisons")),
            "post": _operation(
                "start_comparison", "Start a comparison", tag, started, _REGISTRY, body=_body("ComparisonRequest"), status="201"
            ),
        },
        root: {
            "parameters": [comparison],
            "get": _operation("report", "Its report, with its timeline", tag, _json("FullReport"), known, path=True),
        },
        f"{root}/report.html": {
            "parameters": [comparison],
            "get": _operation("report_page", "Its report as a page that works offline", tag, page, known, path=True),
        },
        f"{root}/stop": change("stop", "End it without a winner", "Stopped", "UndoBody", ("comparison-conflict",)),
        f"{root}/promote": change("promote", "End it for its winner, who takes @champion", "Promoted", "PromoteBody", _REGISTRY),
        f"{root}/weights": change("split", "Split new episodes otherwise", "Split", "WeightsBody", ("comparison-conflict",), required=True),
        f"{root}/undo": change("undo", "Give @champion back to the version that was replaced", "Undone", "UndoBody", _REGISTRY),
    }


def _models() -> Json:
    tag, paths = "open inference protocol", {}
    paths["/v2"] = {"get": _operation("server_metadata", "The server", tag, _json("ServerMetadata"))}
    for path, suffix in (("/v2/models/{policy}", ""), ("/v2/models/{policy}/versions/{version}", "_of_version")):
        parameters = [_parameter("policy", "name of a policy that is served")]
        if suffix:
            parameters.append(_parameter("version", "a version that is loaded"))
        known = ("unknown-policy",)
        header = _parameter("Inference-Header-Content-Length", "bytes of the JSON before binary tensors", "header", required=False)
        header["schema"] = {"type": "string", "pattern": "^[0-9]{1,9}$"}
        infer = _operation(
            f"infer{suffix}",
            "Run the graph; with parameters.episode_id, one step of that episode",
            tag,
            _json("InferenceResponse", "application/octet-stream"),
            (*known, "state-required", "malformed-frame"),
            body=_body("InferenceRequest", required=True),
            path=True,
        )
        paths |= {
            path: {
                "parameters": parameters,
                "get": _operation(f"model_metadata{suffix}", "Its tensors", tag, _json("ModelMetadata"), known, path=True),
            },
            f"{path}/ready": {
                "parameters": parameters,
                "get": _operation(f"model_ready{suffix}", "Is it loaded", tag, _json("ModelReady"), known, path=True),
            },
            f"{path}/infer": {"parameters": [*parameters, header], "post": infer},
        }
    return paths


def _health() -> Json:
    text = {"description": "Prometheus text", "content": {"text/plain": {"schema": {"type": "string"}}}}

    def free(name: str, summary: str, answer: Json, problems: tuple[str, ...] = ()) -> Json:
        return _operation(name, summary, "health", answer, problems, everybody=True)

    return {
        "/v2/health/live": {"get": free("live", "Is the process up", _json("Live"))},
        "/v2/health/ready": {"get": free("ready", "Are all versions loaded and warm", _json("Ready"), ("not-ready",))},
        "/v1/openapi.json": {"get": free("openapi", "This document", _json("Document"))},
        "/metrics": {"get": _operation("metrics", "One replica's counters", "health", text)},
    }


def _operation(
    name: str,
    summary: str,
    tag: str,
    answer: Json,
    problems: tuple[str, ...] = (),
    body: Json | None = None,
    path: bool = False,
    status: str = "200",
    everybody: bool = False,
) -> Json:
    """One operation; what every route, every path with a name and every body can be refused for is added to ``problems``."""
    names = (*problems, *(() if everybody else _ALWAYS), *(_WITH_PATH if path else ()), *(_WITH_BODY if body else ()))
    refused: dict[int, list[str]] = {}
    for name_ in dict.fromkeys((*names, "internal-error")):
        refused.setdefault(STATUSES[name_], []).append(name_)
    responses = {status: answer} | {str(code): _problem(kinds) for code, kinds in sorted(refused.items())}
    operation: Json = {"operationId": name, "summary": summary, "tags": [tag], "responses": responses}
    if body is not None:
        operation["requestBody"] = body
    if everybody:
        operation["security"] = []
    return operation


def _problem(names: list[str]) -> Json:
    kinds = {"type": "object", "properties": {"type": {"enum": [f"urn:gaitway:problem:{name}" for name in names]}}}
    schema = {"allOf": [{"$ref": "#/components/schemas/Problem"}, kinds]}
    return {
        "description": "; or ".join(TITLES[name] for name in names),
        "content": {"application/problem+json": {"schema": schema}},
    }


def _json(name: str, binary: str | None = None) -> Json:
    content: Json = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    if binary is not None:
        content[binary] = {"schema": {"type": "string", "format": "binary"}}
    return {"description": "Done", "content": content}


def _body(name: str, required: bool = False, binary: bool = False) -> Json:
    content: Json = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    if binary:
        content["application/msgpack"] = {"schema": {"type": "string", "format": "binary"}}
    return {"required": required, "content": content}


def _parameter(name: str, description: str, place: str = "path", required: bool = True) -> Json:
    return {
        "name": name,
        "in": place,
        "required": required,
        "description": description,
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
    }
