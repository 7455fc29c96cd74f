"""What the writer leaves is read by the training side, through Ray Data too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from cluster.contract import PolicyContract, TensorField
from cluster.runtime.served import FeedbackConfig
from serve_apps.feedback.messages import encode
from trainables.datasets.lerobot import load_frames, load_info, read_dataset

CONTRACT = PolicyContract(
    policy="pidog-run",
    robot="pidog",
    task="test",
    control_dt_s=0.02,
    observation=(TensorField(name="gravity", shape=(3,)),),
    action=(TensorField(name="target_rad", shape=(2,), unit="rad"),),
)


def test_ray_data_reads_what_was_served(ray_session: None, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frames = b""
    for number in range(3):
        frames += encode(
            {
                "number": number,
                "replica": "r",
                "policy": "pidog-run",
                "folder": str(tmp_path),
                "settings": FeedbackConfig().model_dump(mode="json"),
                "contract": CONTRACT.interface(),
                "episode_id": f"e{number}",
                "about": {"started_at": f"2026-01-01T00:00:0{number}+00:00"},
                "numbers": random.normal(size=(20, 5)).astype(np.float32),
                "times": np.zeros((20, 2)),
            }
        )
    subprocess.run([sys.executable, "-m", "serve_apps.feedback.writer"], input=frames, stdout=subprocess.DEVNULL, timeout=60, check=True)
    (folder,) = (tmp_path / "pidog-run").iterdir()
    assert load_info(folder).num_episodes == 3
    rows = read_dataset(folder, columns=["observation.gravity", "action.target_rad", "index"]).to_pandas().sort_values("index")
    wanted = load_frames(folder)
    np.testing.assert_array_equal(np.stack(rows["observation.gravity"]), wanted["observation.gravity"])
    np.testing.assert_array_equal(np.stack(rows["action.target_rad"]), wanted["action.target_rad"])
