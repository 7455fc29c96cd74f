"""Run a pipeline: skip what is done, do the rest, leave a record that any later run can pick up."""

from __future__ import annotations

import threading
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from cluster.config import write_text_atomic
from cluster.errors import GaitwayError, UsageError
from cluster.logs import captured_output, terminal_stream
from cluster.pipeline.config import ResolvedPipeline, ResolvedStage
from cluster.pipeline.fingerprint import fingerprints
from cluster.pipeline.run_folder import RunFolder
from cluster.progress import Mode, Progress
from cluster.runtime.head import ensure_head
from cluster.runtime.session import ray_address, ray_session
from cluster.settings import Settings
from cluster.stage import StageContext

__all__ = ["StageFailedError", "run_pipeline"]


class StageFailedError(GaitwayError):
    """A stage failed. The message names the stage, the cause, the log file and the command that resumes."""


def run_pipeline(pipeline: ResolvedPipeline, run: RunFolder, settings: Settings, mode: Mode = "auto") -> dict[str, dict[str, Any]]:
    """Run every stage that is not done and return all results by stage name.

    Raises ``StageFailedError`` after recording the failure. Killed at any point, the same call continues with the stage that
    was under way.
    """
    with run.lock(), ExitStack() as stack:
        stream = stack.enter_context(terminal_stream())
        progress = Progress(stream, mode)
        write_text_atomic(run.path / "config.yaml", yaml.safe_dump(pipeline.as_mapping(), sort_keys=False, allow_unicode=True))
        wanted = fingerprints(pipeline)
        context = StageContext(folder=run.path, settings=settings, progress=progress, experiment=pipeline.name)
        started = False
        for stage in pipeline.stages:
            record = run.stages.get(stage.name)
            if record is not None and run.is_done(stage.name, wanted[stage.name]) and _still_valid(stage, context, record.result):
                progress.say(f"· {stage.name:<10} done already, skipped")
                context.results[stage.name] = record.result
                continue
            if not started:
                started = True
                _start_runtime(settings, run, progress, stack)
            context.results[stage.name] = _run_stage(stage, wanted[stage.name], run, context)
        return context.results


def _run_stage(stage: ResolvedStage, fingerprint: str, run: RunFolder, context: StageContext) -> dict[str, Any]:
    run.begin(stage.name, fingerprint)
    started_s = time.monotonic()
    log = run.log_path(stage.name)
    try:
        with captured_output(log):
            try:
                result: dict[str, Any] = stage.module.run(stage.config, context)
            except BaseException:
                traceback.print_exc()  # captured: goes to the stage's log
                raise
    except KeyboardInterrupt:
        run.fail(stage.name, time.monotonic() - started_s, "interrupted")
        raise StageFailedError(_message(stage.name, "interrupted", log, run.path)) from None
    except Exception as error:
        cause = str(error) if isinstance(error, GaitwayError) else f"{type(error).__name__}: {error}"
        cause = " ".join(cause.split())[:400]
        run.fail(stage.name, time.monotonic() - started_s, cause)
        raise StageFailedError(_message(stage.name, cause, log, run.path)) from error
    run.finish(stage.name, time.monotonic() - started_s, result)
    return result


def _message(stage: str, cause: str, log: Path, folder: Path) -> str:
    return f"stage {stage}: {cause}\n  log:    {log}\n  resume: gaitway pipeline resume {folder}"


def _still_valid(stage: ResolvedStage, context: StageContext, result: dict[str, Any]) -> bool:
    """A stage that leaves something alive (an endpoint) or outside the run folder says whether it is still there."""
    check = getattr(stage.module, "still_valid", None)
    return True if check is None else bool(check(stage.config, context, result))


def _start_runtime(settings: Settings, run: RunFolder, progress: Progress, stack: ExitStack) -> None:
    """Bring up the store and Ray once for all stages; the store's first migration overlaps Ray's start."""
    with progress.task("start") as task, captured_output(run.path / "logs" / "start.log"):
        problems: list[BaseException] = []
        prepare = threading.Thread(target=_prepare_store, args=(settings, problems), name="prepare-store")
        prepare.start()
        try:
            if ray_address(settings) is None:
                ensure_head(settings)
            stack.enter_context(ray_session(settings))
        finally:
            prepare.join()
        if problems:
            raise problems[0]
        task.update(message=f"Ray at {ray_address(settings)}")


def _prepare_store(settings: Settings, problems: list[BaseException]) -> None:
    from cluster.store.database import open_database
    from cluster.store.tracking import prepare

    try:
        open_database(settings)
        prepare(settings)
    except BaseException as error:  # carried to the main thread, where it is raised
        problems.append(error)


def require_same_pipeline(pipeline: ResolvedPipeline, run: RunFolder) -> None:
    """Refuse to continue one pipeline's run folder with another pipeline."""
    if pipeline.name != run.pipeline:
        raise UsageError(
            f"{run.path}: belongs to the pipeline {run.pipeline!r}, not to {pipeline.name!r}; start a new run without --run-folder"
        )
