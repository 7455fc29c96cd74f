"""What a stage is: a module with a ``Config``, a ``run`` and a ``main``, used alone or inside a pipeline.

A stage module (``trainables.collect``, ``trainables.imitate``, ...) defines

- ``Config``: its frozen pydantic model;
- ``run(config, context) -> dict``: does the work, writes only below ``context.folder``, returns a JSON-able result;
- where it can know early that it would fail, ``check(config)``: raises ``UsageError`` before anything is made or started;
- ``if __name__ == "__main__": stage_main("trainables.collect")``, which gives it ``CONFIG.yaml --set a.b=c --json``.

Importing a stage module must stay cheap (no torch, Ray, MLflow at import): a pipeline imports all of them to check all
configurations before it starts anything.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from cluster.config import Config, load_config, save_config
from cluster.errors import GaitwayError, UsageError
from cluster.logs import captured_output, terminal_stream
from cluster.progress import Mode, Progress
from cluster.settings import Settings

__all__ = ["StageContext", "load_stage", "new_run_folder", "run_app", "run_stage_alone", "stage_main"]


@dataclass
class StageContext:
    """What a stage is given beside its configuration."""

    folder: Path
    """The run folder; a stage writes below its own part of it."""
    settings: Settings
    progress: Progress
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Results of the stages before it, by stage name; empty when a stage runs alone."""
    experiment: str = "gaitway"
    """MLflow experiment."""

    def result(self, stage: str, key: str) -> Any:
        """A value that an earlier stage returned. Raises ``GaitwayError`` when that stage has not run in this pipeline."""
        try:
            return self.results[stage][key]
        except KeyError:
            raise GaitwayError(
                f"this stage needs {key!r} from the stage {stage!r}, which has not run here; give it in the configuration"
            ) from None


def load_stage(name: str) -> ModuleType:
    """Import a stage module by name and check that it is one."""
    module = importlib.import_module(name)
    if not (
        isinstance(getattr(module, "Config", None), type) and issubclass(module.Config, Config) and callable(getattr(module, "run", None))
    ):
        raise GaitwayError(f"{name} is not a stage: it must define Config and run(config, context)")
    return module


def new_run_folder(settings: Settings, name: str) -> Path:
    """Create ``experiments/<name>_<YYYYMMDD_HHMMSS>/``; a second run within the second gets a suffix."""
    stamp = datetime.now().strftime("%Y%m%d_%H%M%S")
    for attempt in range(100):
        folder = settings.experiments_path / (f"{name}_{stamp}" + (f"_{attempt}" if attempt else ""))
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise GaitwayError(f"{settings.experiments_path}: cannot create a run folder for {name}")


def run_stage_alone(
    name: str,
    config: Path,
    overrides: Sequence[str] = (),
    run_folder: Path | None = None,
    mode: Mode = "auto",
) -> tuple[Path, dict[str, Any]]:
    """Run one stage outside a pipeline -> (run folder, result). Its chatter goes to ``logs/<stage>.log`` in the run folder.

    Raises ``ConfigError`` before anything is created, and ``GaitwayError`` naming the log when the stage fails. A stage that refuses
    (``UsageError``) before it has written anything leaves no run folder of its own.
    """
    settings = Settings.from_environment()
    module = load_stage(name)
    resolved = load_config(config, module.Config, overrides)
    if hasattr(module, "check"):
        module.check(resolved)
    folder = (run_folder or new_run_folder(settings, config.stem)).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    save_config(resolved, folder / "config.yaml")
    log = folder / "logs" / f"{name.rpartition('.')[2]}.log"
    with terminal_stream() as stream, captured_output(log):
        context = StageContext(folder=folder, settings=settings, progress=Progress(stream, mode), experiment=config.stem)
        try:
            return folder, module.run(resolved, context)
        except BaseException as error:
            traceback.print_exc()  # captured: goes to the log
            if not isinstance(error, GaitwayError):
                raise
            if isinstance(error, UsageError) and run_folder is None and _is_untouched(folder):
                shutil.rmtree(folder)
                raise
            raise type(error)(f"{error} (log: {log})") from error


def _is_untouched(folder: Path) -> bool:
    """Whether a run got no further than its configuration and its log."""
    files = {path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file()}
    return files <= {"config.yaml", "logs"}


def stage_main(name: str) -> None:
    """Command line of one stage: ``python -m NAME CONFIG.yaml [--set a.b=c ...] [--run-folder DIR] [--json]``.

    The last line on stdout is the stage's result as one line of JSON.
    """

    def command(
        config: Annotated[Path, typer.Argument(help="YAML configuration", show_default=False)],
        set_: Annotated[list[str] | None, typer.Option("--set", help="override a key, a.b=c; may be repeated")] = None,
        run_folder: Annotated[Path | None, typer.Option("--run-folder", help="existing or new run folder; default: a new one")] = None,
        json_: Annotated[bool, typer.Option("--json", help="progress as JSON lines on stderr")] = False,
    ) -> None:
        folder, result = run_stage_alone(name, config, set_ or (), run_folder, "json" if json_ else "auto")
        print(json.dumps({"run_folder": str(folder), **result}))

    run_app(command, name=f"python -m {name}")


def run_app(command: Any, name: str) -> None:
    """Run a typer command; a ``GaitwayError`` becomes one line on stderr and its exit code."""
    app = command if isinstance(command, typer.Typer) else typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    if app is not command:
        app.command()(command)
    try:
        app(prog_name=name)
    except GaitwayError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None
