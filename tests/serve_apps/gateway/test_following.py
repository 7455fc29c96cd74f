"""A running replica follows the database: splits, breaches and verdicts take hold without a deployment."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from cluster.store.comparisons import (
    Guardrail,
    NewComparison,
    change_weights,
    close_comparison,
    create_comparison,
    get_comparison,
    get_episode,
    pause_comparison,
)

pytestmark = pytest.mark.anyio

FLAT = [0.5, -0.25, 1.0, 0.1, 0.2, 0.75]


async def arms_of(site: Any, prefix: str, count: int) -> Counter[str | None]:
    replies = [(await site.act({"episode_id": f"{prefix}{k}", "observation": FLAT})).json() for k in range(count)]
    return Counter(reply["arm"] for reply in replies)


async def until(condition: Any, within_s: float = 3.0) -> float:
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < within_s
        await asyncio.sleep(0.02)
    return time.monotonic() - started_s


async def compared(site: Any, **changes: Any) -> Any:
    """Another comparison in the place of the site's."""
    close_comparison(site.database, site.comparison.id, "stopped")
    values = {"policy": "pidog-run", "arms": site.comparison.arms, "metric": "forward_velocity_m_s", "low": -0.5, "high": 0.5}
    comparison = create_comparison(site.database, NewComparison(**values | changes))
    await site.serve(comparison=comparison)
    return comparison


async def test_new_episodes_follow_a_changed_split_and_old_ones_stay(site: Any) -> None:
    policies = site.gateway.live
    before = await arms_of(site, "before", 40)
    assert set(before) == {"champion", "challenger"}
    change_weights(site.database, site.comparison.id, {"champion": 0.0}, "ramp", "test")
    await until(lambda: policies.loaded.policies["pidog-run"].comparison.weights_version == 2)
    assert await arms_of(site, "before", 40) == before
    # One arm has everything: nothing is compared any more.
    assert await arms_of(site, "after", 20) == {None: 20}
    assert get_episode(site.database, "pidog-run", "after0").version == "2"
    change_weights(site.database, site.comparison.id, {"champion": 1.0}, "back", "test")
    await until(lambda: policies.loaded.policies["pidog-run"].comparison.weights_version == 3)
    assert set(await arms_of(site, "again", 40)) == {"champion", "challenger"}
    episode = get_episode(site.database, "pidog-run", "again0")
    assert (episode.weights_version, episode.propensity < 1) == (3, True)


async def test_a_breach_ends_an_arms_traffic_within_two_seconds_of_the_outcome(site: Any) -> None:
    comparison = await compared(site, guardrails=(Guardrail(name="fell", at_most=0.1),))
    fallen = 0
    for k in range(200):
        reply = (await site.act({"episode_id": f"e{k}", "observation": FLAT})).json()
        fell = reply["arm"] == "challenger"
        fallen += fell
        if fallen == 12:
            break
        await site.outcome(f"e{k}", {"value": 0.1, "fell": fell})
    last = f"e{k}"
    await asyncio.sleep(1.2)
    assert get_comparison(site.database, comparison.id).arm("challenger").weight in (0.0, 0.5)
    await site.outcome(last, {"value": 0.1, "fell": True})
    served = site.gateway.live
    took_s = await until(lambda: served.loaded.policies["pidog-run"].comparison.arms[1].weight == 0.0, 2.0)
    assert took_s < 2.0
    assert await arms_of(site, "later", 20) == {None: 20}
    assert get_episode(site.database, "pidog-run", "later0").version == "1"


async def test_a_verdict_takes_effect_by_itself(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    start = asyncio.create_subprocess_exec

    async def another_process(*command: str) -> asyncio.subprocess.Process:
        started.append(command)
        return await start(command[0], "-c", "")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", another_process)  # the registry's part has tests of its own
    comparison = await compared(site, auto="promote")
    for k in range(60):
        arm = (await site.act({"episode_id": f"e{k}", "observation": FLAT})).json()["arm"]
        await site.outcome(f"e{k}", {"value": 0.3 if arm == "challenger" else 0.0})
    served = site.gateway.live
    await until(lambda: served.loaded.policies["pidog-run"].comparison is None)
    assert get_comparison(site.database, comparison.id).status == "promoted"
    assert served.loaded.policies["pidog-run"].default_version == "2"
    assert await arms_of(site, "later", 10) == {None: 10}
    assert get_episode(site.database, "pidog-run", "later0").version == "2"
    assert [command[-1] for command in started] == ["serve_apps.comparison.apply"]


async def test_paused_or_stopped_the_champion_gets_new_episodes(site: Any) -> None:
    served = site.gateway.live
    await arms_of(site, "e", 4)
    pause_comparison(site.database, site.comparison.id, "test")
    await until(lambda: served.loaded.policies["pidog-run"].comparison is None)
    assert await arms_of(site, "later", 10) == {None: 10}
    assert get_episode(site.database, "pidog-run", "later0").version == "1"


async def test_a_database_that_is_away_for_a_while_stops_nobody(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from serve_apps.gateway import live as module
    from serve_apps.gateway.problems import RequestProblemError

    asked = []

    def away(*_: Any) -> None:
        asked.append(1)
        raise RequestProblemError(503, "store-unavailable", "away")

    real = module.current_splits
    monkeypatch.setattr(module, "current_splits", away)
    await until(lambda: len(asked) >= 2)
    assert (await site.act({"episode_id": "e", "observation": FLAT})).status_code == 200
    monkeypatch.setattr(module, "current_splits", real)
    change_weights(site.database, site.comparison.id, {"champion": 3.0}, "ramp", "test")
    await until(lambda: site.gateway.live.loaded.policies["pidog-run"].comparison.weights_version == 2)
