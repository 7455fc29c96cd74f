"""The replica's end of the pipe: a thread that feeds the writer process, and starts it again when it dies.

What was sent stays in memory until the writer says that it is in a dataset: a writer that is killed loses nothing, the next one gets
it all again. An episode that three writers died with is given up. Every byte of it counts against its policy's buffer.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass

from cluster.runtime.served import FeedbackConfig
from serve_apps.feedback.messages import encode
from serve_apps.feedback.recording import Budget, Recording

__all__ = ["Counts", "WriterPipe"]

logger = logging.getLogger(__name__)

WRITER = "serve_apps.feedback.writer"
_ATTEMPTS = 3
_LONGEST_PAUSE_S = 60.0


@dataclass
class Counts:
    """Of one policy."""

    episodes: int = 0
    """Written."""
    datasets: int = 0
    bytes: int = 0
    """Of what was written."""
    dropped: int = 0
    """Episodes that could not be written."""
    problem: str = ""
    """Why the last of them could not."""


@dataclass
class _Waiting:
    number: int
    policy: str
    recording: Recording
    folder: str
    settings: FeedbackConfig
    held_bytes: int
    frame: bytes = b""
    attempts: int = 0

    @property
    def budget(self) -> Budget:
        return self.recording.budget


class WriterPipe:
    """Sends finished recordings to the writer.

    Args:
        replica: name of this replica.

    Attributes:
        restarts: how often the writer has died.
    """

    def __init__(self, replica: str) -> None:
        self.restarts = 0
        self._replica = replica
        self._counts: dict[str, Counts] = {}
        self._numbers = 0
        self._queue: deque[_Waiting] = deque()
        self._sent: OrderedDict[int, _Waiting] = OrderedDict()
        self._lock = threading.Lock()
        self._awake = threading.Event()
        self._closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: subprocess.Popen[bytes] | None = None
        """The last one whose answers have come to their end."""
        self._reader: threading.Thread | None = None
        self._feeder: threading.Thread | None = None
        self._pause_s = 0.0

    def counts(self, policy: str) -> Counts:
        """What has become of a policy's episodes so far."""
        return self._counts.setdefault(policy, Counts())

    def send(self, policy: str, recording: Recording, folder: str, settings: FeedbackConfig) -> None:
        """Have a finished recording written; returns at once. Only the event loop, or ``close`` after it, calls this."""
        self._numbers += 1
        self.counts(policy)
        self._queue.append(_Waiting(self._numbers, policy, recording, folder, settings, recording.held_bytes))
        if self._feeder is None:
            self._feeder = threading.Thread(target=self._feed, name="feedback", daemon=True)
            self._feeder.start()
        self._awake.set()

    def close(self, timeout_s: float) -> None:
        """Send what waits, close the pipe, and wait for the writer to end, at most ``timeout_s`` in all."""
        deadline_s = time.monotonic() + timeout_s
        self._closing.set()
        self._awake.set()
        if self._feeder is not None:
            self._feeder.join(timeout_s)
        if self._process is not None:
            try:
                self._process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.warning("the writer of served episodes is still at work; it ends by itself")

    def _feed(self) -> None:
        while True:
            while self._queue:
                waiting = self._queue.popleft()
                if not waiting.frame:
                    waiting.frame = self._encode(waiting)
                if not self._write(waiting):
                    self._bury()
            if self._closing.is_set() and self._finish():
                return
            if not self._closing.is_set():
                self._awake.wait()
                self._awake.clear()
                self._revive()

    def _encode(self, waiting: _Waiting) -> bytes:
        recording = waiting.recording
        frame = encode(
            {
                "number": waiting.number,
                "replica": self._replica,
                "policy": waiting.policy,
                "folder": waiting.folder,
                "settings": waiting.settings.model_dump(mode="json"),
                "contract": recording.contract.interface(),
                **recording.take_content(),
            }
        )
        recording.budget.exchange(waiting.held_bytes, len(frame))
        waiting.held_bytes = len(frame)
        return frame

    def _write(self, waiting: _Waiting) -> bool:
        """Hand one frame to the writer; False when there is none to take it."""
        with self._lock:
            self._sent[waiting.number] = waiting
        waiting.attempts += 1
        try:
            if self._process is None:
                self._start()
            assert self._process is not None
            assert self._process.stdin is not None
            self._process.stdin.write(waiting.frame)
            self._process.stdin.flush()
        except OSError:
            return False
        return True

    def _start(self) -> None:
        # A session of its own: what ends the replica with its process group must not end the writer half-way.
        process = subprocess.Popen(
            [sys.executable, "-m", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, close_fds=True
        )
        self._process = process
        self._reader = threading.Thread(target=self._read, args=(process,), name="feedback-answers", daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answer = json.loads(line)
            for number in answer["done"]:
                self._settle(number, str(answer.get("problem", "")))
            if "bytes" in answer:
                counts = self.counts(answer["policy"])
                counts.bytes += answer["bytes"]
                counts.datasets += 1
            self._pause_s = 0.0
        process.stdout.close()
        self._ended = process
        self._awake.set()

    def _settle(self, number: int, problem: str) -> None:
        with self._lock:
            waiting = self._sent.pop(number, None)
        if waiting is None:
            return
        waiting.budget.exchange(waiting.held_bytes, 0)
        counts = self.counts(waiting.policy)
        if problem:
            counts.dropped += 1
            counts.problem = problem
        else:
            counts.episodes += 1

    def _revive(self) -> None:
        """Notice a writer that died while nothing was being sent."""
        if self._process is not None and self._ended is self._process and not self._closing.is_set():
            self._bury()

    def _bury(self) -> None:
        """The writer is dead: what it had not written is sent again, to the next one."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                assert self._process.stdin is not None
                self._process.stdin.close()
            self._process.wait()
            if self._reader is not None:
                self._reader.join()
            self._process = None
        self.restarts += 1
        logger.warning("the writer of served episodes died; it is started again")
        with self._lock:
            lost = list(self._sent.values())
        for waiting in lost:
            if waiting.attempts >= _ATTEMPTS:
                self._settle(waiting.number, "three writers died with it")
        with self._lock:
            again = list(self._sent.values())
            self._sent.clear()
        self._queue.extendleft(reversed(again))
        # One that dies at once must not keep a core busy with being started.
        self._closing.wait(self._pause_s)
        self._pause_s = min(_LONGEST_PAUSE_S, 2.0 * self._pause_s or 0.5)

    def _finish(self) -> bool:
        """End the writer; False when it died and left something for another one."""
        if self._process is not None and self._reader is not None:
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._reader.join()
        if not self._sent:
            return True
        self._bury()
        return False
