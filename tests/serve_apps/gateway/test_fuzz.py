"""20,000 malformed frames and bodies: each is answered, none with 5xx, and memory stays where it was."""

from __future__ import annotations

import json
import os
import random
from typing import Any

import numpy as np
import psutil
import pytest

from cluster.wire.frames import OBSERVATION, STATE, pack, write_compact
from serve_apps.gateway.sessions import _Session

pytestmark = pytest.mark.anyio

FLAT = np.array([0.5, -0.25, 1.0, 0.1, 0.2, 0.75], np.float32)
COUNT = 10_000
EXTREMES = [
    b"NaN",
    b"1e999",
    b"-1",
    b"null",
    b"[]",
    b"{}",
    b'""',
    b"true",
    b"99999999999999999999",
    b"\x00",
    b"\xff\xff\xff\xff",
    b"\\ud800",
]

FRAMES = [
    write_compact(OBSERVATION, 7, FLAT),
    write_compact(OBSERVATION, 7, FLAT, np.ones(1, np.float32), flags=STATE),
    pack({"observation": FLAT, "sequence": 3}),
    pack({"observation": {"gravity": FLAT[:3], "joint_position_rad": FLAT[3:5], "range_m": FLAT[5:]}, "state": {"count": FLAT[:1]}}),
    pack({"type": "reset", "episode_id": "e", "robot_id": "r"}),
    pack({"type": "outcome", "value": 0.25, "fell": True, "steps": 3, "metrics": {"a": 1.0}, "episode_id": "never"}),
]
INFER = {"inputs": [{"name": "observation", "shape": [1, 6], "datatype": "FP32", "data": FLAT.tolist()}], "outputs": [{"name": "action"}]}
HEAD = json.dumps(
    {"inputs": [{"name": "observation", "shape": [1, 6], "datatype": "FP32", "parameters": {"binary_data_size": 24}}]}
).encode()
BODIES = [
    ("/v1/policies/pidog-run/act", json.dumps({"episode_id": "e", "observation": FLAT.tolist(), "sequence": 1}).encode(), {}),
    (
        "/v1/policies/pidog-run/act",
        pack({"episode_id": "e", "observation": FLAT, "state": {"count": FLAT[:1]}}),
        {"Content-Type": "application/msgpack"},
    ),
    ("/v1/policies/pidog-run/episodes/never/outcome", json.dumps({"value": 0.5, "fell": False, "metrics": {"x": 1.0}}).encode(), {}),
    ("/v2/models/pidog-run/infer", json.dumps(INFER).encode(), {}),
    ("/v2/models/pidog-run/infer", HEAD + FLAT.tobytes(), {"Inference-Header-Content-Length": str(len(HEAD))}),
]

ARMS = [{"name": "a", "version": "1", "weight": 0.5}, {"name": "b", "version": "2", "weight": 0.5}]
CHANGES: list[tuple[str, Any]] = [
    ("/v1/comparisons", {"policy": "nobodys", "alpha": 0.9, "unknown": 1, "arms": ARMS, "guardrails": [{"name": "fell", "at_most": 0.1}]}),
    ("/v1/comparisons/ID/weights", {"weights": {"champion": 0.5, "challenger": 0.25}, "reason": "because"}),
    ("/v1/comparisons/nope/stop", {}),
    ("/v1/comparisons/nope/promote", {"arm": "challenger", "force": True}),
    ("/v1/comparisons/nope/undo", {}),
]


def spoil(data: bytes, generator: random.Random) -> bytes:
    """One to four mutations: cut, flip, insert, repeat, replace by an extreme."""
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(data) + 1)
        kind = generator.randrange(5)
        if kind == 0:
            data = data[:at]
        elif kind == 1 and data:
            position = generator.randrange(len(data))
            data = data[:position] + bytes((data[position] ^ (1 << generator.randrange(8)),)) + data[position + 1 :]
        elif kind == 2:
            data = data[:at] + generator.randbytes(generator.randint(1, 8)) + data[at:]
        elif kind == 3:
            data = data[:at] + data[generator.randrange(len(data) + 1) :]
        else:
            data = data[:at] + generator.choice(EXTREMES) + data[at + generator.randint(0, 6) :]
    return data


def memory_mib() -> float:
    return float(psutil.Process(os.getpid()).memory_info().rss) / 2**20


@pytest.mark.parametrize("versions", ["1", "3"])
async def test_frames(empty_site: Any, versions: str) -> None:
    await empty_site.serve(versions, default=versions)
    live, generator = empty_site.gateway.live, random.Random(1)
    caller = await live.gate.admit(empty_site.header("admin", requests_per_s=1e9)["Authorization"])
    session = _Session(live, caller, "pidog-run", "episode_id=fuzz")
    await session.open()
    statuses: dict[int, int] = {}
    before = 0.0
    for turn in range(COUNT // 2):
        if turn == 500:
            before = memory_mib()
        frame: Any = spoil(generator.choice(FRAMES), generator)
        if turn % 4 == 0:
            frame = spoil(json.dumps({"observation": FLAT.tolist(), "type": "observation"}).encode(), generator).decode("utf-8", "replace")
        answer = await session.answer(frame)
        if "text" in answer:
            status = json.loads(answer["text"]).get("status", 200)
            statuses[status] = statuses.get(status, 0) + 1
            assert status < 500, (frame, answer)
        else:
            assert answer["type"] == "websocket.send"
            assert answer["bytes"]
    assert statuses[400] > 100
    assert statuses[422] > 100
    assert memory_mib() - before < 40


async def test_bodies(site: Any) -> None:
    generator, headers = random.Random(2), site.header("admin", requests_per_s=1e9)
    statuses: dict[int, int] = {}
    before = 0.0
    for turn in range(COUNT):
        if turn == 500:
            before = memory_mib()
        path, body, more = generator.choice(BODIES)
        response = await site.http.post(path, content=spoil(body, generator), headers=headers | more)
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
        assert response.status_code < 500, (path, response.text)
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json"
    assert {400, 422} <= set(statuses)
    assert memory_mib() - before < 40


async def test_operators_bodies(site: Any) -> None:
    """5,000 more; what is valid after all takes effect, so those that would start a process name what is not there."""
    generator, headers = random.Random(3), site.header("operator", requests_per_s=1e9)
    statuses: dict[int, int] = {}
    for _ in range(COUNT // 2):
        path, body = generator.choice(CHANGES)
        spoilt = spoil(json.dumps(body).encode(), generator)
        if path == "/v1/comparisons" and not spoilt.strip():
            continue  # an empty body means all defaults
        response = await site.http.post(path.replace("ID", site.comparison.id), content=spoilt, headers=headers)
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
        assert response.status_code < 500, (path, response.text)
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json"
    assert {200, 400, 404, 422} <= set(statuses)
    report = (await site.http.get(f"/v1/comparisons/{site.comparison.id}", headers=headers)).json()
    assert report["status"] == "running"
    assert all(0 <= weight <= 1e6 for split in report["timeline"]["splits"] for weight in split["weights"].values())
