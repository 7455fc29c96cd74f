"""Stage: put exported bundles into the registry and name who is champion and who challenges.

Running it again with the same bundles adds nothing: a version with the same digest is found and used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from cluster.config import Config as BaseConfig
from cluster.errors import UsageError
from cluster.stage import StageContext, stage_main

__all__ = ["Config", "run", "still_valid"]


class Config(BaseConfig):
    """What to register under which alias."""

    policy: str = Field("pidog-run", description="policy name in the registry")
    aliases: dict[str, str] = Field(
        default_factory=lambda: {"champion": "imitation", "challenger": "rl"}, description="alias -> name of an exported bundle"
    )
    bundles: dict[str, Path] | None = Field(None, description="name -> bundle folder; None: those of the export stage")


def run(config: Config, context: StageContext) -> dict[str, Any]:
    """Register every bundle that an alias names, then set the aliases. Returns versions and digests by bundle name."""
    from cluster.store.registry import get_version, register_bundle, set_alias

    folders = config.bundles or {name: Path(path) for name, path in context.result("export", "bundles").items()}
    names = list(dict.fromkeys(config.aliases.values()))
    if missing := [name for name in names if name not in folders]:
        raise UsageError(f"aliases: there is no exported bundle {missing[0]!r}; exported: {', '.join(folders)}")
    versions: dict[str, int] = {}
    digests: dict[str, str] = {}
    with context.progress.task("register", total=len(names), unit="bundles") as task:
        for count, name in enumerate(names, start=1):
            tags = {"source": name, "run_folder": str(context.folder)}
            versions[name] = register_bundle(context.settings, config.policy, folders[name], tags=tags)
            digests[name] = get_version(context.settings, config.policy, versions[name]).digest
            task.update(count)
        for alias, name in config.aliases.items():
            set_alias(context.settings, config.policy, alias, versions[name])
        task.update(message="  ".join(f"@{alias} = models:/{config.policy}/{versions[name]}" for alias, name in config.aliases.items()))
    return {"policy": config.policy, "versions": versions, "digests": digests}


def still_valid(config: Config, context: StageContext, result: dict[str, Any]) -> bool:
    """Whether the registry still holds these very versions (it may have been wiped since)."""
    from cluster.errors import GaitwayError
    from cluster.store.registry import get_version

    try:
        return all(
            get_version(context.settings, config.policy, str(result["versions"][name])).digest == digest
            for name, digest in result["digests"].items()
        )
    except GaitwayError:
        return False


if __name__ == "__main__":
    stage_main("cluster.pipeline.register")
