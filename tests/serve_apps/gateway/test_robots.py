"""A comparison by robot, over the wire: one arm a robot, on every replica, through changes of the split and deaths of replicas."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from cluster.runtime.served import ServedArm, ServedComparison, ServedState
from cluster.store.comparisons import (
    NewComparison,
    change_weights,
    close_comparison,
    create_comparison,
    get_comparison,
    get_episode,
)
from cluster.wire.aio_session import AsyncSession
from cluster.wire.errors import InvalidRequestError
from serve_apps.comparison.report import report
from serve_apps.gateway.gateway import Gateway

pytestmark = pytest.mark.anyio

FLAT = [0.5, -0.25, 1.0, 0.1, 0.2, 0.75]
ROBOTS = [f"dog-{number}" for number in range(24)]


async def by_robot(site: Any, **changes: Any) -> Any:
    """A comparison by robot in the place of the site's, served."""
    close_comparison(site.database, site.comparison.id, "stopped")
    values = {"policy": "pidog-run", "arms": site.comparison.arms, "metric": "forward_velocity_m_s", "low": -0.5, "high": 0.5}
    comparison = create_comparison(site.database, NewComparison(**values | {"unit": "robot", "episodes_per_robot": 2} | changes))
    await site.gateway.apply(served(site, comparison).as_user_config())
    return comparison


def served(site: Any, comparison: Any) -> ServedState:
    state = site.state()
    arms = tuple(ServedArm(**arm.model_dump()) for arm in comparison.arms)
    split = ServedComparison(
        id=comparison.id, salt=comparison.salt, arms=arms, weights_version=comparison.weights[-1].version, unit=comparison.unit
    )
    policy = state.policies["pidog-run"].model_copy(update={"comparison": split})
    return state.model_copy(update={"policies": {"pidog-run": policy}})


async def arms_of(http: httpx.AsyncClient, prefix: str, robots: list[str]) -> dict[str, str | None]:
    found = {}
    for robot in robots:
        body = {"episode_id": f"{prefix}-{robot}", "robot_id": robot, "observation": FLAT}
        reply = await http.post("/v1/policies/pidog-run/act", json=body)
        assert reply.status_code == 200, reply.text
        found[robot] = reply.json()["arm"]
    return found


@pytest.fixture
async def other(site: Any) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    """Another replica on the same database."""
    gateway = Gateway(replica="other")
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app=gateway.app), base_url="http://other", headers=site.header("admin"))
    yield gateway, http
    await http.aclose()
    await gateway.live.close()


async def test_a_robot_keeps_its_arm_on_every_replica_whatever_happens_to_the_split(
    site: Any, other: tuple[Gateway, httpx.AsyncClient]
) -> None:
    comparison = await by_robot(site)
    first = await arms_of(site.http, "a", ROBOTS)
    assert set(first.values()) == {"champion", "challenger"}
    change_weights(site.database, comparison.id, {"challenger": 20.0}, "test", "me")
    await other[0].apply(served(site, get_comparison(site.database, comparison.id)).as_user_config())
    assert await arms_of(other[1], "b", ROBOTS) == first  # it never saw them, and knows the new split only
    newcomers = await arms_of(other[1], "b", [f"cat-{number}" for number in range(24)])
    assert Counter(newcomers.values())["challenger"] > 16
    while site.gateway.live.loaded.policies["pidog-run"].comparison.weights_version == 1:
        await asyncio.sleep(0.05)
    assert await arms_of(site.http, "c", ROBOTS) == first
    row = get_episode(site.database, "pidog-run", f"c-{ROBOTS[0]}")
    assert row is not None
    assert (row.weights_version, row.propensity) == (1, 0.5)


async def test_a_robot_whose_arm_was_taken_away_goes_to_the_other_and_is_not_counted(site: Any) -> None:
    comparison = await by_robot(site)
    first = await arms_of(site.http, "a", ROBOTS)
    change_weights(site.database, comparison.id, {"challenger": 0.0}, "breach", "referee")
    while site.gateway.live.loaded.policies["pidog-run"].comparison.weights_version == 1:
        await asyncio.sleep(0.05)
    after = await arms_of(site.http, "b", ROBOTS)
    assert all(after[robot] == (None if arm == "challenger" else "champion") for robot, arm in first.items())
    moved = next(robot for robot, arm in first.items() if arm == "challenger")
    assert get_episode(site.database, "pidog-run", f"b-{moved}").version == "1"  # type: ignore[union-attr]


async def test_an_episode_that_says_not_whose_it_is_is_refused_with_what_to_do(site: Any) -> None:
    await site.act({"episode_id": "before", "observation": FLAT})
    await by_robot(site)
    reply = await site.act({"episode_id": "e", "observation": FLAT})
    assert (reply.status_code, reply.json()["field"]) == (422, "robot_id")
    assert "in the body of act" in reply.json()["detail"]
    assert get_episode(site.database, "pidog-run", "e") is None
    site.gateway.live.episodes._episodes.clear()  # as another replica: what was recorded before goes on
    assert (await site.act({"episode_id": "before", "observation": FLAT})).status_code == 200
    tensor = {"name": "observation", "shape": [1, 6], "datatype": "FP32", "data": FLAT}
    for parameters, status in (({"episode_id": "v2"}, 422), ({"episode_id": "v2", "robot_id": "dog"}, 200)):
        reply = await site.http.post("/v2/models/pidog-run/infer", json={"inputs": [tensor], "parameters": parameters})
        assert reply.status_code == status, reply.text


async def test_sessions_name_their_robot_or_are_refused(site: Any, url: str) -> None:
    comparison = await by_robot(site)
    headers = site.header("robot")
    token = headers["Authorization"].removeprefix("Bearer ")
    arms = set()
    for _ in range(3):
        async with AsyncSession(f"http://{url}", "pidog-run", robot_id="dog", token=token) as session:
            for _ in range(2):
                await session.act(np.array(FLAT, np.float32))
                assert session.episode is not None
                arms.add(session.episode.arm)
                await session.outcome(0.1)
    assert len(arms) == 1
    assert None not in arms
    found = report(site.database, comparison.id)
    assert (found.units, found.episodes) == (1, 2)
    with pytest.raises(InvalidRequestError, match="name yours"):
        async with AsyncSession(f"http://{url}", "pidog-run", token=token) as session:
            await session.act(np.array(FLAT, np.float32))


async def test_a_session_that_is_open_when_robots_begin_to_be_assigned_loses_no_outcome(site: Any, url: str) -> None:
    token = site.header("robot")["Authorization"].removeprefix("Bearer ")
    async with AsyncSession(f"http://{url}", "pidog-run", token=token) as session:
        await session.act(np.array(FLAT, np.float32))
        await by_robot(site)
        await session.act(np.array(FLAT, np.float32))  # the episode under way goes on
        await session.outcome(0.1)
        with pytest.raises(InvalidRequestError, match="in its reset"):
            await session.act(np.array(FLAT, np.float32))
