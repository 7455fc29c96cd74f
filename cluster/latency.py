"""How long steps took, in few numbers: a histogram with logarithmic buckets, cheap to fill and exact to merge.

A bucket is a ninth wide, an eighth of an octave, so a percentile read from it is off by at most 4.5 %; the largest is kept as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["LatencyHistogram"]

_BUCKETS_PER_OCTAVE = 8
_SCALE = _BUCKETS_PER_OCTAVE / math.log(2.0)
_SHORTEST_S = 1e-7
_log = math.log


class LatencyHistogram:
    """Counts of durations. One thread fills it.

    Attributes:
        count: durations so far.
        largest_s: the longest one, seconds.
    """

    __slots__ = ("_buckets", "count", "largest_s")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.largest_s = 0.0

    def add(self, duration_s: float, times: int = 1) -> None:
        """Count a duration."""
        buckets = self._buckets
        bucket = int(_log(duration_s / _SHORTEST_S) * _SCALE) if duration_s > _SHORTEST_S else 0
        buckets[bucket] = buckets.get(bucket, 0) + times
        self.count += times
        if duration_s > self.largest_s:
            self.largest_s = duration_s

    def merge(self, other: LatencyHistogram) -> None:
        """Count all that ``other`` has counted."""
        for bucket, times in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + times
        self.count += other.count
        self.largest_s = max(self.largest_s, other.largest_s)

    def quantile_ms(self, share: float) -> float:
        """The duration that ``share`` of them do not exceed, ms: the middle of its bucket; 0 when there are none."""
        rank = max(1, math.ceil(share * self.count))
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                middle_s = _SHORTEST_S * math.exp((bucket + 0.5) / _SCALE)
                return 1e3 * min(middle_s, self.largest_s)
        return 0.0

    @property
    def largest_ms(self) -> float:
        """The longest one, ms."""
        return 1e3 * self.largest_s

    def to_json(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        return {"buckets": {str(bucket): times for bucket, times in self._buckets.items()}, "largest_s": self.largest_s}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencyHistogram:
        """The reverse of ``to_json``."""
        histogram = cls()
        histogram._buckets = {int(bucket): int(times) for bucket, times in data["buckets"].items()}
        histogram.count = sum(histogram._buckets.values())
        histogram.largest_s = float(data["largest_s"])
        return histogram
