"""An operator at the endpoint as it is deployed: Ray, Serve, its proxy, the registry, two replicas."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.runtime.head import stop_head
from cluster.runtime.serve_config import ServeConfig, ServedPolicyConfig
from cluster.runtime.serving import serve_down, serve_up
from cluster.settings import Settings
from cluster.store.registry import get_version, register_bundle, set_alias

pytestmark = pytest.mark.slow

CONFIG = ServeConfig(policies=(ServedPolicyConfig(policy="pidog-run"),), num_replicas=2)
FLAT = [0.5, -0.25, 1.0, 0.1, 0.2, 0.75]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def settings(migrated_home: Path, tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Settings:
    folder = tmp_path_factory.mktemp("operating")
    shutil.copytree(migrated_home, folder / "home")
    ports = {f"GAITWAY_{name}_PORT": str(free_port()) for name in ("HTTP", "DASHBOARD", "RAY")}
    settings = Settings.from_environment({"GAITWAY_HOME": str(folder / "home"), **ports})
    for alias, gain in (("champion", 1.0), ("challenger", 2.0)):
        set_alias(settings, "pidog-run", alias, register_bundle(settings, "pidog-run", make_bundle(folder / alias, gain=gain)))
    return settings


@pytest.fixture(scope="module")
def http(settings: Settings) -> Iterator[httpx.Client]:
    try:
        up = serve_up(settings, CONFIG)
        headers = {"Authorization": f"Bearer {Path(up['token_file']).read_text().strip()}"}
        with httpx.Client(base_url=up["url"], headers=headers, timeout=100.0, trust_env=False) as client:
            yield client
        serve_down(settings)
    finally:
        stop_head(settings)


def arms_of(http: httpx.Client, prefix: str) -> set[Any]:
    """Which arms new episodes get."""
    found = set()
    for number in range(24):
        answer = http.post("/v1/policies/pidog-run/act", json={"episode_id": f"{prefix}{number}", "observation": FLAT})
        assert answer.status_code == 200, answer.text
        found.add((answer.json()["arm"], answer.json()["version"]))
    return found


def test_an_operators_day(http: httpx.Client, settings: Settings) -> None:
    assert arms_of(http, "before") == {(None, "1")}
    asked = {"challengers": ["challenger"], "share": 0.5, "guardrails": [{"name": "server_error_steps", "above": 0, "at_most": 0.1}]}
    started = http.post("/v1/comparisons", json=asked)
    assert (started.status_code, started.json()["endpoint"]) == (201, {"follows": True, "message": ""})
    comparison_id = started.json()["comparison"]["id"]
    assert started.json()["comparison"]["plan"]["scenarios"]
    assert arms_of(http, "first") == {("champion", "1"), ("challenger", "2")}  # every replica follows by then

    path = f"/v1/comparisons/{comparison_id}"
    assert http.post(f"{path}/weights", json={"weights": {"challenger": 0}, "reason": "a break"}).status_code == 200
    deadline_s = time.monotonic() + 10
    while arms_of(http, f"break{time.monotonic_ns()}") != {(None, "1")}:
        assert time.monotonic() < deadline_s
    report = http.get(path).json()
    assert [split["reason"] for split in report["timeline"]["splits"]][-1] == "a break"
    page = http.get(f"{path}/report.html")
    assert page.headers["content-type"].startswith("text/html")
    assert comparison_id in page.text

    assert http.post(f"{path}/promote").status_code == 409
    forced = http.post(f"{path}/promote", json={"arm": "challenger", "force": True})
    assert forced.json()["endpoint"]["follows"], forced.text
    assert (forced.json()["version"], get_version(settings, "pidog-run", "champion").version) == ("2", 2)
    assert arms_of(http, "after") == {(None, "2")}
    assert http.post(f"{path}/promote").json()["version"] == "2"  # again: the same
    undone = http.post(f"{path}/undo")
    assert (undone.json()["champion"], undone.json()["endpoint"]["follows"]) == ("1", True)
    assert arms_of(http, "undone") == {(None, "1")}

    again = http.post("/v1/comparisons", json={"share": 0.5}).json()["comparison"]["id"]
    assert http.post(f"/v1/comparisons/{again}/stop").json()["status"] == "stopped"
    deadline_s = time.monotonic() + 10
    while arms_of(http, f"stop{time.monotonic_ns()}") != {(None, "1")}:
        assert time.monotonic() < deadline_s
    statuses = {entry["id"]: entry["status"] for entry in http.get("/v1/comparisons").json()["comparisons"]}
    assert statuses == {comparison_id: "promoted", again: "stopped"}
    assert "gaitway_steps_total" in http.get("/metrics").text
    assert httpx.get(f"{http.base_url}/v1/openapi.json", trust_env=False).json()["openapi"] == "3.1.0"
