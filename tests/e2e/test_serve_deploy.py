"""The application by Serve's own tool: ``serve deploy configs/serve/production.yaml``, on a smaller scale."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.runtime.head import Head, ensure_head, head_processes, stop_head
from cluster.runtime.serving import haproxy_processes, serve_down
from cluster.settings import Settings
from cluster.store.database import open_database
from cluster.store.registry import register_bundle, set_alias
from cluster.store.tokens import create_token
from cluster.wire.client import PolicyClient

PRODUCTION = Path(__file__).parents[2] / "configs" / "serve" / "production.yaml"


def test_every_key_is_one_that_serve_knows() -> None:
    """Serve ignores a key that it does not know, without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Serve's own models are written for an older pydantic
        from ray.serve.config import AutoscalingConfig
        from ray.serve.schema import DeploymentSchema, HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

    config = yaml.safe_load(PRODUCTION.read_text())
    (application,) = config["applications"]
    (deployment,) = application["deployments"]
    for given, schema in (
        (config, ServeDeploySchema),
        (config["http_options"], HTTPOptionsSchema),
        (application, ServeApplicationSchema),
        (deployment, DeploymentSchema),
        (deployment["autoscaling_config"], AutoscalingConfig),
    ):
        assert set(given) <= set(schema.model_fields), schema
    ServeDeploySchema.model_validate(config)


@pytest.fixture(scope="module")
def place(
    migrated_home: Path, tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]
) -> Iterator[tuple[Settings, Head]]:
    import shutil

    home = tmp_path_factory.mktemp("deploy")
    shutil.copytree(migrated_home, home / "home")
    ports = {}
    for name in ("HTTP", "DASHBOARD", "RAY"):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            ports[f"GAITWAY_{name}_PORT"] = str(listener.getsockname()[1])
    settings = Settings.from_environment({"GAITWAY_HOME": str(home / "home"), **ports})
    set_alias(settings, "pidog-run", "champion", register_bundle(settings, "pidog-run", make_bundle(home / "bundle", gain=2.0)))
    try:
        yield settings, ensure_head(settings)
        serve_down(settings)
        assert haproxy_processes(settings) == []
    finally:
        stop_head(settings)
        assert head_processes(settings) == []


def deploy(place: tuple[Settings, Head], folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    settings, head = place
    config = yaml.safe_load(PRODUCTION.read_text())
    config["http_options"]["port"] = settings.http_port
    config["proxy_location"] = "HeadOnly"
    (application,) = config["applications"]
    (deployment,) = application["deployments"]
    deployment["ray_actor_options"]["num_cpus"] = 0
    deployment["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": 2}
    change(application)
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "ray.serve.scripts", "deploy", str(path), "-a", head.dashboard_url]
    subprocess.run(command, env=os.environ | settings.as_environment(), check=True, capture_output=True, text=True, timeout=120)


def application_status(place: tuple[Settings, Head]) -> dict[str, Any]:
    details = httpx.get(f"{place[1].dashboard_url}/api/serve/applications/", timeout=10).json()
    found: dict[str, Any] = details["applications"]["gaitway"]
    return found


@pytest.mark.slow
def test_serve_deploy_brings_the_same_application_up(place: tuple[Settings, Head], tmp_path: Path) -> None:
    settings, _ = place
    deploy(place, tmp_path, lambda application: None)
    deadline_s = time.monotonic() + 120
    while (found := application_status(place))["status"] != "RUNNING":
        assert found["status"] != "DEPLOY_FAILED", found["message"]
        assert time.monotonic() < deadline_s, found
        time.sleep(0.5)
    with closing(open_database(settings)) as db:
        _, token = create_token(db, "dog", "robot", actor="test")
    with PolicyClient(settings.endpoint_url, "pidog-run", token=token, retry_s=30.0) as client:
        answer = client.act({"gravity": [1, 2, 3], "joint_position_rad": [0, 0], "range_m": [0]}, "an episode")
    assert answer.action["joint_position_target_rad"].tolist() == [2, 4]
    deployment = found["deployments"]["policies"]["deployment_config"]
    assert (deployment["max_surge_percent"], deployment["max_ongoing_requests"]) == (50, 1024)


@pytest.mark.slow
def test_an_unknown_key_fails_the_deployment_with_its_name(place: tuple[Settings, Head], tmp_path: Path) -> None:
    deploy(place, tmp_path, lambda application: application["args"].update(max_body_byte=1))
    deadline_s = time.monotonic() + 90
    while (found := application_status(place))["status"] != "DEPLOY_FAILED":
        assert time.monotonic() < deadline_s, found
        time.sleep(0.5)
    assert "max_body_byte" in found["message"]
