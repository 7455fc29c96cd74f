"""Leg odometry: how fast a legged robot went, from its joints and its gyroscope alone.

A foot that stands does not move over the ground, so the body moves by the opposite of what the foot does relative to it:
v = -(p' + w x p), with p the foot in the body's frame and w the angular velocity (Bloesch et al., RSS 2012, use the same
relation in their filter). Each foot gives an estimate, weighted by how near it is to the lowest one under the measured gravity; swinging
feet pass near the ground and give a wrong one, so a quantile of the four is taken, not their mean. Slipping feet leave an error:
within 20 % of the true mean velocity for our expert gaits, with sensor noise (a test measures it).
"""

from __future__ import annotations

import numpy as np

from cluster.errors import ConfigError
from cluster.lerobot.episodes import Episode
from trainables.datasets.augmentation.components import Component, Layout, in_rows
from trainables.robots.base import RobotSpec

__all__ = ["check_odometry", "forward_velocity_m_s"]

_STANCE_HEIGHT_M = 0.003
"""A foot this far above the lowest one counts for e^-1."""
_QUANTILE = 0.57
"""Which of the feet's estimates counts, in the direction of travel. Swinging feet lag behind, so the median is a quarter too low for a
trot; chosen on our trot and walks, forward and backward."""
_SMOOTHED_FRAMES = 5
"""Parabolas through this many frames give the feet's velocity."""


def check_odometry(layout: Layout, robot: RobotSpec | None) -> None:
    """Raise ``ConfigError`` unless the joints of the legs are observed."""
    if robot is None:
        raise ConfigError(
            "relabel_command: what was really achieved is not observable: the robot is none of ours with legs; name a recorded "
            "velocity as velocity_component"
        )
    _joint_places(layout, robot)


def forward_velocity_m_s(episode: Episode, layout: Layout, robot: RobotSpec, fps: float) -> np.ndarray:
    """Velocity of the body along its own level heading, forward positive. Shape (frames,).

    Single frames are noisy: joint encoders are differentiated. Without projected gravity the body is taken to be level, without a
    gyroscope not to turn.
    """
    joints = _joint_places(layout, robot)
    position = np.stack([_values(episode, layout, component) for component in joints], axis=1)
    feet = np.zeros((len(position), len(robot.leg_names), 3))
    feet[..., [0, 2]] = robot.foot_position_m(position)
    feet += robot.hip_position_m
    up = -_vector(episode, layout, "gravity", np.array([0.0, 0.0, -1.0]))
    up /= np.maximum(np.linalg.norm(up, axis=1, keepdims=True), 1e-9)
    turning = _vector(episode, layout, "angular_velocity", np.zeros(3))
    place, moving = _smoothed(feet, fps)
    body = -(moving + np.cross(turning[:, None], place))
    height = np.einsum("tli,ti->tl", place, up)
    weight = np.exp(-(height - height.min(axis=1, keepdims=True)) / _STANCE_HEIGHT_M)
    ahead = np.array([1.0, 0.0, 0.0]) - up[:, :1] * up
    ahead /= np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-9)
    by_foot = np.einsum("tli,ti->tl", body, ahead)
    direction = np.sign(_quantile(by_foot, weight, 0.5).mean())
    return _quantile(by_foot, weight, 0.5 + direction * (_QUANTILE - 0.5))


def _smoothed(feet: np.ndarray, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Place and velocity of the feet, from a parabola around each frame. Shape (frames, legs, 3) twice."""
    from scipy.signal import savgol_filter

    if len(feet) < _SMOOTHED_FRAMES:
        return feet, np.gradient(feet, 1.0 / fps, axis=0) if len(feet) > 1 else np.zeros_like(feet)
    place = savgol_filter(feet, _SMOOTHED_FRAMES, 2, axis=0)
    return place, savgol_filter(feet, _SMOOTHED_FRAMES, 2, deriv=1, delta=1.0 / fps, axis=0)


def _quantile(values: np.ndarray, weight: np.ndarray, share: float) -> np.ndarray:
    """Weighted quantile of each row, between the middles of the sorted values' weights. Shape (n, k) twice -> (n,)."""
    order = np.argsort(values, axis=1)
    ordered, heavy = np.take_along_axis(values, order, 1), np.take_along_axis(weight, order, 1)
    middle = (np.cumsum(heavy, axis=1) - heavy / 2) / heavy.sum(axis=1, keepdims=True)
    return np.array([np.interp(share, places, row) for places, row in zip(middle, ordered, strict=True)])


def _joint_places(layout: Layout, robot: RobotSpec) -> list[Component]:
    """The observed position of every joint, in the robot's order; joints that are not in a leg may be missing (any stands for them)."""
    found: dict[int, Component] = {}
    for component in layout.every():
        joint = component.joint(robot.joint_names)
        if joint is not None and component.is_sensed and component.rate_order == 0 and "torque" not in component.text:
            found.setdefault(joint, component)
    missing = [robot.joint_names[joint] for joint in robot.leg_joint_indices.reshape(-1) if joint not in found]
    if missing:
        raise ConfigError(
            f"relabel_command: what was really achieved is not observable: no position of the leg joint {missing[0]} is observed; name a "
            "recorded velocity as velocity_component"
        )
    any_joint = next(iter(found.values()))
    return [found.get(joint, any_joint) for joint in range(robot.num_joints)]


def _values(episode: Episode, layout: Layout, component: Component) -> np.ndarray:
    return in_rows(episode, layout.features[component.feature])[:, component.index]


def _vector(episode: Episode, layout: Layout, word: str, default: np.ndarray) -> np.ndarray:
    """The first sensed vector whose name has ``word`` in it. Shape (frames, 3)."""
    axes = {
        component.part: component
        for component in reversed(layout.every())
        if word in component.text and component.part in ("x", "y", "z") and component.is_sensed
    }
    if len(axes) < 3:
        return np.tile(default, (episode.length, 1))
    return np.stack([_values(episode, layout, axes[axis]) for axis in "xyz"], axis=1)
