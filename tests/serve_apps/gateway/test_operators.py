"""What an operator changes over HTTP, on a real registry, with the real process beside the replica."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from cluster.settings import Settings
from cluster.store.comparisons import get_comparison
from cluster.store.registry import get_version, register_bundle, set_alias
from cluster.store.tokens import list_audit
from serve_apps.gateway import operators

pytestmark = pytest.mark.anyio

FLAT = [0.5, -0.25, 1.0, 0.1, 0.2, 0.75]


@pytest.fixture
async def operated(site: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """The site, with its versions in the registry and a home that the process beside finds."""
    monkeypatch.setenv("GAITWAY_HOME", str(settings.home))
    for number in ("1", "2", "3"):
        assert register_bundle(settings, "pidog-run", site.bundles[number]) == int(number)
    set_alias(settings, "pidog-run", "champion", 1)
    set_alias(settings, "pidog-run", "challenger", 2)
    yield site
    await site.gateway.operators.close()


async def post(site: Any, path: str, body: Any = None, role: Any = "operator", **options: Any) -> Any:
    headers = site.header(role, **options)
    return await (site.http.post(path, headers=headers) if body is None else site.http.post(path, json=body, headers=headers))


async def play(site: Any, episodes: int, champion: float, challenger: float, prefix: str = "e") -> None:
    """Robots that act and tell how it went."""
    generator = np.random.default_rng(3)
    for number in range(episodes):
        name = f"{prefix}{number}"
        answer = (await site.act({"episode_id": name, "observation": FLAT})).json()
        mean = champion if answer["arm"] == "champion" else challenger
        assert (await site.outcome(name, {"value": float(generator.normal(mean, 0.05))})).status_code == 200


def problem(response: Any) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    return response.status_code, response.json()["type"].removeprefix("urn:gaitway:problem:")


CHANGES = ["", "/ID/stop", "/ID/promote", "/ID/weights", "/ID/undo"]


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("robot", 403), (None, 401)])
async def test_only_operators_change_comparisons(site: Any, role: Any, status: int) -> None:
    headers = site.header(role) if role else {"Authorization": ""}
    for change in CHANGES:
        path = f"/v1/comparisons{change.replace('ID', site.comparison.id)}"
        assert (await site.http.post(path, json={}, headers=headers)).status_code == status, path
    assert get_comparison(site.database, site.comparison.id).status == "running"


async def test_a_comparison_is_started_split_otherwise_and_stopped(operated: Any) -> None:
    site = operated
    first = site.comparison.id
    assert problem(await post(site, "/v1/comparisons", {})) == (409, "comparison-conflict")  # one runs already

    stopped = await post(site, f"/v1/comparisons/{first}/stop")
    assert (stopped.status_code, stopped.json()) == (200, {"comparison_id": first, "status": "stopped"})
    assert (await post(site, f"/v1/comparisons/{first}/stop", {})).json() == stopped.json()
    assert problem(await post(site, f"/v1/comparisons/{first}/promote", {})) == (409, "comparison-conflict")
    assert problem(await post(site, f"/v1/comparisons/{first}/weights", {"weights": {"challenger": 1}})) == (409, "comparison-conflict")

    body = {
        "arms": [{"name": "old", "version": "@champion", "weight": 0.7}, {"name": "new", "version": "2", "weight": 0.3}],
        "low": 0.0,
        "high": 2.0,
        "guardrails": [{"name": "fell", "at_most": 0.1}],
        "auto": "recommend",
    }
    started = await post(site, "/v1/comparisons", body)
    assert started.status_code == 201, started.text
    made = started.json()["comparison"]
    assert started.headers["location"] == f"/v1/comparisons/{made['id']}"
    assert [(arm["name"], arm["version"], arm["weight"]) for arm in made["arms"]] == [("old", "1", 0.7), ("new", "2", 0.3)]
    assert (made["guardrails"][0]["name"], made["auto"], made["status"], "salt" in made) == ("fell", "recommend", "running", False)
    assert started.json()["endpoint"]["follows"] is False  # nothing is deployed from this home; it says so
    assert "serve up" in started.json()["endpoint"]["message"]

    split = await post(site, f"/v1/comparisons/{made['id']}/weights", {"weights": {"new": 0.7}, "reason": "it looks good"})
    assert (split.status_code, split.json()["weights"], split.json()["weights_version"]) == (200, {"old": 0.7, "new": 0.7}, 2)
    again = await post(site, f"/v1/comparisons/{made['id']}/weights", {"weights": {"new": 0.7}})
    assert again.json()["weights_version"] == 2
    assert problem(await post(site, f"/v1/comparisons/{made['id']}/weights", {"weights": {"nobody": 1}})) == (422, "invalid-request")

    trail = list_audit(site.database)
    done = {entry["action"]: entry for entry in trail if entry["action"].startswith("comparison.")}
    assert set(done) == {"comparison.start", "comparison.stop", "comparison.weights"}
    assert all(entry["actor"].startswith("token:") and entry["actor"].endswith(":operator") for entry in done.values())
    assert (done["comparison.start"]["target"], done["comparison.stop"]["target"]) == (made["id"], first)
    assert get_comparison(site.database, made["id"]).weights[-1].reason == "it looks good"


async def test_a_winner_is_promoted_once_and_given_back(operated: Any, settings: Settings) -> None:
    site = operated
    path = f"/v1/comparisons/{site.comparison.id}"
    assert problem(await post(site, f"{path}/undo")) == (409, "comparison-conflict")
    early = await post(site, f"{path}/promote")
    assert problem(early) == (409, "comparison-conflict")
    assert "inconclusive" in early.json()["detail"]
    await play(site, 64, champion=-0.1, challenger=0.15)
    promoted = await post(site, f"{path}/promote", {"arm": None, "force": False})
    assert promoted.status_code == 200, promoted.text
    assert {key: promoted.json()[key] for key in ("status", "arm", "version", "forced")} == {
        "status": "promoted",
        "arm": "challenger",
        "version": "2",
        "forced": False,
    }
    assert get_version(settings, "pidog-run", "champion").version == 2
    assert get_comparison(site.database, site.comparison.id).decision["actor"].startswith("token:")
    repeated = await post(site, f"{path}/promote")
    assert repeated.json() == promoted.json()
    assert problem(await post(site, f"{path}/stop")) == (409, "comparison-conflict")
    for _ in range(2):
        undone = await post(site, f"{path}/undo", {})
        assert (undone.status_code, undone.json()["champion"]) == (200, "1")
    assert get_version(settings, "pidog-run", "champion").version == 1
    actions = [entry["action"] for entry in list_audit(site.database) if entry["action"].startswith("comparison.")]
    assert actions == ["comparison.undo", "comparison.promote"]


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"metrik": "x"}, "metrik", "did you mean 'metric'?"),
        ({"low": 1.0, "high": 0.0}, "(top level)", "low 1 must be below high 0"),
        ({"share": "0.1"}, "share", "valid number"),
        ({"share": 1.5}, "share", "less than or equal to 0.99"),
        ({"guardrails": [{"name": "speed", "at_most": 0.1}]}, "guardrails.0", "a figure needs above"),
        ({"arms": [{"name": "a", "version": "1", "weight": 1}], "share": 0.5}, "(top level)", "not both"),
        ({"max_episodes": 10**30}, "max_episodes", ""),
        ({"ramp": [{"share": 2, "episodes": 1}]}, "ramp.0.share", "less than 1"),
    ],
)
async def test_a_wrong_request_names_its_field_and_starts_nothing(site: Any, body: Any, field: str, words: str) -> None:
    response = await post(site, "/v1/comparisons", body)
    assert problem(response) == (422, "invalid-request")
    assert response.json()["field"] == field
    assert words in response.json()["detail"]


async def test_versions_that_are_not_there_and_twins_are_refused_in_the_command_lines_words(
    operated: Any, settings: Settings, capsys: Any
) -> None:
    from typer.testing import CliRunner

    from cluster.cli.main import app

    site = operated
    for body, arguments, expected in (
        ({"challengers": ["9"]}, ["--challenger", "9"], (404, "unknown-version")),
        ({"challengers": ["1"]}, ["--challenger", "1"], (422, "invalid-request")),
        ({"policy": "cat"}, ["--policy", "cat"], (404, "unknown-version")),
        ({"challengers": ["2", "3"]}, ["--challenger", "2", "--challenger", "3"], (409, "comparison-conflict")),
    ):
        response = await post(site, "/v1/comparisons", body)
        assert problem(response) == expected
        said = CliRunner().invoke(app, ["ab", "start", *arguments])
        assert str(said.exception) == response.json()["detail"]


async def test_an_unknown_comparison_is_not_found(operated: Any) -> None:
    for change in ("/stop", "/promote", "/undo"):
        assert problem(await post(operated, f"/v1/comparisons/nope{change}", {})) == (404, "unknown-comparison")
    assert problem(await post(operated, "/v1/comparisons/nope/weights", {"weights": {"a": 1}})) == (404, "unknown-comparison")
    for path in ("/v1/comparisons/nope", "/v1/comparisons/nope/report.html"):
        assert problem(await operated.http.get(path)) == (404, "unknown-comparison")


async def test_what_takes_too_long_is_ended_and_robots_are_answered_meanwhile(operated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site = operated
    slow = asyncio.create_task(post(site, f"/v1/comparisons/{site.comparison.id}/undo"))
    await asyncio.sleep(0)
    worst_s = 0.0
    while not slow.done():
        started_s = time.perf_counter()
        assert (await site.act({"episode_id": "meanwhile", "observation": FLAT})).status_code == 200
        worst_s = max(worst_s, time.perf_counter() - started_s)
        await asyncio.sleep(0.02)
    assert slow.result().status_code == 409
    assert worst_s < 1.0
    monkeypatch.setattr(operators, "TIMEOUT_S", 0.3)
    response = await post(site, f"/v1/comparisons/{site.comparison.id}/undo")
    assert problem(response) == (504, "operation-timeout")


async def test_bodies_beyond_the_limit_are_not_read(site: Any) -> None:
    for change in CHANGES:
        response = await site.http.post(f"/v1/comparisons{change.replace('ID', site.comparison.id)}", content=b" " * (1 << 17))
        assert problem(response) == (413, "body-too-large")


def test_the_request_knows_every_option_of_a_comparison() -> None:
    from cluster.store.comparison_request import ComparisonRequest
    from cluster.store.comparisons import NewComparison

    assert set(NewComparison.model_fields) - set(ComparisonRequest.model_fields) == {"salt"}
