"""Episodes against each other: what no episode shows by itself. Works on the rows that the tasks returned, on the driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainables.datasets.quality.config import QualityConfig
from trainables.datasets.quality.measure import EpisodeRow
from trainables.datasets.quality.model import Finding
from trainables.datasets.quality.signals import Signals
from trainables.datasets.quality.sketch import near_copies

__all__ = ["compare_episodes", "tukey_fences"]

LEAST_DISTINCT = 10
"""Frames below which equal sets of frames say nothing: an arm at rest looks the same in every episode."""
ROUGHENING = frozenset({"spikes", "chatter", "frozen_sensor", "dropped_frames", "repeated_frames", "not_finite"})
"""Findings that explain a rough or wandering path, which is then not said again."""


def compare_episodes(rows: Sequence[EpisodeRow], signals: Signals, fps: int, config: QualityConfig) -> None:
    """Add findings to the rows, in place. Rows that could not be read or are too short are left alone."""
    usable = [row for row in rows if row.vectors]
    _duplicates(usable, config)
    tasks: dict[str, list[EpisodeRow]] = {}
    for row in usable:
        tasks.setdefault(row.task, []).append(row)
    for peers in tasks.values():
        if len(peers) >= config.peers_least:
            _outliers(peers, config)
            _stillness(peers, signals, config)
            _channels(peers, signals)
            _offsets(peers, signals, config)
    _lags(usable, fps, config)


def tukey_fences(values: np.ndarray, k: float, least: float = 0.0) -> tuple[float, float]:
    """Tukey's fences: quartiles minus and plus k interquartile ranges, these at least ``least``."""
    low, high = np.quantile(values, [0.25, 0.75])
    reach = k * max(high - low, least)
    return float(low - reach), float(high + reach)


def _duplicates(rows: Sequence[EpisodeRow], config: QualityConfig) -> None:
    first: dict[bytes, EpisodeRow] = {}
    different = []
    for row in rows:
        if row.digest in first:
            _add(row, "duplicate", "defect", f"is an exact copy of episode {_number(first[row.digest])}")
        else:
            first[row.digest] = row
            if row.measures.get("distinct_frames", 0.0) >= LEAST_DISTINCT:
                different.append(row)
    if len(different) < 2:
        return
    for place, (earlier, share) in near_copies(np.stack([row.signature for row in different]), config.near_copy).items():
        text = f"shares about {share:.0%} of its frames with episode {_number(different[earlier])}"
        _add(different[place], "near_duplicate", "risk", text)


def _outliers(peers: Sequence[EpisodeRow], config: QualityConfig) -> None:
    """Length, smoothness and straightness far outside what the task's others have; idle or unsteady where they are not."""
    seconds = np.array([row.duration_s for row in peers])
    low, high = tukey_fences(seconds, config.tukey_k, 0.02 * float(np.median(seconds)))
    for row in peers:
        if not low <= row.duration_s <= high:
            text = f"lasts {row.duration_s:.3g} s; half of the episodes of its task last {_middle(seconds)} s"
            _add(row, "length", "risk", text)
    for name, check, label, least in (
        ("smoothness_ldlj", "smoothness", "is less smooth than its task's others: log dimensionless jerk", 0.5),
        ("path_efficiency", "path_efficiency", "wanders more than its task's others: path efficiency", 0.03),
    ):
        values = np.array([row.measures.get(name, np.nan) for row in peers])
        known = values[np.isfinite(values)]
        if len(known) < config.peers_least:
            continue
        low, _ = tukey_fences(known, config.tukey_k, least)
        for row, value in zip(peers, values, strict=True):
            if value < low and not any(finding.check in ROUGHENING for finding in row.findings):
                _add(row, check, "risk", f"{label} {value:.3g}, half of them have {_middle(known)}")
    idle = np.array([row.measures.get("idle_share", 0.0) for row in peers])
    steady = np.array([row.measures.get("final_stability", 1.0) for row in peers])
    usually_idle, settled = float(np.median(idle)), bool(np.quantile(steady, 0.25) > config.settled_end)
    for row, share, end in zip(peers, idle, steady, strict=True):
        if share >= config.idle_share and usually_idle < config.idle_share / 2:
            _add(row, "idle", "risk", f"nothing moves in {share:.0%} of it; the median of its task is {usually_idle:.0%}")
        if settled and end < config.moving_end:
            _add(row, "final_stability", "risk", f"is still moving at its end (stability {end:.2f}); its task's others have come to rest")


def _stillness(peers: Sequence[EpisodeRow], signals: Signals, config: QualityConfig) -> None:
    """Sensors that stand still although they usually change at every frame; commands stuck or clipped as in no other episode."""
    _clipped(peers, signals, config)
    for name, channel in (("sensor", signals.sensors), ("command", signals.action)):
        if channel is None or f"{name}_still_s" not in peers[0].vectors:
            continue
        still, start = (np.stack([row.vectors[f"{name}_still_{kind}"] for row in peers]) for kind in ("s", "at_s"))
        if name == "sensor":
            usual = np.median(np.stack([row.vectors["sensor_changes"] for row in peers]), axis=0) >= config.sensor_changes_share
            odd = usual & (still >= config.still_s)
        else:
            upper = np.quantile(still, 0.75, axis=0)
            odd = (still >= 2 * config.still_s) & (still > config.peer_ratio * np.maximum(upper, config.still_s / 2))
        for episode, component in np.argwhere(odd):
            row, label = peers[episode], channel.labels[component]
            if _known(row, channel.names[component], "frozen_sensor", "stuck_command", "clipped"):
                continue
            held_s, at_s = float(still[episode, component]), float(start[episode, component])
            check = "frozen_sensor" if name == "sensor" else "stuck_command"
            text = f"{label} is frozen" if name == "sensor" else f"command of {label} is stuck"
            half = f"half of its task's episodes hold it for {_middle(still[:, component])} s"
            text += f" for {held_s:.2g} s from {at_s:.2f} s; {'it usually changes at every frame' if name == 'sensor' else half}"
            where = {"component": channel.names[component], "column": channel.column, "start_s": at_s, "end_s": at_s + held_s}
            _add(row, check, "defect", text, **where)


