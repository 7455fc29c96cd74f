"""The HTTP application: routes, and the state that ``reconfigure`` swaps under them.

| route | |
|---|---|
| ``POST /v1/policies/{policy}/act`` | one step |
| ``POST /v1/policies/{policy}/episodes/{episode_id}/outcome`` | how an episode ended |
| ``GET /v1/policies``, ``/v1/policies/{policy}`` | what is served |
| ``GET /v1/comparisons``, ``/v1/comparisons/{id}`` | comparisons, one's report |
| ``GET /v2/health/live``, ``/v2/health/ready`` | is the process up; are all versions loaded and warm |
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cluster.errors import GaitwayError
from cluster.runtime.served import ServedState
from cluster.settings import Settings
from cluster.store.comparisons import list_comparisons
from cluster.store.database import Database
from serve_apps.gateway.episodes import Episode, EpisodeTable, Ledger
from serve_apps.gateway.problems import JsonResponse, RequestProblemError, problem_response
from serve_apps.gateway.requests import ActRequest, ObservationReader, parse_object, read_body, read_outcome, read_state
from serve_apps.inference.policy_set import Assignment, LoadedPolicy, PolicySet, load_policies
from serve_apps.inference.session import PolicySession

__all__ = ["Gateway"]

logger = logging.getLogger(__name__)


class _Application(Starlette):
    """Starlette raises a defect again after it was answered; log it here, once, with its traceback."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except Exception:
            logger.exception("a request failed: %s %s", scope.get("method"), scope.get("path"))


