"""The imitation stage through real Ray Data and Ray Train, on a small dataset of PiDog's expert."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest
import torch

from cluster.config import parse_config
from cluster.errors import ClusterError, ConfigError, GaitwayError
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext
from trainables import imitate
from trainables.datasets.lerobot import load_frames, load_info
from trainables.imitation.config import ImitationConfig
from trainables.imitation.fits import make_fit
from trainables.imitation.frames import COLUMNS, Frames, gather_frames
from trainables.imitation.reading import Part
from trainables.imitation.spec import TrainSpec, make_spec
from trainables.imitation.trainer import train_models
from trainables.networks.checkpoint import load_policy

SMALL = {
    "mlp": {"epochs": 12, "hidden": [32, 32], "batch_size": 64},
    "simple_lstm": {"epochs": 8, "hidden_size": 16, "head_size": 8, "batch_size": 4},
    "checkpoint_interval": 2,
}


def configured(**changes) -> ImitationConfig:
    return parse_config({**SMALL, **changes}, ImitationConfig)


def context(folder: Path, settings: Settings) -> StageContext:
    return StageContext(folder=folder, settings=settings, progress=Progress(mode="quiet"), experiment="test")


def spec_of(dataset: Path, config: ImitationConfig) -> TrainSpec:
    return make_spec(config, load_info(dataset), Settings.from_environment({}))


def fit_here(dataset: Path, spec: TrainSpec, name: str):
    """The same training without Ray: what Ray Train must arrive at."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        frames = gather_frames([load_frames(dataset, columns=COLUMNS)], spec.scaling)
        train, validation = frames.of_episodes(spec.train_episodes), frames.of_episodes(spec.validation_episodes)
        sizes = frames.observation.shape[1], frames.target.shape[1]
        fit = make_fit(name, spec.config, *sizes, spec.fields, 0, torch.device("cpu")).attach(train, validation)
        fit.prepare()
        while not fit.finished:
            fit.run_epoch()
        return fit
    finally:
        torch.set_num_threads(before)


def test_a_dataset_becomes_two_policies_with_their_curves(ray_session, expert_dataset: Path, settings: Settings, tmp_path: Path) -> None:
    config = configured(dataset=str(expert_dataset))
    result = imitate.run(config, context(tmp_path / "run", settings))
    assert json.loads(json.dumps(result)) == result
    policy, metadata = load_policy(Path(result["checkpoint"]))
    assert (metadata["task"], metadata["source"], metadata["run_id"]) == ("pidog_run", "imitation", result["run_id"])
    assert metadata["task_config"]["command"]["gaits"] == {"trot_forward": 1.0, "stand": 1.0}
    assert metadata["dataset_digest"] == load_info(expert_dataset).digest
    assert metadata["validation_loss"] == result["validation_loss"]
    assert load_policy(Path(result["lstm_checkpoint"]))[0].kind == "simple_lstm"
    assert Path(result["plot"]).read_bytes().startswith(b"\x89PNG")

    history = json.loads((tmp_path / "run" / "imitation_model" / "history.json").read_text())
    losses = [row["validation_loss"] for row in history["mlp"]["rows"]]
    assert len(losses) == 12
    assert result["validation_loss"] == min(losses) < 0.5 * losses[0]

    # Ray Train arrives where the plain loop does, to the last bit.
    expected = fit_here(expert_dataset, spec_of(expert_dataset, config), "mlp").best
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, expected[name]), name

    # Nothing of Ray Train's own is left, and the curve is in MLflow.
    assert not list((settings.shared_path / "imitation").iterdir())
    assert {entry.name for entry in (tmp_path / "run" / "imitation_model").iterdir()} == {
        "policy", "lstm", "history.json", "loss_curves.png", "open_loop.json", "open_loop.png",
    }  # fmt: skip
    from mlflow.tracking import MlflowClient

    client = MlflowClient(settings.mlflow_tracking_uri)
    logged = client.get_metric_history(result["run_id"], "mlp/validation_loss")
    assert [point.step for point in logged] == list(range(1, 13))
    assert [point.value for point in logged] == pytest.approx(losses)
    assert client.get_run(result["run_id"]).info.status == "FINISHED"


