"""Shadows and feedback on the real endpoint: figures and datasets survive a replica that is killed and one that is taken down."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from cluster.lerobot.info import load_info
from cluster.runtime.head import head_processes, stop_head
from cluster.runtime.serve_config import ServeConfig, ServedPolicyConfig
from cluster.runtime.served import FeedbackConfig
from cluster.runtime.serving import serve_down, serve_status, serve_up
from cluster.settings import Settings
from cluster.store.comparisons import Arm, NewComparison, create_comparison
from cluster.store.database import Database
from cluster.store.registry import register_bundle, set_alias
from cluster.store.shadows import shadow_figures
from cluster.wire.session import Session

pytestmark = pytest.mark.slow

OBSERVATION = {"gravity": [1.0, 2.0, 3.0], "joint_position_rad": [0.0, 0.0], "range_m": [0.0]}


@pytest.fixture
def place(migrated_home: Path, tmp_path: Path, make_bundle: Callable[..., Path]) -> Iterator[tuple[Settings, Database, str]]:
    shutil.copytree(migrated_home, tmp_path / "home")
    ports = {}
    for name in ("HTTP", "DASHBOARD", "RAY"):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            ports[f"GAITWAY_{name}_PORT"] = str(listener.getsockname()[1])
    settings = Settings.from_environment({"GAITWAY_HOME": str(tmp_path / "home"), **ports})
    versions = [str(register_bundle(settings, "pidog-run", make_bundle(tmp_path / str(gain), gain=gain))) for gain in (1.0, 2.0)]
    set_alias(settings, "pidog-run", "champion", int(versions[0]))
    arms = (Arm(name="champion", version=versions[0], weight=1.0), Arm(name="next", version=versions[1], weight=0.0, shadow=True))
    with closing(Database(settings.gaitway_database_url)) as database:
        new = NewComparison(policy="pidog-run", arms=arms, metric="m", low=0.0, high=1.0)
        try:
            yield settings, database, create_comparison(database, new).id
        finally:
            serve_down(settings)
            stop_head(settings)
            assert head_processes(settings) == []


def play(status: dict[str, Any], episode_id: str, steps: int, outcome: float | None = 0.5) -> None:
    token = Path(status["token_file"]).read_text().strip()
    with Session(status["url"], "pidog-run", token=token) as session:
        session.reset(episode_id)
        for _ in range(steps):
            assert session.act(OBSERVATION).vector.tolist() == [1.0, 2.0]
        if outcome is not None:
            session.outcome(outcome)


def written(folder: Path) -> dict[str, tuple[str, int]]:
    """Of every written episode: how it ended, and its steps."""
    found = {}
    for path in folder.glob("pidog-run/[!.]*"):
        for episode in load_info(path).episodes:
            found[episode.about["episode_id"]] = (episode.about["ended"], episode.length)
    return found


def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_nothing_that_was_finished_is_lost(place: tuple[Settings, Database, str]) -> None:
    settings, database, comparison_id = place
    folder = Path(settings.storage_url) / "served"
    feedback = FeedbackConfig(share=1.0, episodes_per_dataset=50)
    status = serve_up(settings, ServeConfig(policies=(ServedPolicyConfig(policy="pidog-run", feedback=feedback),)))
    for k in range(5):
        play(status, f"first{k}", 30)
    (replica,) = status["replicas"]
    # Killed five seconds after the last step at the earliest: the shadow's figures are on disk by then.
    until(lambda: shadow_figures(database, comparison_id)[0].steps == 150)
    assert written(folder) == {}
    (writer,) = (child for child in psutil.Process(replica["pid"]).children() if "serve_apps.feedback.writer" in child.cmdline())
    os.kill(replica["pid"], signal.SIGKILL)
    until(lambda: len(written(folder)) == 5)
    assert written(folder) == {f"first{k}": ("outcome", 30) for k in range(5)}
    until(lambda: not writer.is_running())
    until(
        lambda: [one["pid"] for one in serve_status(settings)["replicas"] if one["state"] == "RUNNING"] not in ([], [replica["pid"]]), 90.0
    )
    until(lambda: serve_status(settings)["running"], 60.0)
    for k in range(3):
        play(status, f"second{k}", 20)
    play(status, "under way", 10, outcome=None)
    serve_down(settings)
    until(lambda: len(written(folder)) == 9)
    assert written(folder)["under way"] == ("closed", 10)
    assert written(folder)["second2"] == ("outcome", 20)
    (report,) = shadow_figures(database, comparison_id)
    assert (report.steps, report.errors, report.dropped) == (150 + 70, 0, 0)
    # Gain 2 against gain 1 of gravity's first two components.
    assert np.allclose([part.mean_abs for part in report.action], [1.0, 2.0])
