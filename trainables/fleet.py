"""Stage: simulated robots call a live endpoint as real ones would. ``python -m trainables.fleet CONFIG.yaml``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field

from cluster.config import Config as BaseConfig
from cluster.stage import StageContext, stage_main

__all__ = ["Config", "run"]


class Config(BaseConfig):
    """How many robots do what, and which figure of an episode is its outcome."""

    url: str | None = Field(None, description="endpoint; None: this machine's (GAITWAY_HTTP_HOST and GAITWAY_HTTP_PORT)")
    policy: str = Field("pidog-run", description="policy that the robots call")
    robots: int = Field(8, ge=1, le=1024, description="robots at the same time, each with its own connection")
    episodes: int = Field(64, ge=1, description="episodes in all")
    task: str = Field("pidog_run", description="what the robots do")
    task_config: dict[str, Any] = Field(
        default_factory=lambda: {"physics": {"preset": "production", "num_threads": 2}}, description="configuration of the task"
    )
    max_episode_steps: int | None = Field(None, ge=1, description="control steps after which an episode is cut off; None: the task's own")
    metric: str = Field("forward_velocity_m_s", description="episode metric that is reported as the outcome's value")
    seed: int = Field(0, ge=0, description="seed of the simulated worlds")
    timeout_s: float = Field(2.0, gt=0, description="longest wait for one answer")
    retry_s: float = Field(60.0, ge=0, description="how long a robot goes on trying while the endpoint does not answer")


def run(config: Config, context: StageContext, stop_when: Callable[[], bool] | None = None) -> dict[str, Any]:
    """Run the episodes and return figures: ``episodes``, ``acts``, ``acts_per_s``, ``latency_p50_ms``, ``arms``, ...

    Args:
        config: what to run.
        context: settings and progress.
        stop_when: asked whenever an episode has ended, in a thread of its own; when it says True no robot goes on.

    Raises:
        UnreachableError: no answer for ``retry_s``.
        GaitwayError: the policy does not fit the task, or the task has no such metric.
    """
    from cluster.store.tokens import own_token
    from trainables.envs.registry import make_robot_task
    from trainables.evaluation.fleet import Fleet

    task_config = dict(config.task_config)
    if config.max_episode_steps is not None:
        task_config["max_episode_steps"] = config.max_episode_steps
    task = make_robot_task(config.task, min(config.robots, config.episodes), task_config, config.seed, reward_terms_in_info=False)
    try:
        fleet = Fleet(
            task,
            url=config.url or context.settings.endpoint_url,
            policy=config.policy,
            metric=config.metric,
            episodes=config.episodes,
            token=own_token(context.settings),
            timeout_s=config.timeout_s,
            retry_s=config.retry_s,
        )
        with context.progress.task("fleet", total=config.episodes, unit="episodes") as progress:
            return fleet.run(stop_when, lambda done, message: progress.update(done, message))
    finally:
        task.close()


if __name__ == "__main__":
    stage_main("trainables.fleet")