def test_a_killed_worker_costs_nothing_but_time(ray_session, expert_dataset: Path, tmp_path: Path) -> None:
    config = configured(models=["mlp"], checkpoint_interval=1, mlp={**SMALL["mlp"], "epochs": 10})
    spec = spec_of(expert_dataset, config)
    killed, epochs = [], []

    def on_rows(model: str, rows: list[dict[str, float]]) -> None:
        epochs.extend(int(row["epoch"]) for row in rows)
        if not killed:
            workers = [
                process for process in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(process.info["cmdline"] or [])
            ]
            ours = [process for process in workers if psutil.Process().pid in {parent.pid for parent in process.parents()}]
            for process in ours:
                killed.append(process.pid)
                os.kill(process.pid, signal.SIGKILL)

    states = train_models([Part(expert_dataset)], spec, tmp_path / "storage", "killed", tmp_path / "scratch", on_rows)
    assert killed
    expected = fit_here(expert_dataset, spec, "mlp")
    assert states["mlp"]["history"] == expected.history
    for name, tensor in states["mlp"]["best"].items():
        assert torch.equal(tensor, expected.best[name]), name
    assert epochs[-1] == 10

    # A driver that died after the last checkpoint: the same call finds everything done in the storage and trains nothing.
    epochs.clear()
    found = train_models([Part(expert_dataset)], spec, tmp_path / "storage", "killed", tmp_path / "scratch", on_rows)
    assert not epochs
    assert found["mlp"]["history"] == states["mlp"]["history"]


def test_two_workers_share_the_frames_and_agree(ray_session, expert_dataset: Path, tmp_path: Path) -> None:
    config = configured(num_workers=2)
    spec = spec_of(expert_dataset, config)
    states = train_models([Part(expert_dataset)], spec, tmp_path / "storage", "two", tmp_path / "scratch", lambda model, rows: None)
    for name in ("mlp", "simple_lstm"):
        rows = states[name]["history"]
        assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]
    # The statistics are those of all frames, not of one worker's.
    frames = gather_frames([load_frames(expert_dataset, columns=COLUMNS)], spec.scaling).of_episodes(spec.train_episodes)
    torch.testing.assert_close(states["mlp"]["best"]["normalizer.mean"], torch.from_numpy(frames.observation.mean(0)), atol=1e-4, rtol=1e-4)
    assert states["mlp"]["best"]["normalizer.count"] == len(frames)


def test_more_workers_than_the_cluster_has_cpus_is_said_at_once(ray_session, expert_dataset: Path, tmp_path: Path) -> None:
    config = configured(num_workers=64)
    with pytest.raises(ClusterError, match=r"imitation needs 64 CPUs for its workers and the cluster has 2"):
        train_models([Part(expert_dataset)], spec_of(expert_dataset, config), tmp_path, "x", tmp_path / "s", lambda m, r: None)


def test_a_model_that_reads_a_command_is_refused_where_none_was_recorded(settings: Settings, shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        GaitwayError, match="simple_lstm: the recording has no observation field 'command'; it has: observation_state; it reads"
    ):
        imitate.run(configured(dataset=str(shared_data / "lerobot_so101")), context(tmp_path, settings))


def test_a_field_that_the_task_has_not_is_named(settings: Settings, expert_dataset: Path, tmp_path: Path) -> None:
    config = configured(dataset=str(expert_dataset), mlp={"exact_fields": ["comand"]})
    with pytest.raises(GaitwayError, match="mlp: the task pidog_run has no observation field 'comand'; it has: projected_gravity"):
        imitate.run(config, context(tmp_path, settings))


def test_without_a_dataset_the_missing_stage_is_named(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(GaitwayError, match="needs 'dataset' from the stage 'collect'"):
        imitate.run(configured(), context(tmp_path, settings))


def test_a_model_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="name each model once"):
        configured(models=["mlp", "mlp"])


def test_one_episode_is_enough(expert_dataset: Path) -> None:
    whole = gather_frames([load_frames(expert_dataset, columns=COLUMNS)], spec_of(expert_dataset, configured()).scaling)
    only = whole.of_episodes([0])
    train, validation = only.cut(0.2)
    assert isinstance(train, Frames)
    assert (len(train), len(validation)) == (48, 12)
