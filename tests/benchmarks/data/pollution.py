"""What goes wrong when robots are recorded, done to clean episodes. Written before any grade of a polluted dataset was looked at.

Each kind is a fault that people who run teleoperation and loggers know; its strength is drawn once an episode from a range that was
fixed beforehand. Commands are what imitation learns from, so most kinds are faults of the command channel; sensors and the logger have
theirs too.

| kind | what happened |
|---|---|
| late_actions | the command topic went through a buffer: every command is logged 6 to 12 frames late |
| chattering | a worn leader joint or a loose plug: 3 to 12 commands alternate by 0.08 to 0.3 rad for half to all of the episode |
| spiky | corrupt packets: 3 to 10 single commands are 0.8 to 1.5 rad off |
| stuck | a leader's joints stop sending: 2 to 4 commands keep their value from some moment to the end |
| exchanged | two plugs were swapped: two commands of legs carry each other's values |
| reversed | a servo was calibrated the wrong way round: 1 or 2 commands are mirrored about their mean |
| clipped | wrong limits in the driver: all commands of the legs are cut to the middle 30 to 60 % of their span |
| frozen | a sensor bus hangs: 2 to 6 joint positions keep their value for 1 to 4 s |
| dropped | the disk was busy: 15 to 40 % of the frames are missing, in gaps of 3 to 15; the time stamps show it |
| repeated | the driver served old data: the whole state repeats for 3 to 10 frames, 10 to 25 % of the frames in all |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from cluster.lerobot.episodes import Episode

__all__ = ["KINDS", "pollute"]

Columns = dict[str, np.ndarray]
LEGS = np.arange(8)
"""Commands of the legs: hips and knees."""
LEAST_CHANGE_RAD = 0.02
POSITIONS = np.arange(9, 21)
"""Joint positions in the observation of ``pidog_run``."""


def _late_actions(columns: Columns, random: np.random.Generator) -> Columns:
    action, delay = columns["action"], int(random.integers(6, 13))
    return columns | {"action": np.concatenate([np.repeat(action[:1], delay, axis=0), action[:-delay]])}


def _chattering(columns: Columns, random: np.random.Generator) -> Columns:
    action = columns["action"].copy()
    joints = random.permutation(action.shape[1])[: random.integers(3, 13)]
    length = int(len(action) * random.uniform(0.5, 1.0))
    start = int(random.integers(0, len(action) - length + 1))
    sign = np.where(np.arange(length) % 2 == 0, 1.0, -1.0)[:, None]
    action[start : start + length, joints] += sign * random.uniform(0.08, 0.3) * random.uniform(0.6, 1.4, (length, len(joints)))
    return columns | {"action": action}


def _spiky(columns: Columns, random: np.random.Generator) -> Columns:
    action, count = columns["action"].copy(), int(random.integers(3, 11))
    frames, joints = random.integers(0, len(action), count), random.integers(0, action.shape[1], count)
    action[frames, joints] += random.choice([-1.0, 1.0], count) * random.uniform(0.8, 1.5, count)
    return columns | {"action": action}


def _stuck(columns: Columns, random: np.random.Generator) -> Columns:
    action, start = columns["action"].copy(), int(random.integers(0, len(columns["action"]) // 2))
    joints = random.choice(LEGS, random.integers(2, 5), replace=False)
    action[start:, joints] = action[start, joints]
    return columns | {"action": action}


def _exchanged(columns: Columns, random: np.random.Generator) -> Columns:
    action = columns["action"].copy()
    first, second = random.choice(LEGS, 2, replace=False)
    action[:, [first, second]] = action[:, [second, first]]
    return columns | {"action": action}


def _reversed(columns: Columns, random: np.random.Generator) -> Columns:
    action = columns["action"].copy()
    for joint in random.choice(LEGS, random.integers(1, 3), replace=False):
        action[:, joint] = 2 * action[:, joint].mean() - action[:, joint]
    return columns | {"action": action}


def _clipped(columns: Columns, random: np.random.Generator) -> Columns:
    action = columns["action"].copy()
    low, high = action[:, LEGS].min(axis=0), action[:, LEGS].max(axis=0)
    cut = (1 - random.uniform(0.3, 0.6)) / 2 * (high - low)
    action[:, LEGS] = np.clip(action[:, LEGS], low + cut, high - cut)
    return columns | {"action": action}


def _frozen(columns: Columns, random: np.random.Generator) -> Columns:
    state = columns["observation.state"].copy()
    length = min(int(random.uniform(1.0, 4.0) * 50), len(state) - 1)
    start = int(random.integers(0, len(state) - length))
    joints = random.choice(POSITIONS, random.integers(2, 7), replace=False)
    state[start : start + length, joints] = state[start, joints]
    return columns | {"observation.state": state}


def _dropped(columns: Columns, random: np.random.Generator) -> Columns:
    length = len(columns["action"])
    kept, wanted = np.ones(length, bool), random.uniform(0.15, 0.4)
    while (~kept).mean() < wanted:
        start = int(random.integers(1, length - 16))
        kept[start : start + int(random.integers(3, 16))] = False
    return {name: values[kept] for name, values in columns.items()}


def _repeated(columns: Columns, random: np.random.Generator) -> Columns:
    state, wanted = columns["observation.state"].copy(), random.uniform(0.1, 0.25)
    held = np.zeros(len(state), bool)
    while held.mean() < wanted:
        start, length = int(random.integers(1, len(state) - 11)), int(random.integers(3, 11))
        state[start : start + length] = state[start - 1]
        held[start : start + length] = True
    return columns | {"observation.state": state}


KINDS: dict[str, Callable[[Columns, np.random.Generator], Columns]] = {
    "late_actions": _late_actions,
    "chattering": _chattering,
    "spiky": _spiky,
    "stuck": _stuck,
    "exchanged": _exchanged,
    "reversed": _reversed,
    "clipped": _clipped,
    "frozen": _frozen,
    "dropped": _dropped,
    "repeated": _repeated,
}


def pollute(episodes: Sequence[Episode], share: float, seed: int) -> tuple[list[Episode], dict[str, str]]:
    """Spoil some episodes, the kinds in turn in random order.

    A late command of a robot that stands is no fault that anybody could find or suffer from: where a kind changes nothing, the
    episode gets the next kind that does.

    Args:
        episodes: clean, with time stamps.
        share: of them to spoil.
        seed: of every draw.

    Returns:
        All of them in the same order under the same keys, and key -> kind of those that were spoilt.
    """
    random = np.random.default_rng([seed, 30])
    chosen = sorted(random.permutation(len(episodes))[: round(share * len(episodes))].tolist())
    kinds = [list(KINDS)[index % len(KINDS)] for index in random.permutation(len(chosen))]
    spoilt = dict(zip(chosen, kinds, strict=True))
    result, labels = [], {}
    for place, episode in enumerate(episodes):
        if place in spoilt:
            first = list(KINDS).index(spoilt[place])
            for kind in [*list(KINDS)[first:], *list(KINDS)[:first]]:
                columns = KINDS[kind](dict(episode.columns), np.random.default_rng([seed, place, 31]))
                if _differs(columns, episode.columns):
                    break
            labels[episode.key] = kind
            episode = replace(episode, columns=columns)
        result.append(episode)
    return result, labels


def _differs(left: Columns, right: Mapping[str, np.ndarray]) -> bool:
    """By more than rounding."""
    for name in ("action", "observation.state"):
        if len(left[name]) != len(right[name]) or np.abs(left[name] - right[name]).max() > LEAST_CHANGE_RAD:
            return True
    return False
