"""The run folder ``experiments/<name>_<YYYYMMDD_HHMMSS>/`` and its record of what is done, ``pipeline.json``."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from cluster.config import Config, write_text_atomic
from cluster.errors import GaitwayError, UsageError
from cluster.settings import Settings
from cluster.stage import new_run_folder

__all__ = ["RunFolder", "StageRecord", "find_run", "list_runs"]

RECORD_FILE = "pipeline.json"
Status = Literal["running", "done", "failed"]


class StageRecord(Config):
    """What is known of one stage of one run."""

    status: Status
    fingerprint: str
    started_at: str = Field(description="UTC, ISO 8601, of the last attempt")
    finished_at: str = ""
    duration_s: float = 0.0
    attempts: int = 1
    result: dict[str, Any] = Field(default_factory=dict)
    error: str = ""


class _Record(Config):
    pipeline: str
    source: str = ""
    stages: dict[str, StageRecord] = Field(default_factory=dict)


class RunFolder:
    """One run on disk. Every change of the record is one atomic write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._record = _Record.model_validate_json((path / RECORD_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(f"{path}: not a pipeline's run folder (no {RECORD_FILE}); see `gaitway pipeline status`") from None
        except ValidationError as error:
            raise GaitwayError(f"{path / RECORD_FILE}: damaged: {' '.join(str(error).split())[:160]}; start anew with --new") from None

    @classmethod
    def create(cls, settings: Settings, pipeline: str, source: str) -> RunFolder:
        """A new, empty run folder."""
        path = new_run_folder(settings, pipeline)
        write_text_atomic(path / RECORD_FILE, _Record(pipeline=pipeline, source=source).model_dump_json(indent=2))
        return cls(path)

    @property
    def pipeline(self) -> str:
        """Name of the pipeline that this folder belongs to."""
        return self._record.pipeline

    @property
    def stages(self) -> dict[str, StageRecord]:
        """Records of the stages that have been started, by name."""
        return dict(self._record.stages)

    def log_path(self, stage: str) -> Path:
        """Where a stage's output goes."""
        return self.path / "logs" / f"{stage}.log"

    def is_done(self, stage: str, fingerprint: str) -> bool:
        """Whether the stage has finished with this very fingerprint."""
        record = self._record.stages.get(stage)
        return record is not None and record.status == "done" and record.fingerprint == fingerprint

    def begin(self, stage: str, fingerprint: str) -> None:
        """Note that a stage starts (again)."""
        earlier = self._record.stages.get(stage)
        attempts = earlier.attempts + 1 if earlier and earlier.fingerprint == fingerprint else 1
        self._write(stage, StageRecord(status="running", fingerprint=fingerprint, started_at=_now(), attempts=attempts))

    def finish(self, stage: str, duration_s: float, result: dict[str, Any]) -> None:
        """Note that a stage is done. ``result`` must be JSON-able; it is what later stages and the summary read."""
        json.dumps(result)
        self._settle(stage, status="done", duration_s=duration_s, result=result)

    def fail(self, stage: str, duration_s: float, error: str) -> None:
        """Note that a stage failed, and why."""
        self._settle(stage, status="failed", duration_s=duration_s, error=error)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder. Raises ``UsageError`` when another process runs in it; ends with this process, however it ends."""
        with (self.path / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"{self.path}: another process runs this pipeline; wait for it, or start a second one with --new"
                ) from None
            yield

    def is_locked(self) -> bool:
        """Whether some process runs in this folder now."""
        try:
            with self.lock():
                return False
        except UsageError:
            return True

    def _settle(self, stage: str, **changes: Any) -> None:
        record = self._record.stages[stage].model_copy(update={"finished_at": _now(), **changes})
        self._write(stage, record)

    def _write(self, stage: str, record: StageRecord) -> None:
        self._record = self._record.model_copy(update={"stages": {**self._record.stages, stage: record}})
        write_text_atomic(self.path / RECORD_FILE, self._record.model_dump_json(indent=2))


def list_runs(settings: Settings) -> list[RunFolder]:
    """All pipeline runs, oldest first."""
    if not settings.experiments_path.is_dir():
        return []
    paths = [path for path in settings.experiments_path.iterdir() if (path / RECORD_FILE).is_file()]
    return [RunFolder(path) for path in sorted(paths, key=_created)]


def find_run(settings: Settings, pipeline: str) -> RunFolder | None:
    """The latest run of a pipeline by name, or None."""
    runs = [run for run in list_runs(settings) if run.pipeline == pipeline]
    return runs[-1] if runs else None


def _created(path: Path) -> tuple[str, int]:
    """Order of creation from the name: ``..._20261121_093000`` before ``..._20261121_093000_1``."""
    match = re.search(r"_(\d{8}_\d{6})(?:_(\d+))?$", path.name)
    return (match[1], int(match[2] or 0)) if match else ("", 0)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
