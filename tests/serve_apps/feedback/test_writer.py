"""The writer process: whole datasets or none, whoever is killed and whenever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from cluster.bundle import verify
from cluster.contract import PolicyContract, TensorField
from cluster.lerobot.folder import load_frames
from cluster.lerobot.info import load_info
from cluster.runtime.served import FeedbackConfig, ServedPolicy, ServedState, ServedVersion
from cluster.settings import Settings
from serve_apps.feedback.messages import FrameReader, encode
from serve_apps.feedback.pipe import WriterPipe
from serve_apps.feedback.recording import BLOCK_STEPS, Budget, Recording
from serve_apps.inference.policy_set import Assignment

CONTRACT = PolicyContract(
    policy="pidog-run",
    robot="pidog",
    task="test",
    control_dt_s=0.02,
    observation=(
        TensorField(name="gravity", shape=(3,)),
        TensorField(name="grid", shape=(2, 2)),
        TensorField(name="range_m", shape=(), unit="m"),
    ),
    action=(TensorField(name="target_rad", shape=(2,), unit="rad", components=("left", "right")),),
)
WIDTH = 3 + 4 + 1 + 2

REPLICA = """
import asyncio, json, sys
import numpy as np
from cluster.store.comparisons import Outcome
from serve_apps.gateway.live import Live

