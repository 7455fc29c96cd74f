"""Shadow arms: their figures are those that one computes by hand, and whatever they do, no robot notices."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import connect

from cluster.store.comparisons import Arm, Comparison, NewComparison, close_comparison, create_comparison
from cluster.store.shadows import ShadowReport, shadow_figures
from cluster.wire.frames import ACTION, OBSERVATION, read_compact, write_compact

pytestmark = pytest.mark.anyio

FLAT = np.array([0.5, -0.25, 1.0, 0.1, 0.2, 0.75], np.float32)


async def shadowed(site: Any, *shadows: str, split: bool = False) -> Comparison:
    """Serve version 1, half of the episodes version 2 where ``split``, with these versions as shadows."""
    close_comparison(site.database, site.comparison.id, "stopped")
    arms = [Arm(name="champion", version="1", weight=0.5)]
    arms += [Arm(name="challenger", version="2", weight=0.5)] if split else []
    arms += [Arm(name=f"shadow{version}", version=version, weight=0.0, shadow=True) for version in shadows]
    new = NewComparison(policy="pidog-run", arms=tuple(arms), metric="forward_velocity_m_s", low=-0.5, high=0.5)
    comparison = create_comparison(site.database, new)
    await site.serve("123", comparison=comparison)
    return comparison


async def step(site: Any, episode_id: str, scale: float = 1.0, sequence: int | None = None) -> float:
    """One step; returns how long it took, seconds."""
    live = site.gateway.live
    policy = live.policy("pidog-run")
    episode = await live.begin(policy, episode_id, None)
    started_s = time.perf_counter()
    await live.step(policy, episode, (FLAT * scale).reshape(1, -1), sequence=sequence)
    return time.perf_counter() - started_s


async def figures(site: Any, comparison: Comparison, seen: int, within_s: float = 5.0) -> tuple[ShadowReport, ...]:
    """The figures once every shadow has met ``seen`` steps, whatever became of them."""
    deadline_s = time.monotonic() + within_s
    while True:
        await site.gateway.live._store_shadows()
        reports = shadow_figures(site.database, comparison.id)
        if all(report.steps + report.dropped + report.sat_out >= seen for report in reports):
            return reports
        assert time.monotonic() < deadline_s, reports
        await asyncio.sleep(0.02)


async def test_distances_are_those_between_the_gains(site: Any) -> None:
    comparison = await shadowed(site, "2")
    scales = [1.0, -2.0, 3.0, 4.0]
    for scale in scales:
        await step(site, "e", scale)
    (report,) = await figures(site, comparison, 4)
    assert (report.arm, report.version, report.steps, report.errors, report.dropped) == ("shadow2", "2", 4, 0, 0)
    # Gain 2 against gain 1: the distance is the observation's own size, 0.5 and 0.25 times the scales.
    assert [(part.name, part.unit) for part in report.action] == [(f"joint_position_target_rad.{k}", "rad") for k in (0, 1)]
    assert [part.mean_abs for part in report.action] == pytest.approx([0.5 * 2.5, 0.25 * 2.5])
    assert [part.max_abs for part in report.action] == pytest.approx([0.5 * 4.0, 0.25 * 4.0])
    assert 0 < report.latency_p50_ms <= report.latency_p99_ms < 1000


async def test_a_shadow_is_compared_with_whichever_action_was_taken(site: Any) -> None:
    comparison = await shadowed(site, "2", split=True)
    policy = site.gateway.live.policy("pidog-run")
    names = [f"e{k}" for k in range(40)]
    for name in names:
        await step(site, name)
    champions = sum(policy.assign(name).arm == "champion" for name in names)
    assert 0 < champions < 40
    (report,) = await figures(site, comparison, 40)
    assert report.steps == 40
    assert report.action[0].mean_abs == pytest.approx(0.5 * champions / 40)


async def test_a_recurrent_shadow_has_a_state_of_its_own_for_every_episode(site: Any) -> None:
    comparison = await shadowed(site, "3", "2")
    for _ in range(5):
        await asyncio.gather(*(step(site, name) for name in ("a", "b", "c")))
    recurrent, stateless = await figures(site, comparison, 15)
    # Its action is the champion's and the number of the step in its episode: 0, 1, 2, 3, 4.
    assert (recurrent.steps, recurrent.sat_out) == (15, 0)
    assert [part.mean_abs for part in recurrent.action] == pytest.approx([2.0, 2.0])
    assert [part.max_abs for part in recurrent.action] == pytest.approx([4.0, 4.0])
    assert stateless.steps == 15


async def test_a_recurrent_shadow_sits_out_an_episode_of_which_it_missed_a_step(site: Any) -> None:
    await site.serve("123")
    await step(site, "before")
    comparison = await shadowed(site, "3", "2")
    await step(site, "before")  # began when there was no shadow
    for sequence in (0, 1, 3, 4):  # step 2 went to another replica
        await step(site, "gap", sequence=sequence)
    await step(site, "whole")
    recurrent, stateless = await figures(site, comparison, 6)
    assert (recurrent.steps, recurrent.sat_out, stateless.steps) == (3, 3, 6)
    assert recurrent.action[0].max_abs == pytest.approx(1.0)


async def test_a_slow_shadow_slows_no_session_and_what_it_cannot_do_is_dropped_and_counted(site: Any, url: str) -> None:
    comparison = await shadowed(site, "2", "3")
    live = site.gateway.live
    live._shadows.capacity = 8
    session = live.policy("pidog-run").versions["2"]
    compute = session.run

    def slow(*arguments: Any) -> Any:
        time.sleep(0.1)
        return compute(*arguments)

    session.run = slow
    durations_s = []
    async with connect(f"ws://{url}/v1/policies/pidog-run/session", additional_headers=site.header("robot")) as socket:
        await socket.recv()
        for sequence in range(200):
            started_s = time.perf_counter()
            await socket.send(write_compact(OBSERVATION, sequence, FLAT))
            answered, action, _ = read_compact(await socket.recv(), ACTION, 2)
            durations_s.append(time.perf_counter() - started_s)
            assert answered == sequence
            np.testing.assert_array_equal(action, FLAT[:2])
    session.run = compute
    assert float(np.median(durations_s)) < 0.02
    stateless, recurrent = await figures(site, comparison, 200)
    assert stateless.steps + stateless.dropped == 200
    assert stateless.dropped > 100
    assert stateless.latency_p99_ms >= 95
    assert stateless.action[0].mean_abs == pytest.approx(0.5)
    # The one that keeps a state cannot go on after the first step that was dropped.
    assert recurrent.dropped == stateless.dropped
    assert recurrent.steps + recurrent.sat_out + recurrent.dropped == 200
    assert recurrent.steps <= 16


async def test_a_failing_shadow_hurts_no_episode_and_its_failures_are_counted(site: Any, url: str) -> None:
    comparison = await shadowed(site, "2", "3")
    versions = site.gateway.live.policy("pidog-run").versions
    compute, broken = versions["2"].run, versions["3"].run

    def sometimes(observation: np.ndarray, state: Any = None) -> Any:
        if (observation[:, 0] > 1.0).any():
            raise RuntimeError("not with this one")
        return compute(observation, state)

    def never_finite(observation: np.ndarray, state: Any = None) -> Any:
        action, following = broken(observation, state)
        return action * np.nan, following

    versions["2"].run, versions["3"].run = sometimes, never_finite
    for turn in range(12):
        await asyncio.gather(*(step(site, f"e{k}", scale=4.0 if (turn, k) == (5, 2) else 1.0) for k in range(4)))
        assert (await site.act({"episode_id": "http", "observation": FLAT.tolist()})).status_code == 200
    stateless, recurrent = await figures(site, comparison, 60)
    assert (stateless.steps, stateless.errors) == (60, 1)
    assert stateless.action[0].max_abs == pytest.approx(0.5)
    # Its first action of each episode was not finite, so that it had no state to go on with.
    assert (recurrent.steps, recurrent.errors, recurrent.sat_out) == (5, 5, 55)
    assert [part.mean_abs for part in recurrent.action] == [0.0, 0.0]


async def test_shadows_are_never_drawn_and_end_with_their_comparison(site: Any) -> None:
    comparison = await shadowed(site, "2", split=True)
    policy = site.gateway.live.policy("pidog-run")
    assert {policy.assign(f"e{k}").arm for k in range(200)} == {"champion", "challenger"}
    await step(site, "e")
    await figures(site, comparison, 1)
    close_comparison(site.database, comparison.id, "stopped")
    deadline_s = time.monotonic() + 3.0
    while site.gateway.live.policy("pidog-run").comparison is not None:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.02)
    for _ in range(5):
        await step(site, "e")
    (report,) = await figures(site, comparison, 1)
    assert report.steps == 1
    assert site.gateway.live._shadows.changed() == []


async def test_figures_are_stored_while_it_runs_and_when_the_replica_ends(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_apps.gateway.live._STORE_SHADOWS_S", 0.1)
    comparison = await shadowed(site, "2")
    for _ in range(3):
        await step(site, "e")
    deadline_s = time.monotonic() + 5.0
    while shadow_figures(site.database, comparison.id)[0].steps < 3:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)
    for _ in range(4):
        await step(site, "e")
    await site.gateway.live.close()
    assert shadow_figures(site.database, comparison.id)[0].steps == 7


async def test_a_shadow_that_does_not_fit_is_refused_and_nothing_changes(site: Any, make_bundle: Any, tmp_path: Any) -> None:
    site.bundles["3"] = make_bundle(tmp_path / "other", observation={"gravity": 3, "joint_position_rad": 3})
    await shadowed(site, "3")
    assert site.gateway.live.refused is not None
    assert "differ in observation" in site.gateway.live.refused["reason"]
    assert not site.gateway.live._shadows.of
