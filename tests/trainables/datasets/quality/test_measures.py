"""Single measures against what they must be by definition, an independent computation, or a property."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import parse_config
from cluster.errors import ConfigError, UsageError
from cluster.lerobot.features import Feature
from trainables.datasets.quality.config import QualityConfig
from trainables.datasets.quality.following import follow
from trainables.datasets.quality.limits import read_limits
from trainables.datasets.quality.model import LETTERS, check_letter, dataset_letter, episode_letter, reaches
from trainables.datasets.quality.motion import idle, path_efficiency, smooth_path
from trainables.datasets.quality.motion import log_dimensionless_jerk as ldlj_of
from trainables.datasets.quality.runs import filled, find_runs, gaussian, noise, smoothed, true_runs
from trainables.datasets.quality.signals import find_signals
from trainables.datasets.quality.sketch import content_digest, min_hash, near_copies
from trainables.datasets.quality.stillness import clipped_share
from trainables.datasets.quality.timing import measure_timing
from trainables.robots.registry import get_robot

CONFIG = QualityConfig()


def log_dimensionless_jerk(position: np.ndarray, rate_hz: float) -> float:
    return ldlj_of(position, smooth_path(position, rate_hz))


def minimum_jerk(frames: int, joints: int = 1) -> np.ndarray:
    share = np.linspace(0, 1, frames)[:, None]
    return (share**3 * (10 - 15 * share + 6 * share**2)) * np.ones((1, joints))


def test_smoothness_of_a_minimum_jerk_reach_is_the_published_value():
    """Of x(s) = 10 s³ - 15 s⁴ + 6 s⁵: peak velocity 15/8, integral of the squared jerk 720, so LDLJ = -ln(720 / (15/8)²) = -5.323."""
    assert log_dimensionless_jerk(minimum_jerk(4000), 100.0) == pytest.approx(-np.log(720 / (15 / 8) ** 2), abs=0.02)


@given(st.floats(0.05, 20.0), st.integers(1, 4))
def test_smoothness_has_no_unit_and_does_not_see_a_joint_that_stands_still(size, idle_joints):
    reach = minimum_jerk(300)
    still = np.concatenate([size * reach, np.full((300, idle_joints), 0.7)], axis=1)
    assert log_dimensionless_jerk(still, 50.0) == pytest.approx(log_dimensionless_jerk(reach, 50.0), abs=1e-6)


def test_smoothness_is_robust_to_sensor_noise_and_falls_with_tremor():
    reach, random = minimum_jerk(400, 3), np.random.default_rng(0)
    clean = log_dimensionless_jerk(reach, 50.0)
    noisy = log_dimensionless_jerk(reach + random.normal(0, 0.002, reach.shape), 50.0)
    plain = np.diff(reach + random.normal(0, 0.002, reach.shape), n=3, axis=0)
    unfiltered = -np.log(np.square(plain).sum(axis=1).mean() * 50.0**6 * 8.0**4 / (np.sqrt(3) * 15 / 8 / 8) ** 2)
    shaking = log_dimensionless_jerk(reach + 0.02 * np.sin(2 * np.pi * 4 * np.arange(400) / 50)[:, None], 50.0)
    assert abs(noisy - clean) < 0.65 * abs(unfiltered - clean)
    assert shaking < noisy
    assert np.isnan(log_dimensionless_jerk(np.zeros((50, 2)), 50.0))


def test_path_efficiency_is_one_on_a_line_and_falls_when_the_path_wanders():
    line = np.linspace(0, 1, 200)[:, None] * np.ones((1, 3))
    assert path_efficiency(smooth_path(line, 50.0)) == pytest.approx(1.0, abs=1e-6)
    circle = np.stack([np.cos(np.arange(200) / 8), np.sin(np.arange(200) / 8)], axis=1)
    assert path_efficiency(smooth_path(circle, 50.0)) < 0.2


def test_idle_time_is_told_at_both_ends_in_spite_of_noise():
    random = np.random.default_rng(0)
    values = np.concatenate([np.zeros((100, 2)), minimum_jerk(100, 2), np.ones((60, 2))]) + random.normal(0, 0.003, (260, 2))
    mask, figures, findings = idle(values, 20.0, CONFIG)
    assert figures["idle_lead_s"] == pytest.approx(5.0, abs=1.0)
    assert figures["idle_tail_s"] == pytest.approx(3.0, abs=1.0)
    assert mask[:90].all()
    assert not mask[120:180].any()
    assert [finding.severity for finding in findings] == ["risk", "risk"]


@given(st.integers(-12, 25), st.integers(90, 200), st.booleans())
def test_lag_and_correlation_are_those_of_a_loop_over_all_lags(lag, frames, is_fortran):
    features = [Feature(name, "float32", (3,)) for name in ("observation.state", "action")]
    signals, random = find_signals(features, "test"), np.random.default_rng(frames)
    walk = np.cumsum(random.normal(0, 0.05, (frames + 50, 3)), axis=0)
    action = walk[25 : 25 + frames]
    state = walk[25 - lag : 25 - lag + frames] + random.normal(0, 0.005, (frames, 3))
    found = follow(
        *((np.asfortranarray(part) if is_fortran else part) for part in (state, action)), np.ones(frames - 1), signals, 50, CONFIG
    )
    steps = [part[2:] - part[:-2] for part in (state, action)]
    measured, wanted = (step / np.sqrt(np.square(step).mean(axis=0)) for step in steps)
    late, soon = (measured[lag:], wanted[: len(wanted) - lag]) if lag >= 0 else (measured[:lag], wanted[-lag:])
    assert found.lag_frames == lag
    assert found.correlation == pytest.approx((late * soon).mean(), abs=1e-5)
    own = (late * soon).sum(axis=0) / np.sqrt(np.square(late).sum(axis=0) * np.square(soon).sum(axis=0))
    np.testing.assert_allclose(found.own, own, atol=1e-5)


@given(st.integers(1, 40), st.integers(1, 4), st.floats(0.1, 5.0))
def test_low_pass_is_that_of_a_loop_with_its_edges_held(frames, components, sigma_frames):
    values, kernel = np.random.default_rng(frames).normal(size=(frames, components)), gaussian(sigma_frames)
    reach = len(kernel) // 2
    places = [np.clip(np.arange(frame - reach, frame + reach + 1), 0, frames - 1) for frame in range(frames)]
    expected = np.stack([kernel @ values[place] for place in places])
    np.testing.assert_allclose(smoothed(values, kernel), expected, atol=1e-12)
    np.testing.assert_allclose(smoothed(np.asfortranarray(values), kernel), expected, atol=1e-12)


@given(st.lists(st.integers(0, 2), min_size=2, max_size=60))
def test_longest_runs_are_those_of_a_loop(values):
    runs = find_runs(np.array(values, float)[:, None])
    longest, start = runs.longest, runs.first
    before = np.zeros((len(values) - 1, 1)) if runs.before is None else runs.before
    best, count, at = 0, 0, 0
    for frame in range(1, len(values)):
        assert before[frame - 1, 0] == count
        count = count + 1 if values[frame] == values[frame - 1] else 0
        if count > best:
            best, at = count, frame - count
    assert longest[0] == best
    assert best == 0 or start[0] == at


@given(st.lists(st.booleans(), max_size=40))
def test_runs_of_true_cover_exactly_what_is_true(mask):
    starts, ends = true_runs(np.array(mask, bool))
    covered = np.zeros(len(mask), bool)
    for start, end in zip(starts, ends, strict=True):
        covered[start:end] = True
    assert covered.tolist() == mask


@given(st.floats(1e-4, 1.0))
def test_noise_is_measured_on_top_of_a_motion(sigma):
    motion = np.sin(np.arange(2000) / 50)[:, None]
    assert noise(motion + np.random.default_rng(0).normal(0, sigma, motion.shape))[0] == pytest.approx(sigma, rel=0.1, abs=2e-4)


def test_what_is_not_finite_is_filled_along_time():
    values = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, np.nan]])
    assert filled(values).tolist() == [[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]


@given(st.integers(20, 200), st.integers(0, 10**6))
def test_float32_stamps_of_a_steady_clock_are_quiet_however_late(frames, start):
    stamps = ((start + np.arange(frames)) / 50).astype(np.float32) if start < 10**5 else (start + np.arange(frames)) / 50
    assert measure_timing(stamps, frames, 50, CONFIG).findings == []


@given(st.integers(1, 8), st.integers(10, 80), st.floats(0, 0.1))
def test_dropped_frames_are_counted_in_spite_of_jitter(missing, place, jitter):
    kept = np.delete(np.arange(100 + missing), np.arange(place, place + missing))
    stamps = kept / 50 + np.random.default_rng(0).uniform(-jitter, jitter, 100) / 50
    timing = measure_timing(stamps, 100, 50, CONFIG)
    assert timing.measures["dropped_share"] == pytest.approx(missing / (100 + missing))
    assert [finding.check for finding in timing.findings] == ["dropped_frames"]


def test_a_cut_off_command_shows_by_its_flat_ends():
    wave = np.sin(np.arange(200) / 10)[:, None]
    assert clipped_share(wave, np.array([2.0]))[0] == 0.0
    assert clipped_share(np.clip(wave, -0.5, 0.5), np.array([2.0]))[0] == pytest.approx(2 / 3, abs=0.05)
    assert clipped_share(np.zeros((200, 1)), np.array([2.0]))[0] == 0.0


def test_near_copies_are_found_among_many_and_others_are_not():
    random = np.random.default_rng(0)
    episodes = [random.normal(0, 1, (200, 6)).cumsum(axis=0) for _ in range(400)]
    episodes += [episodes[17][60:], episodes[200] + random.normal(0, 1e-6, (200, 6)), np.concatenate([episodes[5][:90], episodes[6][:110]])]
    found = near_copies(np.stack([min_hash(item)[0] for item in episodes]), 0.5)
    assert {copy: earlier for copy, (earlier, _) in found.items() if copy != 402} == {400: 17, 401: 200}
    assert found[401][1] > 0.9
    assert content_digest([episodes[0]]) == content_digest([episodes[0].copy()]) != content_digest([episodes[1]])


@given(st.lists(st.sampled_from(LETTERS), min_size=1, max_size=60), st.integers(0, 2), st.integers(0, 2))
def test_a_dataset_has_a_letter_that_enough_episodes_reach_and_no_better_one_that_they_do(letters, defects, risks):
    letter = dataset_letter(letters, 0.95, defects, risks)
    assert sum(reaches(own, letter) for own in letters) >= 0.95 * len(letters)
    if not defects and not risks and letter != "A":
        better = LETTERS[LETTERS.index(letter) - 1]
        assert sum(reaches(own, better) for own in letters) < 0.95 * len(letters)
    assert not (defects and reaches(letter, "C"))
    assert not (risks and letter == "A")


def test_letters_follow_the_published_rule():
    given_ = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 9), (2, 0)]
    assert [episode_letter(*counts) for counts in given_] == ["A", "B", "B", "C", "D", "D", "F"]
    assert episode_letter(0, 0, readable=False) == "F"
    with pytest.raises(UsageError, match="grades are A, B, C, D, F"):
        check_letter("E")


def test_joint_positions_are_told_from_the_rest_of_an_observation_by_name():
    robot = get_robot("pidog")
    names = (
        "gravity.x",
        *(f"joint_position_rad.{name}" for name in robot.joint_names),
        *(f"joint_velocity_rad_s.{n}" for n in robot.joint_names),
    )
    action = tuple(f"joint_position_target_rad.{name}" for name in reversed(robot.joint_names))
    features = [Feature("observation.state", "float32", (25,), names), Feature("action", "float32", (12,), action)]
    signals = find_signals(features, "here")
    assert signals.state.indices == tuple(range(1, 13))
    assert set(signals.state.units) == {"rad"}
    assert signals.pairs == tuple((index, 11 - index) for index in range(12))
    assert signals.state.labels[0] == "left_front_hip"
    assert len(signals.sensors) == 25


def test_a_limits_file_is_read_strictly(tmp_path):
    path = tmp_path / "limits.yaml"
    path.write_text("elbow: [-1, 2.5]\n")
    assert read_limits(path) == {"elbow": (-1.0, 2.5)}
    path.write_text("elbow: [3, 1]\n")
    with pytest.raises(ConfigError, match=r"elbow: limits are written \[low, high\]"):
        read_limits(path)


def test_every_threshold_can_be_set_and_none_can_be_misspelt():
    assert parse_config({"gap_periods": 3.0}, QualityConfig).gap_periods == 3.0
    with pytest.raises(ConfigError, match="did you mean 'gap_periods'"):
        parse_config({"gap_period": 3.0}, QualityConfig)
    assert all(field.description for field in QualityConfig.model_fields.values())
