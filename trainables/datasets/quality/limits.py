"""Joint limits, the most trustworthy first: a limits file, the robot's own specification, the contract that the dataset carries.

Where none knows a component, it has no limits: that an episode lies flat at its own extreme is then looked for instead
(``QualityConfig.clipped_share``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.config import read_yaml
from cluster.contract import PolicyContract, TensorField, component_names
from cluster.errors import ConfigError
from trainables.datasets.quality.signals import Channel, Signals, joint_name
from trainables.robots.registry import ROBOTS, get_robot

__all__ = ["Limits", "find_limits", "read_limits"]

Table = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Limits:
    """Of the components of one channel; NaN where unknown."""

    low: np.ndarray
    """Shape (components,)."""
    high: np.ndarray
    """Shape (components,)."""
    sources: tuple[str, ...]
    """Where each is from; empty: unknown."""

    @property
    def span(self) -> np.ndarray:
        """Distance between them. Shape (components,)."""
        return self.high - self.low


def read_limits(path: Path) -> dict[str, tuple[float, float]]:
    """A YAML file of ``joint: [low, high]``, in the unit of the dataset.

    Raises:
        ConfigError: it cannot be read, or an entry is no pair of numbers in order.
    """
    found = {}
    for name, pair in read_yaml(path).items():
        numbers = isinstance(pair, list) and len(pair) == 2 and all(type(value) in (int, float) for value in pair)
        if not numbers or not pair[0] < pair[1]:
            raise ConfigError(f"{path}: {name}: limits are written [low, high] with low below high (given: {pair!r})")
        found[str(name)] = (float(pair[0]), float(pair[1]))
    return found


def find_limits(
    signals: Signals, robot: str, contract: Mapping[str, Any] | None, given: Table | None, file: str = "the limits file"
) -> tuple[Limits | None, Limits | None]:
    """Limits of the state and of the action.

    Args:
        signals: the components.
        robot: name of the robot; one that we do not know has no limits.
        contract: a ``PolicyContract`` as JSON, where the dataset carries one.
        given: entries of a limits file, by component or joint.
        file: its name, for the message.

    Raises:
        ConfigError: the limits file names a joint that the dataset has not.
    """
    channels = [channel for channel in (signals.state, signals.action) if channel]
    names = {name for channel in channels for component in channel.names for name in (component, joint_name(component))}
    if unknown := sorted(set(given or {}) - names):
        raise ConfigError(f"{file}: the dataset has no joint {unknown[0]!r}; it has: {', '.join(map(joint_name, channels[0].names))}")
    tables: list[tuple[str, Table, bool]] = [("limits file", given or {}, False)]
    if robot in ROBOTS:
        spec = get_robot(robot)
        tables.append(
            (f"robot {robot}", dict(zip(spec.joint_names, zip(spec.joint_low_rad, spec.joint_high_rad, strict=True), strict=True)), True)
        )
    tables.append(("contract", _contract_table(contract), False))
    return _limits(signals.state, tables), _limits(signals.action, tables)


def _limits(channel: Channel | None, tables: list[tuple[str, Table, bool]]) -> Limits | None:
    if channel is None:
        return None
    low, high, sources = np.full(len(channel), np.nan), np.full(len(channel), np.nan), [""] * len(channel)
    for place, (name, unit) in enumerate(zip(channel.names, channel.units, strict=True)):
        for source, table, in_rad in tables:
            pair = table.get(name) or table.get(joint_name(name))
            if pair is None or (in_rad and unit not in ("rad", "deg")):
                continue
            factor = np.degrees(1.0) if in_rad and unit == "deg" else 1.0
            low[place], high[place], sources[place] = pair[0] * factor, pair[1] * factor, source
            break
    return Limits(low, high, tuple(sources))


def _contract_table(contract: Mapping[str, Any] | None) -> dict[str, tuple[float, float]]:
    """Bounds by full component name; a contract of another layout has none."""
    try:
        parsed = PolicyContract.model_validate(contract) if contract else None
    except ValueError:
        parsed = None
    table: dict[str, tuple[float, float]] = {}
    fields: tuple[TensorField, ...] = (*parsed.observation, *parsed.action) if parsed else ()
    for field in fields:
        if field.low and field.high:
            table |= dict(zip(component_names([field]), zip(field.low, field.high, strict=True), strict=True))
    return table
