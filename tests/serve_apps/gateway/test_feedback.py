"""Served episodes as datasets: what a robot did is what a reader finds, and nothing that goes wrong with it reaches a robot."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner
from websockets.asyncio.client import connect

from cluster.cli.main import app
from cluster.lerobot.info import DatasetInfo
from cluster.runtime.served import FeedbackConfig
from cluster.store.comparisons import Outcome, record_outcome
from cluster.wire.frames import OBSERVATION, write_compact
from serve_apps.feedback.collector import is_sampled
from trainables.datasets.lerobot import compute_digest, load_frames, load_info

pytestmark = pytest.mark.anyio

FLAT = np.array([0.5, -0.25, 1.0, 0.1, 0.2, 0.75], np.float32)
OUTCOME = {"value": 0.21, "fell": True, "steps": 4, "duration_s": 0.08, "metrics": {"energy_j": 12.5}}


async def recorded(site: Any, folder: Path, **options: Any) -> None:
    """Serve with feedback; a dataset for every episode unless told otherwise."""
    state = site.state(comparison=site.comparison)
    feedback = FeedbackConfig(**{"share": 1.0, "folder": str(folder), "episodes_per_dataset": 1, **options})
    policies = {name: policy.model_copy(update={"feedback": feedback}) for name, policy in state.policies.items()}
    await site.gateway.apply(state.model_copy(update={"policies": policies}).as_user_config())


async def play(site: Any, episode_id: str, steps: int, outcome: dict[str, Any] | None = None) -> None:
    for step in range(steps):
        body = {"episode_id": episode_id, "observation": (FLAT * (step + 1)).tolist(), "sequence": step, "robot_id": "r1"}
        assert (await site.act(body)).status_code == 200
    if outcome is not None:
        assert (await site.outcome(episode_id, outcome)).status_code == 200


async def counts(site: Any, within_s: float = 20.0, **wanted: int) -> dict[str, Any]:
    """The counts of ``GET /v1/policies`` once they are these."""
    deadline_s = time.monotonic() + within_s
    while True:
        (policy,) = (await site.http.get("/v1/policies")).json()["policies"]
        found: dict[str, Any] = policy["feedback"]
        if {name: found[name] for name in wanted} == wanted:
            return found
        assert time.monotonic() < deadline_s, found
        await asyncio.sleep(0.05)


def datasets(folder: Path) -> list[DatasetInfo]:
    return [load_info(path) for path in sorted((folder / "pidog-run").iterdir())]


def writers() -> list[int]:
    """Process ids of this process's writers."""
    import psutil

    return [child.pid for child in psutil.Process().children() if "serve_apps.feedback.writer" in child.cmdline()]


async def test_what_was_served_is_what_the_datasets_hold(site: Any, tmp_path: Path) -> None:
    await recorded(site, tmp_path / "served")
    await play(site, "e", 300, OUTCOME)  # more than one block of memory
    (found,) = [await counts(site, written=1)]
    assert (found["dropped"], found["datasets"], found["recording"], found["buffered_bytes"]) == (0, 1, 0, 0)
    (info,) = datasets(tmp_path / "served")
    assert found["bytes"] == sum(file.stat().st_size for file in info.path.rglob("*") if file.is_file())
    assert (info.robot_type, info.fps, info.tasks, info.num_frames) == ("pidog", 50.0, ("test",), 300)
    assert info.features["observation.state"].names[-2:] == ("joint_position_rad.1", "range_m")
    assert (info.features["action"].shape, info.features["step_time_s"].unit) == ((2,), "s")
    frames = load_frames(info.path)
    wanted = FLAT * np.arange(1, 301, dtype=np.float32)[:, None]
    gain = float(info.episodes[0].about["version"])
    np.testing.assert_array_equal(frames["observation.state"], wanted)
    np.testing.assert_array_equal(frames["action"], gain * wanted[:, :2])
    np.testing.assert_allclose(frames["timestamp"], np.arange(300) / 50, rtol=1e-6)
    assert frames["step_time_s"][0] == 0.0
    assert (np.diff(frames["step_time_s"]) > 0).all()
    assert ((frames["latency_s"] > 0) & (frames["latency_s"] < 1)).all()
    assert compute_digest(info.path) == info.digest


