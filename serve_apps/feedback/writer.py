"""``python -m serve_apps.feedback.writer``: writes the episodes that come through its standard input as LeRobot datasets.

A process of its own for each replica, at the lowest priority that still gets on: parquet and its statistics cost whole milliseconds at
a time, and a robot waits for nobody. It ends when its input does, after writing what it has: a replica may be killed at any moment.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import sys
import time
from typing import Any

from cluster.errors import GaitwayError
from serve_apps.feedback.datasets import clear_leftovers, write_served
from serve_apps.feedback.messages import FrameReader

__all__ = ["Writer", "main"]

logger = logging.getLogger(__name__)

_PIECE_BYTES = 1 << 20


class Writer:
    """Gathers episodes until there are enough for a dataset, or the first of them has waited long enough.

    Args:
        answers: file descriptor that gets a line for each dataset.
    """

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._waiting: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        self._due_s: dict[tuple[str, str, str], float] = {}
        self._known: set[tuple[str, str]] = set()
        self._written = 0

    def take(self, message: dict[str, Any]) -> None:
        """One episode."""
        place = (str(message["folder"]), str(message["policy"]))
        if place not in self._known:
            self._known.add(place)
            try:
                clear_leftovers(*place)
            except (GaitwayError, OSError) as error:
                logger.warning("leftovers in %s stay: %s", place[1], error)
        # A dataset has one set of features: a contract that changed begins another.
        key = (*place, json.dumps(message["contract"], sort_keys=True))
        waiting = self._waiting.setdefault(key, [])
        if not waiting:
            self._due_s[key] = time.monotonic() + float(message["settings"]["flush_s"])
        waiting.append(message)
        if len(waiting) >= int(message["settings"]["episodes_per_dataset"]):
            self._flush(key)

    def wait_s(self) -> float | None:
        """Until the next dataset is due; None: nothing waits."""
        return max(0.0, min(self._due_s.values()) - time.monotonic()) if self._due_s else None

    def flush(self, all_of_it: bool = False) -> None:
        """Write what is due, or everything."""
        now_s = time.monotonic()
        for key in [key for key, due_s in self._due_s.items() if all_of_it or due_s <= now_s]:
            self._flush(key)

    def _flush(self, key: tuple[str, str, str]) -> None:
        messages = self._waiting.pop(key)
        del self._due_s[key]
        answer: dict[str, Any] = {"policy": key[1], "done": [message["number"] for message in messages]}
        try:
            path, size = write_served(messages, self._written)
            self._written += 1
            answer |= {"dataset": path, "bytes": size}
        except (GaitwayError, OSError) as error:
            problem = " ".join(str(error).split())[:300]
            logger.error("%d served episodes of %s are lost: %s", len(messages), key[1], problem)
            answer["problem"] = problem
        # A replica that is gone hears nothing; what it has sent is written all the same.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._answers, json.dumps(answer).encode() + b"\n")


def main() -> int:
    """Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s served episodes: %(message)s")
    os.nice(10)
    # Ctrl-C is meant for the replica; the end of the input says the rest.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Nobody else's print may come between the answers.
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    source = sys.stdin.fileno()
    reader, writer = FrameReader(), Writer(answers)
    while True:
        ready, _, _ = select.select([source], [], [], writer.wait_s())
        if ready:
            piece = os.read(source, _PIECE_BYTES)
            if not piece:
                break
            for message in reader.feed(piece):
                writer.take(message)
        writer.flush()
    writer.flush(all_of_it=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
