"""The endpoint as a user has it: our own Ray head, Serve, HAProxy, HTTP on a real port, SQLite on disk."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from cluster.bundle import ONNX_FILE, seal
from cluster.contract import PolicyContract
from cluster.errors import BundleError, ClusterError
from cluster.runtime.desired import desired_state
from cluster.runtime.head import ensure_head, find_head, head_processes, stop_head
from cluster.runtime.processes import haproxy_available, haproxy_folder, port_owner
from cluster.runtime.serve_config import ServeConfig, ServedPolicyConfig, SplitConfig
from cluster.runtime.served import ServedState, ServedVersion
from cluster.runtime.serving import haproxy_processes, refresh, serve_down, serve_status, serve_up
from cluster.settings import Settings
from cluster.store.comparisons import active_comparison, change_weights, get_episode
from cluster.store.database import Database
from cluster.store.registry import get_version, register_bundle, set_alias
from cluster.wire.client import PolicyClient
from cluster.wire.errors import ConflictError, InvalidRequestError, NotFoundError
from cluster.wire.session import Session
from tests.e2e.load import OBSERVATION, Load, arms_of_episodes, stored_outcomes, token_of

pytestmark = pytest.mark.slow

SPLIT = SplitConfig(arms={"champion": 0.5, "challenger": 0.5}, metric="forward_velocity_m_s", low=-0.5, high=0.5)
CONFIG = ServeConfig(policies=(ServedPolicyConfig(policy="pidog-run", split=SPLIT),))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def settings(migrated_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("serving")
    shutil.copytree(migrated_home, folder / "home")
    ports = {f"GAITWAY_{name}_PORT": str(free_port()) for name in ("HTTP", "DASHBOARD", "RAY")}
    return Settings.from_environment({"GAITWAY_HOME": str(folder / "home"), **ports})


@pytest.fixture(scope="module")
def versions(settings: Settings, tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> dict[str, int]:
    """Two versions that drive the simulated PiDog, by alias; the challenger's actions are the champion's doubled."""
    from trainables.envs.registry import make_task

    task = make_task("pidog_run", 1)
    folder, found = tmp_path_factory.mktemp("bundles"), {}
    for alias, gain in (("champion", 0.1), ("challenger", 0.2)):
        sizes = {field.name: field.size for field in task.observation_fields}
        bundle = make_bundle(folder / alias, gain=gain, observation=sizes, action_size=task.action_size)
        contract = PolicyContract.load(bundle / "contract.json")
        contract.model_copy(update={"observation": task.observation_fields, "action": task.action_fields}).save(bundle / "contract.json")
        seal(bundle)
        found[alias] = register_bundle(settings, "pidog-run", bundle)
        set_alias(settings, "pidog-run", alias, found[alias])
    task.close()
    return found


@pytest.fixture(scope="module")
def endpoint(settings: Settings, versions: dict[str, int]) -> Iterator[dict[str, Any]]:
    try:
        yield serve_up(settings, CONFIG)
        serve_down(settings)
        assert haproxy_processes(settings) == []
        assert port_owner(settings.http_port) is None
    finally:
        stop_head(settings)
        assert head_processes(settings) == []
        assert not haproxy_folder(settings).exists()


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.gaitway_database_url)
    yield database
    database.close()


@pytest.fixture
def client(endpoint: dict[str, Any]) -> Iterator[PolicyClient]:
    with PolicyClient(endpoint["url"], "pidog-run", robot_id="r1", token=token_of(endpoint)) as client:
        yield client


def test_it_serves_both_versions_by_episode(endpoint: dict[str, Any], client: PolicyClient, versions: dict[str, int]) -> None:
    assert endpoint["running"]
    assert endpoint["proxy"] == ("HAProxy" if haproxy_available() else "Serve")
    seen = set()
    for k in range(24):
        reply = client.act(OBSERVATION, f"split-{k}")
        gain = {"champion": 0.1, "challenger": 0.2}[str(reply.arm)]
        np.testing.assert_allclose(reply.action["joint_position_target_rad"], gain * OBSERVATION[:12], rtol=1e-6)
        assert int(reply.version) == versions[str(reply.arm)]
        assert client.act(OBSERVATION, f"split-{k}").arm == reply.arm
        seen.add(reply.arm)
        client.outcome(f"split-{k}", 0.1)
    assert seen == {"champion", "challenger"}


def test_refusals_come_through_the_proxy_with_their_field(client: PolicyClient) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        client.act({"projected_gravity": [0, 0, 1]}, "e")
    assert raised.value.field == "observation.imu_angular_velocity_rad_s"
    with pytest.raises(NotFoundError):
        client.outcome("never-acted", 0.1)
    client.act(OBSERVATION, "twice")
    assert client.outcome("twice", 0.1) is True
    assert client.outcome("twice", 0.1) is False
    with pytest.raises(ConflictError):
        client.outcome("twice", 0.2)
    comparison_id = client.get("/v1/comparisons")["comparisons"][0]["id"]
    assert client.get(f"/v1/comparisons/{comparison_id}")["decision"] == "inconclusive"


def test_a_replica_holds_no_training_library(endpoint: dict[str, Any]) -> None:
    (replica,) = endpoint["replicas"]
    mapped = Path(f"/proc/{replica['pid']}/maps").read_text()
    assert "onnxruntime" in mapped
    for library in ("libtorch", "mujoco", "matplotlib"):
        assert library not in mapped


def test_a_session_outlives_a_killed_replica_on_its_arm(endpoint: dict[str, Any], settings: Settings, database: Database) -> None:
    """Through the real proxy: the episode, its arm and its acknowledged outcome are what they were."""
    with Session(endpoint["url"], "pidog-run", "dog-1", token_of(endpoint), retry_s=60.0) as session:
        episode = session.reset()
        before = [session.act(OBSERVATION).vector for _ in range(20)]
        (replica,) = serve_status(settings)["replicas"]
        psutil.Process(replica["pid"]).kill()
        after = [session.act(OBSERVATION).vector for _ in range(20)]
        np.testing.assert_array_equal(before[0], after[-1])
        assert session.reconnects >= 1
        assert session.episode == episode
        assert session.outcome(0.1, steps=40)
    stored = get_episode(database, "pidog-run", episode.episode_id)
    assert stored is not None
    assert (stored.arm, stored.version, stored.robot_id) == (episode.arm, episode.version, "dog-1")


def test_weights_and_breaches_reach_replicas_without_a_deployment(endpoint: dict[str, Any], settings: Settings, database: Database) -> None:
    comparison = active_comparison(database, "pidog-run")
    assert comparison is not None
    with PolicyClient(endpoint["url"], "pidog-run", token=token_of(endpoint)) as client:
        change_weights(database, comparison.id, {"challenger": 0.0}, "test", "test")
        deadline_s = time.monotonic() + 5
        while client.act(OBSERVATION, f"probe-{time.monotonic_ns()}").arm is not None:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        change_weights(database, comparison.id, {"challenger": 1.0}, "test", "test")
        while client.act(OBSERVATION, f"probe-{time.monotonic_ns()}").arm != "challenger":
            assert time.monotonic() < deadline_s + 5
            time.sleep(0.02)


def test_a_version_is_swapped_in_under_load(
    settings: Settings, endpoint: dict[str, Any], versions: dict[str, int], database: Database
) -> None:
    before = refresh(settings)["generation"]  # with the split as it is by now
    with Load(endpoint) as load:
        load.wait_for(200)
        set_alias(settings, "pidog-run", "champion", versions["challenger"])
        changed = refresh(settings)
        load.wait_for(200)
        set_alias(settings, "pidog-run", "champion", versions["champion"])
        refresh(settings)
        load.wait_for(200)
    assert load.problems == []
    assert changed["generation"] != before
    assert changed["policies"][0]["default_version"] == str(versions["challenger"])
    assert serve_status(settings)["generation"] == before
    assert all(len(arms) == 1 for arms in arms_of_episodes(load).values())
    assert set(load.acknowledged) <= stored_outcomes(database)


def test_a_changed_bundle_stops_a_refresh_and_not_the_endpoint(
    settings: Settings, endpoint: dict[str, Any], client: PolicyClient, versions: dict[str, int]
) -> None:
    stored = get_version(settings, "pidog-run", versions["challenger"]).path / ONNX_FILE
    whole = stored.read_bytes()
    stored.write_bytes(whole + b"x")
    try:
        with pytest.raises(BundleError, match=r"policy\.onnx does not match"):
            refresh(settings)
    finally:
        stored.write_bytes(whole)
    assert client.act(OBSERVATION, "after-the-refusal").version in {str(version) for version in versions.values()}
    assert serve_status(settings)["running"]


def test_a_state_that_a_replica_refuses_is_taken_back(
    settings: Settings, endpoint: dict[str, Any], client: PolicyClient, versions: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = serve_status(settings)["generation"]
    bundle = get_version(settings, "pidog-run", versions["challenger"])
    elsewhere = bundle.path.with_name("damaged-on-the-way")
    shutil.copytree(bundle.path, elsewhere)
    (elsewhere / ONNX_FILE).write_bytes(b"")

    def damaged(*arguments: Any, **keywords: Any) -> ServedState:
        good = desired_state(*arguments, **keywords)
        policy = good.policies["pidog-run"]
        versions = {**policy.versions, "99": ServedVersion(bundle=elsewhere, digest="0" * 64)}
        return good.model_copy(update={"policies": {"pidog-run": policy.model_copy(update={"versions": versions})}})

    monkeypatch.setattr("cluster.runtime.serving.desired_state", damaged)
    with pytest.raises(BundleError, match="a replica refused, the version before goes on"):
        refresh(settings)
    assert client.act(OBSERVATION, "after-the-second-refusal").version in {str(version) for version in versions.values()}
    deadline_s = time.monotonic() + 10
    while serve_status(settings).get("refused") is not None:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    assert serve_status(settings)["generation"] == before


def test_a_fleet_and_its_outcomes_survive_a_killed_replica(settings: Settings, endpoint: dict[str, Any], database: Database) -> None:
    from trainables.envs.registry import make_task
    from trainables.evaluation.fleet import Fleet

    task = make_task("pidog_run", 4, {"physics": {"preset": "fast"}, "max_episode_steps": 60}, seed=3, reward_terms_in_info=False)
    fleet = Fleet(
        task, url=endpoint["url"], policy="pidog-run", metric="forward_velocity_m_s", episodes=12, token=token_of(endpoint), retry_s=60.0
    )
    killed: list[int] = []

    def kill_once(done: int, _line: str) -> None:
        if done >= 4 and not killed:
            (replica,) = serve_status(settings)["replicas"]
            psutil.Process(replica["pid"]).kill()
            killed.append(replica["pid"])

    with Load(endpoint, robots=2) as load:
        load.wait_for(50)
        figures = fleet.run(on_progress=kill_once)
        load.wait_for(50)
    task.close()
    assert killed
    assert load.problems == []
    assert figures["retries"] > 0
    assert figures["episodes"] == 12
    assert sum(arm["episodes"] for arm in figures["arms"].values()) == 12
    assert set(load.acknowledged) <= stored_outcomes(database)
    assert all(len(arms) == 1 for arms in arms_of_episodes(load).values())
    assert len({episode_id for episode_id in stored_outcomes(database) if episode_id.startswith("pidog_run-")}) == 12


def test_one_of_two_replicas_is_killed_under_load(settings: Settings, endpoint: dict[str, Any], database: Database) -> None:
    status = serve_up(settings, CONFIG.model_copy(update={"num_replicas": 2}))
    assert len(status["replicas"]) == 2
    sessions = [Session(endpoint["url"], "pidog-run", f"dog-{k}", token_of(endpoint), retry_s=60.0) for k in range(6)]
    with Load(endpoint) as load:
        load.wait_for(200)
        begun = [session.reset() for session in sessions]
        psutil.Process(status["replicas"][0]["pid"]).kill()
        for _ in range(100):
            for session in sessions:
                session.act(OBSERVATION)
        load.wait_for(200)
    assert load.problems == []
    assert [session.episode for session in sessions] == begun
    assert any(session.reconnects for session in sessions)
    assert all(session.outcome(0.1, steps=100) for session in sessions)
    for session in sessions:
        session.close()
    assert {episode.episode_id for episode in begun} | set(load.acknowledged) <= stored_outcomes(database)
    assert all(len(arms) == 1 for arms in arms_of_episodes(load).values())


def test_it_comes_up_again_on_the_same_head(settings: Settings, endpoint: dict[str, Any]) -> None:
    assert serve_down(settings)["was_running"] is True
    assert port_owner(settings.http_port) is None
    assert serve_status(settings)["running"] is False
    assert serve_down(settings)["was_running"] is False
    assert serve_up(settings, CONFIG)["running"]


def test_what_was_acknowledged_outlives_ray_and_its_proxies(settings: Settings, endpoint: dict[str, Any], database: Database) -> None:
    """Everything is killed at once, under load: outcomes that were acknowledged are there, and episodes go on where they were."""
    comparison = active_comparison(database, "pidog-run")
    assert comparison is not None
    change_weights(database, comparison.id, {"champion": 0.5, "challenger": 0.5}, "test", "test")
    with Load(endpoint) as load:
        load.wait_for(400)
        processes = head_processes(settings)
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=10.0)
        killed_s = time.monotonic()
        assert serve_up(settings, CONFIG)["running"]
        load.wait_for(100)
    assert load.problems == []
    assert any(when > killed_s for when, *_ in load.steps)
    assert set(load.acknowledged) <= stored_outcomes(database)
    assert all(len(arms) == 1 for arms in arms_of_episodes(load).values())


def test_a_haproxy_that_outlived_its_ray_is_found_and_ended(settings: Settings, endpoint: dict[str, Any]) -> None:
    left_behind = haproxy_processes(settings)
    if not left_behind:
        pytest.skip("no HAProxy on this platform")
    for process in head_processes(settings):
        if process not in left_behind:
            process.kill()
    psutil.wait_procs(head_processes(settings), timeout=1.0)
    assert haproxy_processes(settings) == left_behind
    owner = port_owner(settings.http_port)
    assert owner is not None
    assert owner.process in left_behind
    assert find_head(settings) is None
    assert serve_status(settings)["running"] is False
    ensure_head(settings)
    assert [process for process in left_behind if process.is_running()] == []
    assert port_owner(settings.http_port) is None


def test_a_port_of_somebody_else_is_one_clear_line(settings: Settings, versions: dict[str, int]) -> None:
    taken = free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", taken))
        listener.listen()
        with pytest.raises(ClusterError, match=rf"port {taken} is held by process {psutil.Process().pid} \(.*; end it, or choose another"):
            serve_up(settings.model_copy(update={"http_port": taken}), CONFIG)
