"""The Open Inference Protocol: by hand, and by Triton's own client as it comes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from cluster.store.comparisons import get_episode
from cluster.store.tables import episodes

pytestmark = pytest.mark.anyio

FLAT = np.array([[0.5, -0.25, 1.0, 0.1, 0.2, 0.75]], np.float32)
URL = "/v2/models/pidog-run"


def request(tensor: np.ndarray, **changes: Any) -> dict[str, Any]:
    return {
        "inputs": [{"name": "observation", "shape": list(tensor.shape), "datatype": "FP32", "data": tensor.reshape(-1).tolist()} | changes]
    }


async def test_metadata_names_the_graphs_tensors(empty_site: Any) -> None:
    await empty_site.serve("13", default="1")
    assert (await empty_site.http.get("/v2")).json()["extensions"] == ["binary_tensor_data"]
    metadata = (await empty_site.http.get(URL)).json()
    assert (metadata["name"], metadata["versions"]) == ("pidog-run", ["1", "3"])
    assert metadata["inputs"] == [{"name": "observation", "datatype": "FP32", "shape": [-1, 6]}]
    assert metadata["outputs"] == [{"name": "action", "datatype": "FP32", "shape": [-1, 2]}]
    recurrent = (await empty_site.http.get(f"{URL}/versions/3")).json()
    assert [item["name"] for item in recurrent["inputs"] + recurrent["outputs"]] == ["observation", "count", "action", "count_next"]
    assert (await empty_site.http.get(f"{URL}/versions/3/ready")).json()["ready"]
    missing = await empty_site.http.get(f"{URL}/versions/9")
    assert (missing.status_code, missing.json()["detail"]) == (404, "policy pidog-run has no version '9' loaded; loaded: 1, 3")


@pytest.mark.parametrize("rows", [1, 5])
async def test_a_batch_goes_in_and_out_as_json_and_as_bytes(site: Any, rows: int) -> None:
    batch = np.repeat(FLAT, rows, axis=0) * np.arange(1, rows + 1, dtype=np.float32)[:, None]
    answer = (await site.http.post(f"{URL}/infer", json=request(batch) | {"id": "7"})).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("pidog-run", "1", "7")
    (action,) = answer["outputs"]
    assert (action["name"], action["datatype"], action["shape"]) == ("action", "FP32", [rows, 2])
    np.testing.assert_allclose(np.reshape(action["data"], (rows, 2)), batch[:, :2])
    second = (await site.http.post(f"{URL}/versions/2/infer", json=request(batch))).json()
    np.testing.assert_allclose(np.reshape(second["outputs"][0]["data"], (rows, 2)), 2 * batch[:, :2])

    head = json.dumps(
        {
            "inputs": [
                {"name": "observation", "shape": [rows, 6], "datatype": "FP64", "parameters": {"binary_data_size": rows * 48}},
            ],
            "outputs": [{"name": "action", "parameters": {"binary_data": True}}],
        }
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    response = await site.http.post(f"{URL}/infer", content=head + batch.astype("<f8").tobytes(), headers=headers)
    length = int(response.headers["inference-header-content-length"])
    described = json.loads(response.content[:length])
    assert described["outputs"][0]["parameters"] == {"binary_data_size": rows * 8}
    np.testing.assert_allclose(np.frombuffer(response.content[length:], "<f4").reshape(rows, 2), batch[:, :2])
    with site.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(episodes)).scalar_one() == 0


async def test_state_goes_in_and_out(empty_site: Any) -> None:
    await empty_site.serve("3", default="3")
    body = request(np.repeat(FLAT, 2, axis=0))
    body["inputs"].append({"name": "count", "shape": [2, 1], "datatype": "INT32", "data": [[4], [7]]})
    outputs = {item["name"]: item["data"] for item in (await empty_site.http.post(f"{URL}/infer", json=body)).json()["outputs"]}
    assert outputs["count_next"] == [5.0, 8.0]
    only = (await empty_site.http.post(f"{URL}/infer", json=request(FLAT) | {"outputs": [{"name": "count_next"}]})).json()["outputs"]
    assert [(item["name"], item["data"]) for item in only] == [("count_next", [1.0])]


async def test_with_an_episode_it_is_a_step_of_the_comparison(site: Any) -> None:
    for name in ("a", "b", "c", "d", "e"):
        answer = (await site.http.post(f"{URL}/infer", json=request(FLAT) | {"parameters": {"episode_id": name}})).json()
        stored = get_episode(site.database, "pidog-run", name)
        assert stored is not None
        assert answer["model_version"] == stored.version
        np.testing.assert_allclose(answer["outputs"][0]["data"], FLAT[0, :2] * float(stored.version))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "inputs: must be a list"),
        ({"inputs": []}, "the input 'observation' is missing"),
        ({"inputs": [3]}, "inputs: must be a list of tensors"),
        (request(FLAT, name="obs"), "the input 'observation' is missing"),
        (request(FLAT, datatype="BYTES"), "datatype 'BYTES' is not one of FP32"),
        (request(FLAT, datatype=[]), "datatype '[]'"),
        (request(FLAT, shape=[1, 7]), "takes 7 numbers; 6 are there"),
        (request(FLAT, shape=[6]), "has shape [6]; [-1, 6]"),
        (request(FLAT, shape=[0, 6], data=[]), "has shape [0, 6]"),
        (request(FLAT, shape="x"), "shape must be a list"),
        (request(FLAT, shape=[2**40, 2**40]), "numbers; 6 are there"),
        (request(FLAT, data=[1, 2, 3, 4, 5, "6"]), "data must be numbers"),
        (request(FLAT, data=[1, 2, 3, 4, 5, 1e39]), "must be finite"),
        (request(FLAT, data=[1, 2, 3, 4, 5, 10**400]), "must be finite"),
        (request(FLAT, parameters={"binary_data_size": 24}), "takes 24 bytes; 0 are there"),
        ({"inputs": [*request(FLAT)["inputs"], {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}, "no input 'x'"),
        (request(FLAT) | {"outputs": [{"name": "velocity"}]}, "no output 'velocity'; the model gives action"),
        (request(FLAT) | {"parameters": 3}, "parameters: must be an object"),
        (request(np.repeat(FLAT, 2, axis=0)) | {"parameters": {"episode_id": "e"}}, "one step at a time, this is a batch of 2"),
    ],
)
async def test_what_is_wrong_is_named(site: Any, body: dict[str, Any], says: str) -> None:
    response = await site.http.post(f"{URL}/infer", json=body)
    assert response.status_code == 422, response.text
    assert says in response.json()["detail"]


@pytest.mark.parametrize("length", ["x", "-1", "100000"])
async def test_a_wrong_header_length_is_named(site: Any, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    response = await site.http.post(f"{URL}/infer", json=request(FLAT), headers=headers)
    assert response.status_code == 422


TRITON = """
import sys
import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient(sys.argv[1])
headers = {"Authorization": "Bearer " + sys.argv[2]}  # the client writes into what it is given
assert client.is_server_live() and client.is_server_ready()
assert client.is_model_ready("pidog-run", headers=headers) and client.is_model_ready("pidog-run", "2", headers=headers)
assert not client.is_model_ready("nobody", headers=headers)
assert client.get_server_metadata(headers=headers)["name"] == "gaitway"
metadata = client.get_model_metadata("pidog-run", headers=headers)
observation = np.arange(12, dtype=np.float32).reshape(2, 6)
for binary in (True, False):
    tensor = triton.InferInput("observation", [2, 6], metadata["inputs"][0]["datatype"])
    tensor.set_data_from_numpy(observation, binary_data=binary)
    for outputs in (None, [triton.InferRequestedOutput("action", binary_data=binary)]):
        result = client.infer("pidog-run", [tensor], model_version="2", outputs=outputs, headers=dict(headers))
        np.testing.assert_allclose(result.as_numpy("action"), 2 * observation[:, :2])
try:
    client.infer("pidog-run", [triton.InferInput("observation", [2, 6], "FP32")], headers=headers)
except Exception as error:
    print("refused:", error)
"""


async def test_tritons_client_works_as_it_comes(site: Any, url: str) -> None:
    pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed (it is among the dev packages)")
    token = site.header("robot")["Authorization"].removeprefix("Bearer ")
    command = [sys.executable, "-W", "ignore", "-c", TRITON, url, token]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "refused:" in done.stdout
