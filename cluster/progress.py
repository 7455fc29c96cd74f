"""Progress that a person reads and a machine parses.

One live line per stage on a terminal (rich), one line every few seconds elsewhere, JSON lines with ``mode="json"``. It always
goes to one stream that the caller chose (talk is stderr), so that Ray's and MLflow's chatter can be sent to files around it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

__all__ = ["Mode", "Progress", "Task", "format_duration"]

Mode = Literal["auto", "plain", "json", "quiet"]


def format_duration(seconds: float) -> str:
    """``4.2 s``, ``1:05``, ``2:03:09``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Task:
    """One stage in progress. ``update`` may be called as often as work is done; output is rate-limited."""

    def __init__(self, reporter: Progress, name: str, total: float | None, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.completed = 0.0
        self.message = ""
        self.metrics: dict[str, float] = {}
        self.table: list[list[str]] = []
        self.started_s = time.monotonic()
        self._reporter = reporter

    def update(
        self, completed: float | None = None, message: str | None = None, table: list[list[str]] | None = None, **metrics: float
    ) -> None:
        """Set how much is done (absolute), what is going on, and the figures worth watching.

        ``table``, a header and rows, stands under the live line on a terminal.
        """
        if table is not None:
            self.table = table
        if completed is not None:
            self.completed = completed
        if message is not None:
            self.message = message
        self.metrics.update(metrics)
        self._reporter._refresh(self)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self.started_s

    def line(self) -> str:
        """The stage on one line: name, count, rate, time left, figures."""
        parts = [f"{self.name:<10}"]
        rate = self.completed / self.elapsed_s if self.elapsed_s > 0 else 0.0
        if self.total:
            parts.append(f"{self.completed:,.0f}/{self.total:,.0f} {self.unit}")
            if 0 < self.completed < self.total and rate > 0:
                parts.append(f"{rate:,.3g} {self.unit}/s")
                parts.append(f"{format_duration((self.total - self.completed) / rate)} left")
        elif self.completed:
            parts.append(f"{self.completed:,.0f} {self.unit}  {rate:,.3g} {self.unit}/s")
        parts += [f"{name} {value:.4g}" for name, value in self.metrics.items()]
        if self.message:
            parts.append(self.message)
        return "  ".join(parts)


class Progress:
    """Reports stages to one stream. ``quiet`` prints nothing (for library use and tests)."""

    def __init__(self, stream: TextIO | None = None, mode: Mode = "auto", interval_s: float = 5.0) -> None:
        self._console = Console(file=stream, stderr=stream is None, highlight=False, soft_wrap=True)
        self._mode: Mode = mode if mode != "auto" or self._console.is_terminal else "plain"
        self._interval_s = interval_s
        self._last_print_s = float("-inf")
        self._live: Live | None = None

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """Report one stage: a live line while it runs, a settled line with its duration when it ends."""
        task = Task(self, name, total, unit)
        self._last_print_s = time.monotonic()
        if self._mode == "json":
            self._emit(task, "started")
        if self._mode == "auto":
            self._live = Live(Text(task.line()), console=self._console, transient=True, refresh_per_second=4)
            self._live.start()
        try:
            yield task
        except BaseException:
            self._finish(task, "failed")
            raise
        self._finish(task, "done")

    def say(self, text: str) -> None:
        """Print one line of talk."""
        if self._mode == "json":
            self._write(json.dumps({"event": "message", "text": text}))
        elif self._mode != "quiet":
            self._write(text)

    def _refresh(self, task: Task) -> None:
        if self._live is not None:
            self._live.update(_live_view(task))
            return
        now_s = time.monotonic()
        if now_s - self._last_print_s < self._interval_s:
            return
        self._last_print_s = now_s
        if self._mode == "json":
            self._emit(task, "progress")
        elif self._mode == "plain":
            self._write(f"  {task.line()}")

    def _finish(self, task: Task, outcome: str) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._mode == "json":
            self._emit(task, outcome)
        elif self._mode != "quiet":
            mark = "✓" if outcome == "done" else "✗"
            figures = "  ".join(f"{name} {value:.4g}" for name, value in task.metrics.items())
            self._write(
                "  ".join(part for part in (f"{mark} {task.name:<10} {format_duration(task.elapsed_s):>7}", figures, task.message) if part)
            )

    def _emit(self, task: Task, event: str) -> None:
        record = {
            "event": event,
            "stage": task.name,
            "completed": task.completed,
            "total": task.total,
            "unit": task.unit,
            "elapsed_s": round(task.elapsed_s, 3),
            "metrics": task.metrics,
            "message": task.message,
        }
        self._write(json.dumps(record))

    def _write(self, text: str) -> None:
        self._console.print(text, markup=False)


def _live_view(task: Task) -> RenderableType:
    line = Text(task.line(), no_wrap=True, overflow="ellipsis")
    if not task.table:
        return line
    header, *rows = task.table
    table = Table(*header, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # a Text: brackets in a value are no markup
    return Group(line, table)
