"""A stage's fingerprint: equal exactly when running it again would do the same work.

It covers the entry point, the resolved configuration, the bytes of every file that the configuration names, and the fingerprint of
the stage before it, so a change re-runs the first stage that it touches and all stages after.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cluster.bundle import sha256_file
from cluster.pipeline.config import ResolvedPipeline

__all__ = ["fingerprints"]


def fingerprints(pipeline: ResolvedPipeline) -> dict[str, str]:
    """Fingerprint of each stage by name, SHA-256 in hexadecimal."""
    previous, result = "", {}
    for stage in pipeline.stages:
        content = {
            "entry": stage.entry,
            "config": stage.config.model_dump(mode="json"),
            "files": {str(path): sha256_file(path) for path in sorted(set(_files(stage.config)))},
            "previous": previous,
        }
        previous = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        result[stage.name] = previous
    return result


def _files(value: Any) -> Iterator[Path]:
    """Every existing file that a configuration names in a ``Path`` field, at any depth."""
    if isinstance(value, Path):
        if value.is_file():
            yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _files(getattr(value, name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from _files(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _files(item)
