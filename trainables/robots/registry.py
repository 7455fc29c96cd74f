"""Robots by name. A new robot is a folder with its MJCF and a function that returns its ``RobotSpec``, and one line here."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import lru_cache

from cluster.errors import ConfigError
from trainables.robots.base import RobotSpec
from trainables.robots.pidog import pidog

__all__ = ["ROBOTS", "get_robot"]

ROBOTS: dict[str, Callable[[], RobotSpec]] = {"pidog": pidog}


@lru_cache
def get_robot(name: str) -> RobotSpec:
    """The robot called ``name``. Raises ``ConfigError`` that names the nearest known one."""
    if name not in ROBOTS:
        near = difflib.get_close_matches(name, ROBOTS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"unknown robot {name!r}; {hint}known: {', '.join(sorted(ROBOTS))}")
    return ROBOTS[name]()
