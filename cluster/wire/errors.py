"""What a robot's program may have to handle.

- ``WireError``

  - ``UnreachableError``: no usable answer in time: the connection failed, timed out, or the server is not ready
  - ``DeadlineError``: no action came before the deadline, and there is no fallback
  - ``ProblemError``: the server refused the request and said why (application/problem+json)

    - ``ForbiddenError``, 401, 403: no valid token, or one that does not allow this
    - ``NotFoundError``, 404: unknown policy or episode
    - ``ConflictError``, 409: another outcome is already stored for the episode, or recurrent state is missing
    - ``InvalidRequestError``, 400, 413, 422: the request is malformed; ``field`` names the part
"""

from __future__ import annotations

from typing import Any

from cluster.errors import GaitwayError

__all__ = [
    "ConflictError",
    "DeadlineError",
    "ForbiddenError",
    "InvalidRequestError",
    "NotFoundError",
    "ProblemError",
    "UnreachableError",
    "WireError",
    "problem_error",
]


class WireError(GaitwayError):
    """A call to a policy server did not succeed."""


class UnreachableError(WireError):
    """No usable answer in time: the connection failed, timed out, or the server was not ready."""


class DeadlineError(WireError):
    """No action came before the deadline, and there is no fallback."""


class ProblemError(WireError):
    """The server refused the request and said why."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.type = str(problem.get("type", "about:blank"))
        """Stable identifier of the kind of problem."""
        self.field: str | None = problem.get("field")
        """The part of the request that is wrong, where one is."""
        self.problem = problem
        detail = problem.get("detail") or problem.get("title") or "no detail given"
        super().__init__(f"{status} {self.type.rpartition(':')[2]}: {detail}")


class NotFoundError(ProblemError):
    """404: unknown policy or episode."""


class ForbiddenError(ProblemError):
    """401, 403: no valid token, or one that does not allow this."""


class ConflictError(ProblemError):
    """409: another outcome is already stored for the episode, or recurrent state is missing."""


class InvalidRequestError(ProblemError):
    """400, 413, 422: the request is malformed."""


_BY_STATUS: dict[int, type[ProblemError]] = {
    400: InvalidRequestError,
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    413: InvalidRequestError,
    422: InvalidRequestError,
}


def problem_error(status: int, problem: dict[str, Any]) -> ProblemError:
    """The exception for one problem document."""
    return _BY_STATUS.get(status, ProblemError)(status, problem)
