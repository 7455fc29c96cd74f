"""One episode: all that is measured of it, as one small row. Pure NumPy; what the tasks run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cluster.lerobot.episodes import Episode
from trainables.datasets.quality.config import QualityConfig
from trainables.datasets.quality.following import follow, start_jump
from trainables.datasets.quality.jumps import chatter, spikes
from trainables.datasets.quality.limits import Limits
from trainables.datasets.quality.model import Finding
from trainables.datasets.quality.motion import final_stability, idle, log_dimensionless_jerk, path_efficiency, smooth_path
from trainables.datasets.quality.runs import Runs, filled, find_runs, median
from trainables.datasets.quality.scales import Scales
from trainables.datasets.quality.signals import Channel, Signals
from trainables.datasets.quality.sketch import content_digest, min_hash, sampled
from trainables.datasets.quality.stillness import Partners, at_limits, clipped_share, held_frames, still_while_partner_moves
from trainables.datasets.quality.timing import Timing, measure_timing

__all__ = ["EpisodeRow", "Ruler"]


@dataclass
class EpisodeRow:
    """What a task returns of one episode; some kilobytes."""

    key: str
    task: str = ""
    frames: int = 0
    duration_s: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    measures: dict[str, float] = field(default_factory=dict)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    """Figures by component, for the comparison with other episodes: see ``Ruler._vectors``."""
    digest: bytes = b""
    signature: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32))
    states: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """Some of its states, in ranges."""
    problem: str = ""
    """Why it could not be read; everything else is then empty."""


@dataclass(frozen=True)
class Ruler:
    """Measures episodes of one dataset. Travels to the tasks."""

    signals: Signals
    scales: Scales
    state_limits: Limits | None
    action_limits: Limits | None
    fps: int
    states_kept: int
    config: QualityConfig

    def measure(self, episode: Episode) -> EpisodeRow:
        """All of one episode."""
        row = EpisodeRow(episode.key, episode.task, episode.length, episode.length / self.fps)
        is_finite = self._check_numbers(episode, row)
        channels = (self.signals.state, self.signals.action)
        row.digest = content_digest([episode.columns[channel.column] for channel in channels if channel])
        stamps = episode.columns["timestamp"] if self.signals.has_time and "timestamp" in episode.columns else None
        timing = measure_timing(stamps, episode.length, self.fps, self.config)
        row.findings += timing.findings
        row.measures |= timing.measures
        if episode.length < self.config.least_frames:
            text = f"has {episode.length} frames; {self.config.least_frames} are the least that can be judged"
            row.findings.append(Finding(check="too_short", severity="defect", text=text))
            return row
        values = {channel.column: channel.of(episode) for channel in channels if channel}
        if not is_finite:
            values = {name: filled(part) for name, part in values.items()}
        # The whole state is only held against itself, bit by bit: as it was stored, and NaN is no trouble.
        sensors = self.signals.sensors.raw(episode) if self.signals.sensors else None
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            self._measure(row, values, sensors, timing)
        row.measures = {name: float(value) for name, value in row.measures.items()}
        return row

    def _check_numbers(self, episode: Episode, row: EpisodeRow) -> bool:
        """Whether every number is finite; what is not is found."""
        is_finite = True
        for name in self.signals.checked:
            values = episode.columns.get(name)
            if values is None or np.isfinite(values).all():
                continue
            is_finite = False
            bad = ~np.isfinite(np.asarray(values).reshape(len(values), -1))
            frame, place = (int(index) for index in np.argwhere(bad)[0])
            part = next((channel for channel in (self.signals.sensors, self.signals.action) if channel and channel.column == name), None)
            component = part.names[place] if part else name
            text = f"{component} is NaN or infinite in {int(bad.any(axis=1).sum())} frames, first at frame {frame}"
            at_s = frame / self.fps
            row.findings.append(
                Finding(check="not_finite", severity="defect", text=text, component=component, column=name, start_s=at_s, end_s=at_s)
            )
        return is_finite

    def _measure(self, row: EpisodeRow, values: dict[str, np.ndarray], sensors: np.ndarray | None, timing: Timing) -> None:
        signals, scales, config, fps = self.signals, self.scales, self.config, float(self.fps)
        position = values[signals.position.column]
        in_ranges = position / scales.position
        moved = values["action"] / scales.action if signals.action and scales.action is not None else in_ranges
        runs = {"action": find_runs(values["action"])} if signals.action else {}
        sensor_runs = find_runs(sensors) if sensors is not None else None
        if signals.state and sensor_runs:
            runs[signals.state.column] = sensor_runs.of(signals.state.indices)
        idle_mask, figures, findings = idle(moved, fps, config)
        row.measures |= figures
        row.findings += findings
        path = smooth_path(in_ranges, fps)
        row.measures["smoothness_ldlj"] = log_dimensionless_jerk(in_ranges, path)
        row.measures["path_efficiency"] = path_efficiency(path)
        row.measures["final_stability"] = final_stability(in_ranges, fps)
        count = 0.0
        for channel, scale, limits in self._channels():
            own = values[channel.column]
            found, findings = spikes(own, channel, scale, runs[channel.column], timing.periods, timing.seconds, config)
            count += found
            row.findings += findings
            if limits is not None:
                figures, findings = at_limits(own, channel, limits, ~idle_mask, timing.seconds, config)
                row.measures |= {name: max(value, row.measures.get(name, 0.0)) for name, value in figures.items()}
                row.findings += findings
        row.measures["spikes"] = count
        commanded = signals.action or signals.position
        figures, findings = chatter(values[commanded.column], commanded, self._scale(commanded), config)
        row.measures |= figures
        row.findings += findings
        if sensor_runs is not None:
            share, findings = held_frames(sensor_runs.whole, position, scales.position, timing.seconds, config)
            row.measures["repeated_share"] = share
            row.findings += findings
        self._vectors(row, values, in_ranges, moved, runs, sensor_runs, timing.periods, idle_mask)
        row.signature, distinct = min_hash(in_ranges)
        row.measures["distinct_frames"] = distinct
        row.states = sampled(in_ranges, self.states_kept)

    def _vectors(
        self,
        row: EpisodeRow,
        values: dict[str, np.ndarray],
        in_ranges: np.ndarray,
        moved: np.ndarray,
        runs: dict[str, Runs],
        sensor_runs: Runs | None,
        periods: np.ndarray,
        idle_mask: np.ndarray,
    ) -> None:
        """Fill ``row.vectors``, and find what a component and its partner show together.

        ``mean`` (position, in ranges); ``sensor_changes`` (share of frames), ``sensor_still_s`` and ``sensor_still_at_s`` of the whole
        state; ``command_still_s``, ``command_still_at_s``, ``command_clipped`` and ``command_span`` (in ranges); of each pair ``own``
        (correlation) and ``offset`` (median of position minus command, in ranges).
        """
        signals, scales, config, fps = self.signals, self.scales, self.config, float(self.fps)
        vectors: dict[str, np.ndarray] = {"mean": in_ranges.mean(axis=0)}
        state, action = (values[channel.column] if channel else None for channel in (signals.state, signals.action))
        left, right = (list(places) for places in zip(*signals.pairs, strict=True)) if signals.pairs else ([], [])
        if sensor_runs is not None:
            vectors["sensor_changes"] = sensor_runs.changes
            vectors |= {"sensor_still_s": sensor_runs.longest / fps, "sensor_still_at_s": sensor_runs.first / fps}
        if action is not None and signals.action and scales.action is not None:
            commands, is_idle = runs["action"], bool(idle_mask.any())
            if is_idle and commands.before is not None:
                # While all commands rest none of them is stuck: NaN, which equals nothing, ends a run.
                commands = find_runs(np.where(idle_mask[:, None], np.nan, action))
            vectors |= {"command_still_s": commands.longest / fps, "command_still_at_s": commands.first / fps}
            vectors["command_clipped"] = clipped_share(action[~idle_mask] if is_idle else action, scales.action)
            vectors["command_span"] = (action.max(axis=0) - action.min(axis=0)) / scales.action
            if state is not None and signals.state and left:
                beside = Partners(action, scales.action, dict(signals.pairs))
                row.findings += still_while_partner_moves(state, signals.state, runs[signals.state.column], beside, fps, config)
                beside = Partners(state, scales.position, {other: one for one, other in signals.pairs})
                row.findings += still_while_partner_moves(action, signals.action, commands, beside, fps, config)
                following = follow(in_ranges, moved, periods, signals, fps, config)
                row.findings += [*following.findings, *start_jump(in_ranges, moved, signals, fps, config)]
                row.measures |= {"lag_frames": following.lag_frames, "lag_ms": following.lag_frames * 1000 / fps}
                row.measures["lag_correlation"] = following.correlation
                vectors["own"] = following.own
                vectors["offset"] = median(state[:, left] - action[:, right]) / scales.position[left]
        row.vectors = {name: np.asarray(vector, np.float32) for name, vector in vectors.items()}

    def _channels(self) -> list[tuple[Channel, np.ndarray, Limits | None]]:
        signals, scales = self.signals, self.scales
        both = [(signals.state, scales.state, self.state_limits), (signals.action, scales.action, self.action_limits)]
        return [(channel, scale, limits) for channel, scale, limits in both if channel is not None and scale is not None]

    def _scale(self, channel: Channel) -> np.ndarray:
        return next(scale for own, scale, _ in self._channels() if own is channel)