async def main():
    live = Live("policies#1")
    await live.apply(json.loads(sys.argv[1]))
    policy = live.policy("pidog-run")
    for k in range(7):
        episode = await live.begin(policy, f"e{k}", None)
        for step in range(400):
            await live.step(policy, episode, np.full((1, 6), k, np.float32))
        await live.end("pidog-run", f"e{k}", Outcome(value=float(k)))
    unfinished = await live.begin(policy, "unfinished", None)
    await live.step(policy, unfinished, np.zeros((1, 6), np.float32))
    while live.feedback._pipe._queue or len(live.feedback._pipe._sent) + live.feedback._pipe.counts("pidog-run").episodes < 7:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)  # the last one is on its way into the pipe
    print("sent", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def message(number: int, folder: Path, steps: int = 5, **options: Any) -> dict[str, Any]:
    settings = FeedbackConfig(folder=str(folder), **options)
    return {
        "number": number,
        "replica": "r#1",
        "policy": "pidog-run",
        "folder": str(folder),
        "settings": settings.model_dump(mode="json"),
        "contract": CONTRACT.interface(),
        "episode_id": f"e{number}",
        "about": {"started_at": f"2026-01-01T00:00:{number:02d}+00:00", "arm": None, "versions": [{"from_step": 0, "version": "1"}]},
        "numbers": np.arange(steps * WIDTH, dtype=np.float32).reshape(steps, WIDTH),
        "times": np.stack([np.arange(steps) * 0.02, np.full(steps, 1e-4)], axis=1),
    }


def write(frames: bytes, timeout_s: float = 60.0) -> list[dict[str, Any]]:
    """What a writer answers to these frames and the end of its input."""
    ended = subprocess.run(
        [sys.executable, "-m", "serve_apps.feedback.writer"], input=frames, stdout=subprocess.PIPE, timeout=timeout_s, check=True
    )
    return [json.loads(line) for line in ended.stdout.splitlines()]


def wait_until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_frames_are_put_together_from_any_pieces() -> None:
    stream = b"".join(encode({"number": number, "values": np.arange(number)}) for number in range(5))
    for size in (1, 7, 64, len(stream)):
        reader = FrameReader()
        found = [one for start in range(0, len(stream), size) for one in reader.feed(stream[start : start + size])]
        assert [one["number"] for one in found] == [0, 1, 2, 3, 4]
        assert [one["values"].tolist() for one in found] == [list(range(number)) for number in range(5)]


def test_observations_and_actions_are_flat_and_named_and_the_contract_is_kept(tmp_path: Path) -> None:
    (answer,) = write(encode(message(1, tmp_path, steps=6)))
    info = load_info(answer["dataset"])
    assert info.features["observation.state"].shape == (8,)
    assert info.features["observation.state"].names[3:] == ("grid.0", "grid.1", "grid.2", "grid.3", "range_m")
    assert info.features["action"].names == ("target_rad.left", "target_rad.right")
    assert [field["unit"] for field in info.gaitway["contract"]["action"]] == ["rad"]
    frames, numbers = load_frames(info.path), message(1, tmp_path, steps=6)["numbers"]
    np.testing.assert_array_equal(frames["observation.state"], numbers[:, :8])
    np.testing.assert_array_equal(frames["action"], numbers[:, 8:])


def test_what_came_whole_is_written_and_what_was_cut_off_is_not(tmp_path: Path) -> None:
    whole, cut = encode(message(1, tmp_path)) + encode(message(2, tmp_path)), encode(message(3, tmp_path))[:-20]
    (answer,) = write(whole + cut)
    assert answer["done"] == [1, 2]
    assert [one.about["episode_id"] for one in load_info(answer["dataset"]).episodes] == ["e1", "e2"]


def test_an_episode_that_does_not_fit_is_named_and_others_are_written(tmp_path: Path) -> None:
    hurt = message(1, tmp_path, episodes_per_dataset=1)
    hurt["numbers"] = np.full_like(hurt["numbers"], np.nan)
    bad, good = write(encode(hurt) + encode(message(2, tmp_path, episodes_per_dataset=1)))
    assert (bad["done"], good["done"]) == ([1], [2])
    assert "NaN" in bad["problem"]
    assert len(list((tmp_path / "pidog-run").iterdir())) == 1  # nothing hidden is left either


def test_leftovers_of_killed_writers_go_and_those_at_work_stay(tmp_path: Path) -> None:
    old, young = tmp_path / "pidog-run/.x.partial-1", tmp_path / "pidog-run/.y.staging-2"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    write(encode(message(1, tmp_path)))
    assert not old.exists()
    assert young.exists()


def test_a_writer_killed_at_any_moment_leaves_whole_datasets_only(tmp_path: Path) -> None:
    frames = b"".join(encode(message(number, tmp_path, steps=2000, episodes_per_dataset=1)) for number in range(40))
    for delay_s in (0.0, 0.05, 0.2):
        process = subprocess.Popen([sys.executable, "-m", "serve_apps.feedback.writer"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin, process.stdout:
            feeder = threading.Thread(target=lambda pipe=process.stdin: _feed(pipe, frames))
            feeder.start()
            process.stdout.readline()
            time.sleep(delay_s)
            process.kill()
            process.wait()
            feeder.join()
    visible = [path for path in (tmp_path / "pidog-run").iterdir() if not path.name.startswith(".")]
    assert len(visible) >= 3
    for path in visible:
        assert load_info(path).num_frames == 2000
        assert len(load_frames(path)["index"]) == 2000


def _feed(pipe: Any, frames: bytes) -> None:
    try:
        pipe.write(frames)
        pipe.flush()
    except OSError:
        return


def test_a_killed_replica_leaves_all_that_it_had_finished_as_whole_datasets(
    settings: Settings, tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    feedback = FeedbackConfig(share=1.0, folder=str(tmp_path / "served"), episodes_per_dataset=3)
    version = ServedVersion(bundle=bundle, digest=verify(bundle))
    policies = {"pidog-run": ServedPolicy(versions={"1": version}, default_version="1", feedback=feedback)}
    state = ServedState(policies=policies, database_url=settings.gaitway_database_url)
    command = [sys.executable, "-c", REPLICA, json.dumps(state.as_user_config())]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as replica:
        assert replica.stdout is not None
        assert replica.stdout.readline() == b"sent\n"
        (writer,) = psutil.Process(replica.pid).children()
        os.kill(replica.pid, signal.SIGKILL)
        replica.wait()
    wait_until(lambda: not writer.is_running() or writer.status() == psutil.STATUS_ZOMBIE)
    infos = [load_info(path) for path in sorted((tmp_path / "served/pidog-run").iterdir())]
    assert [info.num_episodes for info in infos] == [3, 3, 1]
    assert [one.about["episode_id"] for info in infos for one in info.episodes] == [f"e{k}" for k in range(7)]
    for info in infos:
        frames = load_frames(info.path)
        assert len(frames["index"]) == 400 * info.num_episodes
        np.testing.assert_array_equal(
            frames["observation.state"][:, 0], np.repeat([one.about["outcome_value"] for one in info.episodes], 400)
        )


def recording(budget: Budget, episode_id: str = "e", steps: int = 3) -> Recording:
    made = Recording(CONTRACT, episode_id, {}, budget, 0.0)
    for step in range(steps):
        made.add(Assignment("1"), np.full((1, 8), step, np.float32), np.zeros((1, 2), np.float32), step * 0.02, 1e-4, step)
    return made


def test_memory_is_counted_from_the_first_step_until_it_is_written(tmp_path: Path) -> None:
    block = BLOCK_STEPS * (4 * WIDTH + 16)
    budget = Budget(3 * block)
    first = recording(budget, steps=BLOCK_STEPS + 1)
    assert budget.used_bytes == 2 * block
    second, third = recording(budget, "e2"), recording(budget, "e3")
    assert (second.lost, third.lost, third.held_bytes) == ("", "the buffer is full", 0)
    second.lose("not wanted")
    assert budget.used_bytes == 2 * block
    pipe = WriterPipe("r")
    pipe.send("pidog-run", first, str(tmp_path), FeedbackConfig(episodes_per_dataset=1))
    wait_until(lambda: pipe.counts("pidog-run").episodes == 1)
    assert budget.used_bytes == 0
    pipe.close(10.0)


def test_a_version_that_changes_under_way_is_told_by_its_step() -> None:
    made = recording(Budget(1 << 20), steps=4)
    assert [span["from_step"] for span in made.take_content()["about"]["versions"]] == [0, 1, 2, 3]  # four assignments, one a step


def test_a_replica_that_records_loads_no_more_than_one_that_does_not(
    settings: Settings, tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    version = ServedVersion(bundle=bundle, digest=verify(bundle))
    feedback = FeedbackConfig(share=1.0, folder=str(tmp_path / "served"))
    policies = {"pidog-run": ServedPolicy(versions={"1": version}, default_version="1", feedback=feedback)}
    state = ServedState(policies=policies, database_url=settings.gaitway_database_url)
    code = (
        REPLICA.replace("await asyncio.sleep(60)", "await live.close()")
        + "\nprint(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    ended = subprocess.run([sys.executable, "-c", code, json.dumps(state.as_user_config())], stdout=subprocess.PIPE, timeout=60, check=True)
    loaded = set(json.loads(ended.stdout.splitlines()[-1]))
    assert loaded & {"pyarrow", "pandas", "torch", "mlflow", "scipy", "alembic", "plotly", "trainables"} == set()
    assert {"onnxruntime", "msgpack"} <= loaded
    # The writer ended with what it had, the episode under way included.
    assert sum(load_info(path).num_episodes for path in (tmp_path / "served/pidog-run").iterdir()) == 8


def test_an_episode_that_kills_every_writer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_apps.feedback.pipe.WRITER", "this_module_is_not_there")
    pipe, budget = WriterPipe("r"), Budget(1 << 20)
    pipe.send("pidog-run", recording(budget), str(tmp_path), FeedbackConfig())
    wait_until(lambda: pipe.counts("pidog-run").dropped == 1)
    assert (pipe.restarts, budget.used_bytes) == (3, 0)
    assert pipe.counts("pidog-run").problem == "three writers died with it"
    pipe.close(10.0)
