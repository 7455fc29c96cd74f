"""Why a trial failed, in one line and in full."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["ERROR_FILE", "cause", "error_text"]

ERROR_FILE = "error.txt"
_LONGEST_TRACEBACK = 20_000
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def error_text(trial_folder: str | None, error: BaseException | None) -> str:
    """The whole chain of what a trial failed of: Tune's error file, or else the exception itself."""
    path = Path(trial_folder or "") / ERROR_FILE
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else str(error)
    return _COLOUR.sub("", text)[-_LONGEST_TRACEBACK:]


def cause(text: str) -> str:
    """The last exception of a traceback that says something, without Ray's layers around it.

    RLlib wraps what an environment raises in a RuntimeError without a message.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    spoken = [line for line in lines if re.match(r"[A-Za-z_][\w.]*: \S", line)]
    return (spoken or lines or ["unknown"])[-1].strip()[:300]
