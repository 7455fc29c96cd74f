"""``act``: what is answered, what is recorded, what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.store.comparisons import close_comparison, get_episode

pytestmark = pytest.mark.anyio

OBSERVATION = {"gravity": [0.5, -0.25, 1.0], "joint_position_rad": [0.1, 0.2], "range_m": [0.75]}
FLAT = [0.5, -0.25, 1.0, 0.1, 0.2, 0.75]


def episode_of(site: Any, arm: str) -> str:
    """Some episode id that falls to an arm."""
    policy = site.gateway.live._set.policies["pidog-run"]
    return next(f"e{k}" for k in range(1000) if policy.assign(f"e{k}").arm == arm)


async def test_an_action_comes_from_the_arm_of_its_episode(site: Any) -> None:
    for arm, version, gain in (("champion", "1", 1.0), ("challenger", "2", 2.0)):
        episode_id = episode_of(site, arm)
        response = await site.act({"episode_id": episode_id, "observation": OBSERVATION, "sequence": 7, "robot_id": "r1"})
        assert response.status_code == 200
        assert response.json() == {
            "action": {"joint_position_target_rad": [0.5 * gain, -0.25 * gain]},
            "version": version,
            "arm": arm,
            "episode_id": episode_id,
            "sequence": 7,
        }
        stored = get_episode(site.database, "pidog-run", episode_id)
        assert stored is not None
        assert (stored.version, stored.arm, stored.comparison_id) == (version, arm, site.comparison.id)
        assert (stored.propensity, stored.robot_id) == (0.5, "r1")


async def test_flat_and_named_observations_are_the_same(site: Any) -> None:
    named = (await site.act({"episode_id": "e", "observation": OBSERVATION})).json()
    flat = (await site.act({"episode_id": "e", "observation": FLAT})).json()
    scalar = (await site.act({"episode_id": "e", "observation": {**OBSERVATION, "range_m": 0.75}})).json()
    assert named == flat == scalar


async def test_an_episode_keeps_its_arm_when_weights_change_and_after_a_restart(site: Any) -> None:
    episode_id = episode_of(site, "challenger")
    await site.act({"episode_id": episode_id, "observation": FLAT})
    weights = {"champion": 1e6, "challenger": 1e-6}
    arms = tuple(arm.model_copy(update={"weight": weights[arm.name]}) for arm in site.comparison.arms)
    await site.serve(comparison=site.comparison.model_copy(update={"arms": arms}))
    assert site.gateway.live._set.policies["pidog-run"].assign(episode_id).arm == "champion"
    assert (await site.act({"episode_id": episode_id, "observation": FLAT})).json()["arm"] == "challenger"
    site.gateway.live.episodes._episodes.clear()  # what a restart forgets
    assert (await site.act({"episode_id": episode_id, "observation": FLAT})).json()["arm"] == "challenger"


async def test_an_episode_ends_on_the_version_that_it_began_on(site: Any) -> None:
    episode_id = episode_of(site, "challenger")
    await site.act({"episode_id": episode_id, "observation": FLAT})
    close_comparison(site.database, site.comparison.id, "kept")
    await site.serve("1")
    reply = (await site.act({"episode_id": episode_id, "observation": FLAT})).json()
    assert (reply["version"], reply["action"]["joint_position_target_rad"]) == ("2", [1.0, -0.5])
    assert (await site.act({"episode_id": "new", "observation": FLAT})).json()["version"] == "1"
    await site.serve("1", max_body_bytes=2048)  # a second change: the version is gone
    reply = (await site.act({"episode_id": episode_id, "observation": FLAT})).json()
    assert (reply["version"], reply["arm"]) == ("1", None)


async def test_without_a_comparison_the_default_version_answers(empty_site: Any) -> None:
    await empty_site.serve(default="2")
    reply = (await empty_site.act({"episode_id": "e", "observation": FLAT})).json()
    assert (reply["version"], reply["arm"]) == ("2", None)
    assert (await empty_site.outcome("e", {"value": 0.1})).status_code == 200


async def test_two_first_steps_at_once_are_one_episode(site: Any) -> None:
    replies = await asyncio.gather(*(site.act({"episode_id": "twin", "observation": FLAT}) for _ in range(8)))
    assert {(reply.status_code, reply.json()["arm"]) for reply in replies} == {(200, replies[0].json()["arm"])}
    assert len(site.gateway.live.episodes) == 1


class TestRecurrent:
    @pytest.fixture
    async def recurrent(self, empty_site: Any) -> Any:
        await empty_site.serve("3", default="3")
        return empty_site

    async def step(self, site: Any, **extra: Any) -> Any:
        return await site.act({"episode_id": "e", "observation": [0.0] * 6, **extra})

    async def test_state_is_held_for_the_episode(self, recurrent: Any) -> None:
        for expected in (0.0, 1.0, 2.0):
            reply = (await self.step(recurrent)).json()
            assert reply["action"]["joint_position_target_rad"] == [expected, expected]
            assert reply["state"] == {"count": [expected + 1]}

    async def test_state_that_is_handed_back_wins(self, recurrent: Any) -> None:
        reply = (await self.step(recurrent, sequence=5, state={"count": [41.0]})).json()
        assert reply["state"] == {"count": [42.0]}

    async def test_a_step_may_be_repeated(self, recurrent: Any) -> None:
        await self.step(recurrent, sequence=0)
        again = (await self.step(recurrent, sequence=0)).json()
        assert again["state"] == {"count": [1.0]}

    async def test_a_state_that_is_not_here_is_asked_for(self, recurrent: Any) -> None:
        await self.step(recurrent, sequence=0)
        missed = await self.step(recurrent, sequence=3)
        assert (missed.status_code, missed.json()["type"]) == (409, "urn:gaitway:problem:state-required")
        recurrent.gateway.live.episodes._episodes.clear()
        assert (await self.step(recurrent, sequence=1)).status_code == 409
        assert (await self.step(recurrent, sequence=1, state={"count": [1.0]})).json()["state"] == {"count": [2.0]}

    @pytest.mark.parametrize(
        ("given", "field"),
        [([1.0], "state"), ({"sum": [1.0]}, "state.sum"), ({}, "state.count"), ({"count": [1.0, 2.0]}, "state.count")],
    )
    async def test_a_malformed_state_is_refused(self, recurrent: Any, given: Any, field: str) -> None:
        response = await self.step(recurrent, state=given)
        assert (response.status_code, response.json()["field"]) == (422, field)


async def test_a_recurrent_version_and_a_plain_one_share_traffic(empty_site: Any) -> None:
    arms = (
        empty_site.comparison.arms[0],
        empty_site.comparison.arms[1].model_copy(update={"version": "3"}),
    )
    await empty_site.serve("13", comparison=empty_site.comparison.model_copy(update={"arms": arms}))
    plain, recurrent = episode_of(empty_site, "champion"), episode_of(empty_site, "challenger")
    assert "state" not in (await empty_site.act({"episode_id": plain, "observation": FLAT})).json()
    assert "state" in (await empty_site.act({"episode_id": recurrent, "observation": FLAT})).json()
