"""What the writer leaves is what the training side reads and trains on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from cluster.config import parse_config
from cluster.contract import PolicyContract
from cluster.runtime.served import FeedbackConfig
from cluster.settings import Settings
from serve_apps.feedback.messages import encode
from trainables.datasets.lerobot import load_frames, load_info, read_dataset
from trainables.envs.registry import make_robot_task
from trainables.imitation.config import ImitationConfig
from trainables.imitation.fits import make_fit
from trainables.imitation.frames import COLUMNS, gather_frames
from trainables.imitation.spec import make_spec


def served(folder: Path, contract: PolicyContract, episodes: int, steps: int) -> Path:
    """A dataset of PiDog episodes in which every joint target is a fixed share of an observed number."""
    random, frames = np.random.default_rng(0), b""
    for number in range(episodes):
        observations = random.normal(size=(steps, contract.observation_size)).astype(np.float32)
        actions = 0.1 * observations[:, : contract.action_size]
        frames += encode(
            {
                "number": number,
                "replica": "r",
                "policy": contract.policy,
                "folder": str(folder),
                "settings": FeedbackConfig().model_dump(mode="json"),
                "contract": contract.interface(),
                "episode_id": f"e{number}",
                "about": {"started_at": f"2026-01-01T00:00:0{number}+00:00"},
                "numbers": np.concatenate([observations, actions], axis=1),
                "times": np.zeros((steps, 2)),
            }
        )
    subprocess.run([sys.executable, "-m", "serve_apps.feedback.writer"], input=frames, stdout=subprocess.DEVNULL, timeout=60, check=True)
    (dataset,) = (folder / contract.policy).iterdir()
    return dataset


def test_an_imitation_trains_on_what_was_served(ray_session: None, settings: Settings, tmp_path: Path) -> None:
    task = make_robot_task("pidog_run", 1, {})
    contract = PolicyContract(
        policy="pidog-run",
        robot="pidog",
        task="pidog_run",
        control_dt_s=0.02,
        observation=task.observation_fields,
        action=task.action_fields,
    )
    dataset = served(tmp_path, contract, episodes=6, steps=120)
    info = load_info(dataset)
    assert info.num_episodes == 6
    rows = read_dataset(dataset, columns=list(COLUMNS))
    config = parse_config({"mlp": {"epochs": 10, "hidden": [32], "batch_size": 64}}, ImitationConfig)
    task.close()
    spec = make_spec(config, info, settings)
    frames = gather_frames(rows.iter_batches(batch_size=None, batch_format="numpy"), spec.scaling)
    np.testing.assert_array_equal(frames.observation, load_frames(dataset)["observation.state"])
    train, validation = frames.of_episodes(spec.train_episodes), frames.of_episodes(spec.validation_episodes)
    assert len(train)
    assert len(validation)
    sizes = frames.observation.shape[1], frames.target.shape[1]
    fit = make_fit("mlp", config, *sizes, spec.fields, 0, torch.device("cpu")).attach(train, validation)
    fit.prepare()
    while not fit.finished:
        fit.run_epoch()
    assert fit.history[-1]["validation_loss"] < 0.5 * fit.history[0]["validation_loss"]
