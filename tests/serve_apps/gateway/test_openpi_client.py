"""openpi's own client, as it is published, against the session route.

It wants an older NumPy than ours, so it runs in an environment of its own, made here from the package index.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.store.comparisons import get_episode

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CLIENT = ("openpi-client==0.1.2", "typing_extensions")
"""The second is imported by the first, which does not say so."""
SCRIPT = """
import json, sys
import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy

url, token = sys.argv[1:]
policy = WebsocketClientPolicy(f"{url}/v1/policies/pidog-run/session?episode_id=kitchen-7&robot_id=arm-1", api_key=token)
observation = {
    "gravity": np.array([0.5, -0.25, 1.0]),
    "joint_position_rad": np.array([0.1, 0.2], dtype=np.float32),
    "range_m": np.float64(0.75),
    "prompt": "pick up the fork",
}
replies = [policy.infer(observation) for _ in range(3)]
refused = ""
try:
    policy.infer({"gravity": np.zeros(3)})
except RuntimeError as error:
    refused = str(error).partition("\\n")[2]
after = policy.infer(observation)
print(json.dumps({
    "numpy": np.__version__,
    "metadata": policy.get_server_metadata(),
    "actions": [reply["actions"].tolist() for reply in [*replies, after]],
    "dtype": str(after["actions"].dtype),
    "infer_ms": [reply["server_timing"]["infer_ms"] for reply in replies],
    "refused": refused,
}))
"""


@pytest.fixture(scope="module")
def python_of_the_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment that has openpi's client and nothing of ours."""
    folder = tmp_path_factory.mktemp("openpi")
    subprocess.run([sys.executable, "-m", "venv", folder / "environment"], check=True)
    python = folder / "environment" / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *CLIENT]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"{CLIENT[0]} cannot be installed here: {result.stderr.strip().splitlines()[-1]}")
    return python


async def test_an_unmodified_client_acts(site: Any, url: str, python_of_the_client: Path) -> None:
    token = site.header("robot")["Authorization"].removeprefix("Bearer ")
    process = await asyncio.create_subprocess_exec(
        str(python_of_the_client), "-c", SCRIPT, f"ws://{url}", token, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    said = json.loads(out)
    assert said["numpy"].startswith("1.")
    metadata = said["metadata"]
    assert (metadata["policy"], metadata["episode_id"], metadata["control_dt_s"]) == ("pidog-run", "kitchen-7", 0.02)
    gain = float(metadata["version"])
    assert said["dtype"] == "float32"
    assert said["actions"] == [[[0.5 * gain, -0.25 * gain]]] * 4
    assert min(said["infer_ms"]) > 0
    assert json.loads(said["refused"])["field"] == "observation.joint_position_rad"
    stored = get_episode(site.database, "pidog-run", "kitchen-7")
    assert stored is not None
    assert (stored.arm, stored.version, stored.robot_id) == (metadata["arm"], metadata["version"], "arm-1")
