"""Quaternion arithmetic on batches: ``(w, x, y, z)``, shape (n, 4), unit norm. Formulas: Shoemake, SIGGRAPH 1985 (slerp)."""

from __future__ import annotations

import numpy as np

__all__ = ["conjugate", "heading", "multiply", "rotate", "rotate_about_z", "rotation_vector", "slerp"]


def multiply(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Hamilton product, row by row; either side may be one quaternion. Shape (n, 4)."""
    w1, x1, y1, z1 = np.moveaxis(np.asarray(left, dtype=np.float64), -1, 0)
    w2, x2, y2, z2 = np.moveaxis(np.asarray(right, dtype=np.float64), -1, 0)
    return np.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        axis=-1,
    )


def conjugate(quaternion: np.ndarray) -> np.ndarray:
    """The inverse rotation. Shape (n, 4)."""
    return np.asarray(quaternion) * np.array([1.0, -1.0, -1.0, -1.0])


def rotate(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Turn vectors (n, 3) by quaternions (n, 4); either side may be one row."""
    vector = np.asarray(vector, dtype=np.float64)
    pure = np.concatenate([np.zeros((*vector.shape[:-1], 1)), vector], axis=-1)
    return multiply(multiply(quaternion, pure), conjugate(quaternion))[..., 1:]


def rotate_about_z(vector: np.ndarray, angle_rad: np.ndarray) -> np.ndarray:
    """Turn vectors (n, 3) about the vertical by angles (n,)."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    x, y, z = np.moveaxis(vector, -1, 0)
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1)


def heading(quaternion: np.ndarray) -> np.ndarray:
    """Angle about the vertical in which the body's x axis points, rad. Shape (n,)."""
    forward = rotate(quaternion, np.array([1.0, 0.0, 0.0]))
    return np.arctan2(forward[..., 1], forward[..., 0])


def rotation_vector(quaternion: np.ndarray) -> np.ndarray:
    """Axis times angle, the short way round, rad. Shape (n, 3)."""
    quaternion = np.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    sine = np.linalg.norm(quaternion[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, quaternion[..., :1])
    # angle / sin(angle / 2) tends to 2 where the axis cannot be told any more.
    scale = np.divide(angle, sine, out=np.full_like(sine, 2.0), where=sine > 1e-12)
    return quaternion[..., 1:] * scale


def slerp(start: np.ndarray, end: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """Constant-speed interpolation the short way round. Shapes (n, 4), (n, 4), (n,) -> (n, 4)."""
    cosine = np.sum(start * end, axis=1, keepdims=True)
    end = np.where(cosine < 0, -end, end)
    angle = np.arccos(np.clip(np.abs(cosine), 0.0, 1.0))
    fraction = np.asarray(fraction, dtype=np.float64)[:, None]
    sine = np.sin(angle)
    close = sine < 1e-6  # straight lines and arcs are one there, and sin(angle) divides badly
    divisor = np.where(close, 1.0, sine)
    first = np.where(close, 1 - fraction, np.sin((1 - fraction) * angle) / divisor)
    second = np.where(close, fraction, np.sin(fraction * angle) / divisor)
    mixed = first * start + second * end
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
