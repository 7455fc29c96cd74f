"""Every threshold of the grader in one place, each with its reason or source.

Where a source is named, it says what to measure; no publication gives cut-offs for every robot and rate. Those marked "ours" were set
so that clean recordings of a simulated quadruped and a real arm stay quiet, with room to spare.
"""

from __future__ import annotations

from pydantic import Field

from cluster.config import Config

__all__ = ["QualityConfig"]


class QualityConfig(Config):
    """Thresholds. A *range* below is that of the component in this dataset, see ``scales.probe``."""

    # Time. A period is 1 / fps.
    gap_periods: float = Field(1.5, gt=1, description="an interval longer than this many periods hides a dropped frame; half-way to two")
    dropped_defect_share: float = Field(0.01, ge=0, le=1, description="share of dropped frames that is a defect; fewer are a risk (ours)")
    gap_defect_s: float = Field(0.25, gt=0, description="one gap this long is a defect: a person reacts within it (ours)")
    jitter_risk: float = Field(0.1, gt=0, description="standard deviation of the intervals, in periods, that is a risk (ours)")
    rate_tolerance: float = Field(0.05, gt=0, lt=1, description="share by which an episode's rate may differ from the dataset's (ours)")
    held_defect_share: float = Field(0.05, ge=0, le=1, description="share of frames repeated in mid-motion that is a defect (ours)")
    held_risk_share: float = Field(0.01, ge=0, le=1, description="share of them that is a risk (ours)")
    held_speed: float = Field(0.005, gt=0, description="range a frame before and after a frame that makes it 'in mid-motion' (ours)")
    least_frames: int = Field(8, ge=4, description="an episode shorter than this is a defect: no derivative can be taken")

    # Jumps.
    spike_median_ratio: float = Field(15.0, gt=1, description="one-frame step against the component's median step; used by public scorers")
    spike_robust_z: float = Field(10.0, gt=0, description="and against median + z · 1.4826 · MAD (Iglewicz and Hoaglin 1993 take 3.5)")
    spike_local_ratio: float = Field(
        6.0, gt=1, description="and against the third largest of the 8 steps around it: alone, not fast (ours)"
    )
    spike_range_share: float = Field(0.08, gt=0, lt=1, description="and of the component's range (ours)")
    spike_least_frames: int = Field(1, ge=1, description="spikes in an episode that are a defect; one bad target can break a servo")
    reversal_defect_share: float = Field(0.25, gt=0, le=1, description="share of frames whose step turns back; white noise has 2/3 (ours)")
    reversal_risk_share: float = Field(0.12, gt=0, le=1, description="share of them that is a risk (ours)")
    chatter_range_share: float = Field(0.015, gt=0, lt=1, description="least amplitude of what counts as chatter, in ranges (ours)")

    # Stillness and saturation.
    idle_speed: float = Field(0.02, gt=0, description="slower than this, in ranges a second on every component, is idle (ours)")
    idle_edge_s: float = Field(2.0, gt=0, description="idle lead-in or tail that is a risk (ours)")
    idle_share: float = Field(0.5, gt=0, le=1, description="idle share that is a risk where the task's episodes mostly move (ours)")
    limit_margin: float = Field(0.005, gt=0, lt=0.5, description="share of the span between limits that counts as at the limit (ours)")
    beyond_margin: float = Field(0.03, gt=0, lt=0.5, description="share of the span beyond a limit that no sensor noise explains (ours)")
    limit_risk_share: float = Field(0.25, gt=0, le=1, description="share of an episode's moving frames at a limit that is a risk (ours)")
    clipped_share: float = Field(0.1, gt=0, le=1, description="share of frames flat at the episode's own extreme: looks clipped (ours)")
    still_s: float = Field(0.5, gt=0, description="a component bit-identical this long while its partner moves is frozen or stuck (ours)")
    still_partner_range: float = Field(0.25, gt=0, le=1, description="how far the partner must move in that time, in ranges (ours)")
    sensor_changes_share: float = Field(0.9, gt=0, le=1, description="a component that changes this often normally must not stand still")

    moving_end: float = Field(0.45, gt=0, lt=1, description="final stability below which an episode is still moving at its end (ours)")
    settled_end: float = Field(0.7, gt=0, lt=1, description="and what three quarters of its task's episodes must have then (ours)")

    # Action against state.
    lag_most_s: float = Field(0.6, gt=0, description="lags looked at: later than this, a person would have stopped recording")
    lag_correlation: float = Field(0.6, gt=0, lt=1, description="least correlation at which a lag is believed (ours)")
    lead_defect_frames: int = Field(2, ge=1, description="a state this many frames before its command is a logging fault: causality")
    lag_off_frames: float = Field(3.0, gt=0, description="frames from the dataset's median lag that are a defect (ours)")
    offset_range: float = Field(0.2, gt=0, le=1, description="ranges between a joint and its command, beyond the task's usual (ours)")
    start_range: float = Field(0.15, gt=0, le=1, description="travel to a command that stands still, in ranges, that is a risk (ours)")
    channel_own: float = Field(0.3, gt=0, lt=1, description="correlation with its own command below which a channel is questioned (ours)")
    channel_other: float = Field(0.75, gt=0, lt=1, description="correlation with another's command that shows an exchange (ours)")

    # Against other episodes of the same task.
    peers_least: int = Field(8, ge=4, description="episodes of a task below which they are not compared: quartiles of fewer say little")
    tukey_k: float = Field(3.0, gt=0, description="fences of Tukey (1977) in interquartile ranges: 3 is 'far out'")
    peer_ratio: float = Field(
        3.0, gt=1, description="times the task's upper quartile that makes stillness or clipping one of a kind (ours)"
    )
    near_copy: float = Field(0.5, gt=0, le=1, description="share of common frames (Jaccard) that makes two episodes near copies (ours)")
    novel_share: float = Field(0.5, gt=0, le=1, description="share of states that no other episode visits that is a risk (ours)")
    drift_deviations: float = Field(3.0, gt=0, description="first against last third of the episodes, in standard deviations (ours)")
    drift_range: float = Field(0.05, gt=0, description="and in ranges (ours)")

    # Letters.
    dataset_share: float = Field(0.95, gt=0, le=1, description="share of episodes that must reach a letter for the dataset to have it")
