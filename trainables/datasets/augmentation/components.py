"""What each number of a frame is, told from its name: which joint, which axis of what kind of vector, a phase, a rate, a command.

Names are those that ``cluster.contract.component_names`` makes (``joint_velocity_rad_s.left_front_hip``) and those of other recorders
(``shoulder_pan.pos``; ``x`` within ``observation.imu.angular_velocity``).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import INDEX_FEATURES, Feature
from trainables.datasets.joints import joint_of

__all__ = ["Component", "Layout", "in_rows", "with_rows"]

_INDEX = frozenset(feature.name for feature in INDEX_FEATURES)
_COMMAND = re.compile(r"(^|[._])(command|commands|goal|desired)([._]|$)")
_PREVIOUS_ACTION = re.compile(r"(previous|prev|last)_action")
_SECOND_ORDER = re.compile(r"(_s2|/s\^?2|/s²)$|accel")
_FIRST_ORDER = re.compile(r"(_(m|rad|deg|rev)_s|_hz|_rpm|/s|\.vel)$|velocity|speed")
_QUATERNION = re.compile(r"quat|orientation|rotation")


@dataclass(frozen=True)
class Component:
    """One number of a frame."""

    feature: str
    index: int
    """Place within the feature, flattened."""
    name: str
    """As the dataset has it; its number where the feature is unnamed."""
    unit: str = ""

    @property
    def field(self) -> str:
        """What is in front of the last dot: the group that it belongs to; the feature's name where there is no dot."""
        return self.name.rpartition(".")[0] or self.feature

    @property
    def part(self) -> str:
        """Last part of the name: an axis, a joint, ``phase_sin``; of ``acceleration_x`` the axis."""
        last = self.name.rpartition(".")[2]
        head, _, tail = last.rpartition("_")
        return tail if head and tail in ("x", "y", "z", "w") else last

    @property
    def text(self) -> str:
        """Feature and name, what patterns look at."""
        return f"{self.feature}.{self.name}".lower()

    @property
    def is_observation(self) -> bool:
        """Of a feature that is observed, be it a sensor's, a command or the previous action."""
        return self.feature.startswith("observation")

    @property
    def is_command(self) -> bool:
        """What the robot was told to do."""
        return bool(_COMMAND.search(self.text))

    @property
    def is_previous_action(self) -> bool:
        """The action sent one step before."""
        return bool(_PREVIOUS_ACTION.search(self.text))

    @property
    def is_sensed(self) -> bool:
        """Observed, and neither a command nor what the controller itself has sent."""
        return self.is_observation and not self.is_command and not self.is_previous_action

    @property
    def rate_order(self) -> int:
        """How often it was divided by time: 1 for velocities and frequencies, 2 for accelerations, else 0."""
        for text in (self.field.lower(), self.name.lower(), self.unit):
            if _SECOND_ORDER.search(text):
                return 2
            if _FIRST_ORDER.search(text):
                return 1
        return 0

    def joint(self, joints: Sequence[str]) -> int | None:
        """Number of the joint that it belongs to; None: of none."""
        for candidate in (*self.name.split("."), joint_of(self.name)):
            if candidate in joints:
                return list(joints).index(candidate)
        return None

    def matches(self, pattern: str) -> bool:
        """Whether a component's name, a field's, or a ``*`` pattern over either means it."""
        return any(fnmatch.fnmatchcase(text, pattern) for text in (self.name, self.field, f"{self.feature}.{self.name}"))


class Layout:
    """The components of a dataset's numeric features; index columns, ``next.*`` and images are no components.

    Args:
        features: of the dataset.
        names: names of the components of unnamed features.

    Raises:
        DatasetError: ``names`` do not fit a feature.
    """

    def __init__(self, features: Sequence[Feature], names: Mapping[str, Sequence[str]] | None = None) -> None:
        given = dict(names or {})
        self.features = {feature.name: feature for feature in features}
        self.components: dict[str, tuple[Component, ...]] = {}
        for name, own in given.items():
            feature = self.features.get(name)
            if feature is None or feature.is_visual:
                raise DatasetError(f"names: there is no numeric feature {name!r}; there are: {', '.join(self.features)}")
            if len(own) != feature.size:
                raise DatasetError(f"names: {len(own)} names for the {feature.size} components of {name}")
        for feature in features:
            if feature.is_visual or feature.name in _INDEX or feature.name.startswith("next."):
                continue
            parts = tuple(given.get(feature.name) or feature.names or map(str, range(feature.size)))
            self.components[feature.name] = tuple(Component(feature.name, i, part, feature.unit) for i, part in enumerate(parts))

    def every(self) -> list[Component]:
        """All components, feature by feature."""
        return [component for components in self.components.values() for component in components]

    def find(self, name: str) -> Component:
        """The component of an observation with this name. Raises ``DatasetError`` with the nearest ones."""
        found = [component for component in self.every() if name in (component.name, f"{component.feature}.{component.name}")]
        found.sort(key=lambda component: not component.is_observation)
        if not found:
            raise DatasetError(f"no component {name!r}; {self.near(name)}")
        return found[0]

    def near(self, name: str) -> str:
        """What an unknown name may have meant."""
        import difflib

        known = list(dict.fromkeys([*(component.name for component in self.every()), *(c.field for c in self.every())]))
        near = difflib.get_close_matches(name, known, n=1)
        return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}"

    def quaternions(self) -> list[tuple[str, list[int]]]:
        """Feature and places of w, x, y, z of every orientation."""
        groups: dict[tuple[str, str], dict[str, int]] = {}
        for component in self.every():
            part = component.part.lower().removeprefix("q")
            if part in ("w", "x", "y", "z") and _QUATERNION.search(component.text):
                groups.setdefault((component.feature, component.field), {})[part] = component.index
        return [(feature, [parts[axis] for axis in "wxyz"]) for (feature, _), parts in groups.items() if len(parts) == 4]

    def phases(self) -> list[tuple[str, int, int]]:
        """Feature and places of the sine and the cosine of every angle that is kept as such a pair."""
        found = []
        for components in self.components.values():
            place = {component.name: component for component in components}
            for name, component in place.items():
                if name.endswith("_sin") and (cosine := place.get(f"{name.removesuffix('sin')}cos")):
                    found.append((component.feature, component.index, cosine.index))
        return found


def in_rows(episode: Episode, feature: Feature, dtype: type | None = np.float64) -> np.ndarray:
    """A copy of one feature's frames with flattened components. Shape (frames, feature.size)."""
    values = np.asarray(episode.columns[feature.name])
    return np.array(values.reshape(len(values), -1), dtype=dtype)


def with_rows(episode: Episode, rows: Mapping[str, np.ndarray], features: Mapping[str, Feature]) -> Episode:
    """The episode with these features' frames, shape (frames, feature.size), in the features' own types and shapes."""
    columns = dict(episode.columns)
    for name, values in rows.items():
        feature = features[name]
        shape = (len(values),) if feature.shape == (1,) else (len(values), *feature.shape)
        columns[name] = values.reshape(shape).astype(feature.dtype)
    return replace(episode, columns=columns)
