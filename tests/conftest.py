"""What tests of all rooms share: one Ray, one migrated home, and where the real recordings are."""

from __future__ import annotations

import os

# Before any import of Ray: it would turn token authentication on by itself.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")

import logging
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cluster.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for the whole test session: it takes seconds to start."""
    import ray

    ray.init(
        address="local",  # never the cluster that somebody else runs on this machine
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=512 * 2**20,
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def migrated_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose databases are migrated once; tests copy it, because MLflow's migration takes six seconds."""
    from cluster.store.database import open_database
    from cluster.store.tracking import prepare

    settings = Settings.from_environment({"GAITWAY_HOME": str(tmp_path_factory.mktemp("home"))})
    open_database(settings)
    prepare(settings)
    return settings.home


@pytest.fixture
def settings(migrated_home: Path, tmp_path: Path) -> Settings:
    """Settings of a fresh home with empty, migrated databases; everything it points to is under ``tmp_path``."""
    home = tmp_path / "home"
    shutil.copytree(migrated_home, home)
    return Settings.from_environment({"GAITWAY_HOME": str(home), "GAITWAY_EXPERIMENTS_PATH": str(tmp_path / "experiments")})


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings beside the repository; tests that need it are skipped where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real recordings are not here: no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Path]:
    """Write a tiny sealed bundle that ONNX Runtime runs: ``action = gain * observation[:action_size]``.

    A recurrent one also adds its state ``count``, which grows by one a step: the n-th action shows whether all n steps were seen.
    """
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    from cluster.bundle import CARD_FILE, CONTRACT_FILE, ONNX_FILE, seal
    from cluster.contract import PolicyContract, TensorField

    def make(
        folder: Path,
        gain: float = 1.0,
        recurrent: bool = False,
        policy: str = "pidog-run",
        observation: dict[str, int] | None = None,
        action_size: int = 2,
    ) -> Path:
        sizes = observation or {"gravity": 3, "joint_position_rad": 2, "range_m": 1}
        total = sum(sizes.values())
        fields = {
            "observation": helper.make_tensor_value_info("observation", onnx.TensorProto.FLOAT, ["batch", total]),
            "action": helper.make_tensor_value_info("action", onnx.TensorProto.FLOAT, ["batch", action_size]),
            "count": helper.make_tensor_value_info("count", onnx.TensorProto.FLOAT, ["batch", 1]),
            "count_next": helper.make_tensor_value_info("count_next", onnx.TensorProto.FLOAT, ["batch", 1]),
        }
        weight = np.zeros((total, action_size), dtype=np.float32)
        weight[:action_size] = np.eye(action_size) * gain
        constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.ones((1, 1), np.float32), "one")]
        nodes = [helper.make_node("MatMul", ["observation", "weight"], ["scaled" if recurrent else "action"])]
        inputs, outputs = ["observation"], ["action"]
        if recurrent:
            nodes += [helper.make_node("Add", ["scaled", "count"], ["action"]), helper.make_node("Add", ["count", "one"], ["count_next"])]
            inputs, outputs = [*inputs, "count"], [*outputs, "count_next"]
        graph = helper.make_graph(nodes, "tiny", [fields[name] for name in inputs], [fields[name] for name in outputs], constants)
        folder.mkdir(parents=True)
        onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), folder / ONNX_FILE)
        PolicyContract(
            policy=policy,
            robot="pidog",
            task="test",
            control_dt_s=0.02,
            observation=tuple(TensorField(name=name, shape=(size,)) for name, size in sizes.items()),
            action=(TensorField(name="joint_position_target_rad", shape=(action_size,), unit="rad"),),
            state=(TensorField(name="count", shape=(1,)),) if recurrent else (),
        ).save(folder / CONTRACT_FILE)
        (folder / CARD_FILE).write_text("# tiny\n")
        seal(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real S3 server on loopback, a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("s3") / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline_s = time.monotonic() + 60.0
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def s3_url(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Storage URL of a new, empty bucket; the credentials are in the environment, as they are anywhere else."""
    import boto3

    for name, value in (("AWS_ACCESS_KEY_ID", "tester"), ("AWS_SECRET_ACCESS_KEY", "hush"), ("AWS_DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    bucket = f"gaitway-{secrets.token_hex(6)}"
    with closing(boto3.client("s3", endpoint_url=s3_server)) as client:
        client.create_bucket(Bucket=bucket)
    return f"s3://{bucket}/prefix?endpoint_override={s3_server}&region=us-east-1"
