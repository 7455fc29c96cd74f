"""The lineage of population-based training: who carries whose policy, under which parameters, from when to when.

A trial's life is cut into segments by the clones that it made: segment 0 until the first, segment k after the k-th. The record keeps a
trial's present sample only; earlier ones follow from the clones, because a clone has the donor's sample but for the changes written down.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trainables.sweeps.analysis.numbers import plain
from trainables.sweeps.records import Clone, SweepRecord, TrialRecord

__all__ = ["Lineage", "Segment", "describe_lineage"]


@dataclass(frozen=True)
class Segment:
    """One trial between two of its clones."""

    trial: str
    index: int
    start: int
    """Progress that the policy had when the segment began."""
    end: int
    """Progress at which it was given up, or stands now."""
    born_of: int | None
    """Index in the record's lineage of the clone that began it; None for a trial's own start."""


class Lineage:
    """Segments of every trial of a record, and their samples as far as the record tells them."""

    def __init__(self, record: SweepRecord) -> None:
        self.record = record
        known = {trial.trial_id for trial in record.trials}
        self.clones: list[Clone] = [clone for clone in record.lineage if clone.trial in known and clone.donor in known]
        self._own: dict[str, list[int]] = {trial_id: [] for trial_id in known}
        self._donor_segment_index: list[int] = []
        for index, clone in enumerate(self.clones):
            self._donor_segment_index.append(len(self._own[clone.donor]))
            self._own[clone.trial].append(index)
        self.segments = {trial.trial_id: self._segments_of(trial) for trial in record.trials}
        self._samples = self._fill_in()

    def all_segments(self) -> Iterator[Segment]:
        """Segments of all trials, trial by trial."""
        for segments in self.segments.values():
            yield from segments

    def sample(self, segment: Segment) -> dict[str, Any] | None:
        """The parameters in force in a segment; None where nothing in the record tells them."""
        return self._samples.get((segment.trial, segment.index))

    def segment_at(self, trial: TrialRecord, progress: int) -> Segment:
        """The segment in which a trial reported at ``progress``; the latest where several would do."""
        segments = self.segments[trial.trial_id]
        inside = [item for item in segments if item.start < progress <= item.end]
        return (inside or [item for item in segments if item.start < progress] or segments[:1])[-1]

    def sample_at_best(self, trial: TrialRecord) -> dict[str, Any]:
        """The parameters under which a trial made its best report; its present ones where the record does not tell."""
        if trial.best_progress is None:
            return trial.sample
        return self.sample(self.segment_at(trial, trial.best_progress)) or trial.sample

    def ancestors(self, trial: TrialRecord) -> list[Segment]:
        """Segments that the policy of a trial's best report went through, the oldest first."""
        segment = self.segment_at(trial, trial.best_progress if trial.best_progress is not None else trial.progress)
        chain = [segment]
        while segment.born_of is not None:
            segment = self._donor_segment(segment.born_of)
            chain.append(segment)
        return chain[::-1]

    def _segments_of(self, trial: TrialRecord) -> list[Segment]:
        own = [(index, self.clones[index]) for index in self._own[trial.trial_id]]
        starts = [(None, 0), *((index, clone.donor_progress) for index, clone in own)]
        ends = [*(clone.progress for _, clone in own), trial.progress]
        return [
            Segment(trial.trial_id, index, start, end, born_of)
            for index, ((born_of, start), end) in enumerate(zip(starts, ends, strict=True))
        ]

    def _donor_segment(self, index: int) -> Segment:
        """The donor's segment at the time of a clone."""
        return self.segments[self.clones[index].donor][self._donor_segment_index[index]]

    def _fill_in(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Samples of segments, spread from the known last ones over the clones, both ways."""
        neighbours: dict[tuple[str, int], list[tuple[tuple[str, int], dict[str, Any]]]] = {}
        for segment in self.all_segments():
            if segment.born_of is None:
                continue
            donor, clone = self._donor_segment(segment.born_of), self.clones[segment.born_of]
            here, there = (segment.trial, segment.index), (donor.trial, donor.index)
            neighbours.setdefault(here, []).append((there, {name: change[0] for name, change in clone.changes.items()}))
            neighbours.setdefault(there, []).append((here, {name: change[1] for name, change in clone.changes.items()}))
        samples = {(trial.trial_id, len(self.segments[trial.trial_id]) - 1): dict(trial.sample) for trial in self.record.trials}
        waiting = deque(samples)
        while waiting:
            place = waiting.popleft()
            for neighbour, differences in neighbours.get(place, []):
                if neighbour not in samples:
                    samples[neighbour] = {**samples[place], **differences}
                    waiting.append(neighbour)
        return samples


def describe_lineage(lineage: Lineage, winner: TrialRecord | None) -> dict[str, Any] | None:
    """Segments, clones and the winner's ancestors; None for a sweep in which nobody copied anybody."""
    if not lineage.clones:
        return None
    numbers = {trial.trial_id: trial.number for trial in lineage.record.trials}
    chain = lineage.ancestors(winner) if winner else []
    return {
        "segments": [
            {
                "trial": segment.trial,
                "number": numbers[segment.trial],
                "start": segment.start,
                "end": segment.end,
                "sample": plain(lineage.sample(segment)),
            }
            for segment in lineage.all_segments()
        ],
        "clones": [_clone(clone, numbers) for clone in lineage.clones],
        "ancestors": [
            {
                "trial": segment.trial,
                "number": numbers[segment.trial],
                "from_progress": segment.start,
                # Where the next one copied it, or the winner's best report.
                "to_progress": winner.best_progress if following is None and winner else _copied_at(lineage, following),
                "sample": plain(lineage.sample(segment)),
                "clone": None if segment.born_of is None else _clone(lineage.clones[segment.born_of], numbers),
            }
            for segment, following in zip(chain, [*chain[1:], None], strict=True)
        ],
    }


def _copied_at(lineage: Lineage, following: Segment | None) -> int | None:
    return None if following is None or following.born_of is None else lineage.clones[following.born_of].donor_progress


def _clone(clone: Clone, numbers: dict[str, int]) -> dict[str, Any]:
    return {
        "at": clone.at,
        "trial": clone.trial,
        "number": numbers[clone.trial],
        "donor": clone.donor,
        "donor_number": numbers[clone.donor],
        "progress": clone.progress,
        "donor_progress": clone.donor_progress,
        "changes": {name: plain(list(change)) for name, change in clone.changes.items()},
    }
