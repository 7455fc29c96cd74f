"""A grade in words, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.page.words import duration, plural
from trainables.datasets.quality.model import DatasetGrade, EpisodeGrade, check_letter, reaches

__all__ = ["CHECKS", "below", "headline", "summary_lines", "worst_rows"]

CHECKS = {
    "beyond_limits": "joints beyond their limits",
    "channels": "channels exchanged or of the other sign",
    "chatter": "chattering commands",
    "clipped": "commands cut off",
    "constant": "commands that never change",
    "coverage": "states that nobody else visits",
    "drift": "drift",
    "dropped_frames": "dropped frames",
    "duplicate": "exact copies",
    "final_stability": "still moving at the end",
    "frame_rate": "another frame rate",
    "frozen_sensor": "frozen sensors",
    "idle": "idle time",
    "jitter": "time stamps that jitter",
    "joint_names": "joints that are not the robot's",
    "lag": "commands out of step with the state",
    "length": "unusual length",
    "missing_feature": "a missing feature",
    "near_duplicate": "near copies",
    "not_finite": "NaN or infinity",
    "offset": "joints that stay away from their commands",
    "path_efficiency": "wandering paths",
    "repeated_frames": "repeated frames",
    "saturation": "joints at their limits",
    "smoothness": "rough motion",
    "spikes": "jumps in one frame",
    "start": "a jump to the first command",
    "stuck_command": "stuck commands",
    "time_order": "time that does not advance",
    "too_short": "too few frames",
    "unreadable": "unreadable episodes",
}
"""Check -> what it finds, for lists."""


def headline(grade: DatasetGrade) -> str:
    """The dataset on one line."""
    letters = ", ".join(f"{count} {letter}" for letter, count in grade.letters().items() if count)
    seconds = grade.frames / grade.fps
    episodes = f"{plural(len(grade.episodes), 'episode')} ({letters})"
    return f"{grade.letter}  {grade.dataset}: {episodes}, {grade.frames:,} frames, {duration(seconds)}"


def summary_lines(grade: DatasetGrade) -> list[str]:
    """Defects, then risks, of the whole and then by how many episodes are affected."""
    lines = []
    for severity, whole, of_episode in (
        ("must fix", grade.defects, [episode.defects for episode in grade.episodes]),
        ("look at", grade.risks, [episode.risks for episode in grade.episodes]),
    ):
        lines += [f"{severity}: {finding.text}" for finding in whole]
        counts: dict[str, int] = {}
        for findings in of_episode:
            for check in {finding.check for finding in findings}:
                counts[check] = counts.get(check, 0) + 1
        for check, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            lines.append(f"{severity}: {CHECKS.get(check, check)} in {plural(count, 'episode')} ({count / len(grade.episodes):.1%})")
    return lines


def worst_rows(grade: DatasetGrade, count: int = 10) -> list[list[str]]:
    """Rows of a table: episode, letter, task, why."""
    return [[_number(episode), episode.letter, episode.task, episode.reason] for episode in grade.worst(count)]


def below(grade: DatasetGrade, min_grade: str) -> str | None:
    """What is below a grade, in one line; None when the dataset reaches it. Raises ``UsageError`` for what is no letter."""
    check_letter(min_grade)
    if reaches(grade.letter, min_grade):
        return None
    under = [episode for episode in grade.episodes if not reaches(episode.letter, min_grade)]
    named = _listed([_number(episode) for episode in under])
    why = f"{len(under)} of {plural(len(grade.episodes), 'episode')} ({named})" if under else "every episode reaches it"
    whole = grade.defects or grade.risks
    also = f"; and the dataset as a whole: {whole[0].text}" if whole else ""
    return f"{grade.dataset} has grade {grade.letter}, below {min_grade}: {why}{also}"


def _number(episode: EpisodeGrade) -> str:
    return str(episode.index) if episode.key.isdigit() else episode.key


def _listed(items: Sequence[str], most: int = 8) -> str:
    return ", ".join(items[:most]) + (f", … {len(items) - most} more" if len(items) > most else "")
