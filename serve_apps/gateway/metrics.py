"""``GET /metrics``: one replica's counters in Prometheus' text format, version 0.0.4.

A step costs a few microseconds in all, so counting one must cost next to nothing: counters are plain integers in dictionaries of this
object, written by the event loop alone and put into words when somebody asks. Behind one address each scrape meets one replica;
``replica`` names it.

| metric | kind | |
|---|---|---|
| ``gaitway_steps_total`` | counter | control steps answered, by policy, version and arm |
| ``gaitway_step_seconds`` | histogram | from the observation read to the action, waiting for its batch included |
| ``gaitway_episodes_total`` | counter | episodes begun here, by policy, version and arm |
| ``gaitway_outcomes_total`` | counter | outcomes stored here, by policy |
| ``gaitway_problems_total`` | counter | refusals and failures, by type |
| ``gaitway_batches_total``, ``gaitway_batched_steps_total`` | counter | calls of a policy's graph, and the steps in them |
| ``gaitway_sessions_open`` | gauge | open WebSocket sessions |
| ``gaitway_episodes_remembered`` | gauge | episodes in this replica's memory |
| ``gaitway_served_info`` | gauge | 1; labels say which generation is served, and by which replica |
| ``gaitway_follow_age_seconds`` | gauge | since comparisons were last followed: above a few seconds, the database is slow or away |
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from serve_apps.gateway.problems import RequestProblemError, problem_response

if TYPE_CHECKING:
    from serve_apps.gateway.live import Live
    from serve_apps.inference.policy_set import Assignment

__all__ = ["BUCKETS_S", "CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0)
"""Upper bounds of the step's histogram: a 50 Hz robot has 0.02 s."""

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """One replica's counters."""

    __slots__ = ("_buckets", "_episodes", "_outcomes", "_problems", "_seconds", "_steps", "followed_s", "replica", "sessions")

    def __init__(self, replica: str = "") -> None:
        self.replica = replica
        self._steps: dict[tuple[str, str, str | None], int] = {}
        self._episodes: dict[tuple[str, str, str | None], int] = {}
        self._outcomes: dict[str, int] = {}
        self._problems: dict[str, int] = {}
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._seconds = 0.0
        self.sessions = 0
        """Open WebSocket sessions."""
        self.followed_s = time.monotonic()
        """When comparisons were last followed, ``time.monotonic()``."""

    def step(self, policy: str, assignment: Assignment, took_s: float) -> None:
        """One control step was answered."""
        key = (policy, assignment.version, assignment.arm)
        self._steps[key] = self._steps.get(key, 0) + 1
        self._buckets[bisect_left(BUCKETS_S, took_s)] += 1
        self._seconds += took_s

    def episode(self, policy: str, assignment: Assignment) -> None:
        """An episode was begun, or taken over from another replica."""
        key = (policy, assignment.version, assignment.arm)
        self._episodes[key] = self._episodes.get(key, 0) + 1

    def outcome(self, policy: str) -> None:
        """An outcome was stored."""
        self._outcomes[policy] = self._outcomes.get(policy, 0) + 1

    def problem(self, name: str) -> None:
        """A caller was told of a problem."""
        self._problems[name] = self._problems.get(name, 0) + 1

    def answer(self, problem: RequestProblemError) -> Response:
        """The answer for a problem, counted."""
        self.problem(problem.name)
        return problem_response(problem)

    def render(self, live: Live) -> str:
        """The text. Raises ``RequestProblemError`` 503 before anything is served.

        Args:
            live: what the replica serves.
        """
        steps = sum(self._buckets)
        served: Labels = (("generation", live.loaded.generation), ("replica", self.replica))
        batches, batched = live.batches
        gauges = [
            ("gaitway_sessions_open", "gauge", "Open WebSocket sessions.", [((), self.sessions)]),
            ("gaitway_episodes_remembered", "gauge", "Episodes in this replica's memory.", [((), len(live.episodes))]),
            ("gaitway_served_info", "gauge", "What is served, and by which replica.", [(served, 1)]),
            (
                "gaitway_follow_age_seconds",
                "gauge",
                "Seconds since comparisons were last followed.",
                [((), round(time.monotonic() - self.followed_s, 3))],
            ),
            ("gaitway_batches_total", "counter", "Calls of a policy's graph.", [((), batches)]),
            ("gaitway_batched_steps_total", "counter", "Steps in these calls.", [((), batched)]),
        ]
        histogram: list[tuple[str, Labels, float]] = []
        below = 0
        for bound, amount in zip((*map(repr, BUCKETS_S), "+Inf"), self._buckets, strict=True):
            below += amount
            histogram.append(("_bucket", (("le", bound),), below))
        histogram += [("_sum", (), round(self._seconds, 6)), ("_count", (), steps)]
        lines = [
            *_family("gaitway_steps_total", "counter", "Control steps answered.", _by_arm(self._steps)),
            *_family("gaitway_episodes_total", "counter", "Episodes begun here.", _by_arm(self._episodes)),
            *_family("gaitway_outcomes_total", "counter", "Outcomes stored here.", _by("policy", self._outcomes)),
            *_family("gaitway_problems_total", "counter", "Refusals and failures.", _by("type", self._problems)),
            "# HELP gaitway_step_seconds From the observation read to the action.",
            "# TYPE gaitway_step_seconds histogram",
            *(f"gaitway_step_seconds{suffix}{_labels(labels)} {value}" for suffix, labels, value in histogram),
        ]
        for gauge in gauges:
            lines += _family(*gauge)
        return "\n".join(lines) + "\n"


def _by_arm(counts: dict[tuple[str, str, str | None], int]) -> list[tuple[Labels, int]]:
    return [((("policy", policy), ("version", version), ("arm", arm or "")), amount) for (policy, version, arm), amount in counts.items()]


def _by(label: str, counts: dict[str, int]) -> list[tuple[Labels, int]]:
    return [(((label, name),), amount) for name, amount in counts.items()]


def _family(name: str, kind: str, text: str, samples: Any) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield f"{name}{_labels(labels)} {value}"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
