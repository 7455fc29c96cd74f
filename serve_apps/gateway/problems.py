"""Errors as application/problem+json (RFC 9457), each with a stable ``type``. No traceback leaves the server.

| type | status | when |
|---|---|---|
| ``urn:gaitway:problem:malformed-json`` | 400 | the body is not a JSON object |
| ``urn:gaitway:problem:malformed-frame`` | 400 | the body or frame is not msgpack, or not of the compact form |
| ``urn:gaitway:problem:unauthorized`` | 401 | no token, or one that is not valid (any more) |
| ``urn:gaitway:problem:forbidden`` | 403 | the token's role or policies do not allow it |
| ``urn:gaitway:problem:not-found`` | 404 | no such route |
| ``urn:gaitway:problem:unknown-policy`` | 404 | the policy is not served |
| ``urn:gaitway:problem:unknown-episode`` | 404 | an outcome for an episode that never acted |
| ``urn:gaitway:problem:unknown-comparison`` | 404 | no such comparison |
| ``urn:gaitway:problem:unknown-version`` | 404 | the registry has no such policy, version or alias |
| ``urn:gaitway:problem:method-not-allowed`` | 405 | the route has other methods |
| ``urn:gaitway:problem:outcome-conflict`` | 409 | another outcome is stored for the episode |
| ``urn:gaitway:problem:comparison-conflict`` | 409 | the comparison's state does not allow it: it has ended, another runs, no verdict |
| ``urn:gaitway:problem:state-required`` | 409 | recurrent state is neither given nor held here |
| ``urn:gaitway:problem:body-too-large`` | 413 | the body is larger than the server takes |
| ``urn:gaitway:problem:invalid-request`` | 422 | a field is missing, unknown, too long, too short or not finite; ``field`` names it |
| ``urn:gaitway:problem:too-many-requests`` | 429 | more than the token's limit; ``Retry-After`` says when again |
| ``urn:gaitway:problem:internal-error`` | 500 | a defect of the server; it is in the server's log |
| ``urn:gaitway:problem:store-unavailable`` | 503 | the database does not answer; try again |
| ``urn:gaitway:problem:not-ready`` | 503 | the policies are not loaded yet; try again |
| ``urn:gaitway:problem:busy`` | 503 | too many operators' requests wait already; try again |
| ``urn:gaitway:problem:operation-timeout`` | 504 | an operator's request took too long; repeating it is safe |
"""

from __future__ import annotations

import math
from typing import Any

import orjson
from starlette.responses import Response

__all__ = ["STATUSES", "TITLES", "JsonResponse", "RequestProblemError", "problem_response"]

TITLES = {
    "malformed-json": "The body is not a JSON object",
    "malformed-frame": "The frame cannot be read",
    "unauthorized": "A valid token is wanted",
    "forbidden": "The token does not allow this",
    "too-many-requests": "Too many requests",
    "not-found": "No such route",
    "unknown-policy": "The policy is not served",
    "unknown-episode": "The episode is not known",
    "unknown-comparison": "The comparison is not known",
    "unknown-version": "The version is not registered",
    "method-not-allowed": "The route has other methods",
    "outcome-conflict": "Another outcome is stored for the episode",
    "comparison-conflict": "The comparison does not allow it now",
    "state-required": "The recurrent state is missing",
    "body-too-large": "The body is too large",
    "invalid-request": "A field of the request is not valid",
    "internal-error": "The server failed",
    "store-unavailable": "The database does not answer",
    "not-ready": "The policies are not loaded yet",
    "busy": "Too many requests wait already",
    "operation-timeout": "It took too long",
}

STATUSES = {
    "malformed-json": 400,
    "malformed-frame": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not-found": 404,
    "unknown-policy": 404,
    "unknown-episode": 404,
    "unknown-comparison": 404,
    "unknown-version": 404,
    "method-not-allowed": 405,
    "outcome-conflict": 409,
    "comparison-conflict": 409,
    "state-required": 409,
    "body-too-large": 413,
    "invalid-request": 422,
    "too-many-requests": 429,
    "internal-error": 500,
    "store-unavailable": 503,
    "not-ready": 503,
    "busy": 503,
    "operation-timeout": 504,
}
"""Problem -> HTTP status."""


class RequestProblemError(Exception):
    """A refusal that the caller is told about."""

    def __init__(self, status: int, name: str, detail: str, field: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.name, self.detail, self.field = status, name, detail, field
        self.retry_after_s = retry_after_s

    def document(self) -> dict[str, Any]:
        """The problem document."""
        content: dict[str, Any] = {
            "type": f"urn:gaitway:problem:{self.name}",
            "title": TITLES[self.name],
            "status": self.status,
            "detail": _sayable(self.detail),
        }
        return content if self.field is None else content | {"field": _sayable(self.field)}


def _sayable(text: str) -> str:
    """JSON's escapes can make halves of characters, which no answer can carry: what somebody sent may be quoted in it."""
    return text.encode("utf-8", "replace").decode("utf-8")


class JsonResponse(Response):
    """JSON by orjson, NumPy arrays included."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Serialise ``content``."""
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def problem_response(problem: RequestProblemError) -> Response:
    """The answer for one problem."""
    headers = {}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if problem.status in (429, 503):
        headers["Retry-After"] = str(math.ceil(problem.retry_after_s or 1.0))
    return Response(orjson.dumps(problem.document()), problem.status, headers, media_type="application/problem+json")
