"""What operators change over HTTP: start, stop, promote, split otherwise, undo; and what they look at: the report, as JSON and as a page.

Stopping and changing weights write to the database here and hold within a second. What needs the registry is done by a process
beside the replica (``serve_apps.comparison.operate``), one at a time. Every change can be repeated: the second answer says the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import Field, StringConstraints, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from cluster.config import Config, explain
from cluster.errors import GaitwayError
from cluster.store.comparison_request import ComparisonRequest
from cluster.store.comparisons import Comparison, change_weights, get_comparison
from cluster.store.database import Database
from serve_apps.gateway.live import Live
from serve_apps.gateway.problems import JsonResponse, RequestProblemError
from serve_apps.gateway.requests import parse_object, read_body

__all__ = ["Operators", "PromoteBody", "UndoBody", "WeightsBody"]

logger = logging.getLogger(__name__)

TIMEOUT_S = 90.0
"""Loading the registry's client takes seconds, and following waits for every replica."""
_MOST_WAITING = 8
_Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]

BodyT = TypeVar("BodyT", bound=Config)


class PromoteBody(Config):
    """Body of ``/promote``; none at all means the verdict's winner."""

    arm: _Name | None = Field(None, description="arm that shall win; null: the one that the verdict names")
    force: bool = Field(False, description="decide without a verdict, or against it")


class WeightsBody(Config):
    """Body of ``/weights``."""

    weights: dict[_Name, Annotated[float, Field(ge=0, le=1e6)]] = Field(
        min_length=1,
        max_length=64,
        description="arm -> weight, relative to the others'; arms that are not named keep theirs; 0: no new episodes",
    )
    reason: str = Field("", max_length=400, description="why, for the record")


class UndoBody(Config):
    """Body of ``/stop`` and ``/undo``: empty, or an empty object."""


