"""What is raised when a number stops being finite: training ends there, and the last good values are kept for whoever looks into it."""

from __future__ import annotations

import json
from typing import Any

from cluster.errors import GaitwayError

__all__ = ["NON_FINITE_FILE", "NonFiniteError"]

NON_FINITE_FILE = "non_finite.json"
"""Name of the file that keeps the report, in the trial's folder."""


class NonFiniteError(GaitwayError):
    """A NaN or an infinity, before anything was trained on it.

    Attributes:
        what: what is not finite, such as "the physics state" or "the loss".
        env_index: environment in the batch; None when it is not one environment's.
        step: control steps since the start of that environment's episode, or gradient steps since the start of the update.
        last_finite: name -> last finite values (JSON-able numbers and lists).
    """

    def __init__(self, what: str, env_index: int | None, step: int, last_finite: dict[str, Any]) -> None:
        where = f"environment {env_index}, step {step}" if env_index is not None else f"gradient step {step}"
        super().__init__(f"{what} is not finite ({where}); nothing was trained on it")
        self.what, self.env_index, self.step, self.last_finite = what, env_index, step, last_finite

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[Any, ...]]:
        """Pickled by its own arguments: Ray carries it from an env runner to the trial."""
        return type(self), (self.what, self.env_index, self.step, self.last_finite)

    def report(self) -> str:
        """The error as JSON text."""
        return (
            json.dumps({"what": self.what, "env_index": self.env_index, "step": self.step, "last_finite": self.last_finite}, indent=2)
            + "\n"
        )
