"""The HTTP application: routes, who may take them, and how refusals are answered.

| route | who | |
|---|---|---|
| ``POST /v1/policies/{policy}/act`` | robot | one step; JSON, or msgpack with arrays |
| ``WS /v1/policies/{policy}/session`` | robot | many (``sessions``) |
| ``POST /v1/policies/{policy}/episodes/{episode_id}/outcome`` | robot | how an episode ended |
| ``GET /v1/policies``, ``/v1/policies/{policy}`` | robot, viewer | what is served |
| ``GET /v1/comparisons``, ``/v1/comparisons/{id}[/report.html]`` | viewer | comparisons, one's report |
| ``POST /v1/comparisons``, ``/v1/comparisons/{id}/stop``, ``promote``, ``weights``, ``undo`` | operator | ``operators`` |
| ``GET /metrics`` | viewer | Prometheus (``metrics``) |
| ``GET /v2``, ``/v2/models/{policy}[/versions/{v}][/ready]`` | robot, viewer | the Open Inference Protocol (``inference_protocol``) |
| ``POST /v2/models/{policy}[/versions/{v}]/infer`` | robot | |
| ``GET /v2/health/live``, ``/v2/health/ready`` | everybody | is the process up; are all versions loaded and warm |
| ``GET /v1/openapi.json`` | everybody | all of this for programs (``openapi``); it holds nothing secret |

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
from cluster.wire.frames import pack
from serve_apps.gateway.auth import Permission
from serve_apps.gateway.inference_protocol import InferenceProtocol
from serve_apps.gateway.live import Live
from serve_apps.gateway.metrics import CONTENT_TYPE
from serve_apps.gateway.operators import Operators
from serve_apps.gateway.problems import JsonResponse, RequestProblemError
from serve_apps.gateway.requests import ActRequest, is_msgpack, parse_body, read_body, read_outcome
from serve_apps.gateway.sessions import SessionEndpoint, split_action
from serve_apps.inference.policy_set import LoadedPolicy

__all__ = ["Gateway"]

logger = logging.getLogger(__name__)

OPENAPI_PATH = "/v1/openapi.json"

Handler = Callable[[Request], Awaitable[Response]]


class _Application(Starlette):
    """Asks everybody but health checks for a token before anything else; logs a defect once, with its traceback."""

    live: Live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/v2/health/") and scope["path"] != OPENAPI_PATH:
            try:
                headers = dict(scope["headers"])
                caller = await self.live.gate.admit(headers.get(b"authorization", b"").decode("latin-1"))
                caller.spend(self.live.requests_per_s)
            except RequestProblemError as problem:
                await self.live.metrics.answer(problem)(scope, receive, send)
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
        self.operators = operators = Operators(self.live)
        models = InferenceProtocol(self.live)
        self.app = _Application(
            routes=[
                _route("/v1/policies/{policy}/act", POST=(self._act, "act")),
                WebSocketRoute("/v1/policies/{policy}/session", SessionEndpoint(self.live)),
                _route("/v1/policies/{policy}/episodes/{episode_id}/outcome", POST=(self._outcome, "act")),
                _route("/v1/policies", GET=(self._list_policies, "describe")),
                _route("/v1/policies/{policy}", GET=(self._describe_policy, "describe")),
                _route("/v1/comparisons", GET=(self._list_comparisons, "read"), POST=(operators.start, "compare")),
                _route("/v1/comparisons/{comparison_id}", GET=(operators.report, "read")),
                _route("/v1/comparisons/{comparison_id}/report.html", GET=(operators.page, "read")),
                _route("/v1/comparisons/{comparison_id}/stop", POST=(operators.stop, "compare")),
                _route("/v1/comparisons/{comparison_id}/promote", POST=(operators.promote, "compare")),
                _route("/v1/comparisons/{comparison_id}/weights", POST=(operators.weights, "compare")),
                _route("/v1/comparisons/{comparison_id}/undo", POST=(operators.undo, "compare")),
                Route(OPENAPI_PATH, self._openapi),
                _route("/metrics", GET=(self._metrics, "read")),
                Route("/v2/health/live", self._live),
                Route("/v2/health/ready", self._ready),
                _route("/v2", GET=(models.server, "describe")),
                *(
                    route
                    for path in ("/v2/models/{policy}", "/v2/models/{policy}/versions/{version}")
                    for route in (
                        _route(path, GET=(models.metadata, "describe")),
                        _route(f"{path}/ready", GET=(models.ready, "describe")),
                        _route(f"{path}/infer", POST=(models.infer, "act")),
                    )
                ),
            ],
            exception_handlers={
                RequestProblemError: self._on_problem,
                HTTPException: self._on_http_exception,
                Exception: self._on_defect,
            },
        )
        self.app.live = self.live
        self.app.router.redirect_slashes = False  # a route is one path; another one is not found

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

    async def _openapi(self, _request: Request) -> Response:
        from serve_apps.gateway.openapi import document

        return JsonResponse(document())

    async def _metrics(self, _request: Request) -> Response:
        return Response(self.live.metrics.render(self.live), media_type=CONTENT_TYPE)

    async def _on_problem(self, _request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestProblemError)
        return self.live.metrics.answer(error)

    async def _on_http_exception(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            detail = f"{request.method} is not a method of {request.url.path}"
            response = self.live.metrics.answer(RequestProblemError(405, "method-not-allowed", detail))
            response.headers["Allow"] = (error.headers or {}).get("Allow", "")
            return response
        return self.live.metrics.answer(RequestProblemError(404, "not-found", f"no route {request.url.path[:128]}"))

    async def _on_defect(self, _request: Request, _error: Exception) -> Response:
        # Starlette raises it again after answering, so that Serve logs it with its traceback.
        return self.live.metrics.answer(RequestProblemError(500, "internal-error", "the server failed; its log says why"))

    async def _live(self, _request: Request) -> Response:
        return JsonResponse({"live": True})

    async def _ready(self, _request: Request) -> Response:
        return JsonResponse({"ready": True, "generation": self.live.loaded.generation})


def _route(path: str, **methods: tuple[Handler, Permission]) -> Route:
    """A route whose methods are each a handler and what its caller must be allowed to do."""

    async def guarded(request: Request) -> Response:
        handler, permission = methods["GET" if request.method == "HEAD" else request.method]
        request.scope["gaitway.caller"].require(permission, request.path_params.get("policy"))
        return await handler(request)

    return Route(path, guarded, methods=list(methods))


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
