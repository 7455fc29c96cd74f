"""Physics consistency: would a robot that is sent an episode's actions be seen to do what the episode shows?

The actions are replayed in batched physics from many frames of the episode at once, each for a short horizon, and what is observed is
compared with what was recorded. A recording does not hold the whole state (noise, the draw of the dynamics, how a foot slips), so
even a true one leaves an error: that of the recorded episode is the yardstick for its copy.

    yardstick = physics_consistency(episode, features, "pidog_run", task_config)
    error = physics_consistency(mirrored, features, "pidog_run", task_config)
    assert error.within(yardstick)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.contract import component_names
from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from trainables.datasets.augmentation.components import Layout, in_rows
from trainables.datasets.augmentation.odometry import forward_velocity_m_s

__all__ = ["PhysicsError", "physics_consistency"]

TOLERANCE = 0.1
"""A copy may err this much more than its yardstick, as a share: the feet of a replay start from an estimated height and velocity."""
_COMPARED = ("projected_gravity", "imu_angular_velocity_rad_s", "joint_position_rad", "joint_velocity_rad_s", "previous_action_rad")
_UNEXPLAINED = {"previous_action_rad": 1e-5}
"""Floor of each field's error where the yardstick is 0: float32 numbers of a few rad."""


@dataclass(frozen=True)
class PhysicsError:
    """Root mean square difference between replay and recording by field of the observation, in the field's unit."""

    by_field: Mapping[str, float]
    windows: int
    """Replays, each from another frame."""
    horizon: int
    """Control steps of each."""

    def within(self, yardstick: PhysicsError, tolerance: float = TOLERANCE) -> bool:
        """Whether no field errs by more than the yardstick's times ``1 + tolerance``."""
        return not self.excess(yardstick, tolerance)

    def excess(self, yardstick: PhysicsError, tolerance: float = TOLERANCE) -> dict[str, float]:
        """Error over yardstick of the fields that err by more."""
        floor = {name: max(yardstick.by_field[name], _UNEXPLAINED.get(name, 1e-3)) for name in self.by_field}
        ratio = {name: error / floor[name] for name, error in self.by_field.items()}
        return {name: value for name, value in ratio.items() if value > 1 + tolerance}


def physics_consistency(
    episode: Episode,
    features: Sequence[Feature],
    task: str,
    task_config: Mapping[str, Any] | None = None,
    windows: int = 32,
    horizon: int = 10,
) -> PhysicsError:
    """Replay an episode's actions from its own states.

    Args:
        episode: recorded on ``task``, with ``observation.state`` and ``action``.
        features: of its dataset.
        task: a task that drives a robot.
        task_config: as it was recorded with; randomisation and noise are switched off for the replay.
        windows: replays, from frames spread over the episode.
        horizon: control steps of each.

    Raises:
        DatasetError: the episode is shorter than the horizon, or is not of this task.
    """
    from trainables.envs.registry import make_robot_task

    if episode.length < horizon + 2:
        raise DatasetError(f"episode {episode.key}: has {episode.length} frames; a replay of {horizon} steps needs {horizon + 2}")
    starts = np.unique(np.linspace(1, episode.length - 1 - horizon, windows).astype(np.int64))
    config = {**(task_config or {}), "max_episode_steps": horizon + 1, "randomization": {"enabled": False}, "noise": {"enabled": False}}
    replay: Any = make_robot_task(task, len(starts), {**config, "obstacles": {"count": 0}}, seed=0, reward_terms_in_info=False)
    try:
        layout = _own_layout(episode, features, replay)
        observed, actions = (in_rows(episode, layout.features[name]) for name in ("observation.state", "action"))
        replay.reset()
        _set_state(replay, observed[starts], forward_velocity_m_s(episode, layout, replay.robot, 1 / replay.control_dt_s)[starts])
        fields = _slices(replay)
        errors: dict[str, list[np.ndarray]] = {name: [] for name in _COMPARED if name in fields}
        running = np.ones(len(starts), dtype=bool)
        for step in range(horizon):
            seen, _, terminated, *_ = replay.step_joint_targets(actions[starts + step])
            running &= ~terminated
            for name, values in errors.items():
                values.append((seen - observed[starts + step + 1])[running, fields[name]].reshape(-1) ** 2)
    finally:
        replay.close()
    return PhysicsError({name: float(np.sqrt(np.concatenate(values).mean())) for name, values in errors.items()}, len(starts), horizon)


def _own_layout(episode: Episode, features: Sequence[Feature], task: Any) -> Layout:
    names = {"observation.state": component_names(task.observation_fields), "action": component_names(task.action_fields)}
    for name, own in names.items():
        found = next((feature for feature in features if feature.name == name), None)
        if found is None or found.size != len(own) or (found.names and found.names != own):
            raise DatasetError(f"episode {episode.key}: its {name} is not that of the task {task.name}, so it cannot be replayed on it")
    return Layout(features, names)


def _slices(task: Any) -> dict[str, slice]:
    start, slices = 0, {}
    for field in task.observation_fields:
        slices[field.name] = slice(start, start + field.size)
        start += field.size
    return slices


def _set_state(task: Any, observed: np.ndarray, forward_m_s: np.ndarray) -> None:
    """Put one robot into each observed state: what is not observed (height, sideways velocity) is that of a robot on its feet.

    Args:
        task: freshly reset.
        observed: observations. Shape (n, observation size).
        forward_m_s: estimated forward velocity. Shape (n,).
    """
    physics, robot, fields = task.physics, task.robot, _slices(task)
    up = -observed[:, fields["projected_gravity"]]
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    joints = np.clip(observed[:, fields["joint_position_rad"]], robot.joint_low_rad, robot.joint_high_rad)
    feet = np.zeros((len(joints), len(robot.leg_names), 3))
    feet[..., [0, 2]] = robot.foot_position_m(joints)
    feet += robot.hip_position_m
    physics.qpos[:, :2] = 0.0
    physics.qpos[:, 2] = (-np.einsum("nli,ni->nl", feet, up)).max(axis=1) + robot.foot_radius_m
    physics.qpos[:, 3:7] = _level_to(up)
    physics.qpos[:, 7:] = joints
    physics.qvel[:] = 0.0
    # Heading 0: the body's x axis made level is the world's x, so a forward velocity is one along x.
    physics.qvel[:, 0] = forward_m_s
    physics.qvel[:, 3:6] = observed[:, fields["imu_angular_velocity_rad_s"]]
    physics.qvel[:, 6:] = observed[:, fields["joint_velocity_rad_s"]]
    physics.servo_target[:] = observed[:, fields["previous_action_rad"]]
    task.previous_action_rad = observed[:, fields["previous_action_rad"]].copy()


def _level_to(up: np.ndarray) -> np.ndarray:
    """Orientation (w, x, y, z) of a body that sees the vertical as ``up`` and heads along the world's x. Shape (n, 3) -> (n, 4)."""
    pitch = np.arctan2(-up[:, 0], np.hypot(up[:, 1], up[:, 2]))
    roll = np.arctan2(up[:, 1], up[:, 2])
    cos_p, sin_p, cos_r, sin_r = np.cos(pitch / 2), np.sin(pitch / 2), np.cos(roll / 2), np.sin(roll / 2)
    # First roll about x, then pitch about the level y: q = q_y(pitch) q_x(roll).
    return np.stack([cos_p * cos_r, cos_p * sin_r, sin_p * cos_r, -sin_p * sin_r], axis=1)
