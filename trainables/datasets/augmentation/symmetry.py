"""Which component becomes which in a mirror, and with which sign: the mirror plane is the robot's own, x forward and z up.

A polar vector (velocity, acceleration, gravity, force) changes the sign of y; a pseudovector (angular velocity, torque) those of x and z;
an orientation those of x and z of its quaternion. Joints follow the robot's ``mirror_indices`` and ``mirror_signs``, a phase moves by half
a cycle or not at all (``phase.py``), and what has no side (a range, a height, a forward velocity) stays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from cluster.errors import ConfigError
from trainables.datasets.augmentation.components import Component, Layout
from trainables.datasets.augmentation.config import MirrorStep
from trainables.robots.base import RobotSpec

__all__ = ["FeatureMap", "symmetry_map"]

_PSEUDOVECTOR = re.compile(r"angular|gyro|torque|magnet")
_VECTOR = re.compile(r"gravity|accel|linear|velocity|force|position|translation")
_SIDELESS = re.compile(r"range|forward|posture|height|frequency|gait|mode|battery")
_SIDED = re.compile(r"lateral|sideways|yaw|turn|heading|roll")


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """One feature in the mirror: component i is ``sign[i] * value[source[i]] + (1 - sign[i]) * centre[i]``."""

    source: np.ndarray
    """Component that component i comes from. Shape (size,)."""
    sign: np.ndarray
    """Shape (size,)."""
    centre: np.ndarray
    """Value in the mirror plane; 0 nearly always. Shape (size,)."""

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Shape (frames, size) -> (frames, size), the type kept: a change of sign or place is exact."""
        moved = values[:, self.source]
        if values.dtype == bool:
            return moved
        mirrored = moved * self.sign.astype(values.dtype)
        # Only where there is an offset: adding 0.0 would turn -0.0 into 0.0, and twice would not be bit for bit once.
        shifted = np.flatnonzero(self.centre)
        mirrored[:, shifted] += ((1 - self.sign) * self.centre).astype(values.dtype)[shifted]
        return mirrored


def symmetry_map(layout: Layout, step: MirrorStep, robot: RobotSpec | None) -> dict[str, FeatureMap]:
    """The map of every feature that has components.

    Args:
        layout: the dataset's components.
        step: may name pairs, signs and what stays; goes before what the names tell.
        robot: whose joints they are; None: one that is not ours.

    Raises:
        ConfigError: a name is unknown, a component's behaviour in the mirror is, or mirroring twice would change something.
    """
    if robot is None and not step.pairs and not step.negate:
        raise ConfigError(
            "mirror: there is no symmetry map: the robot is none of ours; give pairs (left, right) and negate (changes sign) by component "
            "name"
        )
    _check_names(layout, step)
    return {name: _feature_map(components, step, robot) for name, components in layout.components.items()}


def _check_names(layout: Layout, step: MirrorStep) -> None:
    known = {component.name for component in layout.every()}
    given = [name for pair in step.pairs for name in pair] + [*step.negate, *step.keep, *step.centres]
    for name in given:
        if name not in known:
            raise ConfigError(f"mirror: no component {name!r}; {layout.near(name)}")
    paired = [name for pair in step.pairs for name in pair]
    twice = [name for name in paired if paired.count(name) > 1]
    if twice:
        raise ConfigError(f"mirror: {twice[0]!r} stands in two pairs, or twice in one")
    for names in (step.negate, tuple(paired)):
        if both := sorted(set(names) & set(step.keep)):
            raise ConfigError(f"mirror: {both[0]!r} cannot both stay and change")


def _feature_map(components: tuple[Component, ...], step: MirrorStep, robot: RobotSpec | None) -> FeatureMap:
    place = {component.name: component.index for component in components}
    partner = {name: other for pair in step.pairs for name, other in (pair, pair[::-1])}
    negated = set(step.negate) | {partner[name] for name in step.negate if name in partner}
    source, sign, centre = (np.arange(len(components)), np.ones(len(components)), np.zeros(len(components)))
    unknown: list[str] = []
    for component in components:
        index, name = component.index, component.name
        if name in partner or name in negated or name in step.keep:
            other = partner.get(name, name)
            if other not in place:
                raise ConfigError(f"mirror: {component.feature} has {name!r} but not its partner {other!r}")
            source[index], sign[index] = place[other], -1.0 if name in negated else 1.0
            centre[index] = step.centres.get(name, 0.0)
            continue
        found = _by_name(component, components, robot)
        if found is None and robot is not None:
            unknown.append(name)
        elif found is not None:
            source[index], sign[index] = found
    if unknown:
        raise ConfigError(
            f"mirror: {components[0].feature}: how {', '.join(unknown[:4])}{', ...' if len(unknown) > 4 else ''} looks in a mirror is "
            "not told by the name; give it in pairs, negate or keep (features without names: give names)"
        )
    if (source[source] != np.arange(len(source))).any() or (sign * sign[source] != 1).any():
        raise ConfigError(
            f"mirror: {components[0].feature}: mirrored twice it would not be the same again; pairs and signs must be symmetric"
        )
    return FeatureMap(source, sign, centre)


def _by_name(component: Component, components: tuple[Component, ...], robot: RobotSpec | None) -> tuple[int, float] | None:
    """Where a component comes from and its sign, as its name tells; None: it does not."""
    if robot is not None and (joint := component.joint(robot.joint_names)) is not None:
        wanted = robot.joint_names[robot.mirror_indices[joint]]
        place = {other.name: other.index for other in components}
        partner = place.get(component.name.replace(robot.joint_names[joint], wanted))
        return None if partner is None else (partner, float(robot.mirror_signs[joint]))
    text, part = component.text, component.part.lower().removeprefix("q")
    if part in ("w", "x", "y", "z") and re.search(r"quat|orientation|rotation", text):
        return component.index, -1.0 if part in ("x", "z") else 1.0
    if part in ("x", "y", "z"):
        if _PSEUDOVECTOR.search(text):
            return component.index, 1.0 if part == "y" else -1.0
        if _VECTOR.search(text):
            return component.index, -1.0 if part == "y" else 1.0
    # A phase is moved elsewhere; of the angle of a sided quantity, the cosine is the same in the mirror.
    if component.name.endswith(("phase_sin", "_cos")) or _SIDELESS.search(component.name):
        return component.index, 1.0
    if _SIDED.search(component.name):
        return component.index, -1.0
    return None
