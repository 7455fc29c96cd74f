"""What a scrape shows, read by Prometheus' own parser."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.wire.aio_session import AsyncSession
from cluster.wire.errors import ForbiddenError
from serve_apps.gateway.metrics import BUCKETS_S, Metrics
from serve_apps.inference.policy_set import Assignment

pytestmark = pytest.mark.anyio

FLAT = [0.5, -0.25, 1.0, 0.1, 0.2, 0.75]


async def scrape(site: Any) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    response = await site.http.get("/metrics", headers=site.header("viewer"))
    assert (response.status_code, response.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = list(text_string_to_metric_families(response.text))
    assert all(family.documentation for family in families)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for family in families for sample in family.samples}


def of(found: dict[Any, float], name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    return sum(value for (sample, given), value in found.items() if sample == name and set(labels.items()) <= given)


async def test_what_was_done_is_counted(site: Any) -> None:
    arms = {}
    for number in range(6):
        for _ in range(3):
            answer = await site.act({"episode_id": f"e{number}", "observation": FLAT})
        arms[f"e{number}"] = answer.json()["arm"]
    for name in ("e0", "e1", "e0"):
        await site.outcome(name, {"value": 0.25})
    await site.act({"episode_id": "e", "observation": [1.0]})
    await site.act(b"{")
    await site.http.get("/nowhere")
    await site.http.get("/v1/policies", headers={"Authorization": "Bearer wrong"})
    found = await scrape(site)
    for arm, version in (("champion", "1"), ("challenger", "2")):
        episodes = sum(chosen == arm for chosen in arms.values())
        assert of(found, "gaitway_episodes_total", policy="pidog-run", arm=arm, version=version) == episodes
        assert of(found, "gaitway_steps_total", arm=arm) == 3 * episodes
    assert of(found, "gaitway_outcomes_total", policy="pidog-run") == 2  # a repeated one is not another one
    problems = {
        kind: of(found, "gaitway_problems_total", type=kind) for kind in ("invalid-request", "malformed-json", "not-found", "unauthorized")
    }
    assert set(problems.values()) == {1.0}
    assert of(found, "gaitway_step_seconds_count") == of(found, "gaitway_step_seconds_bucket", le="+Inf") == 18
    assert 0 < of(found, "gaitway_step_seconds_sum") < 18
    assert of(found, "gaitway_batched_steps_total") == 18
    assert of(found, "gaitway_served_info", generation=site.gateway.live.loaded.generation, replica="test") == 1
    assert of(found, "gaitway_episodes_remembered") == 6
    assert of(found, "gaitway_follow_age_seconds") < 5


async def test_sessions_and_what_is_refused_in_them(site: Any, url: str) -> None:
    token = site.header("robot")["Authorization"].removeprefix("Bearer ")
    async with AsyncSession(f"http://{url}", "pidog-run", token=token) as session:
        await session.reset()
        for _ in range(5):
            await session.act(np.array(FLAT, np.float32))
        found = await scrape(site)
        assert of(found, "gaitway_sessions_open") == 1
        assert of(found, "gaitway_steps_total") == 5
    viewer = site.header("viewer")["Authorization"].removeprefix("Bearer ")
    with pytest.raises(ForbiddenError):
        async with AsyncSession(f"http://{url}", "pidog-run", token=viewer) as session:
            await session.reset()
    deadline_s = time.monotonic() + 10
    while of(await scrape(site), "gaitway_sessions_open"):
        assert time.monotonic() < deadline_s
    assert of(await scrape(site), "gaitway_problems_total", type="forbidden") >= 1


async def test_who_may_look(site: Any) -> None:
    statuses = {
        role: (await site.http.get("/metrics", headers=site.header(role))).status_code for role in ("robot", "viewer", "operator", "admin")
    }
    assert statuses == {"robot": 403, "viewer": 200, "operator": 200, "admin": 200}
    assert (await site.http.get("/metrics", headers={"Authorization": ""})).status_code == 401


def test_a_name_may_have_quotes_and_the_histogram_is_cumulative() -> None:
    metrics = Metrics('a"b\\c\nd')
    assignment = Assignment("1", "c", 'x"y', 0.5)
    for took_s in (*BUCKETS_S, 100.0):
        metrics.step("p", assignment, took_s)

    class Nothing:
        batches, episodes = (0, 0), ()

        class loaded:  # noqa: N801
            generation = "g"

    families = {family.name: family for family in text_string_to_metric_families(metrics.render(Nothing()))}  # type: ignore[arg-type]
    counts = [sample.value for sample in families["gaitway_step_seconds"].samples if sample.name.endswith("_bucket")]
    assert counts == list(range(1, len(BUCKETS_S) + 2))  # a value on a bound is within it
    assert families["gaitway_served_info"].samples[0].labels["replica"] == 'a"b\\c\nd'
    assert families["gaitway_steps"].samples[0].labels["arm"] == 'x"y'


def test_counting_a_step_costs_next_to_nothing() -> None:
    metrics, assignment = Metrics(), Assignment("1", "c", "champion", 0.5)
    best_s = float("inf")
    for _ in range(5):
        started_s = time.perf_counter()
        for _ in range(20_000):
            metrics.step("pidog-run", assignment, 0.0007)
        best_s = min(best_s, (time.perf_counter() - started_s) / 20_000)
    assert best_s < 2e-6
