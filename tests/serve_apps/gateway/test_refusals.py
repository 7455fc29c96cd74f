"""Every malformed request gets a problem document that names the field, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from cluster.store.tables import episodes
from serve_apps.gateway.problems import RequestProblemError
from serve_apps.gateway.requests import ActRequest, ObservationReader, parse_object, read_outcome

pytestmark = pytest.mark.anyio

GOOD = {"gravity": [0.5, -0.25, 1.0], "joint_position_rad": [0.1, 0.2], "range_m": [0.75]}
FLAT = [0.5, -0.25, 1.0, 0.1, 0.2, 0.75]


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


@pytest.mark.parametrize(
    ("observation", "field", "says"),
    [
        (without("gravity"), "observation.gravity", "required"),
        ({**GOOD, "gravitas": [1]}, "observation.gravitas", "unknown field; known: gravity"),
        ({**GOOD, "gravity": [1, 2]}, "observation.gravity", "has 2 numbers; 3 are wanted"),
        ({**GOOD, "gravity": [1, 2, 3, 4]}, "observation.gravity", "has 4 numbers"),
        ({**GOOD, "gravity": [1, "2", 3]}, "observation.gravity", "number 1 is a JSON string"),
        ({**GOOD, "gravity": [1, True, 3]}, "observation.gravity", "number 1 is a JSON boolean"),
        ({**GOOD, "gravity": [1, None, 3]}, "observation.gravity", "number 1 is a JSON null"),
        ({**GOOD, "gravity": [1, [2], 3]}, "observation.gravity", "number 1 is a JSON array"),
        ({**GOOD, "gravity": [1, 1e39, 3]}, "observation.gravity", "finite"),
        ({**GOOD, "gravity": 1}, "observation.gravity", "a list of 3 numbers is wanted"),
        ({**GOOD, "range_m": "far"}, "observation.range_m", "JSON string"),
        (FLAT[:5], "observation", "has 5 numbers; 6 are wanted"),
        ([*FLAT[:4], "x", 1], "observation.joint_position_rad", "JSON string"),
        ([[1], 2, 3, 4, 5, 6], "observation.gravity", "JSON array"),
        ("flat", "observation", "JSON string"),
        (None, "observation", "JSON null"),
    ],
)
async def test_observations_against_the_contract(site: Any, observation: Any, field: str, says: str) -> None:
    response = await site.act({"episode_id": "bad", "observation": observation})
    problem = response.json()
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert (problem["type"], problem["status"], problem["field"]) == ("urn:gaitway:problem:invalid-request", 422, field)
    assert says in problem["detail"]
    with site.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(episodes)).scalar_one() == 0


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400", "1" + "0" * 400])
async def test_numbers_that_are_not_finite_are_named(site: Any, text: str) -> None:
    body = f'{{"episode_id": "bad", "observation": {{"gravity": [1, {text}, 3], "joint_position_rad": [1, 2], "range_m": [1]}}}}'
    response = await site.act(body.encode())
    assert (response.status_code, response.json()["field"]) == (422, "observation.gravity")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"observation": FLAT}, "episode_id"),
        ({"episode_id": "e"}, "observation"),
        ({"episode_id": "", "observation": FLAT}, "episode_id"),
        ({"episode_id": "x" * 129, "observation": FLAT}, "episode_id"),
        ({"episode_id": "a\nb", "observation": FLAT}, "episode_id"),
        ({"episode_id": 7, "observation": FLAT}, "episode_id"),
        ({"episode_id": "e", "observation": FLAT, "robot_id": []}, "robot_id"),
        ({"episode_id": "e", "observation": FLAT, "sequence": -1}, "sequence"),
        ({"episode_id": "e", "observation": FLAT, "sequence": True}, "sequence"),
        ({"episode_id": "e", "observation": FLAT, "sequence": 1.5}, "sequence"),
        ({"episode_id": "e", "observation": FLAT, "obs": FLAT}, "obs"),
    ],
)
async def test_the_envelope(site: Any, body: Any, field: str) -> None:
    response = await site.act(body)
    assert (response.status_code, response.json()["field"]) == (422, field)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[1]", b'"text"', b"null", b"[" * 5000, b'{"a":' * 3000])
async def test_what_is_not_a_json_object(site: Any, body: bytes) -> None:
    response = await site.act(body)
    assert (response.status_code, response.json()["type"]) == (400, "urn:gaitway:problem:malformed-json")


async def test_a_body_that_is_too_large(site: Any) -> None:
    await site.serve(comparison=site.comparison, max_body_bytes=1024)
    declared = await site.act(b"x" * 1025)
    assert (declared.status_code, declared.json()["type"]) == (413, "urn:gaitway:problem:body-too-large")

    async def endless() -> Any:
        while True:
            yield b" " * 512

    streamed = await site.http.post("/v1/policies/pidog-run/act", content=endless())
    assert streamed.status_code == 413


async def test_what_is_unknown(site: Any) -> None:
    for response, kind, status in (
        (await site.act({"episode_id": "e", "observation": FLAT}, policy="duck-run"), "unknown-policy", 404),
        (await site.http.get("/v1/policies/duck-run"), "unknown-policy", 404),
        (await site.outcome("never-acted", {"value": 0.1}), "unknown-episode", 404),
        (await site.http.get("/v1/policy"), "not-found", 404),
        (await site.http.get("/v1/comparisons/none"), "unknown-comparison", 404),
        (await site.http.get("/v1/policies/pidog-run/act"), "method-not-allowed", 405),
    ):
        assert response.headers["content-type"] == "application/problem+json"
        assert (response.status_code, response.json()["type"]) == (status, f"urn:gaitway:problem:{kind}")


async def test_an_action_that_is_not_finite_never_leaves(empty_site: Any) -> None:
    await empty_site.serve(default="2")  # doubles what it sees: too much for 32 bits
    response = await empty_site.act({"episode_id": "e", "observation": [3e38] * 6})
    assert (response.status_code, response.json()["field"]) == (422, "observation")


async def test_a_defect_is_answered_without_its_traceback(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(type(site.gateway.live.episodes), "find", broken)
    response = await site.act({"episode_id": "e", "observation": FLAT})
    assert (response.status_code, response.json()["type"]) == (500, "urn:gaitway:problem:internal-error")
    assert "secret" not in response.text
    assert "Traceback" not in response.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["gravity", "range_m", "state", "value"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["episode_id", "observation", "sequence", "value", "metrics", "steps"]), JSON, max_size=4), JSON)
def test_whatever_comes_is_read_or_refused(site: Any, data: dict[str, Any], observation: Any) -> None:
    reader = ObservationReader(site.gateway.live._set.policies["pidog-run"].contract)
    for read in (lambda: ActRequest(data), lambda: read_outcome(data), lambda: reader.read(observation)):
        try:
            read()
        except RequestProblemError as problem:
            assert problem.status == 422  # noqa: PT017 - either way is right, but no other error may come


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:0123456789eE+-.NaInfity \\u', max_size=80).map(str.encode))
def test_whatever_bytes_come_are_an_object_or_refused(body: bytes) -> None:
    try:
        assert isinstance(parse_object(body), dict)
    except RequestProblemError as problem:
        assert problem.status == 400  # noqa: PT017 - as above
