"""Other times for the same frames: what a recording looks like that goes locally faster or slower.

New frames stay on the frame clock; each shows the old recording at another time. Between two old frames, numbers are interpolated
linearly, orientations by slerp, angles that are kept as sine and cosine along the circle; booleans, whole numbers and images are those of
the nearest frame. Quantities per second are multiplied by the local speed v, those per second squared by v²; an accelerometer's
reading holds gravity, which does not change with speed: the reading minus gravity is scaled where projected gravity is recorded.
The term that a changing speed adds to accelerations is left out.
"""

from __future__ import annotations

import numpy as np

from cluster.lerobot.episodes import Episode
from cluster.lerobot.features import Feature
from trainables.datasets.augmentation.columns import mark_end, with_clock
from trainables.datasets.augmentation.components import Layout, in_rows, with_rows
from trainables.motions.rotation import slerp

__all__ = ["Warp", "random_warp", "resample", "uniform_warp"]

_GRAVITY_M_S2 = 9.81
_FINE = 16
"""Points a frame at which a warp is integrated."""


class Warp:
    """Which old frame each new frame shows, and how fast time runs there.

    Attributes:
        position: in old frames, from 0 to the last, rising. Shape (new frames,).
        speed: old seconds per new second. Shape (new frames,).
    """

    def __init__(self, position: np.ndarray, speed: np.ndarray) -> None:
        self.position, self.speed = position, speed


def uniform_warp(frames: int, factor: float) -> Warp:
    """The whole recording ``factor`` times as fast, both ends kept; whole frames make the factor exact only to half a frame."""
    if frames < 2:
        return Warp(np.zeros(frames), np.ones(frames))
    steps = max(1, round((frames - 1) / factor))
    return Warp(np.linspace(0.0, frames - 1, steps + 1), np.full(steps + 1, (frames - 1) / steps))


def random_warp(frames: int, fps: float, strength: float, period_s: float, random: np.random.Generator) -> Warp:
    """A smooth, monotone warp with both ends kept.

    The logarithm of the speed goes through knots drawn uniformly from +-log(1 + strength), by a cubic without overshoot.
    """
    from scipy.interpolate import PchipInterpolator

    if frames < 3:
        return uniform_warp(frames, 1.0)
    duration_s = (frames - 1) / fps
    knots = max(2, round(duration_s / period_s)) + 1
    largest = np.log1p(strength)
    place = np.linspace(0, frames - 1, knots)
    fine = np.linspace(0, frames - 1, (frames - 1) * _FINE + 1)
    # PCHIP stays between neighbouring knots: no speed beyond the largest.
    speed = np.exp(PchipInterpolator(place, random.uniform(-largest, largest, knots))(fine))
    elapsed = np.concatenate([[0.0], np.cumsum(0.5 * (1 / speed[1:] + 1 / speed[:-1]) / _FINE)])
    steps = max(1, round(elapsed[-1]))
    # The last new frame is the last old one: time is stretched by less than half a frame over the whole.
    stretch = steps / elapsed[-1]
    position = np.interp(np.arange(steps + 1), elapsed * stretch, fine)
    position[0], position[-1] = 0.0, frames - 1
    return Warp(position, np.interp(position, fine, speed) / stretch)


def resample(episode: Episode, warp: Warp, layout: Layout, fps: float) -> Episode:
    """The recording as ``warp`` has it. Videos must have been left out (``check`` refuses them)."""
    nearest = np.minimum(np.floor(warp.position + 0.5).astype(np.int64), episode.length - 1)
    columns = {name: np.asarray(values)[nearest] for name, values in episode.columns.items()}
    changed = Episode(episode.key, episode.task, columns, episode.about, episode.videos, episode.split, episode.origin)
    own = [layout.features[name] for name in episode.columns if np.dtype(_dtype(layout.features[name])).kind == "f"]
    rows = {feature.name: _linear(in_rows(episode, feature), warp.position) for feature in own if feature.name != "timestamp"}
    for feature, sine, cosine in layout.phases():
        _along_circle(rows[feature], in_rows(episode, layout.features[feature]), sine, cosine, warp.position)
    for feature, places in layout.quaternions():
        rows[feature][:, places] = _slerp(in_rows(episode, layout.features[feature])[:, places], warp.position)
    for name, values in rows.items():
        if name in layout.components:
            _rescale(values, name, rows, layout, warp.speed)
    return mark_end(episode, with_clock(with_rows(changed, rows, layout.features), fps))


def _dtype(feature: Feature) -> str:
    return "O" if feature.is_visual else feature.dtype


def _linear(values: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Shape (frames, n) at positions (m,) -> (m, n); at a whole position, that frame exactly."""
    low = np.clip(position.astype(np.int64), 0, max(len(values) - 2, 0))
    high = np.minimum(low + 1, len(values) - 1)
    share = (position - low)[:, None]
    return (1.0 - share) * values[low] + share * values[high]


def _along_circle(rows: np.ndarray, values: np.ndarray, sine: int, cosine: int, position: np.ndarray) -> None:
    """Interpolate the angle, not its sine and cosine, whose chord would be too short."""
    angle = np.unwrap(np.arctan2(values[:, sine], values[:, cosine]))
    radius = np.hypot(values[:, sine], values[:, cosine])
    turned = _linear(np.stack([angle, radius], axis=1), position)
    rows[:, sine] = turned[:, 1] * np.sin(turned[:, 0])
    rows[:, cosine] = turned[:, 1] * np.cos(turned[:, 0])


def _slerp(values: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Orientations (w, x, y, z), brought to norm 1. Shape (frames, 4) -> (m, 4)."""
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    unit = np.divide(values, norm, out=np.tile([1.0, 0.0, 0.0, 0.0], (len(values), 1)), where=norm > 0)
    low = np.clip(position.astype(np.int64), 0, max(len(values) - 2, 0))
    return slerp(unit[low], unit[np.minimum(low + 1, len(values) - 1)], position - low)


def _rescale(values: np.ndarray, name: str, rows: dict[str, np.ndarray], layout: Layout, speed: np.ndarray) -> None:
    gravity = {component.part: component for component in layout.every() if "projected_gravity" in component.text}
    for component in layout.components[name]:
        order = component.rate_order
        if order == 0:
            continue
        rest = 0.0
        held = gravity.get(component.part)
        if order == 2 and component.is_sensed and held is not None and "angular" not in component.text:
            # At rest an accelerometer reads the floor's push, g upward: minus the direction of gravity.
            rest = -_GRAVITY_M_S2 * rows[held.feature][:, held.index]
        values[:, component.index] = rest + (values[:, component.index] - rest) * speed**order
