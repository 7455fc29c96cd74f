"""Which columns and components of a dataset are joint positions, commands and time, and which command belongs to which joint.

Recorders name components differently: ``shoulder_pan.pos`` (LeRobot's arms), ``joint_position_rad.left_front_hip`` inside the observation
of one of our tasks, nothing at all. Where names say it, only joint positions are taken for positions; else the whole state is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from trainables.datasets.joints import joint_of

__all__ = ["Channel", "Signals", "find_signals", "joint_name"]

STATE_NAMES = ("observation.state", "observation.joint_positions", "observation.qpos", "state")
"""Where recorders put what the robot measures, the usual one first."""
POSITION_FIELDS = ("joint_position", "qpos", "position")
POSITION_ENDINGS = (".pos", ".position", "_position", "_pos", "_position_rad")


@dataclass(frozen=True)
class Channel:
    """Some components of one column, in order."""

    column: str
    names: tuple[str, ...]
    indices: tuple[int, ...]
    """Places in the column's flat vector."""
    units: tuple[str, ...]

    @cached_property
    def _in_order(self) -> bool:
        return self.indices == tuple(range(len(self.indices)))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names for a text: without the field in front where all have the same."""
        fields = {name.partition(".")[0] for name in self.names if "." in name}
        if len(fields) == 1 and all("." in name for name in self.names):
            return tuple(name.partition(".")[2] for name in self.names)
        return self.names

    def of(self, episode: Episode) -> np.ndarray:
        """Its values. Shape (frames, components), float64; a component is contiguous, as almost everything looks along time."""
        return self.raw(episode).astype(np.float64, order="F")

    def raw(self, episode: Episode) -> np.ndarray:
        """The same in the element type that they are stored in."""
        values = np.asarray(episode.columns[self.column])
        flat = values.reshape(len(values), -1)
        return flat if len(self.indices) == flat.shape[1] and self._in_order else flat[:, self.indices]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Signals:
    """See the module's docstring."""

    state: Channel | None
    """Joint positions."""
    action: Channel | None
    pairs: tuple[tuple[int, int], ...]
    """(component of ``state``, component of ``action``) of the same joint."""
    sensors: Channel | None
    """The whole state, joint positions included."""
    checked: tuple[str, ...]
    """Columns of numbers, in all of which NaN is looked for."""
    has_time: bool

    @property
    def position(self) -> Channel:
        """What moves: the state, or the commands of a dataset without one."""
        channel = self.state or self.action
        assert channel is not None
        return channel


def find_signals(features: Sequence[Feature], source: str) -> Signals:
    """Look at the features of a dataset. Raises ``DatasetError`` when there is neither state nor action."""
    known = {feature.name: feature for feature in features if not feature.is_visual and np.dtype(feature.dtype).kind in "fiub"}
    state_feature = next((known[name] for name in STATE_NAMES if name in known), None)
    if state_feature is None:
        state_feature = next((known[name] for name in sorted(known) if name.startswith("observation.") and known[name].size > 1), None)
    sensors = _whole(state_feature) if state_feature else None
    action = _whole(known["action"]) if "action" in known else None
    if sensors is None and action is None:
        raise DatasetError(f"{source}: has neither observation.state nor action, so nothing can be graded (features: {', '.join(known)})")
    state = _positions(sensors) if sensors else None
    has_time = "timestamp" in known
    checked = tuple(name for name, feature in known.items() if np.dtype(feature.dtype).kind == "f")
    return Signals(state, action, _pairs(state, action), sensors, checked, has_time)


def joint_name(component: str) -> str:
    """The joint of a component, without the field in front and the quantity behind."""
    name = joint_of(component)
    return name.rpartition(".")[2] or name


def _whole(feature: Feature) -> Channel:
    names = feature.names or tuple(f"{feature.name.rpartition('.')[2]}[{index}]" for index in range(feature.size))
    units = tuple(feature.unit or _unit_in(name) for name in names)
    return Channel(feature.name, tuple(names), tuple(range(feature.size)), units)


def _unit_in(name: str) -> str:
    field = name.partition(".")[0]
    for ending, unit in (("_rad_s", "rad/s"), ("_m_s2", "m/s^2"), ("_rad", "rad"), ("_deg", "deg"), ("_m", "m")):
        if field.endswith(ending) or name.endswith(ending):
            return unit
    return ""


def _positions(sensors: Channel) -> Channel:
    """The joint positions among the components, where the names tell; else all."""
    by_field = [place for place, name in enumerate(sensors.names) if "." in name and name.partition(".")[0].startswith(POSITION_FIELDS)]
    chosen = by_field or [place for place, name in enumerate(sensors.names) if name.endswith(POSITION_ENDINGS)]
    if not chosen:
        return sensors
    return Channel(
        sensors.column,
        tuple(sensors.names[place] for place in chosen),
        tuple(sensors.indices[place] for place in chosen),
        tuple(sensors.units[place] for place in chosen),
    )


def _pairs(state: Channel | None, action: Channel | None) -> tuple[tuple[int, int], ...]:
    if state is None or action is None:
        return ()
    for naming in (lambda name: name, joint_name):
        left, right = [naming(name) for name in state.names], [naming(name) for name in action.names]
        common = [name for name in left if left.count(name) == 1 and right.count(name) == 1]
        if common:
            return tuple((left.index(name), right.index(name)) for name in common)
    # Unnamed components of the same number: recorders put both in the robot's own order.
    unnamed = all(name.endswith("]") for name in (*state.names, *action.names))
    return tuple((index, index) for index in range(len(state))) if unnamed and len(state) == len(action) else ()
