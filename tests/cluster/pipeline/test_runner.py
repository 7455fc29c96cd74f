from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from cluster.errors import ConfigError, UsageError
from cluster.pipeline.config import load_pipeline
from cluster.pipeline.fingerprint import fingerprints
from cluster.pipeline.run_folder import RunFolder, find_run
from cluster.pipeline.runner import StageFailedError, run_pipeline

STAGE = """
import os, time
from pathlib import Path
from pydantic import Field
from cluster.config import Config as Base

class Config(Base):
    text: str = "a"
    input: Path | None = None
    fail: bool = False
    copies: int = Field(1, ge=1)

def run(config, context):
    out = context.folder / "{name}.txt"
    with (context.folder / "{name}.calls").open("a") as file:
        file.write("x")
    out.write_text("partial")
    hold = os.environ.get("HOLD_AT")
    if hold == "{name}":
        time.sleep(120)
    print("chatter of {name}")
    if config.fail:
        raise ValueError("the motor is on fire")
    before = "".join(result["text"] for result in context.results.values())
    text = (before + config.text + (config.input.read_text() if config.input else "")) * config.copies
    out.write_text(text)
    with context.progress.task("{name}", total=1) as task:
        task.update(1)
    return {{"text": text}}
"""


@pytest.fixture
def pipeline_file(tmp_path, monkeypatch):
    for name in ("toy_first", "toy_second", "toy_third"):
        (tmp_path / f"{name}.py").write_text(STAGE.format(name=name))
    monkeypatch.syspath_prepend(str(tmp_path))
    clip = tmp_path / "clip.txt"
    clip.write_text("!")
    path = tmp_path / "toy.yaml"
    path.write_text(
        textwrap.dedent(f"""
        name: toy
        stages:
          first: {{entry: toy_first, config: {{text: a, input: {clip}}}}}
          second: {{entry: toy_second, config: {{text: b}}}}
          third: {{entry: toy_third, config: {{text: c}}}}
        """)
    )
    return path


@pytest.fixture
def attached(settings, ray_session):
    import ray

    return settings.model_copy(update={"ray_address": ray.get_runtime_context().gcs_address})


def _run(path: Path, settings, overrides=()):
    pipeline = load_pipeline(path, overrides)
    run = find_run(settings, pipeline.name) or RunFolder.create(settings, pipeline.name, str(path))
    return run, run_pipeline(pipeline, run, settings, mode="quiet")


def _calls(run: RunFolder) -> dict[str, int]:
    return {path.stem: len(path.read_text()) for path in sorted(run.path.glob("*.calls"))}


def test_finished_stages_are_skipped_and_a_change_reruns_from_where_it_touches(pipeline_file, attached):
    run, results = _run(pipeline_file, attached)
    assert results["third"]["text"] == "a!" + "a!b" + "c"
    assert _calls(run) == {"toy_first": 1, "toy_second": 1, "toy_third": 1}

    again, results = _run(pipeline_file, attached)
    assert again.path == run.path
    assert results["third"]["text"] == "a!a!bc"
    assert _calls(run) == {"toy_first": 1, "toy_second": 1, "toy_third": 1}

    _, results = _run(pipeline_file, attached, ["stages.second.config.text=B"])
    assert results["third"]["text"] == "a!a!Bc"
    assert _calls(run) == {"toy_first": 1, "toy_second": 2, "toy_third": 2}

    (pipeline_file.parent / "clip.txt").write_text("?")
    _, results = _run(pipeline_file, attached, ["stages.second.config.text=B"])
    assert results["third"]["text"] == "a?a?Bc"
    assert _calls(run) == {"toy_first": 2, "toy_second": 3, "toy_third": 3}


def test_the_resolved_configuration_is_saved_and_gives_the_same_fingerprints(pipeline_file, attached):
    run, _ = _run(pipeline_file, attached, ["stages.third.config.copies=2"])
    saved = load_pipeline(run.path / "config.yaml")
    assert fingerprints(saved) == fingerprints(load_pipeline(pipeline_file, ["stages.third.config.copies=2"]))


def test_a_failure_names_stage_cause_log_and_what_to_type(pipeline_file, attached):
    with pytest.raises(StageFailedError) as caught:
        _run(pipeline_file, attached, ["stages.second.config.fail=true"])
    run = find_run(attached, "toy")
    message = str(caught.value)
    for part in ("stage second", "ValueError: the motor is on fire", str(run.log_path("second")), f"gaitway pipeline resume {run.path}"):
        assert part in message
    assert "chatter of toy_second" in run.log_path("second").read_text()
    assert "Traceback" in run.log_path("second").read_text()
    assert run.stages["second"].status == "failed"
    assert "third" not in run.stages
    # Mended, the same run goes on where it stopped.
    _, results = _run(pipeline_file, attached)
    assert results["third"]["text"] == "a!a!bc"
    assert _calls(run)["toy_first"] == 1


@pytest.mark.parametrize("victim", ["toy_first", "toy_second", "toy_third"])
def test_killed_in_any_stage_the_same_command_ends_with_the_same_artefacts(pipeline_file, attached, victim):
    environment = {**os.environ, **attached.as_environment(), "PYTHONPATH": str(pipeline_file.parent), "HOLD_AT": victim}
    command = [sys.executable, "-m", "cluster.pipeline", str(pipeline_file), "--json"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(attached.experiments_path.glob(f"toy_*/{victim}.calls")):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    del environment["HOLD_AT"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"]["third"]["text"] == "a!a!bc"
    (folder,) = attached.experiments_path.iterdir()
    assert (folder / "toy_third.txt").read_text() == "a!a!bc"
    assert {record.status for record in RunFolder(folder).stages.values()} == {"done"}
    assert _calls(RunFolder(folder)) == {name: 2 if name == victim else 1 for name in ("toy_first", "toy_second", "toy_third")}


def test_two_processes_never_share_a_run(pipeline_file, attached):
    run, _ = _run(pipeline_file, attached)
    with run.lock(), pytest.raises(UsageError, match="another process runs this pipeline"):
        _run(pipeline_file, attached)


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("stages.second.config.txt=b", r"stages\.second\.config: txt: unknown key; did you mean 'text'"),
        ("stages.second.config.copies=0", "greater than or equal to 1"),
        ("stages.second.entry=toy_secondd", "no stage module 'toy_secondd'"),
        ("stages.second.configs={}", "did you mean 'config'"),
        ("name=../escape", "letters, digits"),
    ],
)
def test_a_wrong_pipeline_is_refused_before_anything_starts(pipeline_file, settings, override, wanted):
    with pytest.raises(ConfigError, match=wanted):
        _run(pipeline_file, settings, [override])
    assert not settings.experiments_path.exists()
