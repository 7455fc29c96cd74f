"""Stage: simulated robots drive the endpoint until the comparison has a verdict; the winner becomes ``@champion``.

Outcomes are in the database as soon as they are acknowledged, so a killed stage goes on counting where it was.
"""

from __future__ import annotations

import importlib
import json
from contextlib import closing
from typing import Any

from pydantic import Field, field_validator

from cluster.config import Config as BaseConfig
from cluster.config import parse_config, write_text_atomic
from cluster.errors import ConfigError, GaitwayError
from cluster.stage import StageContext, load_stage, stage_main

__all__ = ["Config", "run"]

FLEET = "trainables.fleet"


class Config(BaseConfig):
    """How the comparison is driven."""

    policy: str = Field("pidog-run", description="policy whose comparison is decided")
    min_episodes: int = Field(64, ge=2, description="episodes driven even when the verdict comes sooner: they narrow the interval")
    max_episodes: int = Field(256, ge=2, description="episodes after which an undecided comparison is left running")
    promote: bool = Field(True, description="move @champion to the winner")
    fleet: dict[str, Any] = Field(default_factory=dict, description="configuration of the simulated robots (trainables.fleet)")

    @field_validator("fleet")
    @classmethod
    def _fleet_is_valid(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            parse_config(value, load_stage(FLEET).Config, source="fleet")
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value


def run(config: Config, context: StageContext) -> dict[str, Any]:
    """Run the fleet, read the verdict, promote. Returns the verdict with means and interval in the metric's units."""
    from cluster.runtime.serving import refresh
    from cluster.store.comparisons import abandon_episodes, get_comparison
    from cluster.store.database import open_database

    settings = context.settings
    comparison_id = context.result("serve", "comparisons").get(config.policy)
    if comparison_id is None:
        raise GaitwayError(
            f"no comparison of {config.policy} is running; give serve.policies a split, or start one with `gaitway ab start`"
        )
    reports: Any = importlib.import_module("serve_apps.comparison.report")
    promotions: Any = importlib.import_module("serve_apps.comparison.promotion")
    fleet_result: dict[str, Any] = {}
    with closing(open_database(settings)) as db:
        if get_comparison(db, comparison_id).status == "running":
            # This fleet is the comparison's only traffic: what a killed one left in flight will never bring an outcome.
            abandon_episodes(db, comparison_id)
            fleet_result = _drive(config, context, lambda: reports.report(db, comparison_id))
        found = reports.report(db, comparison_id)
    if config.promote and (found.winner is not None or found.status != "running"):
        promotion = promotions.promote(settings, comparison_id)
        found = promotion.report
        with context.progress.task("promote") as task:
            refresh(settings, say=lambda text: task.update(message=text))
            task.update(message=f"@champion = models:/{config.policy}/{promotion.version}")
    folder = context.folder / "comparison"
    write_text_atomic(folder / "report.json", json.dumps(found.to_dict(), indent=2) + "\n")
    write_text_atomic(folder / "report.txt", found.to_text() + "\n")
    return {"comparison_id": comparison_id, "winner": found.winner, "report": found.to_dict(), "fleet": fleet_result}


def _drive(config: Config, context: StageContext, look: Any) -> dict[str, Any]:
    """Let the fleet call the endpoint until a look finds a verdict or the episodes are used up."""
    fleet: Any = load_stage(FLEET)
    counted = look().episodes
    values = {"policy": config.policy, "url": context.result("serve", "url"), **config.fleet}
    values["episodes"] = max(1, config.max_episodes - counted)
    # Another seed after an interruption: the worlds that were seen already must not come again.
    values["seed"] = int(values.get("seed", 0)) + counted

    def enough() -> bool:
        found = look()
        return found.winner is not None and found.episodes >= config.min_episodes

    return dict(fleet.run(parse_config(values, fleet.Config, source="fleet"), context, stop_when=enough))


if __name__ == "__main__":
    stage_main("cluster.pipeline.compare")
