"""What a replica loads: a robot waits for it, so nothing of the training side may come along."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from cluster.bundle import verify
from cluster.runtime.served import ServedPolicy, ServedState, ServedVersion
from cluster.settings import Settings
from cluster.store.database import Database
from cluster.store.tokens import create_token

CODE = """
import asyncio, json, sys
import httpx
import serve_apps.app
from serve_apps.gateway.gateway import Gateway

HEADERS = {"Authorization": f"Bearer {sys.argv[2]}"}

async def main():
    gateway = Gateway()
    await gateway.apply(json.loads(sys.argv[1]))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=gateway.app), base_url="http://test", headers=HEADERS) as http:
        reply = await http.post("/v1/policies/pidog-run/act", json={"episode_id": "e", "observation": [0.0] * 6})
        assert reply.status_code == 200, reply.text
        reply = await http.post("/v1/policies/pidog-run/episodes/e/outcome", json={"value": 0.1})
        assert reply.status_code == 200, reply.text

asyncio.run(main())
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules} | {name for name in sys.modules if name.startswith("ray.")})))
"""


def test_a_replica_that_acts_has_neither_mlflow_nor_torch_nor_rllib(
    settings: Settings, tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    version = ServedVersion(bundle=bundle, digest=verify(bundle))
    policies = {"pidog-run": ServedPolicy(versions={"1": version}, default_version="1")}
    state = ServedState(policies=policies, database_url=settings.gaitway_database_url)
    with closing(Database(settings.gaitway_database_url)) as db:
        _, token = create_token(db, "robot", "robot", actor="test")
    command = [sys.executable, "-c", CODE, json.dumps(state.as_user_config()), token]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    loaded = set(json.loads(result.stdout))
    assert {"onnxruntime", "ray.serve"} <= loaded
    unwanted = {
        "mlflow",
        "torch",
        "mujoco",
        "gymnasium",
        "trainables",
        "alembic",
        "matplotlib",
        "ray.rllib",
        "ray.tune",
        "ray.train",
        "ray.data",
    }
    assert loaded & unwanted == set()
