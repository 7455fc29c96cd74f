"""Stage: bring the endpoint up with the registered versions, and start their comparison.

The endpoint outlives the pipeline: it is what the user calls next. ``gaitway cluster down`` ends it.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from pydantic import Field

from cluster.config import Config as BaseConfig
from cluster.runtime.serve_config import ServeConfig, ServedPolicyConfig
from cluster.stage import StageContext, stage_main

__all__ = ["Config", "run", "still_valid"]


class Config(BaseConfig):
    """What is served."""

    serve: ServeConfig = Field(ServeConfig(), description="the endpoint, as in configs/serve/local.yaml")


def run(config: Config, context: StageContext) -> dict[str, Any]:
    """Serve, wait until every version answers, and return the URL and the running comparisons by policy."""
    from cluster.runtime.serving import serve_up
    from cluster.store.comparisons import active_comparison
    from cluster.store.database import open_database

    settings = context.settings
    with context.progress.task("serve") as task:
        for policy in config.serve.policies:
            _stop_outdated(policy, context)
        status = serve_up(settings, config.serve, say=lambda text: task.update(message=text))
        with closing(open_database(settings)) as db:
            found = {policy.policy: active_comparison(db, policy.policy) for policy in config.serve.policies}
        comparisons = {policy: comparison.id for policy, comparison in found.items() if comparison is not None}
        task.update(message=f"{status['url']} through {status['proxy']}")
    return {"url": status["url"], "proxy": status["proxy"], "comparisons": {**_earlier(context), **comparisons}}


def still_valid(config: Config, context: StageContext, result: dict[str, Any]) -> bool:
    """Whether the endpoint still answers."""
    from cluster.runtime.serving import serve_status

    return bool(serve_status(context.settings)["running"])


def _stop_outdated(policy: ServedPolicyConfig, context: StageContext) -> None:
    """Stop a running comparison of other versions than today's aliases: this run's must take its place."""
    from cluster.store.comparisons import active_comparison, close_comparison
    from cluster.store.database import open_database
    from cluster.store.registry import get_version

    if policy.split is None:
        return
    wanted = [str(get_version(context.settings, policy.policy, alias).version) for alias in policy.split.arms]
    with closing(open_database(context.settings)) as db:
        running = active_comparison(db, policy.policy)
        if running is not None and [arm.version for arm in running.arms] != wanted:
            close_comparison(db, running.id, "stopped", {"reason": "other versions took its place"})


def _earlier(context: StageContext) -> dict[str, str]:
    """Comparisons that this run started before it was interrupted; a decided one is not running any more but still this run's."""
    from cluster.pipeline.run_folder import RunFolder

    record = RunFolder(context.folder).stages.get("serve") if (context.folder / "pipeline.json").is_file() else None
    return dict(record.result.get("comparisons", {})) if record else {}


if __name__ == "__main__":
    stage_main("cluster.pipeline.serve")
