"""MuJoCo writes its warnings to a file in the current folder: that of the test, for those that expect some."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def mujoco_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where MuJoCo's warnings of this test go."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "MUJOCO_LOG.TXT"
