"""Outcomes, health, lists, and what happens while the state is swapped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.bundle import ONNX_FILE
from cluster.errors import BundleError
from cluster.store.comparisons import comparison_history
from cluster.store.database import Database

pytestmark = pytest.mark.anyio

FLAT = [0.5, -0.25, 1.0, 0.1, 0.2, 0.75]
OUTCOME = {"value": 0.21, "fell": False, "steps": 500, "duration_s": 10.0, "metrics": {"energy_j": 12.5}}


async def test_an_outcome_is_on_disk_when_it_is_acknowledged(site: Any) -> None:
    await site.act({"episode_id": "e", "observation": FLAT})
    response = await site.outcome("e", OUTCOME)
    assert (response.status_code, response.json()) == (200, {"episode_id": "e", "stored": True, "repeated": False})
    elsewhere = Database(site.database.url)  # another process would see the same
    (episode,) = comparison_history(elsewhere, site.comparison.id, figures=["energy_j"]).episodes
    elsewhere.close()
    assert episode.outcome._asdict() == OUTCOME


async def test_the_same_outcome_is_accepted_once_and_another_refused(site: Any) -> None:
    await site.act({"episode_id": "e", "observation": FLAT})
    await site.outcome("e", OUTCOME)
    repeat = await site.outcome("e", {**OUTCOME, "duration_s": 10})
    assert (repeat.status_code, repeat.json()["repeated"]) == (200, True)
    conflict = await site.outcome("e", {**OUTCOME, "value": 0.22})
    assert (conflict.status_code, conflict.json()["type"]) == (409, "urn:gaitway:problem:outcome-conflict")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "value"),
        ({"value": "0.2"}, "value"),
        ({"value": None}, "value"),
        ({"value": 0.1, "fell": 1}, "fell"),
        ({"value": 0.1, "steps": -1}, "steps"),
        ({"value": 0.1, "steps": 1.5}, "steps"),
        ({"value": 0.1, "duration_s": -1}, "duration_s"),
        ({"value": 0.1, "metrics": {"energy_j": "much"}}, "metrics.energy_j"),
        ({"value": 0.1, "success": True}, "success"),
    ],
)
async def test_a_malformed_outcome_is_refused_by_field(site: Any, body: Any, field: str) -> None:
    await site.act({"episode_id": "e", "observation": FLAT})
    response = await site.outcome("e", body)
    assert (response.status_code, response.json()["field"]) == (422, field)


async def test_not_ready_before_the_first_state_and_ready_after(empty_site: Any) -> None:
    assert (await empty_site.http.get("/v2/health/live")).status_code == 200
    early = await empty_site.http.get("/v2/health/ready")
    assert (early.status_code, early.json()["type"]) == (503, "urn:gaitway:problem:not-ready")
    assert early.headers["retry-after"] == "1"
    assert (await empty_site.act({"episode_id": "e", "observation": FLAT})).status_code == 503
    await empty_site.serve()
    assert (await empty_site.http.get("/v2/health/ready")).json()["ready"] is True


async def test_lists_say_what_is_served_and_keep_the_salt(site: Any) -> None:
    everything = await site.http.get("/v1/policies")
    (policy,) = everything.json()["policies"]
    assert [version["version"] for version in policy["versions"]] == ["1", "2"]
    assert (policy["default_version"], policy["robot"], policy["control_dt_s"]) == ("1", "pidog", 0.02)
    assert [arm["weight"] for arm in policy["comparison"]["arms"]] == [0.5, 0.5]
    one = await site.http.get("/v1/policies/pidog-run")
    assert [field["name"] for field in one.json()["observation"]] == ["gravity", "joint_position_rad", "range_m"]
    comparisons = await site.http.get("/v1/comparisons")
    assert [item["id"] for item in comparisons.json()["comparisons"]] == [site.comparison.id]
    for response in (everything, one, comparisons):
        assert site.comparison.salt not in response.text


async def test_a_report_counts_the_outcomes(site: Any) -> None:
    for k in range(6):
        await site.act({"episode_id": f"e{k}", "observation": FLAT})
        await site.outcome(f"e{k}", {"value": 0.1})
    report = (await site.http.get(f"/v1/comparisons/{site.comparison.id}")).json()
    assert sum(arm["episodes"] for arm in report["arms"]) == 6
    assert report["decision"] in ("promote", "keep", "inconclusive")


async def test_a_bad_bundle_leaves_the_old_state_serving_and_is_reported(site: Any) -> None:
    state = site.state("123", comparison=site.comparison).as_user_config()
    (site.bundles["3"] / ONNX_FILE).write_bytes(b"broken")
    before = (await site.http.get("/v2/health/ready")).json()["generation"]
    await site.gateway.apply(state)
    listed = (await site.http.get("/v1/policies")).json()
    assert listed["generation"] == before
    assert "does not match its SHA-256" in listed["refused"]["reason"]
    assert (await site.act({"episode_id": "e", "observation": FLAT})).status_code == 200
    await site.serve(comparison=site.comparison, max_body_bytes=4096)
    assert (await site.http.get("/v1/policies")).json()["refused"] is None


async def test_the_first_state_must_be_good(empty_site: Any) -> None:
    state = empty_site.state().as_user_config()
    (empty_site.bundles["1"] / ONNX_FILE).write_bytes(b"broken")
    with pytest.raises(BundleError):
        await empty_site.gateway.apply(state)


async def test_swapping_under_traffic_fails_no_request(site: Any) -> None:
    stop = asyncio.Event()
    answers: list[tuple[int, str]] = []

    async def robot(name: str) -> None:
        step = 0
        while not stop.is_set():
            reply = await site.act({"episode_id": f"{name}-{step // 5}", "observation": FLAT})
            answers.append((reply.status_code, reply.json()["version"]))
            step += 1
            await asyncio.sleep(0)

    robots = [asyncio.create_task(robot(f"r{k}")) for k in range(4)]
    for k in range(6):
        await (site.serve("1") if k % 2 else site.serve("12", default="2"))
        await asyncio.sleep(0.05)
    stop.set()
    await asyncio.gather(*robots)
    assert len(answers) > 100
    assert {status for status, _ in answers} == {200}
    assert {version for _, version in answers} == {"1", "2"}


async def test_an_unreachable_database_is_a_problem_and_not_a_crash(site: Any) -> None:
    broken = site.state("1").model_copy(update={"database_url": "sqlite:////nonexistent/folder/gaitway.db"})
    await site.gateway.apply(broken.as_user_config())
    response = await site.act({"episode_id": "e", "observation": FLAT})
    assert (response.status_code, response.json()["type"]) == (503, "urn:gaitway:problem:store-unavailable")