class Gateway:
    """One replica's application. ``app`` is plain ASGI; ``apply`` brings it what to serve.

    Args:
        replica: name of this replica, shown in ``GET /v1/policies``.
    """

    def __init__(self, replica: str = "") -> None:
        self._replica = replica
        self._set: PolicySet | None = None
        self._readers: dict[str, ObservationReader] = {}
        self._refused: dict[str, str] | None = None
        self._ledger: Ledger | None = None
        self._episodes = EpisodeTable()
        self._max_body_bytes = ServedState(policies={}).max_body_bytes
        self._applying = asyncio.Lock()
        self.app = _Application(
            routes=[
                Route("/v1/policies/{policy}/act", self._act, methods=["POST"]),
                Route("/v1/policies/{policy}/episodes/{episode_id}/outcome", self._outcome, methods=["POST"]),
                Route("/v1/policies", self._list_policies),
                Route("/v1/policies/{policy}", self._describe_policy),
                Route("/v1/comparisons", self._list_comparisons),
                Route("/v1/comparisons/{comparison_id}", self._report),
                Route("/v2/health/live", self._live),
                Route("/v2/health/ready", self._ready),
            ],
            exception_handlers={
                RequestProblemError: _on_problem,
                HTTPException: _on_http_exception,
                Exception: _on_defect,
            },
        )

    async def apply(self, user_config: dict[str, Any]) -> None:
        """Serve what ``user_config`` says: load and warm it in a thread, then swap it in at once.

        When something in it cannot serve, a replica that serves already goes on as it is and reports the refusal in
        ``GET /v1/policies``; one that serves nothing yet raises, so that its deployment fails with the reason.
        """
        async with self._applying:
            state = ServedState.model_validate(user_config)
            try:
                loaded = await asyncio.to_thread(load_policies, state, self._set)
                url = state.database_url or Settings.from_environment().gaitway_database_url
                ledger = self._ledger if self._ledger is not None and self._ledger.database.url == url else Ledger(url)
            except GaitwayError as error:
                if self._set is None:
                    raise
                self._refused = {"generation": state.generation, "reason": str(error)}
                logger.error("generation %s refused, %s goes on: %s", state.generation, self._set.generation, error)
                return
            # From here to the end nothing awaits: no request sees one without the other.
            self._readers = {name: ObservationReader(policy.contract) for name, policy in loaded.policies.items()}
            before, self._ledger = self._ledger, ledger
            self._set, self._refused, self._max_body_bytes = loaded, None, state.max_body_bytes
            if before is not None and before is not ledger:
                before.close()

    async def _act(self, request: Request) -> Response:
        body = await read_body(request, self._max_body_bytes)
        name: str = request.path_params["policy"]
        policy, ledger = self._policy(name), self._open_ledger()
        act = ActRequest(parse_object(body))
        observation = self._readers[name].read(act.observation)
        episode = self._episodes.find(name, act.episode_id)
        begins = episode is None
        if episode is None:
            episode = await self._episodes.begin(ledger, policy, act.episode_id, act.robot_id)
        session, handed, sequence = policy.session(episode.assignment.version), act.state, act.sequence
        if session is None:
            # Its comparison is over and its version gone for good; a moving robot still needs an action.
            episode.assignment, episode.state = Assignment(policy.default_version), None
            session, begins = policy.versions[policy.default_version], True
            if not isinstance(handed, dict) or handed.keys() != session.state_fields.keys():
                handed = sequence = None
        state = _incoming_state(session, episode, handed, sequence, begins) if session.state_fields else None
        action, following = session.run(observation, state)
        if not np.isfinite(action).all():
            detail = "observation: so far from what the policy knows that its action is not finite"
            raise RequestProblemError(422, "invalid-request", detail, "observation")
        answer: dict[str, Any] = {
            "action": _split(session, action),
            "version": episode.assignment.version,
            "arm": episode.assignment.arm,
            "episode_id": act.episode_id,
            "sequence": act.sequence,
        }
        if session.state_fields:
            episode.state, episode.sequence = following, act.sequence
            answer["state"] = {field: value[0] for field, value in following.items()}
        return JsonResponse(answer)

    async def _outcome(self, request: Request) -> Response:
        body = await read_body(request, self._max_body_bytes)
        policy, ledger = self._policy(request.path_params["policy"]), self._open_ledger()
        outcome = read_outcome(parse_object(body))
        episode_id: str = request.path_params["episode_id"]
        new = await ledger.end(policy.name, episode_id, outcome)
        return JsonResponse({"episode_id": episode_id, "stored": True, "repeated": not new})

    async def _list_policies(self, _request: Request) -> Response:
        loaded = self._loaded()
        return JsonResponse(
            {
                "policies": [_summary(policy) for policy in loaded.policies.values()],
                "generation": loaded.generation,
                "refused": self._refused,
                "replica": self._replica,
            }
        )

    async def _describe_policy(self, request: Request) -> Response:
        policy = self._policy(request.path_params["policy"])
        contract = policy.contract
        fields = {label: [field.model_dump(mode="json") for field in getattr(contract, label)] for label in ("observation", "action")}
        return JsonResponse(_summary(policy) | fields)

    async def _list_comparisons(self, _request: Request) -> Response:
        found = await self._open_ledger().read(list_comparisons)
        # The salt stays here: who knows it can choose episode names that fall to the arm of his liking.
        return JsonResponse({"comparisons": [comparison.model_dump(mode="json", exclude={"salt"}) for comparison in found]})

    async def _report(self, request: Request) -> Response:
        return JsonResponse(await self._open_ledger().read(_report_of, request.path_params["comparison_id"]))

    async def _live(self, _request: Request) -> Response:
        return JsonResponse({"live": True})

    async def _ready(self, _request: Request) -> Response:
        return JsonResponse({"ready": True, "generation": self._loaded().generation})

    def _loaded(self) -> PolicySet:
        if self._set is None:
            raise RequestProblemError(503, "not-ready", "the policies are not loaded yet; try again")
        return self._set

    def _policy(self, name: str) -> LoadedPolicy:
        policies = self._loaded().policies
        if name not in policies:
            raise RequestProblemError(404, "unknown-policy", f"no policy {name[:128]!r} here; served: {', '.join(policies)}", "policy")
        return policies[name]

    def _open_ledger(self) -> Ledger:
        if self._ledger is None:
            raise RequestProblemError(503, "not-ready", "the policies are not loaded yet; try again")
        return self._ledger


def _report_of(database: Database, comparison_id: str) -> dict[str, Any]:
    # Imported by the first reader, in its thread: a replica that only acts never pays for the statistics.
    from serve_apps.comparison.report import report

    return report(database, comparison_id).to_dict()


def _incoming_state(
    session: PolicySession, episode: Episode, handed: Any, sequence: int | None, begins: bool
) -> dict[str, np.ndarray] | None:
    """Recurrent state before this step; None: zeros, the episode begins.

    What the caller hands back comes first: it is right on whichever replica the step arrives. What this replica holds is used
    when it is the state of the step before.
    """
    if handed is not None:
        return read_state(handed, session.state_fields)
    if sequence == 0 or (begins and sequence is None):
        return None
    follows = episode.sequence is None or sequence is None or sequence == episode.sequence + 1
    if episode.state is not None and follows and episode.state.keys() == session.state_fields.keys():
        return episode.state
    raise RequestProblemError(
        409, "state-required", "this replica does not hold the state of the step before; hand back the state that came with it", "state"
    )


def _split(session: PolicySession, action: np.ndarray) -> dict[str, Any]:
    """The flat action as one array a field. Views: nothing is copied."""
    fields, start, parts = session.contract.action, 0, {}
    for field in fields:
        values = action[0, start : start + field.size]
        parts[field.name] = values.reshape(field.shape) if field.shape else float(values[0])
        start += field.size
    return parts


def _summary(policy: LoadedPolicy) -> dict[str, Any]:
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
