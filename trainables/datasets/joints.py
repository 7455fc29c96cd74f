"""Joint names of a dataset against those of a robot."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from trainables.robots.registry import get_robot

__all__ = ["check_joints", "joint_of"]

ENDINGS = ("_target_rad", "_rad", "_position", "_target", ".pos", ".position", ".target")
"""What recorders append to a joint's name in a component that is its position or target."""


def joint_of(component: str, field: str = "") -> str:
    """The joint that a component belongs to: ``shoulder_pan.pos`` -> ``shoulder_pan``; ``field`` in front is left out too."""
    name = component.rpartition(f"{field}.")[2] if field else component
    for ending in ENDINGS:
        if name.endswith(ending) and len(name) > len(ending):
            return name.removesuffix(ending)
    return name


def check_joints(features: Sequence[Feature], robot: str, source: str) -> None:
    """Raise unless the actions of a dataset are of the joints of one of our robots, each once and in its order.

    Args:
        features: of the dataset; ``action`` must name its components.
        robot: the robot that it is to be for.
        source: where the dataset is, for the message.

    Raises:
        ConfigError: the robot is not known.
        DatasetError: with the joints that are missing and those that are too many, or the order.
    """
    joints = get_robot(robot).joint_names
    action = next((feature for feature in features if feature.name == "action"), None)
    if action is None or not action.names:
        raise DatasetError(f"{source}: has no action with named components, so it cannot be checked against {robot}; leave robot out")
    found = tuple(joint_of(name.rpartition(".")[2] if name.rpartition(".")[2] in joints else name) for name in action.names)
    missing, surplus = [name for name in joints if name not in found], [name for name in found if name not in joints]
    if missing or surplus:
        parts = [f"{label} {', '.join(names)}" for label, names in (("lacks", missing), ("has the unknown", surplus)) if names]
        raise DatasetError(f"{source}: the joints of its actions are not those of {robot}: it {'; it '.join(parts)}")
    if found != joints:
        raise DatasetError(f"{source}: its actions have {robot}'s joints in another order: {', '.join(found)}; wanted: {', '.join(joints)}")
