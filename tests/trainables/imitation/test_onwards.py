"""Where an imitated policy goes next: reinforcement learning, and sweeps over how it is imitated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cluster.config import parse_config
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext
from trainables import sweep
from trainables.datasets.lerobot import load_frames, load_info
from trainables.imitation.config import ImitationConfig
from trainables.imitation.fits import make_fit
from trainables.imitation.frames import gather_frames
from trainables.imitation.results import best_policy, save_best
from trainables.imitation.spec import hold_out, make_spec
from trainables.networks.checkpoint import load_policy
from trainables.ppo.config import PPOConfig
from trainables.ppo.run import PPORun
from trainables.sweeps.config import SweepConfig


@pytest.mark.usefixtures("ray_session")
def test_reinforcement_learning_continues_from_the_lstm_over_the_whole_observation(expert_dataset: Path, tmp_path: Path) -> None:
    config = parse_config({"models": ["lstm"], "lstm": {"epochs": 3, "hidden_size": 16, "head_size": 16, "batch_size": 4}}, ImitationConfig)
    info = load_info(expert_dataset)
    spec = make_spec(config, info, Settings.from_environment({}))
    frames = gather_frames([load_frames(expert_dataset, columns=spec.columns)], spec.scaling)
    fit = make_fit("lstm", config, 50, 12, spec.fields, 0, torch.device("cpu"), spec.interface).attach(*hold_out(frames, spec))
    fit.prepare()
    # What is sensed begins without weight, and with noise while training: the expert's echo is not what is learned.
    assert (fit.policy.cell.weight_ih_l0[:, : spec.fields["command"].start] == 0).all()
    while not fit.finished:
        fit.run_epoch()
    save_best("lstm", fit.state_dict(), spec, info, tmp_path / "full_lstm", {})
    assert load_policy(tmp_path / "full_lstm")[0].input_indices == tuple(range(50))
    settings = PPOConfig(
        task="pidog_run",
        task_config={"max_episode_steps": 20, "physics": {"preset": "fast"}},
        network="lstm",
        sequence_length=8,
        num_envs=4,
        batch_size=128,
        minibatch_size=64,
        num_epochs=1,
        total_env_steps=128,
        report_every_env_steps=128,
        warm_start=tmp_path / "full_lstm",
    )
    run = PPORun(settings)
    try:
        assert run.warm_start_error() <= 1e-6
        before = best_policy(fit.state_dict()).state_dict()
        torch.testing.assert_close(run.algorithm.policy().state_dict(), before, atol=1e-6, rtol=1e-6)
        run.advance()
        assert not torch.equal(run.algorithm.policy().cell.weight_hh_l0, before["cell.weight_hh_l0"])
    finally:
        run.close()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_chunks_of_a_recording_are_swept(shared_data: Path, settings: Settings, tmp_path: Path) -> None:
    config = parse_config(
        {
            "imitation": {"dataset": str(shared_data / "lerobot_so101"), "models": ["chunk"], "chunk": {"epochs": 3, "hidden": [16]}},
            "search_space": {
                "chunk.chunk_size": {"choice": [4, 8]},
                "chunk.history": {"choice": [1, 2]},
                "chunk.weight_decay": {"loguniform": [1e-5, 1e-2]},
                "chunk.precision": {"choice": ["float32", "bfloat16"]},
            },
            "metric": "validation/loss",
            "mode": "min",
            "num_trials": 2,
            "scheduler": "fifo",
        },
        SweepConfig,
    )
    context = StageContext(folder=tmp_path / "run", settings=settings, progress=Progress(mode="quiet"), experiment="test")
    context.folder.mkdir()
    result = sweep.run(config, context)
    assert [trial["status"] for trial in result["trials"]] == ["finished", "finished"]
    policy, metadata = load_policy(Path(result["checkpoint"]))
    sample = next(trial["sample"] for trial in result["trials"] if trial["trial_id"] == result["best_trial"])
    assert (policy.kind, policy.chunk_size, policy.history) == ("chunk", sample["chunk.chunk_size"], sample["chunk.history"])
    assert metadata["interface"]["robot"] == "so101_follower"
