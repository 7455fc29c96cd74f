"""Who may do what over HTTP, limits, and what the gate remembers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from cluster.store.tokens import create_token, revoke_token
from serve_apps.gateway import auth
from serve_apps.gateway.problems import RequestProblemError

pytestmark = pytest.mark.anyio

FLAT = [0.5, -0.25, 1.0, 0.1, 0.2, 0.75]
ACT = ("POST", "/v1/policies/pidog-run/act", {"episode_id": "e", "observation": FLAT})
OUTCOME = ("POST", "/v1/policies/pidog-run/episodes/e/outcome", {"value": 0.1})
INFER = ("POST", "/v2/models/pidog-run/infer", {"inputs": [{"name": "observation", "shape": [1, 6], "datatype": "FP32", "data": FLAT}]})
DESCRIBE = [("GET", path, None) for path in ("/v1/policies", "/v1/policies/pidog-run", "/v2", "/v2/models/pidog-run")]
READ = [("GET", path, None) for path in ("/v1/comparisons", "/v1/comparisons/ID")]
HEALTH = [("GET", path, None) for path in ("/v2/health/live", "/v2/health/ready")]
EVERYTHING = [ACT, OUTCOME, INFER, *DESCRIBE, *READ, ("GET", "/nowhere", None), ("GET", "/", None), ("DELETE", "/v1/policies", None)]


async def call(site: Any, route: tuple[str, str, Any], headers: dict[str, str]) -> Any:
    method, path, body = route
    return await site.http.request(method, path.replace("ID", site.comparison.id), json=body, headers=headers)


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer ", "Basic abc", "Bearer gw_x", "Bearer gw_" + "0" * 12 + "_" + "A" * 43])
async def test_without_a_good_token_every_route_but_health_answers_401(site: Any, authorization: str) -> None:
    for route in EVERYTHING:
        response = await call(site, route, {"Authorization": authorization})
        assert (response.status_code, response.json()["type"]) == (401, "urn:gaitway:problem:unauthorized"), route
        assert response.headers["www-authenticate"] == "Bearer"
    for route in HEALTH:
        assert (await call(site, route, {"Authorization": authorization})).status_code == 200


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("robot", [ACT, OUTCOME, INFER, *DESCRIBE]),
        ("viewer", [*DESCRIBE, *READ]),
        ("operator", [*DESCRIBE, *READ]),
        ("admin", [ACT, OUTCOME, INFER, *DESCRIBE, *READ]),
    ],
)
async def test_roles(site: Any, role: Any, may: list[Any]) -> None:
    headers = site.header(role)
    for route in (ACT, OUTCOME, INFER, *DESCRIBE, *READ):
        response = await call(site, route, headers)
        assert response.status_code == (200 if route in may else 403), (route, response.text)


async def test_a_robots_token_is_for_its_policies_only(site: Any) -> None:
    headers = site.header("robot", policies=["another"])
    for route in (ACT, OUTCOME, INFER, DESCRIBE[1]):
        response = await call(site, route, headers)
        assert (response.status_code, response.json()["field"]) == (403, "policy")
    assert (await call(site, DESCRIBE[0], headers)).json()["policies"] == []
    assert (await call(site, ACT, site.header("robot", policies=["another", "pidog-run"]))).status_code == 200


async def test_beyond_its_limit_a_token_is_told_when_to_come_again(site: Any) -> None:
    headers = site.header("robot", requests_per_s=5.0)
    statuses = [(await call(site, DESCRIBE[0], headers)).status_code for _ in range(8)]
    assert statuses[:5] == [200] * 5
    assert statuses[-1] == 429
    response = await call(site, DESCRIBE[0], headers)
    assert response.headers["retry-after"] == "1"
    assert (await call(site, DESCRIBE[0], site.header("robot"))).status_code == 200  # nobody else is meant


async def test_a_revoked_token_stops_working_soon_and_a_silent_database_does_not_stop_a_good_one(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "FRESH_S", 0.0)
    token, text = create_token(site.database, "dog", "robot", actor="test")
    headers = {"Authorization": f"Bearer {text}"}
    assert (await call(site, ACT, headers)).status_code == 200
    gate = site.gateway.live.gate
    read = gate._read

    async def silent(*_: Any) -> None:
        raise RequestProblemError(503, "store-unavailable", "the database is away")

    monkeypatch.setattr(gate, "_read", silent)
    for _ in range(3):
        assert (await call(site, ACT, headers)).status_code == 200
    _, other = create_token(site.database, "new", "robot", actor="test")
    response = await call(site, ACT, {"Authorization": f"Bearer {other}"})
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    monkeypatch.setattr(gate, "_read", read)
    revoke_token(site.database, token.id, actor="test")
    deadline_s = time.monotonic() + 10
    while (await call(site, ACT, headers)).status_code == 200:  # it is read again behind the caller's back
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.02)
    assert (await call(site, ACT, headers)).status_code == 401