async def test_the_metadata_say_who_drove_and_how_it_ended(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await recorded(site, tmp_path / "served", episodes_per_dataset=2)
    await play(site, "one", 2, OUTCOME)
    await play(site, "two", 3, {"value": 0.4})
    await counts(site, written=2)
    (info,) = datasets(tmp_path / "served")
    one, two = (episode.about for episode in info.episodes)
    assert [episode.length for episode in info.episodes] == [2, 3]
    assigned = site.gateway.live.policy("pidog-run").assign("one")
    assert (one["episode_id"], one["robot_id"], one["version"], one["arm"]) == ("one", "r1", assigned.version, assigned.arm)
    assert (one["comparison_id"], one["propensity"], one["ended"]) == (site.comparison.id, 0.5, "outcome")
    assert (one["outcome_value"], one["outcome_fell"], json.loads(one["outcome_metrics"])) == (0.21, True, {"energy_j": 12.5})
    assert (two["episode_id"], two["outcome_value"], two["outcome_fell"]) == ("two", 0.4, False)
    assert info.gaitway["lineage"] == {"kind": "served", "policy": "pidog-run", "replica": "test"}
    monkeypatch.setenv("GAITWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    shown = await asyncio.to_thread(CliRunner().invoke, app, ["dataset", "info", str(info.path), "--json"])
    assert shown.exit_code == 0, shown.output
    said = json.loads(shown.stdout)
    assert (said["robot"], said["task"], said["episodes"], said["frames"]) == ("pidog", "test", 2, 5)
    assert said["features"]["action"]["names"] == ["joint_position_target_rad.0", "joint_position_target_rad.1"]


async def test_the_sample_is_the_same_everywhere_and_of_the_given_size(site: Any, tmp_path: Path) -> None:
    chosen = {f"e{k}" for k in range(4000) if is_sampled("pidog-run", f"e{k}", 0.1)}
    assert abs(len(chosen) / 4000 - 0.1) < 4 * (0.1 * 0.9 / 4000) ** 0.5
    assert chosen < {f"e{k}" for k in range(4000) if is_sampled("pidog-run", f"e{k}", 0.2)}
    # Nothing to do with the arms: among the chosen ones the split is what it is among all.
    policy = site.gateway.live.policy("pidog-run")
    champions = sum(policy.assign(name).arm == "champion" for name in chosen)
    assert abs(champions / len(chosen) - 0.5) < 4 * (0.25 / len(chosen)) ** 0.5
    await recorded(site, tmp_path / "served", share=0.3, episodes_per_dataset=100, flush_s=0.2)
    names = [f"e{k}" for k in range(40)]
    for name in names:
        await play(site, name, 1, {"value": 0.1})
    wanted = {name for name in names if is_sampled("pidog-run", name, 0.3)}
    await counts(site, written=len(wanted))
    assert {episode.about["episode_id"] for info in datasets(tmp_path / "served") for episode in info.episodes} == wanted


async def test_sessions_are_recorded_and_a_silent_robot_is_given_up(site: Any, url: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("serve_apps.gateway.live._STORE_SHADOWS_S", 0.1)
    await recorded(site, tmp_path / "served", silent_s=0.5)
    async with connect(f"ws://{url}/v1/policies/pidog-run/session?episode_id=s", additional_headers=site.header("robot")) as socket:
        await socket.recv()
        for sequence in range(5):
            await socket.send(write_compact(OBSERVATION, sequence, FLAT))
            await socket.recv()
    await counts(site, written=1)
    (info,) = datasets(tmp_path / "served")
    (episode,) = info.episodes
    assert (episode.length, episode.about["ended"], episode.about["outcome_value"]) == (5, "silent", None)
    # It comes back after all: its outcome counts, and nothing is written twice.
    await play(site, "s", 1, {"value": 0.3})
    await asyncio.sleep(0.3)
    assert (await counts(site))["written"] == 1


async def test_an_outcome_that_came_by_way_of_another_replica_is_found(site: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("serve_apps.gateway.live._STORE_SHADOWS_S", 0.1)
    await recorded(site, tmp_path / "served", silent_s=0.5)
    await play(site, "e", 3)
    record_outcome(site.database, "e", Outcome(value=0.33), policy="pidog-run")
    await counts(site, written=1)
    (info,) = datasets(tmp_path / "served")
    assert (info.episodes[0].about["ended"], info.episodes[0].about["outcome_value"]) == ("elsewhere", 0.33)


async def test_an_episode_with_a_gap_or_without_room_is_dropped_and_counted(site: Any, tmp_path: Path) -> None:
    await recorded(site, tmp_path / "served", buffer_mb=1)
    await site.act({"episode_id": "gap", "observation": FLAT.tolist(), "sequence": 0})
    await site.act({"episode_id": "gap", "observation": FLAT.tolist(), "sequence": 2})
    await site.outcome("gap", {"value": 0.1})
    found = await counts(site, dropped=1, written=0)
    assert "answered elsewhere" in found["problem"]
    live = site.gateway.live
    policy = live.policy("pidog-run")
    # A step takes 4 * (6 + 2) + 16 bytes: 1 MiB is full within 22 000.
    episode = await live.begin(policy, "long", None)
    for _ in range(22_500):
        await live.step(policy, episode, FLAT.reshape(1, -1))
    await site.outcome("long", {"value": 0.1})
    found = await counts(site, dropped=2, written=0, buffered_bytes=0)
    assert found["problem"] == "the buffer is full"
    await play(site, "short", 3, {"value": 0.1})
    await counts(site, dropped=2, written=1)


async def test_an_episode_that_falls_out_of_memory_is_written_as_far_as_it_came(site: Any, tmp_path: Path) -> None:
    await recorded(site, tmp_path / "served")
    site.gateway.live.episodes._capacity = 1
    await play(site, "old", 3)
    await play(site, "new", 1)
    await counts(site, written=1)
    (info,) = datasets(tmp_path / "served")
    assert (info.episodes[0].about["episode_id"], info.episodes[0].about["ended"]) == ("old", "evicted")


async def test_a_killed_writer_is_started_again_and_loses_nothing(site: Any, tmp_path: Path) -> None:
    await recorded(site, tmp_path / "served", episodes_per_dataset=4)
    await play(site, "e0", 3, {"value": 0.1})
    deadline_s = time.monotonic() + 10.0
    while not writers():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.02)
    await play(site, "e1", 3, {"value": 0.1})
    (pid,) = writers()
    os.kill(pid, signal.SIGKILL)
    started_s = time.perf_counter()
    await play(site, "e2", 3, {"value": 0.1})
    assert time.perf_counter() - started_s < 1.0  # the robot waits for no writer
    await play(site, "e3", 3, {"value": 0.1})
    found = await counts(site, written=4, dropped=0, buffered_bytes=0)
    assert found["writer_restarts"] == 1
    assert writers() != [pid]
    (info,) = datasets(tmp_path / "served")
    assert [episode.about["episode_id"] for episode in info.episodes] == ["e0", "e1", "e2", "e3"]


async def test_a_folder_that_cannot_be_written_drops_and_says_why(site: Any, tmp_path: Path) -> None:
    (tmp_path / "served").write_text("a file")
    await recorded(site, tmp_path / "served")
    await play(site, "e", 3, {"value": 0.1})
    found = await counts(site, dropped=1, written=0, buffered_bytes=0)
    assert str(tmp_path / "served") in found["problem"]
    assert found["writer_restarts"] == 0


async def test_a_full_folder_gets_no_more(site: Any, tmp_path: Path) -> None:
    await recorded(site, tmp_path / "served", max_gb=1e-5)
    await play(site, "e0", 3, {"value": 0.1})
    await counts(site, written=1)
    await play(site, "e1", 3, {"value": 0.1})
    assert "holds max_gb 1e-05 already" in (await counts(site, written=1, dropped=1))["problem"]
    assert len(datasets(tmp_path / "served")) == 1


async def test_what_is_under_way_is_written_when_the_replica_ends(site: Any, tmp_path: Path) -> None:
    await recorded(site, tmp_path / "served", episodes_per_dataset=100)
    await play(site, "done", 3, {"value": 0.1})
    await play(site, "under way", 2)
    await site.gateway.live.close()
    (info,) = datasets(tmp_path / "served")
    assert [(one.about["episode_id"], one.about["ended"], one.length) for one in info.episodes] == [
        ("done", "outcome", 3),
        ("under way", "closed", 2),
    ]
    assert writers() == []


async def test_a_policy_without_feedback_has_none(site: Any) -> None:
    await play(site, "e", 2, {"value": 0.1})
    assert (await site.http.get("/v1/policies")).json()["policies"][0]["feedback"] is None
    assert writers() == []


async def test_the_datasets_go_to_an_object_store_whole(site: Any, tmp_path: Path, s3_url: str) -> None:
    from cluster.storage import open_storage

    await recorded(site, s3_url)
    await play(site, "e", 3, {"value": 0.1})
    await counts(site, written=1)
    storage = await asyncio.to_thread(lambda: open_storage(s3_url))
    (name,) = storage.list_folders("pidog-run")
    storage.download_folder(f"pidog-run/{name}", tmp_path / "copy")
    assert load_info(tmp_path / "copy").num_frames == 3
    assert compute_digest(tmp_path / "copy") == load_info(tmp_path / "copy").digest
