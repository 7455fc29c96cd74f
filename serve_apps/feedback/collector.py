"""Which episodes are recorded, and when a recording is complete."""

from __future__ import annotations

import time
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from cluster.runtime.served import SERVED, FeedbackConfig, ServedState
from cluster.settings import Settings
from cluster.storage import join_url, shown_url
from cluster.store.models import Outcome
from serve_apps.feedback.pipe import WriterPipe
from serve_apps.feedback.recording import Budget, Recording
from serve_apps.inference.policy_set import LoadedPolicy

if TYPE_CHECKING:
    from serve_apps.gateway.episodes import Episode

__all__ = ["Collector", "Feedback", "is_sampled"]


def is_sampled(policy: str, episode_id: str, share: float) -> bool:
    """Whether an episode is one of the ``share`` that is recorded: the same answer for the same episode, on every replica."""
    # A key of its own: which arm an episode falls to must say nothing about whether it is recorded.
    digest = blake2b(episode_id.encode(), key=b"gaitway-feedback", salt=blake2b(policy.encode(), digest_size=16).digest(), digest_size=8)
    return int.from_bytes(digest.digest(), "big") < share * 2.0**64


class Collector:
    """Recordings of one policy's episodes.

    Attributes:
        policy: its name.
        dropped: sampled episodes that are not complete, or did not fit the buffer.
    """

    def __init__(self, policy: str, pipe: WriterPipe) -> None:
        self.policy, self._pipe = policy, pipe
        self._open: dict[str, Recording] = {}
        self._is_on = False
        self._settings: FeedbackConfig | None = None
        """The latest; those under way end by it."""
        self._loaded: LoadedPolicy | None = None
        self._folder = ""
        self._budget = Budget(0)
        self._why = ""
        self.dropped = 0

    def follow(self, settings: FeedbackConfig | None, loaded: LoadedPolicy) -> None:
        """Sample new episodes so from now on; None: no more of them. Recordings under way go on."""
        self._is_on, self._loaded = settings is not None, loaded
        if settings is not None:
            self._settings = settings
            self._budget.limit_bytes = settings.buffer_mb * 2**20
            self._folder = settings.folder or join_url(Settings.from_environment().storage_url, SERVED)

    def begin(self, episode: Episode, robot_id: str | None) -> None:
        """An episode is remembered from now on. It is recorded if it is sampled and its first step is still to come."""
        settings = self._settings
        if not self._is_on or settings is None or self._loaded is None or not episode.is_new or episode.recording is not None:
            return
        if not is_sampled(self.policy, episode.episode_id, settings.share):
            return
        assignment = episode.assignment
        about = {
            "robot_id": robot_id,
            "version": assignment.version,
            "arm": assignment.arm,
            "comparison_id": assignment.comparison_id,
            "propensity": assignment.propensity,
            "weights_version": assignment.weights_version,
        }
        recording = Recording(self._loaded.contract, episode.episode_id, about, self._budget, time.perf_counter())
        episode.recording = self._open[episode.episode_id] = recording

    def end(self, episode: Episode, outcome: Outcome | None, how: str) -> None:
        """An episode has ended.

        Args:
            episode: the episode; nothing more of it is recorded.
            outcome: how it ended, where somebody said so.
            how: ``outcome``; or ``evicted``: it fell out of this replica's memory.
        """
        recording, episode.recording = episode.recording, None
        if recording is not None:
            self._finish(recording, outcome, how, episode.measured.error_steps)

    def silent(self, now_s: float) -> list[Recording]:
        """Recordings whose robot has not been heard of here for the deadline."""
        limit_s = self._settings.silent_s if self._settings is not None else 0.0
        return [recording for recording in self._open.values() if now_s - recording.last_s > limit_s]

    def give_up(self, recording: Recording, outcome: Outcome | None) -> None:
        """End a silent one; with an outcome where one came by way of another replica, which may have answered its last steps too."""
        self._finish(recording, outcome, "silent" if outcome is None else "elsewhere", None)

    def close(self) -> None:
        """End every recording."""
        for recording in list(self._open.values()):
            self._finish(recording, None, "closed", None)

    def counts(self) -> dict[str, Any]:
        """For people."""
        written = self._pipe.counts(self.policy)
        return {
            "share": self._settings.share if self._is_on and self._settings is not None else 0.0,
            "folder": shown_url(self._folder),
            "recording": len(self._open),
            "buffered_bytes": self._budget.used_bytes,
            "written": written.episodes,
            "datasets": written.datasets,
            "bytes": written.bytes,
            "dropped": self.dropped + written.dropped,
            "writer_restarts": self._pipe.restarts,
            "problem": written.problem or self._why or None,
        }

    def _finish(self, recording: Recording, outcome: Outcome | None, how: str, error_steps: int | None) -> None:
        if self._open.get(recording.episode_id) is not recording:
            return  # given up before
        del self._open[recording.episode_id]
        recording.closed = True
        if recording.lost:
            self.dropped += 1
            self._why = recording.lost
        if recording.lost or not recording.steps or self._settings is None:
            return
        recording.about |= {"ended": how, "error_steps": error_steps} | _described(outcome)
        self._pipe.send(self.policy, recording, self._folder, self._settings)


class Feedback:
    """The collectors of one replica, and the writer that they share.

    Args:
        replica: its name, part of the names of the datasets.

    Attributes:
        of: collectors by policy; a policy that was never recorded is not in it.
    """

    def __init__(self, replica: str) -> None:
        self.of: dict[str, Collector] = {}
        self._pipe = WriterPipe(replica)

    def follow(self, state: ServedState, policies: Mapping[str, LoadedPolicy]) -> None:
        """Record what a new state says."""
        for name, policy in state.policies.items():
            if policy.feedback is not None or name in self.of:
                self.of.setdefault(name, Collector(name, self._pipe)).follow(policy.feedback, policies[name])

    def silent(self) -> list[tuple[Collector, Recording]]:
        """See ``Collector.silent``."""
        now_s = time.perf_counter()
        return [(collector, recording) for collector in self.of.values() for recording in collector.silent(now_s)]

    def counts(self, policy: str) -> dict[str, Any] | None:
        """See ``Collector.counts``; None for a policy that was never recorded."""
        collector = self.of.get(policy)
        return None if collector is None else collector.counts()

    def close(self, timeout_s: float = 3.0) -> None:
        """End every recording and wait for the writer to end, at most ``timeout_s``; it ends what it does after that too."""
        for collector in self.of.values():
            collector.close()
        self._pipe.close(timeout_s)


def _described(outcome: Outcome | None) -> dict[str, Any]:
    given = {} if outcome is None else outcome.model_dump()
    return {f"outcome_{name}": given.get(name) for name in Outcome.model_fields}
