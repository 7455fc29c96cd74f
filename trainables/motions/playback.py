"""Open-loop playback in batched physics: does a gait or clip carry the robot, how fast, and does it stay up?

``play_gait("trot_forward", preset="production")`` · ``play_motion(load_motion("clip.json"))``
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainables.envs.pidog_run import PiDogRun, PiDogRunConfig
from trainables.motions.gaits import expert_targets_rad, get_gait

if TYPE_CHECKING:
    from trainables.motions.motion import Motion

__all__ = ["Playback", "play_gait", "play_motion", "play_targets"]


@dataclass(frozen=True)
class Playback:
    """What became of each robot; arrays of shape (num_robots,). A robot that falls is stopped there."""

    duration_s: np.ndarray
    distance_m: np.ndarray
    """Displacement along the heading that the robot started with."""
    forward_velocity_m_s: np.ndarray
    """Mean velocity along the robot's own heading."""
    fell: np.ndarray
    """Shape (num_robots,), bool."""
    largest_joint_speed_rad_s: float


def play_gait(gait: str, duration_s: float = 10.0, num_robots: int = 8, preset: str = "fast") -> Playback:
    """Play an expert gait; the robots start at evenly spaced phases."""
    frequency_hz = get_gait(gait).frequency_hz
    start = np.arange(num_robots) / num_robots
    return _play(lambda time_s: expert_targets_rad(gait, start + time_s * frequency_hz), duration_s, num_robots, preset)


def play_targets(
    joint_targets_rad: np.ndarray, frame_rate_hz: float, duration_s: float = 10.0, num_robots: int = 8, preset: str = "fast"
) -> Playback:
    """Play a cycle of joint targets over and over; the robots start at evenly spaced frames.

    Args:
        joint_targets_rad: one cycle in PiDog's joint order, whose first frame follows its last. Shape (T, 12).
        frame_rate_hz: frames a second; between frames the targets are interpolated.
        duration_s: simulated time.
        num_robots: robots played at once.
        preset: physics quality.
    """
    frames = np.asarray(joint_targets_rad, dtype=np.float64)
    start = np.arange(num_robots) * len(frames) / num_robots

    def targets(time_s: float) -> np.ndarray:
        position = (start + time_s * frame_rate_hz) % len(frames)
        index = position.astype(np.int64) % len(frames)
        share = (position - np.floor(position))[:, None]
        return frames[index] * (1.0 - share) + frames[(index + 1) % len(frames)] * share

    return _play(targets, duration_s, num_robots, preset)


def play_motion(motion: Motion, duration_s: float = 10.0, num_robots: int = 8, preset: str = "fast") -> Playback:
    """Play a PiDog clip over and over. The last frame of a clip that wraps is its first again and is played once."""
    frames = motion.joint_position_rad[:-1] if motion.loop == "wrap" else motion.joint_position_rad
    return play_targets(frames, motion.frame_rate_hz, duration_s, num_robots, preset)


def _play(targets_at: Callable[[float], np.ndarray], duration_s: float, num_robots: int, preset: str) -> Playback:
    steps = round(duration_s / 0.02)
    config = PiDogRunConfig.model_validate(
        {
            "max_episode_steps": steps,
            "physics": {"preset": preset},
            "command": {"gaits": {"stand": 1.0}},
            "obstacles": {"count": 0},
            "randomization": {"enabled": False},
            "noise": {"enabled": False},
        }
    )
    task = PiDogRun(num_robots, config, reward_terms_in_info=False)
    task.reset()
    result = {key: np.zeros(num_robots) for key in ("length", "distance_m", "forward_velocity_m_s", "fell")}
    playing = np.ones(num_robots, dtype=bool)
    largest_speed = 0.0
    for step in range(steps):
        _, _, _, _, infos = task.step_joint_targets(targets_at(step * task.control_dt_s))
        largest_speed = max(largest_speed, float(np.abs(task.physics.qvel[playing, 6:]).max(initial=0.0)))
        if "episode_metrics" in infos:
            ended = infos["_episode_metrics"] & playing
            for key, values in result.items():
                values[ended] = infos["episode_metrics"][key][ended]
            playing &= ~ended
    task.close()
    return Playback(
        duration_s=result["length"] * task.control_dt_s,
        distance_m=result["distance_m"],
        forward_velocity_m_s=result["forward_velocity_m_s"],
        fell=result["fell"] > 0,
        largest_joint_speed_rad_s=largest_speed,
    )