class Operators:
    """The handlers.

    Args:
        live: what the replica serves.
    """

    def __init__(self, live: Live) -> None:
        self._live = live
        self._one_at_a_time = asyncio.Lock()
        self._waiting = 0
        self._follow_waits = False
        # Of their own: a look at 20,000 episodes takes a second, and tokens and splits are read all the time.
        self._reports = ThreadPoolExecutor(1, thread_name_prefix="report")
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self, request: Request) -> Response:
        """``POST /v1/comparisons``: 201 with the comparison."""
        asked = await self._body(request, ComparisonRequest)
        result = await self._operate("start", "", request, asked.model_dump(mode="json", exclude_unset=True))
        location = f"/v1/comparisons/{result['comparison']['id']}"
        return JsonResponse(result, 201, {"Location": location})

    async def stop(self, request: Request) -> Response:
        """``POST /v1/comparisons/{id}/stop``: it ends without a winner."""
        await self._body(request, UndoBody)
        closed, is_new = await self._change(_stop, request.path_params["comparison_id"], _actor(request))
        if is_new and not self._follow_waits:
            # Replicas have followed by then; a deployment that says the same spares new ones the detour.
            self._follow_waits = True
            self._keep(self._run("follow", "", "", {}))
        return JsonResponse({"comparison_id": closed.id, "status": closed.status})

    async def promote(self, request: Request) -> Response:
        """``POST /v1/comparisons/{id}/promote``: it ends for a winner, who takes @champion."""
        body = await self._body(request, PromoteBody)
        comparison_id = request.path_params["comparison_id"]
        return JsonResponse(await self._operate("promote", comparison_id, request, body.model_dump()))

    async def undo(self, request: Request) -> Response:
        """``POST /v1/comparisons/{id}/undo``: @champion goes back to the version that a promotion replaced."""
        await self._body(request, UndoBody)
        return JsonResponse(await self._operate("undo", request.path_params["comparison_id"], request, {}))

    async def weights(self, request: Request) -> Response:
        """``POST /v1/comparisons/{id}/weights``: new episodes are split otherwise."""
        body = await self._body(request, WeightsBody)
        comparison_id = request.path_params["comparison_id"]
        found = await self._change(change_weights, comparison_id, body.weights, body.reason, _actor(request))
        latest = found.weights[-1]
        return JsonResponse(
            {"comparison_id": found.id, "status": found.status, "weights": latest.weights, "weights_version": latest.version}
        )

    async def report(self, request: Request) -> Response:
        """``GET /v1/comparisons/{id}``: the report, with ``timeline``, how it came about."""
        return JsonResponse(await self._study(_report_of, request.path_params["comparison_id"]))

    async def page(self, request: Request) -> Response:
        """``GET /v1/comparisons/{id}/report.html``: the report as a page."""
        html = await self._study(_page_of, request.path_params["comparison_id"])
        return Response(html, media_type="text/html", headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})

    async def close(self) -> None:
        """Wait for what is under way; for tests, a replica ends with its process."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._reports.shutdown(wait=False)

    async def _body(self, request: Request, model: type[BodyT]) -> BodyT:
        """The body as ``model``; none at all is an empty object. Raises 400, 413, or 422 with the words that the command line has too."""
        body = await read_body(request, self._live.max_body_bytes)
        data = parse_object(body) if body.strip() else {}
        try:
            return model.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            detail = explain(error, model, "body").removeprefix("body: ")
            raise RequestProblemError(422, "invalid-request", detail, detail.partition(": ")[0]) from None

    async def _operate(self, operation: str, comparison_id: str, request: Request, asked: dict[str, Any]) -> dict[str, Any]:
        if comparison_id:
            await self._change(get_comparison, comparison_id)  # not found is said at once
        if self._waiting >= _MOST_WAITING:
            raise RequestProblemError(503, "busy", f"{self._waiting} operators' requests wait already; try again", retry_after_s=5.0)
        # A caller that goes away does not undo what he asked for.
        task = self._keep(self._run(operation, comparison_id, _actor(request), asked))
        answer: dict[str, Any] = await asyncio.shield(task)
        if "problem" in answer:
            problem = answer["problem"]
            raise RequestProblemError(problem["status"], problem["name"], problem["detail"], problem["field"])
        result: dict[str, Any] = answer["result"]
        return result

    async def _run(self, operation: str, comparison_id: str, actor: str, asked: dict[str, Any]) -> dict[str, Any]:
        """One process; its answer. Raises 504 when it takes too long, 500 when it fails."""
        wanted = {"operation": operation, "comparison_id": comparison_id, "actor": actor, "asked": asked}
        self._waiting += 1
        try:
            async with asyncio.timeout(TIMEOUT_S), self._one_at_a_time:
                if operation == "follow":
                    self._follow_waits = False  # what is written from now on needs another one
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "serve_apps.comparison.operate",
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                )
                try:
                    output, errors = await process.communicate(orjson.dumps(wanted))
                finally:
                    if process.returncode is None:
                        with contextlib.suppress(ProcessLookupError):
                            process.kill()
                        await process.wait()
        except TimeoutError:
            detail = f"{operation} was not done within {TIMEOUT_S:g} s; look at the comparison, then repeat it: that is safe"
            raise RequestProblemError(504, "operation-timeout", detail) from None
        finally:
            self._waiting -= 1
            if operation == "follow":
                self._follow_waits = False
        try:
            answer: dict[str, Any] = orjson.loads(output.splitlines()[-1])
        except (IndexError, orjson.JSONDecodeError):
            logger.error(
                "%s of comparison %s failed with %s: %s", operation, comparison_id, process.returncode, errors.decode("utf-8", "replace")
            )
            raise RequestProblemError(500, "internal-error", "the server failed; its log says why") from None
        return answer

    def _keep(self, work: Any) -> asyncio.Task[Any]:
        """Start ``work`` and hold it until it is done; the loop itself does not."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("an operator's request was not done: %s", error)

    async def _change(self, function: Any, *arguments: Any) -> Any:
        """Run ``function(database, ...)`` in the ledger's thread; refusals as the process beside tells them."""
        return await self._live.ledger.read(_refusing, function, *arguments)

    async def _study(self, function: Any, *arguments: Any) -> Any:
        """Run ``function(database, ...)`` in the reports' thread."""
        work = asyncio.get_running_loop().run_in_executor(self._reports, _refusing, self._live.ledger.database, function, *arguments)
        return await work


def _actor(request: Request) -> str:
    name: str = request.scope["gaitway.caller"].name
    return name


def _refusing(database: Database, function: Any, *arguments: Any) -> Any:
    try:
        return function(database, *arguments)
    except GaitwayError as error:
        from serve_apps.comparison.refusals import problem_of

        problem = problem_of(error)
        raise RequestProblemError(problem["status"], problem["name"], problem["detail"], problem["field"]) from None


# Imported by the first reader, in its thread: a replica that only acts never pays for the statistics.


def _stop(database: Database, comparison_id: str, actor: str) -> tuple[Comparison, bool]:
    """The comparison, and whether it ended now."""
    from serve_apps.comparison.promotion import stop_in

    was_over = get_comparison(database, comparison_id).status == "stopped"
    return stop_in(database, comparison_id, actor), not was_over


def _report_of(database: Database, comparison_id: str) -> dict[str, Any]:
    from serve_apps.comparison.html import shadows_of
    from serve_apps.comparison.report import examine
    from serve_apps.comparison.timeline import timeline_of

    look = examine(database, comparison_id)
    shadows = [shadow.model_dump(mode="json") for shadow in shadows_of(database, look.comparison)]
    return look.report.to_dict() | {"shadows": shadows, "timeline": timeline_of(look).model_dump(mode="json")}


def _page_of(database: Database, comparison_id: str) -> str:
    from serve_apps.comparison.html import page

    return page(database, comparison_id)