def _clipped(peers: Sequence[EpisodeRow], signals: Signals, config: QualityConfig) -> None:
    """Commands that lie flat at their own extreme as in no other episode. What follows from it, a fast way between two ends, goes."""
    if signals.action is None:
        return
    clipped = np.stack([row.vectors["command_clipped"] for row in peers])
    upper = np.quantile(clipped, 0.75, axis=0)
    odd = (clipped >= config.clipped_share) & (clipped > config.peer_ratio * upper) & (clipped > upper + config.clipped_share)
    for episode, component in np.argwhere(odd):
        row, name = peers[episode], signals.action.names[component]
        if _known(row, name, "stuck_command"):
            continue
        text = f"command of {signals.action.labels[component]} lies flat at its own extreme in {clipped[episode, component]:.0%}"
        text += f" of the frames, as if cut off; in half of its task's episodes that is {_middle(100 * clipped[:, component])} %"
        row.findings = [item for item in row.findings if (item.check, item.column, item.component) != ("spikes", "action", name)]
        _add(row, "clipped", "defect", text, component=name, column="action")


def _known(row: EpisodeRow, component: str, *checks: str) -> bool:
    return any(finding.component == component and finding.check in checks for finding in row.findings)


def _channels(peers: Sequence[EpisodeRow], signals: Signals) -> None:
    """A joint that does not follow its command while it does in the others."""
    if signals.action is None or not signals.pairs or "own" not in peers[0].vectors:
        return
    own = np.stack([row.vectors["own"] for row in peers])
    with np.errstate(all="ignore"):
        usual = np.array([np.median(column[np.isfinite(column)]) if np.isfinite(column).sum() >= 4 else np.nan for column in own.T])
    odd = (own < 0.3) & (usual > 0.7)
    for episode, pair in np.argwhere(odd):
        row, place = peers[episode], signals.pairs[pair][1]
        if any(finding.severity == "defect" for finding in row.findings):
            continue  # explained already
        text = (
            f"{signals.action.labels[place]} does not follow its command (correlation {own[episode, pair]:.2f}; usually {usual[pair]:.2f})"
        )
        _add(row, "channels", "defect", text, component=signals.action.names[place], column="action")


def _offsets(peers: Sequence[EpisodeRow], signals: Signals, config: QualityConfig) -> None:
    """A joint that stays far from its command as in no other episode of its task: exchanged channels, a wrong zero, an obstacle."""
    if signals.state is None or "offset" not in peers[0].vectors:
        return
    offsets = np.stack([row.vectors["offset"] for row in peers])
    for pair, (left, _) in enumerate(signals.pairs):
        own, name = offsets[:, pair], signals.state.names[left]
        low, high = tukey_fences(own, config.tukey_k, config.offset_range / (2 * config.tukey_k))
        odd = np.flatnonzero(((own < low) | (own > high)) & (np.abs(own - np.median(own)) > config.offset_range))
        for episode in odd:
            if any(finding.severity == "defect" and finding.column == "action" for finding in peers[episode].findings):
                continue  # explained already
            size = f"{own[episode]:+.0%} of its range"
            text = f"{signals.state.labels[left]} stays {size} from its command; in half of its task's episodes {_middle(100 * own)} %"
            _add(peers[episode], "offset", "defect", text, component=name, column=signals.state.column)


def _lags(rows: Sequence[EpisodeRow], fps: int, config: QualityConfig) -> None:
    lags = np.array([row.measures.get("lag_frames", np.nan) for row in rows])
    known = lags[np.isfinite(lags)]
    median = float(np.median(known)) if len(known) else np.nan
    for row, lag in zip(rows, lags, strict=True):
        if not np.isfinite(lag):
            continue
        if lag <= -config.lead_defect_frames:
            text = f"joints move {-lag:.0f} frames ({-lag / fps * 1e3:.0f} ms) before their commands: the commands were logged late"
            text += f"; the dataset's median is {median:+.0f}" if len(known) >= config.peers_least else ""
            _add(row, "lag", "defect", text, column="action")
        elif len(known) >= config.peers_least and abs(lag - median) >= config.lag_off_frames:
            text = f"joints follow their commands by {lag:.0f} frames ({lag / fps * 1e3:.0f} ms); the dataset's median is {median:.0f}"
            _add(row, "lag", "defect", text, column="action")


def _middle(values: np.ndarray) -> str:
    low, high = np.quantile(values, [0.25, 0.75])
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"


def _number(row: EpisodeRow) -> str:
    return row.key.lstrip("0") or "0" if row.key.isdigit() else row.key


def _add(row: EpisodeRow, check: str, severity: str, text: str, **where: Any) -> None:
    row.findings.append(Finding.model_validate({"check": check, "severity": severity, "text": text, **where}))
