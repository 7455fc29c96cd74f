"""What a replica is told to serve: Serve's ``user_config``, written by ``cluster.runtime.serving``, read by ``serve_apps``.

It is the whole truth: a replica that starts anew needs nothing else, and applying the same state twice changes nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.config import Config

__all__ = ["SERVED", "FeedbackConfig", "ServedArm", "ServedComparison", "ServedPolicy", "ServedState", "ServedVersion"]


SERVED = "served"
"""Folder of served episodes on the shared storage."""


class ServedVersion(Config):
    """One registered bundle on storage that every replica sees."""

    bundle: Path = Field(description="bundle folder")
    digest: str = Field(description="SHA-256 of its manifest, as registered")
    fetch_url: str | None = Field(None, description="object store from which a replica's machine fetches the folder; None: it is shared")


class ServedArm(Config):
    """One arm of a comparison."""

    name: str = Field(description="arm, such as champion")
    version: str = Field(description="version that it serves")
    weight: float = Field(ge=0, description="share of new episodes, relative to the other arms")
    shadow: bool = Field(False, description="sees the traffic and never acts")


class ServedComparison(Config):
    """How new episodes of one policy are split."""

    id: str = Field(description="comparison in the database")
    salt: str = Field(description="key of the assignment's hash")
    weights_version: int = Field(1, ge=1, description="which of its splits the weights are")
    unit: Literal["episode", "robot"] = Field("episode", description="what the hash assigns")
    arms: tuple[ServedArm, ...] = Field(min_length=1, description="arms in the comparison's order")


class FeedbackConfig(Config):
    """Which served episodes are written as LeRobot datasets, and where."""

    share: float = Field(0.1, gt=0, le=1, description="share of the episodes that is recorded; which ones follows from their ids")
    folder: str | None = Field(
        None, description="folder or object-store URL that gets POLICY/TIME_REPLICA_N; null: served on the shared storage"
    )
    buffer_mb: int = Field(64, ge=1, description="memory of one replica for episodes that are not yet written; a full one drops them, MiB")
    episodes_per_dataset: int = Field(100, ge=1, description="episodes after which a dataset is written")
    flush_s: float = Field(60.0, gt=0, description="longest wait of a finished episode until it is written, seconds")
    max_gb: float = Field(
        10.0, gt=0, description="size of the policy's folder from which on nothing more is written, GB; nothing is deleted"
    )
    silent_s: float = Field(
        300.0, gt=0, description="an episode without a step or an outcome for this long is written as it is, without one, seconds"
    )


class ServedPolicy(Config):
    """One policy behind the endpoint."""

    versions: dict[str, ServedVersion] = Field(min_length=1, description="every version that may answer, by number")
    default_version: str = Field(description="version of episodes outside a comparison")
    comparison: ServedComparison | None = Field(None, description="running comparison")
    feedback: FeedbackConfig | None = Field(None, description="which episodes are written as datasets; None: none")

    @model_validator(mode="after")
    def _versions_exist(self) -> ServedPolicy:
        named = [self.default_version, *(arm.version for arm in self.comparison.arms)] if self.comparison else [self.default_version]
        if missing := [version for version in named if version not in self.versions]:
            raise ValueError(f"version {missing[0]} is used but not among the versions {sorted(self.versions)}")
        return self


class ServedState(Config):
    """Everything that a replica serves."""

    policies: dict[str, ServedPolicy] = Field(description="policies by name")
    database_url: str | None = Field(
        None, description="SQLAlchemy URL of our tables; None: GAITWAY_DATABASE_URL of the replica's node, so that no password is shown"
    )
    max_body_bytes: int = Field(1 << 16, ge=1 << 10, description="largest request body or session frame accepted")
    requests_per_s: float = Field(20_000.0, gt=0, description="steps and requests a second of one token that has no limit of its own")

    @property
    def generation(self) -> str:
        """Equal for two states exactly when they serve the same."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    def as_user_config(self) -> dict[str, Any]:
        """JSON-able mapping for Serve."""
        return self.model_dump(mode="json")
