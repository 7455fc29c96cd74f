"""Each check finds the defect that was planted, in the episode in which it was planted, and finds no other; clean data are quiet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cluster.lerobot.features import Feature
from tests.trainables.datasets.quality.conftest import FEATURES, FPS, JOINTS, changed, frames, grade, reaching

PLANTED = 5
LIMITS = {"joint_0": (-150.0, 150.0), "joint_1": (-150.0, 150.0)}


def _spike(values):
    values[170, 2] += 41.0


def _nan(values):
    values[40:43, 1] = np.nan


def _held(values):
    for start in (60, 100, 140, 180, 220, 260):
        values[start : start + 6] = values[start - 1]


def _frozen(values):
    values[60:200, 3] = values[60, 3]


def _stuck(values):
    values[60:260, 3] = values[60, 3]


def _chatter(values):
    values[100:300, 1] += np.where(np.arange(200) % 2, 3.0, -3.0)


def _exchange(values):
    values[:, [0, 4]] = values[:, [4, 0]]


def _reverse(values):
    values[:, 2] = 2 * values[:, 2].mean() - values[:, 2]


def _late(values):
    return np.concatenate([np.repeat(values[:1], 9, axis=0), values[:-9]])


def _early(values):
    return np.concatenate([values[9:], np.repeat(values[-1:], 9, axis=0)])


def _back(values):
    values[80] = values[78] - 0.01


def _beyond(values):
    values[:, 0] += np.where(np.arange(len(values)) < 200, 170.0 - values[:, 0].max(), 0.0).astype(np.float32) * 0
    values[150:240, 0] = 163.0


def _clip(values):
    for joint in range(6):
        low, high = values[:, joint].min(), values[:, joint].max()
        values[:, joint] = np.clip(values[:, joint], low + 0.3 * (high - low), high - 0.3 * (high - low))


def _dropped(episode):
    return frames(episode, np.r_[0:100, 110:150, 155 : episode.length])


def _slow_clock(episode):
    return changed(episode, "timestamp", lambda values: values * 1.5)


def _offset(values):
    values[:, 2] += 60.0


DEFECTS = {
    "spike of a joint": ("spikes", lambda item: changed(item, "observation.state", _spike)),
    "spike of a command": ("spikes", lambda item: changed(item, "action", _spike)),
    "NaN": ("not_finite", lambda item: changed(item, "observation.state", _nan)),
    "repeated frames": ("repeated_frames", lambda item: changed(item, "observation.state", _held)),
    "frozen sensor": ("frozen_sensor", lambda item: changed(item, "observation.state", _frozen)),
    "stuck command": ("stuck_command", lambda item: changed(item, "action", _stuck)),
    "chatter": ("chatter", lambda item: changed(item, "action", _chatter)),
    "exchanged channels": ("channels", lambda item: changed(item, "action", _exchange)),
    "other sign": ("channels", lambda item: changed(item, "action", _reverse)),
    "late commands": ("lag", lambda item: changed(item, "action", _late)),
    "early commands": ("lag", lambda item: changed(item, "action", _early)),
    "time goes back": ("time_order", lambda item: changed(item, "timestamp", _back)),
    "dropped frames": ("dropped_frames", _dropped),
    "another rate": ("frame_rate", _slow_clock),
    "commands cut off": ("clipped", lambda item: changed(item, "action", _clip)),
    "an offset": ("offset", lambda item: changed(item, "observation.state", _offset)),
    "too short": ("too_short", lambda item: frames(item, slice(0, 5))),
}


def _jitter(values):
    return values + np.random.default_rng(1).uniform(-0.3, 0.3, len(values)).astype(np.float32) / FPS


def _idle_start(episode):
    first = {name: np.repeat(values[:1], 90, axis=0) for name, values in episode.columns.items()}
    noise = np.random.default_rng(0).normal(0, 0.05, (90, 6)).astype(np.float32)
    first["observation.state"] = first["observation.state"] + noise
    columns = {name: np.concatenate([first[name], values]) for name, values in episode.columns.items()}
    columns["timestamp"] = (np.arange(len(columns["action"])) / FPS).astype(np.float32)
    return replace(episode, columns=columns)


def _shaky(values):
    return values + 4.0 * np.sin(2 * np.pi * 4.0 * np.arange(len(values)) / FPS)[:, None].astype(np.float32)


def _cut(episode):
    return frames(episode, slice(0, 200))


def _start_away(values):
    values[:3, 4] += 80.0
    values[3:12, 4] += np.linspace(70.0, 0.0, 9, dtype=np.float32)


RISKS = {
    "jitter": ("jitter", lambda item: changed(item, "timestamp", _jitter)),
    "idle lead-in": ("idle", _idle_start),
    "rough motion": ("smoothness", lambda item: changed(item, "observation.state", _shaky)),
    "cut short": ("length", _cut),
    "moving at the end": ("final_stability", lambda item: frames(item, slice(0, item.length - 60))),
    "a jump to the first command": ("start", lambda item: changed(item, "observation.state", _start_away)),
}


def with_planted(episodes, plant):
    return [plant(item) if place == PLANTED else item for place, item in enumerate(episodes)]


def checks(findings):
    return {finding.check for finding in findings}


def test_clean_reaches_are_quiet(reaches):
    found = grade(reaches)
    assert found.letter == "A", found.worst(3)
    assert found.letters() == {"A": 14, "B": 0, "C": 0, "D": 0, "F": 0}
    assert (found.defects, found.risks, found.affected) == ((), (), {})


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found_alone(reaches, name):
    check, plant = DEFECTS[name]
    found = grade(with_planted(reaches, plant))
    planted = found.episodes[PLANTED]
    assert checks(planted.defects) == {check}, planted.reason
    assert planted.letter == "D"
    others = [item for place, item in enumerate(found.episodes) if place != PLANTED]
    assert all(item.letter == "A" for item in others), [item.reason for item in others if item.letter != "A"]
    assert found.kept("C") == {item.key for item in others}


@pytest.mark.parametrize("name", RISKS)
def test_a_planted_risk_is_found_and_is_no_defect(reaches, name):
    check, plant = RISKS[name]
    found = grade(with_planted(reaches, plant))
    planted = found.episodes[PLANTED]
    assert planted.defects == (), planted.reason
    assert check in checks(planted.risks), planted.reason
    assert planted.letter in "BC"
    assert all(item.letter == "A" for place, item in enumerate(found.episodes) if place != PLANTED)


def test_a_spike_is_told_with_joint_size_and_time(reaches):
    found = grade(with_planted(reaches, DEFECTS["spike of a joint"][1]))
    (finding,) = found.episodes[PLANTED].defects
    assert finding.component == "joint_2.pos"
    assert finding.text.startswith("joint joint_2.pos jumps 4")
    assert " deg in one frame at 5.67 s" in finding.text
    assert finding.start_s == pytest.approx(170 / FPS, abs=0.05)


def test_a_joint_beyond_its_limit_is_a_defect_and_one_at_it_a_risk(reaches):
    span = {name.removesuffix(".pos"): (-200.0, 200.0) for name in JOINTS}
    assert grade(reaches, limits=span).letter == "A"
    low = min(item.columns["observation.state"][:, 0].min() for item in reaches)
    narrow = span | {"joint_0": (float(low) + 40.0, 200.0)}
    found = grade(reaches, limits=narrow)
    assert found.affected["beyond_limits"] == 14
    assert "joint_0.pos" in found.episodes[0].defects[0].text
    assert found.limits["joint_0.pos"] == "limits file"
    cut = [changed(item, "action", lambda values: np.clip(values, -200, 30)) for item in reaches]
    cut = [changed(item, "observation.state", lambda values: np.minimum(values, 30)) for item in cut]
    at = grade(cut, limits={name: (-200.0, 30.0) for name in span})
    assert at.affected.get("beyond_limits") is None
    assert at.affected["saturation"] >= 10


def test_copies_are_found_and_the_first_of_them_is_kept(reaches):
    copy = replace(reaches[3], key="0000014")
    trimmed = replace(frames(reaches[8], slice(20, None)), key="0000015")
    found = grade([*reaches, copy, trimmed])
    assert [item.index for item in found.episodes if item.defects] == [14]
    assert found.episodes[14].defects[0].text == "is an exact copy of episode 3"
    assert checks(found.episodes[15].risks) == {"near_duplicate"}
    assert "with episode 8" in found.episodes[15].reason
    assert found.episodes[3].letter == found.episodes[8].letter == "A"


def test_an_episode_elsewhere_in_the_state_space_is_a_risk(reaches):
    episodes = [*reaches, *(reaching(index) for index in range(14, 24))]
    away = changed(episodes[PLANTED], "action", lambda values: values + 400.0)
    away = changed(away, "observation.state", lambda values: values + 400.0)
    found = grade([away if place == PLANTED else item for place, item in enumerate(episodes)])
    assert checks(found.episodes[PLANTED].risks) == {"coverage"}
    assert found.episodes[PLANTED].measures["novel_share"] > 0.9


def test_a_pose_that_drifts_from_episode_to_episode_is_a_risk_of_the_dataset(reaches):
    def drifted(item, place):
        for name in ("action", "observation.state"):
            item = changed(item, name, lambda values: values + np.float32(4.0 * place) * np.eye(6, dtype=np.float32)[1])
        return item

    found = grade([drifted(item, place) for place, item in enumerate(reaches)])
    assert [(finding.check, finding.component) for finding in found.risks] == [("drift", "joint_1.pos")]
    assert found.letter == "B"


def test_a_command_that_never_changes_a_missing_feature_and_mixed_rates_are_told_of_the_whole(reaches):
    still = [changed(item, "action", lambda values: values * np.float32([1, 1, 1, 1, 1, 0])) for item in reaches]
    assert "constant" in checks(grade(still).risks)
    state_only = [replace(item, columns={name: item.columns[name] for name in ("observation.state", "timestamp")}) for item in reaches]
    found = grade(state_only, [FEATURES[0], FEATURES[2]])
    assert [finding.check for finding in found.risks] == ["missing_feature"]
    assert found.letters()["A"] == 14
    mixed = [changed(item, "timestamp", lambda values: values * 1.5) if place % 2 else item for place, item in enumerate(reaches)]
    found = grade(mixed)
    assert found.defects[0].text == "mixes frame rates: 30 Hz in 7 episodes, 20 Hz in 7 episodes"
    assert found.letter == "D"


def test_joint_names_that_are_not_the_robots_are_a_defect_of_the_whole(reaches):
    found = grade(reaches, robot="pidog")
    assert [finding.check for finding in found.defects] == ["joint_names"]
    assert "lacks left_front_hip" in found.defects[0].text
    assert found.letter == "D"


def test_unnamed_components_and_constant_joints_are_graded_too(reaches):
    features = [Feature("observation.state", "float32", (6,)), Feature("action", "float32", (6,)), FEATURES[2]]
    still = np.float32([1, 1, 1, 1, 1, 0])
    flat = [
        changed(changed(item, "action", lambda values: values * still), "observation.state", lambda values: values * still)
        for item in reaches
    ]
    found = grade(flat, features)
    assert found.letters()["A"] == 14, found.worst(2)
    spiked = grade(with_planted(flat, DEFECTS["spike of a joint"][1]), features)
    assert checks(spiked.episodes[PLANTED].defects) == {"spikes"}
    assert "joint state[2] jumps 4" in spiked.episodes[PLANTED].reason


REAL_DEFECTS = (
    "spike of a joint",
    "spike of a command",
    "NaN",
    "time goes back",
    "dropped frames",
    "another rate",
    "late commands",
    "too short",
)


def test_the_real_arm_has_no_defect_and_its_risks_are_true(so101, so101_episodes):
    found = grade(so101_episodes, so101.features, so101.fps)
    assert [item.letter for item in found.episodes] == ["B", "A", "B", "B"]
    assert all(item.defects == () for item in found.episodes)
    assert checks(found.episodes[0].risks) == {"start"}
    # The follower travels to the leader's pose while that does not move: seen in the raw frames.
    state, action = (so101_episodes[0].columns[name][:15] for name in ("observation.state", "action"))
    assert np.ptp(action, axis=0).max() < 1.0
    assert np.abs(state[-1] - state[0]).max() > 30.0
    for index, seconds in ((2, 4.5), (3, 2.5)):
        assert checks(found.episodes[index].risks) == {"idle"}
        assert f"nothing moves for the first {seconds} s" in found.episodes[index].reason
        first = so101_episodes[index].columns["action"][: int(seconds * 30)]
        assert np.ptp(first, axis=0).max() < 1.0


@pytest.mark.parametrize("name", REAL_DEFECTS)
def test_defects_planted_in_the_real_recording_are_found_alone(so101, so101_episodes, name):
    check, plant = DEFECTS[name]
    planted = [plant(item) if place == 1 else item for place, item in enumerate(so101_episodes)]
    found = grade(planted, so101.features, so101.fps)
    assert checks(found.episodes[1].defects) == {check}, found.episodes[1].reason
    assert all(item.defects == () for place, item in enumerate(found.episodes) if place != 1)


def test_the_simulated_quadruped_is_quiet(quadruped):
    episodes, features = quadruped
    found = grade(episodes, features, 50, "pidog")
    assert found.letters()["A"] == len(episodes), [item.reason for item in found.worst(5)]
    assert found.defects == ()
    assert checks(found.risks) <= {"constant"}
    assert found.limits["joint_position_rad.left_front_hip"] == "robot pidog"
