"""A fleet of simulated robots that calls a live endpoint.

The physics of all robots is stepped in one native call, but every control step of every robot is a request of its own on that
robot's own connection, all under way at once, as real robots would send them. Simulated time waits for the answers: an endpoint
that restarts costs the robots nothing but time.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cluster.errors import GaitwayError
from cluster.wire.aio import AsyncPolicyClient
from cluster.wire.messages import ActReply
from trainables.envs.robot_task import RobotTask

__all__ = ["Fleet"]

_FIRST_ANSWER_S = 5.0

OnProgress = Callable[[int, str], None]
"""Told the number of finished episodes and a line of figures."""


@dataclass
class _ArmTally:
    """What a version did in one arm."""

    version: str
    values: list[float] = field(default_factory=list)
    falls: int = 0


@dataclass
class _Robot:
    """One robot and the episode that it is in."""

    index: int
    client: AsyncPolicyClient
    episode_id: str | None = None
    """None: idle, or its world is being set up for the next episode."""
    reply: ActReply | None = None
    """Last answer: says which arm it is in."""


class Fleet:
    """``task.num_envs`` robots doing ``episodes`` episodes of one task behind one endpoint.

    Args:
        task: the simulated robots.
        url: endpoint.
        policy: policy that they call.
        metric: name of the task's episode metric that is the outcome's value.
        episodes: how many in all.
        token: what the endpoint asks for.
        timeout_s: longest wait for one answer.
        retry_s: how long to go on trying while there is none.
    """

    def __init__(
        self,
        task: RobotTask,
        *,
        url: str,
        policy: str,
        metric: str,
        episodes: int,
        token: str | None = None,
        timeout_s: float = 2.0,
        retry_s: float = 60.0,
    ) -> None:
        self._task, self._url, self._policy, self._metric, self._episodes = task, url, policy, metric, episodes
        self._token, self._timeout_s, self._retry_s = token, timeout_s, retry_s
        run = secrets.token_hex(4)  # episodes of another run, or of this one before it was killed, have other names
        self._names = iter(f"{task.name}-{run}-{number}" for number in range(episodes))
        self._robots = [
            _Robot(index, AsyncPolicyClient(url, policy, f"{task.robot.name}-{run}-{index}", token, timeout_s, retry_s))
            for index in range(task.num_envs)
        ]
        self._latencies_s: list[float] = []
        self._arms: dict[str, _ArmTally] = {}
        self._done = 0

    def run(self, stop_when: Callable[[], bool] | None = None, on_progress: OnProgress = lambda done, line: None) -> dict[str, Any]:
        """Run until all episodes are done or ``stop_when`` says so; returns the figures.

        ``stop_when`` is asked in a thread whenever episodes have ended since it was asked last. Robots that are in an episode
        when it says True leave it unfinished.
        """
        return asyncio.run(self._run(stop_when, on_progress))

    async def _run(self, stop_when: Callable[[], bool] | None, on_progress: OnProgress) -> dict[str, Any]:
        started_s = time.perf_counter()
        try:
            await self._check_policy()
            stopped = await self._drive(stop_when, on_progress)
        finally:
            for robot in self._robots:
                robot.client.close()
        duration_s = time.perf_counter() - started_s
        latencies_ms = 1e3 * np.asarray(self._latencies_s or [np.nan])
        p50, p99 = np.percentile(latencies_ms, [50, 99])
        return {
            "url": self._url,
            "policy": self._policy,
            "robots": len(self._robots),
            "episodes": self._done,
            "acts": len(self._latencies_s),
            "duration_s": duration_s,
            "acts_per_s": len(self._latencies_s) / duration_s,
            "latency_p50_ms": float(p50),
            "latency_p99_ms": float(p99),
            "latency_max_ms": float(latencies_ms.max()),
            "retries": sum(robot.client.retries for robot in self._robots),
            "stopped_early": stopped,
            "metric": self._metric,
            "arms": {
                name: {"version": tally.version, "episodes": len(tally.values), "mean": float(np.mean(tally.values)), "falls": tally.falls}
                for name, tally in sorted(self._arms.items())
            },
        }

    async def _check_policy(self) -> None:
        # Patience is for an endpoint that restarts under way; one that is not there at the start is said at once.
        patience_s = min(self._retry_s, _FIRST_ANSWER_S)
        async with AsyncPolicyClient(self._url, self._policy, "fleet", self._token, self._timeout_s, patience_s) as client:
            described = await client.describe()
        for label, fields in (("observation", self._task.observation_fields), ("action", self._task.action_fields)):
            wanted = [(item["name"], tuple(item["shape"])) for item in described[label]]
            given = [(item.name, item.shape) for item in fields]
            if wanted != given:
                raise GaitwayError(f"policy {self._policy} at {self._url} has the {label} {wanted}, the task {self._task.name} {given}")

    async def _drive(self, stop_when: Callable[[], bool] | None, on_progress: OnProgress) -> bool:
        """Whether it was stopped before all episodes were done."""
        task, observations = self._task, self._task.reset()[0]
        for robot in self._robots:
            robot.episode_id = next(self._names, None)
        asked: asyncio.Task[bool] | None = None
        asked_at, started_s = 0, time.perf_counter()
        while self._done < self._episodes:
            actions = np.zeros((task.num_envs, task.action_size))
            await asyncio.gather(*(self._act(robot, observations, actions) for robot in self._robots if robot.episode_id is not None))
            observations, _, terminated, truncated, infos = task.step(task.action_scaling.to_normalised(actions))
            ended = np.flatnonzero(terminated | truncated)
            # The step after an episode's last one set the next world up: from now on there is something to act on.
            for robot in self._robots:
                if robot.episode_id is None:
                    robot.episode_id = next(self._names, None)
            if ended.size:
                metrics = {name: values[ended] for name, values in infos["episode_metrics"].items()}
                ends = [{name: float(values[position]) for name, values in metrics.items()} for position in range(ended.size)]
                # A robot that ran out of episodes stands in its world until the others are done.
                pairs = [(self._robots[index], end) for index, end in zip(ended, ends, strict=True) if self._robots[index].episode_id]
                await asyncio.gather(*(self._end(robot, end) for robot, end in pairs))
            rate = len(self._latencies_s) / (time.perf_counter() - started_s)
            on_progress(self._done, f"{rate:,.0f} acts/s")
            if asked is not None and asked.done():
                if asked.result():
                    return True
                asked = None
            if stop_when is not None and asked is None and self._done > asked_at:
                asked_at = self._done
                asked = asyncio.create_task(asyncio.to_thread(stop_when))
        return False

    async def _act(self, robot: _Robot, observations: np.ndarray, actions: np.ndarray) -> None:
        assert robot.episode_id is not None
        started_s = time.perf_counter()
        robot.reply = await robot.client.act(observations[robot.index], robot.episode_id)
        self._latencies_s.append(time.perf_counter() - started_s)
        actions[robot.index] = robot.reply.vector

    async def _end(self, robot: _Robot, metrics: dict[str, float]) -> None:
        episode_id, reply = robot.episode_id, robot.reply
        assert episode_id is not None
        assert reply is not None
        if self._metric not in metrics:
            raise GaitwayError(f"task {self._task.name} has no episode metric {self._metric!r}; it has {', '.join(sorted(metrics))}")
        steps, fell = int(metrics["length"]), bool(metrics["fell"])
        value = metrics[self._metric]
        await robot.client.outcome(episode_id, value, fell, steps, steps * self._task.control_dt_s, metrics)
        tally = self._arms.setdefault(reply.arm or "(no comparison)", _ArmTally(reply.version))
        tally.values.append(value)
        tally.falls += fell
        self._done += 1
        robot.episode_id = None
