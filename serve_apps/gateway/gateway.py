"""The HTTP application: routes, who may take them, and how refusals are answered.

| route | who | |
|---|---|---|
| ``POST /v1/policies/{policy}/act`` | robot | one step; JSON, or msgpack with arrays |
| ``WS /v1/policies/{policy}/session`` | robot | many (``sessions``) |
| ``POST /v1/policies/{policy}/episodes/{episode_id}/outcome`` | robot | how an episode ended |
| ``GET /v1/policies``, ``/v1/policies/{policy}`` | robot, viewer | what is served |
| ``GET /v1/comparisons``, ``/v1/comparisons/{id}`` | viewer | comparisons, one's report |
| ``GET /v2``, ``/v2/models/{policy}[/versions/{v}][/ready]`` | robot, viewer | the Open Inference Protocol (``inference_protocol``) |
| ``POST /v2/models/{policy}[/versions/{v}]/infer`` | robot | |
| ``GET /v2/health/live``, ``/v2/health/ready`` | everybody | is the process up; are all versions loaded and warm |

An admin may do all of it, an operator all that a viewer may.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from cluster.store.comparisons import list_comparisons
from cluster.store.database import Database
from cluster.wire.frames import pack
from serve_apps.gateway.auth import Permission
from serve_apps.gateway.inference_protocol import InferenceProtocol
from serve_apps.gateway.live import Live
from serve_apps.gateway.problems import JsonResponse, RequestProblemError, problem_response
from serve_apps.gateway.requests import ActRequest, is_msgpack, parse_body, read_body, read_outcome
from serve_apps.gateway.sessions import SessionEndpoint, split_action
from serve_apps.inference.policy_set import LoadedPolicy

__all__ = ["Gateway"]

logger = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]


class _Application(Starlette):
    """Asks everybody but health checks for a token before anything else; logs a defect once, with its traceback."""

    live: Live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/v2/health/"):
            try:
                headers = dict(scope["headers"])
                caller = await self.live.gate.admit(headers.get(b"authorization", b"").decode("latin-1"))
                caller.spend(self.live.requests_per_s)
            except RequestProblemError as problem:
                await problem_response(problem)(scope, receive, send)
                return
            scope["gaitway.caller"] = caller
        try:
            await super().__call__(scope, receive, send)
        except Exception:
            # Starlette raises a defect again after it was answered.
            logger.exception("a request failed: %s %s", scope.get("method"), scope.get("path"))


class Gateway:
    """One replica's application. ``app`` is plain ASGI; ``apply`` brings it what to serve.

    Args:
        replica: name of this replica, shown in ``GET /v1/policies``.
    """

    def __init__(self, replica: str = "") -> None:
        self._replica = replica
        self.live = Live(replica)
        models = InferenceProtocol(self.live)
        self.app = _Application(
            routes=[
                _route("/v1/policies/{policy}/act", self._act, "act", "POST"),
                WebSocketRoute("/v1/policies/{policy}/session", SessionEndpoint(self.live)),
                _route("/v1/policies/{policy}/episodes/{episode_id}/outcome", self._outcome, "act", "POST"),
                _route("/v1/policies", self._list_policies, "describe"),
                _route("/v1/policies/{policy}", self._describe_policy, "describe"),
                _route("/v1/comparisons", self._list_comparisons, "read"),
                _route("/v1/comparisons/{comparison_id}", self._report, "read"),
                Route("/v2/health/live", self._live),
                Route("/v2/health/ready", self._ready),
                _route("/v2", models.server, "describe"),
                *(
                    route
                    for path in ("/v2/models/{policy}", "/v2/models/{policy}/versions/{version}")
                    for route in (
                        _route(path, models.metadata, "describe"),
                        _route(f"{path}/ready", models.ready, "describe"),
                        _route(f"{path}/infer", models.infer, "act", "POST"),
                    )
                ),
            ],
            exception_handlers={
                RequestProblemError: _on_problem,
                HTTPException: _on_http_exception,
                Exception: _on_defect,
            },
        )
        self.app.live = self.live

    async def apply(self, user_config: dict[str, Any]) -> None:
        """Serve what ``user_config`` says; see ``Live.apply``."""
        await self.live.apply(user_config)

    async def _act(self, request: Request) -> Response:
        body = await read_body(request, self.live.max_body_bytes)
        received_s = perf_counter()
        name: str = request.path_params["policy"]
        policy = self.live.policy(name)
        content_type = request.headers.get("content-type", "")
        act = ActRequest(parse_body(body, content_type))
        observation = self.live.reader(name).read(act.observation)
        episode = await self.live.begin(policy, act.episode_id, act.robot_id)
        session, action = await self.live.step(policy, episode, observation, act.state, act.sequence, received_s)
        answer: dict[str, Any] = {
            "action": split_action(session, action),
            "version": episode.assignment.version,
            "arm": episode.assignment.arm,
            "episode_id": act.episode_id,
            "sequence": act.sequence,
        }
        if session.state_fields and episode.state is not None:
            answer["state"] = {field: value[0] for field, value in episode.state.items()}
        if is_msgpack(content_type):
            return Response(pack(answer), media_type="application/msgpack")
        return JsonResponse(answer)

    async def _outcome(self, request: Request) -> Response:
        body = await read_body(request, self.live.max_body_bytes)
        policy = self.live.policy(request.path_params["policy"])
        outcome = read_outcome(parse_body(body, request.headers.get("content-type", "")))
        episode_id: str = request.path_params["episode_id"]
        new = await self.live.end(policy.name, episode_id, outcome)
        return JsonResponse({"episode_id": episode_id, "stored": True, "repeated": not new})

    async def _list_policies(self, request: Request) -> Response:
        loaded, mine = self.live.loaded, request.scope["gaitway.caller"].token.policies
        return JsonResponse(
            {
                "policies": [self._summary(policy) for name, policy in loaded.policies.items() if not mine or name in mine],
                "generation": loaded.generation,
                "refused": self.live.refused,
                "replica": self._replica,
            }
        )

    def _summary(self, policy: LoadedPolicy) -> dict[str, Any]:
        return _described(policy) | {"feedback": self.live.feedback.counts(policy.name)}

    async def _describe_policy(self, request: Request) -> Response:
        policy = self.live.policy(request.path_params["policy"])
        contract = policy.contract
        fields = {label: [field.model_dump(mode="json") for field in getattr(contract, label)] for label in ("observation", "action")}
        return JsonResponse(self._summary(policy) | fields)

    async def _list_comparisons(self, _request: Request) -> Response:
        found = await self.live.ledger.read(list_comparisons)
        # The salt stays here: who knows it can choose episode names that fall to the arm of his liking.
        return JsonResponse({"comparisons": [comparison.model_dump(mode="json", exclude={"salt"}) for comparison in found]})

    async def _report(self, request: Request) -> Response:
        return JsonResponse(await self.live.ledger.read(_report_of, request.path_params["comparison_id"]))

    async def _live(self, _request: Request) -> Response:
        return JsonResponse({"live": True})

    async def _ready(self, _request: Request) -> Response:
        return JsonResponse({"ready": True, "generation": self.live.loaded.generation})


def _route(path: str, handler: Handler, permission: Permission, method: str = "GET") -> Route:
    async def guarded(request: Request) -> Response:
        request.scope["gaitway.caller"].require(permission, request.path_params.get("policy"))
        return await handler(request)

    return Route(path, guarded, methods=[method])


def _report_of(database: Database, comparison_id: str) -> dict[str, Any]:
    # Imported by the first reader, in its thread: a replica that only acts never pays for the statistics.
    from serve_apps.comparison.report import report

    return report(database, comparison_id).to_dict()


def _described(policy: LoadedPolicy) -> dict[str, Any]:
    contract, comparison = policy.contract, policy.comparison
    return {
        "policy": policy.name,
        "robot": contract.robot,
        "task": contract.task,
        "control_dt_s": contract.control_dt_s,
        "default_version": policy.default_version,
        "versions": [
            {"version": number, "digest": session.bundle.digest, "recurrent": bool(session.state_fields)}
            for number, session in policy.versions.items()
        ],
        "comparison": None if comparison is None else comparison.model_dump(mode="json", exclude={"salt"}),
    }


async def _on_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestProblemError)
    return problem_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        response = problem_response(
            RequestProblemError(405, "method-not-allowed", f"{request.method} is not a method of {request.url.path}")
        )
        response.headers["Allow"] = (error.headers or {}).get("Allow", "")
        return response
    return problem_response(RequestProblemError(404, "not-found", f"no route {request.url.path[:128]}"))


async def _on_defect(_request: Request, error: Exception) -> Response:
    # Starlette raises it again after answering, so that Serve logs it with its traceback.
    return problem_response(RequestProblemError(500, "internal-error", "the server failed; its log says why"))
