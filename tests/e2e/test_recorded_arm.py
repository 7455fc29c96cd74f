"""A real arm's recording becomes an action-chunk policy that a robot's client asks over a session."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from cluster.bundle import Bundle
from cluster.runtime.serve_config import ServeConfig, ServedPolicyConfig
from cluster.runtime.serving import serve_up
from cluster.store.registry import register_bundle, set_alias
from cluster.wire.session import Session
from trainables.datasets.lerobot import load_frames, load_info

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def module(environment: dict[str, str], name: str, *arguments: str) -> str:
    command = [sys.executable, "-m", name, *arguments]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def test_from_the_recording_to_a_session(shared_data, own_home, tmp_path):
    settings, environment = own_home
    recording = shared_data / "lerobot_so101"
    run = tmp_path / "run"
    chosen = ("--set", f"dataset={recording}", "--set", "chunk.epochs=40", "--run-folder", str(run))
    said = module(environment, "trainables.imitate", "configs/imitation/so101_chunk.yaml", *chosen)
    assert "better than holding the last state" in said
    assert (run / "imitation_model/open_loop.png").is_file()
    export = tmp_path / "export.yaml"
    export.write_text(f"policy_name: so101-cube\npolicies: {{chunk: {run / 'imitation_model/chunk'}}}\n")
    module(environment, "trainables.export", str(export), "--run-folder", str(run))
    bundle = Bundle.load(run / "final_model")
    contract = bundle.contract
    assert (contract.robot, contract.task, contract.action[0].shape) == ("so101_follower", "recorded", (16, 6))
    assert contract.control_dt_s == pytest.approx(1 / 30)

    version = register_bundle(settings, "so101-cube", bundle.path)
    set_alias(settings, "so101-cube", "champion", int(version))
    status = serve_up(settings, ServeConfig(policies=(ServedPolicyConfig(policy="so101-cube"),)))
    token = Path(status["token_file"]).read_text().strip()
    states = load_frames(recording, episodes=[3], columns=["observation.state"])["observation.state"]
    model = onnxruntime.InferenceSession(bundle.onnx_path)
    ranges = load_frames(recording)["action"]
    margin = 0.06 * np.ptp(ranges, axis=0)
    with Session(status["url"], "so101-cube", token=token, chunk_steps=8) as session:
        session.reset()
        for frame, state in enumerate(states[:24]):
            action = session.act(state)
            if frame % 8 == 0:
                (planned,) = model.run(["action"], {"observation": state[None]})
            assert action.chunk_step == frame % 8
            np.testing.assert_allclose(action.vector, planned.reshape(16, 6)[frame % 8], atol=1e-4)
            assert (action.vector >= ranges.min(axis=0) - margin).all()
            assert (action.vector <= ranges.max(axis=0) + margin).all()
        session.outcome(1.0)
    assert load_info(recording).missing_videos
