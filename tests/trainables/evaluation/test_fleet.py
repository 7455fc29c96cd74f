"""The simulated fleet against the real gateway on a real socket, with real physics."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from sqlalchemy import select

from cluster.bundle import CONTRACT_FILE, seal
from cluster.contract import PolicyContract
from cluster.errors import GaitwayError
from cluster.progress import Progress
from cluster.runtime.served import ServedArm, ServedComparison, ServedPolicy, ServedState, ServedVersion
from cluster.settings import Settings
from cluster.stage import StageContext
from cluster.store.comparisons import Arm, NewComparison, create_comparison
from cluster.store.database import Database
from cluster.store.tables import episodes, outcomes
from cluster.store.tokens import ensure_own_token
from cluster.wire.errors import UnreachableError
from serve_apps.gateway.gateway import Gateway
from trainables.envs.registry import make_task
from trainables.fleet import Config, run

GAIN = 0.3
TASK_CONFIG = {"physics": {"preset": "fast"}, "max_episode_steps": 30}


@pytest.fixture
def endpoint(settings: Settings, tmp_path: Path, make_bundle: Callable[..., Path]) -> Iterator[str]:
    """Two versions that do the same, half of the episodes each."""
    task = make_task("pidog_run", 1)
    served = {}
    for version in ("1", "2"):
        sizes = {field.name: field.size for field in task.observation_fields}
        bundle = make_bundle(tmp_path / version, gain=GAIN, observation=sizes, action_size=task.action_size)
        contract = PolicyContract.load(bundle / CONTRACT_FILE)
        contract.model_copy(update={"observation": task.observation_fields, "action": task.action_fields}).save(bundle / CONTRACT_FILE)
        served[version] = ServedVersion(bundle=bundle, digest=seal(bundle))
    database = Database(settings.gaitway_database_url)
    arms = (Arm(name="champion", version="1", weight=1), Arm(name="challenger", version="2", weight=1))
    found = create_comparison(database, NewComparison(policy="pidog-run", arms=arms, metric="forward_velocity_m_s", low=-0.5, high=0.5))
    database.close()
    comparison = ServedComparison(id=found.id, salt=found.salt, arms=tuple(ServedArm(**arm.model_dump()) for arm in found.arms))
    policy = ServedPolicy(versions=served, default_version="1", comparison=comparison)
    ensure_own_token(settings)  # as `gaitway serve up` does; the fleet finds it there
    gateway = Gateway()
    state = ServedState(policies={"pidog-run": policy}, database_url=settings.gaitway_database_url)
    asyncio.run(gateway.apply(state.as_user_config()))
    server = uvicorn.Server(uvicorn.Config(gateway.app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
    task.close()


@pytest.fixture
def context(settings: Settings, tmp_path: Path) -> StageContext:
    return StageContext(folder=tmp_path, settings=settings, progress=Progress(mode="quiet"))


def config(url: str, **changes: Any) -> Config:
    return Config(**{"url": url, "robots": 3, "episodes": 7, "task_config": TASK_CONFIG, "seed": 5, **changes})


def played_offline(count: int) -> list[dict[str, float]]:
    """The same episodes without a network: metrics of the first ``count`` that the robots begin, in order of their end."""
    task = make_task("pidog_run", 3, TASK_CONFIG, seed=5, reward_terms_in_info=False)
    observations, ended = task.reset()[0], []
    while len(ended) < count:
        targets = GAIN * observations[:, :12]
        observations, _, terminated, truncated, infos = task.step(task.action_scaling.to_normalised(targets))
        ended += [
            {name: float(values[index]) for name, values in infos["episode_metrics"].items()}
            for index in np.flatnonzero(terminated | truncated)
        ]
    task.close()
    return ended[:count]


def test_every_episode_is_what_the_physics_says_and_is_stored(endpoint: str, context: StageContext) -> None:
    figures = run(config(endpoint), context)
    expected = played_offline(6)  # whole rounds of the three robots; the seventh episode has no fixed robot count beside it
    database = Database(context.settings.gaitway_database_url)
    with database.read() as connection:
        rows = connection.execute(select(outcomes).order_by(outcomes.c.received_at)).mappings().all()
        begun = connection.execute(select(episodes)).mappings().all()
    database.close()
    assert figures["episodes"] == len(rows) == len(begun) == 7
    assert figures["acts"] == sum(row["steps"] for row in rows)
    stored = sorted(row["value"] for row in rows)
    for metrics in expected:
        nearest = min(stored, key=lambda value: abs(value - metrics["forward_velocity_m_s"]))
        assert nearest == pytest.approx(metrics["forward_velocity_m_s"], abs=1e-4)
    for row in rows:
        metrics = row["metrics"]
        assert (row["value"], row["steps"]) == (metrics["forward_velocity_m_s"], int(metrics["length"]))
        assert row["duration_s"] == pytest.approx(0.02 * row["steps"])
        assert row["fell"] == bool(metrics["fell"])
    by_arm = {arm: sum(row["arm"] == arm for row in begun) for arm in {row["arm"] for row in begun}}
    assert {name: arm["episodes"] for name, arm in figures["arms"].items()} == by_arm
    assert len({row["robot_id"] for row in begun}) == 3
    assert (figures["retries"], figures["stopped_early"]) == (0, False)
    assert 0 < figures["latency_p50_ms"] <= figures["latency_p99_ms"] <= figures["latency_max_ms"]
    json.dumps(figures)


def test_it_stops_when_it_is_told(endpoint: str, context: StageContext) -> None:
    asked: list[str] = []

    def enough() -> bool:
        asked.append(threading.current_thread().name)
        return len(asked) >= 2

    figures = run(config(endpoint, episodes=200), context, stop_when=enough)
    assert figures["stopped_early"] is True
    assert figures["episodes"] < 200
    assert threading.main_thread().name not in asked


def test_fewer_episodes_than_robots_use_fewer_robots(endpoint: str, context: StageContext) -> None:
    figures = run(config(endpoint, robots=8, episodes=2, max_episode_steps=3), context)
    assert (figures["robots"], figures["episodes"], figures["acts"]) == (2, 2, 6)


def test_what_does_not_fit_is_said(endpoint: str, context: StageContext) -> None:
    with pytest.raises(GaitwayError, match="has no episode metric 'speed'; it has"):
        run(config(endpoint, metric="speed"), context)
    with pytest.raises(GaitwayError, match="unknown-policy"):
        run(config(endpoint, policy="duck-run"), context)
    with pytest.raises(UnreachableError, match="no answer within 0 s"):
        run(config("http://127.0.0.1:9", retry_s=0.0), context)
