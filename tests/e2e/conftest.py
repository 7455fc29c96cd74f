"""What end-to-end tests share."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.runtime.head import head_processes, stop_head
from cluster.runtime.serving import serve_down
from cluster.settings import Settings


@pytest.fixture
def own_home(migrated_home: Path, tmp_path: Path) -> Iterator[tuple[Settings, dict[str, str]]]:
    """Settings and environment of a user with a home of its own; Serve and the head that the test starts are stopped after it."""
    shutil.copytree(migrated_home, tmp_path / "home")
    places = {"GAITWAY_HOME": str(tmp_path / "home"), "GAITWAY_EXPERIMENTS_PATH": str(tmp_path / "experiments")}
    for name in ("HTTP", "DASHBOARD", "RAY"):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            places[f"GAITWAY_{name}_PORT"] = str(listener.getsockname()[1])
    settings = Settings.from_environment(places)
    environment = {**os.environ, **settings.as_environment()}
    environment.pop("RAY_ADDRESS", None)
    try:
        yield settings, environment
    finally:
        serve_down(settings)
        stop_head(settings)
        assert head_processes(settings) == []
