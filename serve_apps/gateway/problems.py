"""Errors as application/problem+json (RFC 9457), each with a stable ``type``. No traceback leaves the server.

| type | status | when |
|---|---|---|
| ``urn:gaitway:problem:malformed-json`` | 400 | the body is not a JSON object |
| ``urn:gaitway:problem:not-found`` | 404 | no such route |
| ``urn:gaitway:problem:unknown-policy`` | 404 | the policy is not served |
| ``urn:gaitway:problem:unknown-episode`` | 404 | an outcome for an episode that never acted |
| ``urn:gaitway:problem:unknown-comparison`` | 404 | no such comparison |
| ``urn:gaitway:problem:method-not-allowed`` | 405 | the route has other methods |
| ``urn:gaitway:problem:outcome-conflict`` | 409 | another outcome is stored for the episode |
| ``urn:gaitway:problem:state-required`` | 409 | recurrent state is neither given nor held here |
| ``urn:gaitway:problem:body-too-large`` | 413 | the body is larger than the server takes |
| ``urn:gaitway:problem:invalid-request`` | 422 | a field is missing, unknown, too long, too short or not finite; ``field`` names it |
| ``urn:gaitway:problem:internal-error`` | 500 | a defect of the server; it is in the server's log |
| ``urn:gaitway:problem:store-unavailable`` | 503 | the database does not answer; try again |
| ``urn:gaitway:problem:not-ready`` | 503 | the policies are not loaded yet; try again |
"""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

__all__ = ["JsonResponse", "RequestProblemError", "problem_response"]

_TITLES = {
    "malformed-json": "The body is not a JSON object",
    "not-found": "No such route",
    "unknown-policy": "The policy is not served",
    "unknown-episode": "The episode is not known",
    "unknown-comparison": "The comparison is not known",
    "method-not-allowed": "The route has other methods",
    "outcome-conflict": "Another outcome is stored for the episode",
    "state-required": "The recurrent state is missing",
    "body-too-large": "The body is too large",
    "invalid-request": "A field of the request is not valid",
    "internal-error": "The server failed",
    "store-unavailable": "The database does not answer",
    "not-ready": "The policies are not loaded yet",
}


class RequestProblemError(Exception):
    """A refusal that the caller is told about."""

    def __init__(self, status: int, name: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.name, self.detail, self.field = status, name, detail, field


class JsonResponse(Response):
    """JSON by orjson, NumPy arrays included."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Serialise ``content``."""
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def problem_response(problem: RequestProblemError) -> Response:
    """The answer for one problem."""
    content = {
        "type": f"urn:gaitway:problem:{problem.name}",
        "title": _TITLES[problem.name],
        "status": problem.status,
        "detail": problem.detail,
    }
    if problem.field is not None:
        content["field"] = problem.field
    headers = {"Retry-After": "1"} if problem.status == 503 else None
    return Response(orjson.dumps(content), status_code=problem.status, headers=headers, media_type="application/problem+json")
