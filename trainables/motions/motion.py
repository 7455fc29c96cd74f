"""Motion: one reference clip, whatever file it came from, with names, units, frame rate and loop mode.

Conventions, which every importer converts to: metres, radians, seconds; world z up; the root's own x forward and z up; quaternions
``(w, x, y, z)``. The last frame of a ``wrap`` clip is the first pose of its next cycle (the convention of DeepMimic-style files), so a
clip of T frames lasts ``(T - 1) / frame_rate_hz`` and its phase runs from 0 to 1 over that time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cluster.errors import GaitwayError
from trainables.motions.rotation import conjugate, heading, multiply, rotate_about_z, rotation_vector, slerp

__all__ = ["Loop", "Motion", "MotionError"]

Loop = Literal["wrap", "clamp"]

MAX_NORM_ERROR = 0.01  # five decimals in a file cost 1e-5; a hundredth means that these four numbers are no quaternion


class MotionError(GaitwayError):
    """A motion file or clip is unusable: names it, what is wrong and what is allowed."""


@dataclass(frozen=True)
class Motion:
    """One clip. Checked when made: raises ``MotionError`` that begins with ``source`` (the file) or ``name``."""

    name: str
    """Short name; becomes the task string of a dataset."""
    joint_names: tuple[str, ...]
    joint_position_rad: np.ndarray
    """Shape (T, num_joints), float64."""
    root_position_m: np.ndarray
    """World position of the root. Shape (T, 3)."""
    root_quaternion_wxyz: np.ndarray
    """World orientation of the root, unit norm. Shape (T, 4)."""
    frame_rate_hz: float
    loop: Loop = "wrap"
    offsets_position: bool = True
    """A wrapped clip goes on from where the last cycle ended, instead of jumping back."""
    offsets_rotation: bool = False
    """A wrapped clip goes on in the heading in which the last cycle ended."""
    robot: str = ""
    """Robot that the joints belong to; empty: not one of ours."""
    source: str = ""
    """File that it was read from."""

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # frozen: the arrays are converted once, here
        for field in ("joint_position_rad", "root_position_m", "root_quaternion_wxyz"):
            set_field(self, field, np.asarray(getattr(self, field), dtype=np.float64))
        frames, joints = len(self.joint_position_rad), len(self.joint_names)
        wanted = {"joint_position_rad": (frames, joints), "root_position_m": (frames, 3), "root_quaternion_wxyz": (frames, 4)}
        for field, shape in wanted.items():
            given = getattr(self, field)
            if given.shape != shape:
                raise self._error(f"{field} has shape {given.shape}, {shape} is wanted for {frames} frames and {joints} joints")
            bad = np.flatnonzero(~np.isfinite(given).all(axis=1))
            if bad.size:
                raise self._error(f"frame {bad[0]}: {field} holds NaN or infinity; only finite numbers are allowed")
        if frames < 2:
            raise self._error(f"has {frames} frame(s); a motion needs at least 2")
        if not (np.isfinite(self.frame_rate_hz) and self.frame_rate_hz > 0):
            raise self._error(f"frame rate is {self.frame_rate_hz} Hz; it must be above 0")
        if self.loop not in ("wrap", "clamp"):
            raise self._error(f"loop mode is {self.loop!r}; allowed: wrap, clamp")
        if len(set(self.joint_names)) != joints:
            raise self._error("two joints have the same name")
        norms = np.linalg.norm(self.root_quaternion_wxyz, axis=1)
        bad = np.flatnonzero(np.abs(norms - 1) > MAX_NORM_ERROR)
        if bad.size:
            raise self._error(f"frame {bad[0]}: the root quaternion has norm {norms[bad[0]]:.4g}; it must be 1 within {MAX_NORM_ERROR}")
        unit = self.root_quaternion_wxyz / norms[:, None]
        # q and -q are one orientation: keep neighbours on one side, so that differences and plots are smooth.
        flips = np.cumprod(np.where(np.sum(unit[1:] * unit[:-1], axis=1) < 0, -1.0, 1.0))
        unit[1:] *= flips[:, None]
        set_field(self, "root_quaternion_wxyz", unit)

    def _error(self, text: str) -> MotionError:
        return MotionError(f"{self.source or self.name}: {text}")

    @property
    def num_frames(self) -> int:
        """T, the closing frame of a wrapped clip included."""
        return len(self.joint_position_rad)

    @property
    def num_joints(self) -> int:
        """Number of joints."""
        return len(self.joint_names)

    @property
    def duration_s(self) -> float:
        """Time from the first frame to the last; of a wrapped clip, its period."""
        return (self.num_frames - 1) / self.frame_rate_hz

    @property
    def phase(self) -> np.ndarray:
        """Phase of each frame: [0, 1) cyclic for ``wrap`` (the last frame is 0 again), 0..1 for ``clamp``. Shape (T,)."""
        phase = np.arange(self.num_frames) / (self.num_frames - 1)
        return phase % 1.0 if self.loop == "wrap" else phase

    @property
    def seam_rad(self) -> float:
        """Largest joint jump between the last frame and the first."""
        return float(np.abs(_angle(self.joint_position_rad[-1] - self.joint_position_rad[0])).max(initial=0.0))

    @property
    def closes(self) -> bool:
        """A wrapped clip whose seam is no larger than one of its own steps between frames."""
        step = np.abs(_angle(np.diff(self.joint_position_rad, axis=0))).max(initial=0.0)
        return self.loop == "wrap" and self.seam_rad <= step

    @property
    def joint_velocity_rad_s(self) -> np.ndarray:
        """Central differences, across the seam where the clip closes; angles are taken modulo 2π. Shape (T, num_joints)."""
        after, before, elapsed_s = self._neighbours()
        return _angle(self.joint_position_rad[after] - self.joint_position_rad[before]) / elapsed_s[:, None]

    @property
    def root_linear_velocity_m_s(self) -> np.ndarray:
        """World frame, one-sided at both ends (a root seldom returns to where it began). Shape (T, 3)."""
        return np.gradient(self.root_position_m, 1 / self.frame_rate_hz, axis=0)

    @property
    def root_angular_velocity_rad_s(self) -> np.ndarray:
        """World frame, one-sided at both ends. Shape (T, 3)."""
        after = np.minimum(np.arange(self.num_frames) + 1, self.num_frames - 1)
        before = np.maximum(np.arange(self.num_frames) - 1, 0)
        turned = multiply(self.root_quaternion_wxyz[after], conjugate(self.root_quaternion_wxyz[before]))
        return rotation_vector(turned) * self.frame_rate_hz / (after - before)[:, None]

    @property
    def forward_velocity_m_s(self) -> float:
        """Mean velocity along the root's own heading, over the clip."""
        steps = np.diff(self.root_position_m[:, :2], axis=0)
        angle = heading(self.root_quaternion_wxyz[:-1])
        forward = steps[:, 0] * np.cos(angle) + steps[:, 1] * np.sin(angle)
        return float(forward.sum() / self.duration_s)

    def sample(self, time_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pose at any time: joints and position interpolated linearly, orientation by slerp; wrapped or clamped as the clip says.

        Args:
            time_s: seconds since the first frame, any sign. Shape (n,).

        Returns:
            joint_position_rad (n, num_joints), root_position_m (n, 3), root_quaternion_wxyz (n, 4).
        """
        time_s = np.asarray(time_s, dtype=np.float64)
        cycles = time_s / self.duration_s
        cycle = np.floor(cycles) if self.loop == "wrap" else np.zeros_like(cycles)
        place = np.clip(cycles - cycle, 0.0, 1.0) * (self.num_frames - 1)
        low = np.minimum(place.astype(np.int64), self.num_frames - 2)
        blend = (place - low)[:, None]
        joints = self.joint_position_rad[low] + blend * _angle(self.joint_position_rad[low + 1] - self.joint_position_rad[low])
        position = (1 - blend) * self.root_position_m[low] + blend * self.root_position_m[low + 1]
        quaternion = slerp(self.root_quaternion_wxyz[low], self.root_quaternion_wxyz[low + 1], blend[:, 0])
        return joints, *self._carry_on(position, quaternion, cycle)

    def resample(self, frame_rate_hz: float) -> Motion:
        """The same clip at another frame rate.

        A wrapped clip must last whole frames or its seam would jump, so its period is rounded to the nearest frame: it plays
        faster or slower by at most half a frame a cycle. A clamped one ends on its last pose.
        """
        if not (np.isfinite(frame_rate_hz) and frame_rate_hz > 0):
            raise self._error(f"cannot be resampled to {frame_rate_hz} Hz; a frame rate must be above 0")
        steps = max(1, round(self.duration_s * frame_rate_hz))
        if self.loop == "wrap":
            time_s = np.linspace(0.0, self.duration_s, steps + 1)
        else:
            time_s = np.minimum(np.arange(steps + 1) / frame_rate_hz, self.duration_s)
        # The closing frame itself, not the first frame of the cycle after it: the root has moved on.
        ending = replace(self, loop="clamp")
        joints, position, quaternion = ending.sample(time_s)
        return replace(
            self, joint_position_rad=joints, root_position_m=position, root_quaternion_wxyz=quaternion, frame_rate_hz=float(frame_rate_hz)
        )

    def stretched(self, factor: float) -> Motion:
        """The same frames, played ``factor`` times as slowly."""
        return replace(self, frame_rate_hz=self.frame_rate_hz / factor)

    def _neighbours(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frames after and before each frame, and the time between the two: across the seam only when the clip closes."""
        index = np.arange(self.num_frames)
        after, before = index + 1, index - 1
        if self.closes:
            # The last frame stands for the first: their neighbours are each other's.
            after[-1], before[0] = 1, self.num_frames - 2
            apart = np.full(self.num_frames, 2.0)
        else:
            after[-1], before[0] = index[-1], 0
            apart = (after - before).astype(np.float64)
        return after, before, apart / self.frame_rate_hz

    def _carry_on(self, position: np.ndarray, quaternion: np.ndarray, cycle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move and turn poses by what the cycles before them covered."""
        if self.loop == "clamp" or not (self.offsets_position or self.offsets_rotation):
            return position, quaternion
        start, moved = self.root_position_m[0], self.root_position_m[-1] - self.root_position_m[0]
        moved = moved * np.array([1.0, 1.0, 0.0])  # a clip that ends a little higher must not climb for ever
        turn = 0.0
        if self.offsets_rotation:
            turn = float(_angle(heading(self.root_quaternion_wxyz[-1:]) - heading(self.root_quaternion_wxyz[:1]))[0])
        relative = rotate_about_z(position - start, cycle * turn)
        turned_half = np.stack([np.cos(cycle * turn / 2), *np.zeros((2, len(cycle))), np.sin(cycle * turn / 2)], axis=1)
        offset = np.zeros_like(position)
        if self.offsets_position:
            # Sum over the cycles before: each one's displacement in the heading in which it began.
            whole = np.unique(cycle)
            for count in whole:
                order = np.arange(count) if count >= 0 else np.arange(count, 0)
                headings = rotate_about_z(np.broadcast_to(moved, (len(order), 3)), order * turn)
                offset[cycle == count] = np.sign(count) * headings.sum(axis=0)
        return start + relative + offset, multiply(turned_half, quaternion)


def _angle(difference: np.ndarray) -> np.ndarray:
    """Angle differences brought into (-π, π]."""
    return difference - 2 * np.pi * np.ceil((difference - np.pi) / (2 * np.pi))
