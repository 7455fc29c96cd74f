"""What one observation of a comparison is: an episode, or a robot with its first few episodes.

**By robot** a robot is drawn once, with the split that holds when its first episode begins, and all of its episodes go to that arm.
Its episodes resemble each other (one battery, one floor, one set of worn gears), so that counting them one by one would take a few
lucky robots for many lucky episodes. The robot is therefore the observation: the mean of its first ``episodes_per_robot`` episodes,
a missing one as the worst. Why the test on robots is as valid as that on episodes:

- Its randomisation is the draw at the robot's first episode. Robots stand in the order of these draws, each with the propensity and
  the weights version of its own: known before the draw, whatever the split did later.
- What a robot would bring on either arm is a number in [low, high]. How many episodes it comes to is a part of that number, not a
  choice of ours: the first ``episodes_per_robot``, or fewer where it falls silent for longer than the outcome's deadline after the
  start of its latest one. This rule sees the robot's own clock only, never what another one brought.
- The verdict reads robots in their order and waits at the first that is not done, as it waits at an open episode. Reading those
  that are done sooner would favour the arm whose bad robots last longest.
- A robot that is done stays as it was counted: an episode after the silence, or beyond the first few, is served and changes nothing.

A guardrail that takes an arm away cuts its robots short; that arm can win no more, so no promotion rests on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from cluster.store.comparisons import Comparison, CountedEpisode, History

__all__ = ["Unit", "Units", "units_of"]

Unit = tuple[CountedEpisode, ...]
"""Episodes of one observation, one of them where episodes are assigned; all on one arm, drawn with one split."""


@dataclass(frozen=True)
class Units:
    """A comparison's observations at one moment, in the order of assignment."""

    counted: Sequence[Unit]
    """Those that a verdict counts: the prefix of those that are done."""
    assigned: Sequence[Unit]
    """All of them."""
    done: Sequence[bool]
    """Of each assigned one, whether it is done."""
    waiting: int
    """Outcomes that are here and not counted yet."""

    @property
    def open(self) -> int:
        """How many are not done."""
        return len(self.done) - sum(self.done)


def units_of(comparison: Comparison, history: History) -> Units:
    """A history as observations."""
    if comparison.unit == "episode":
        counted = list(zip(history.episodes))
        assigned = list(zip(history.assigned, strict=True))
        return Units(counted, assigned, [not episode.is_open for episode in history.assigned], history.waiting)
    by_robot: dict[str, list[CountedEpisode]] = {}
    for episode in history.assigned:
        by_robot.setdefault(episode.robot_id or episode.episode_id, []).append(episode)
    found = [_robot(episodes, comparison.episodes_per_robot, history) for episodes in by_robot.values()]
    done = [is_done for _, is_done in found]
    units = [unit for unit, _ in found]
    prefix = done.index(False) if False in done else len(done)
    waiting = sum(episode.outcome is not None for unit in units[prefix:] for episode in unit)
    return Units(units[:prefix], units, done, waiting)


def _robot(episodes: list[CountedEpisode], most: int, history: History) -> tuple[Unit, bool]:
    """The episodes that make a robot's observation so far, and whether it is done."""
    limit = timedelta(seconds=history.limit_s)
    own = episodes[:1]
    for episode in episodes[1:most]:
        if episode.started_at > own[-1].started_at + limit:
            return tuple(own), True  # it had fallen silent: it was done before this one began
        own.append(episode)
    ended = not any(episode.is_open for episode in own)
    return tuple(own), ended and (len(own) == most or history.now > own[-1].started_at + limit)
