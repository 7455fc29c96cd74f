from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from cluster.runtime.head import MARK, ensure_head, find_head, head_processes, stop_head
from cluster.settings import Settings


@pytest.fixture
def own_settings(tmp_path):
    settings = Settings.from_environment({"GAITWAY_HOME": str(tmp_path / "home")})
    yield settings
    stop_head(settings)


def test_a_killed_head_is_cleared_and_a_stopped_one_leaves_nothing(own_settings):
    first = ensure_head(own_settings, num_cpus=1)
    assert find_head(own_settings) == first
    assert ensure_head(own_settings) == first

    # The supervisor is killed: its children live on, holding ports, and the next start has to clear them.
    orphans = [process for process in head_processes(own_settings) if process.pid != first.pid]
    os.kill(first.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(first.pid)] if psutil.pid_exists(first.pid) else [], timeout=5)
    assert find_head(own_settings) is None

    # A process in its own session that lost its parent, as a reloaded HAProxy worker does.
    stray = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, MARK: str(own_settings.home)}, start_new_session=True
    )
    second = ensure_head(own_settings, num_cpus=1)
    assert second.pid != first.pid
    stray.wait(timeout=10)
    assert not [process for process in orphans if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    assert stop_head(own_settings) > 0
    assert head_processes(own_settings) == []
    assert find_head(own_settings) is None
    assert stop_head(own_settings) == 0


def test_another_home_is_never_touched(own_settings, tmp_path):
    bystander = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, MARK: str(tmp_path / "elsewhere")}
    )
    try:
        assert stop_head(own_settings) == 0
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_stale_record_is_not_taken_for_a_head(own_settings):
    own_settings.home.mkdir(parents=True)
    # The pid lives (it is this test's) but is not the process that was recorded.
    (own_settings.home / "head.json").write_text(
        f'{{"pid": {os.getpid()}, "started_at_s": 1.0, "address": "127.0.0.1:1", "dashboard_url": "", "auth_mode": "token", "log": ""}}'
    )
    assert find_head(own_settings) is None
    (own_settings.home / "head.json").write_text("not json")
    assert find_head(own_settings) is None
