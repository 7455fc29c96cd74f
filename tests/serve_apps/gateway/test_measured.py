"""What a replica measures of an episode is stored beside its outcome."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from cluster.store.tables import outcomes
from serve_apps.inference.session import PolicySession

pytestmark = pytest.mark.anyio

FLAT = [0.5, -0.25, 1.0, 0.1, 0.2, 0.75]


def server_of(site: Any, episode_id: str) -> dict[str, Any] | None:
    with site.database.read() as connection:
        return connection.execute(select(outcomes.c.server).where(outcomes.c.episode_id == episode_id)).scalar_one()


async def test_steps_and_latencies_are_stored_with_the_outcome(site: Any) -> None:
    for _ in range(20):
        assert (await site.act({"episode_id": "e", "observation": FLAT})).status_code == 200
    # Refused before it came to the policy: not a step, and not the server's failure.
    assert (await site.act({"episode_id": "e", "observation": FLAT[:3]})).status_code == 422
    await site.outcome("e", {"value": 0.1})
    server = server_of(site, "e")
    assert server is not None
    assert (server["steps"], server["error_steps"]) == (20, 0)
    assert 0 < server["latency_p50_ms"] <= server["latency_p99_ms"] <= server["latency_max_ms"] < 1000


async def test_a_model_that_fails_and_an_action_that_is_not_finite_are_error_steps(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.act({"episode_id": "e", "observation": FLAT})
    # The gain of 2 takes a float32 beyond its range; the gain of 1 does not: choose an episode of the second version.
    episode_id = next(name for name in (f"o{k}" for k in range(50)) if site.gateway.live.policy("pidog-run").assign(name).version == "2")
    await site.act({"episode_id": episode_id, "observation": FLAT})
    far = await site.act({"episode_id": episode_id, "observation": [3e38, *FLAT[1:]]})
    assert far.status_code == 422

    def fail(*_: object) -> None:
        raise RuntimeError("the graph failed")

    with monkeypatch.context() as broken:
        broken.setattr(PolicySession, "run", fail)
        assert (await site.act({"episode_id": episode_id, "observation": FLAT})).status_code == 500
    await site.outcome(episode_id, {"value": 0.1})
    server = server_of(site, episode_id)
    assert server is not None
    assert (server["steps"], server["error_steps"]) == (3, 2)


async def test_an_episode_that_this_replica_never_saw_has_no_figures(site: Any) -> None:
    await site.act({"episode_id": "e", "observation": FLAT})
    site.gateway.live.episodes._episodes.clear()  # as after a restart
    await site.outcome("e", {"value": 0.1})
    assert server_of(site, "e") is None


async def test_latency_is_counted_from_the_arrival(site: Any) -> None:
    live = site.gateway.live
    policy = live.policy("pidog-run")
    episode = await live.begin(policy, "e", None)
    await live.step(policy, episode, np.array([FLAT], np.float32), received_s=time.perf_counter() - 0.25)
    assert episode.measured.to_json()["latency_max_ms"] == pytest.approx(250, abs=50)
