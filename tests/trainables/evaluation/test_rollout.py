from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.envs.registry import make_task
from trainables.evaluation.controllers import OnnxController, TorchController
from trainables.evaluation.rollout import play_batch, run_episodes
from trainables.export.graph import ServedPolicy, write_onnx
from trainables.networks.checkpoint import load_policy

CONFIG = {"physics": {"preset": "fast"}, "max_episode_steps": 40}


class Limp:
    """Lets the robot fall: the far end of every servo."""

    def reset(self, num_envs: int) -> None:
        self.num_envs = num_envs

    def act(self, observations: np.ndarray) -> np.ndarray:
        return np.ones((self.num_envs, 12), dtype=np.float32)

    def forget(self, ended: np.ndarray) -> None:
        pass


class Still(Limp):
    def act(self, observations: np.ndarray) -> np.ndarray:
        return np.zeros((self.num_envs, 12), dtype=np.float32)


@pytest.fixture
def task():
    made = make_task("pidog_run", 4, {**CONFIG, "max_episode_steps": 200}, seed=0)
    yield made
    made.close()


def test_every_robot_counts_once_with_its_first_episode(task) -> None:
    shown = []
    metrics = play_batch(task, Limp(), 3, observer=lambda step, observations, actions: shown.append(step))
    assert metrics["fell"].tolist() == [1.0] * 4
    # Robots that fell early went on with further episodes while the last one was up; those are not counted.
    assert len(shown) == metrics["length"].max()
    assert all(values.shape == (4,) and np.isfinite(values).all() for values in metrics.values())


def test_the_same_seed_repeats_and_more_episodes_begin_with_the_same_ones(task) -> None:
    four = run_episodes(task, Still(), 4, seed=5)
    seven = run_episodes(task, Still(), 7, seed=5)
    assert len(seven["length"]) == 7
    for name, values in four.items():
        np.testing.assert_array_equal(values, seven[name][:4])
    other = run_episodes(task, Still(), 4, seed=6)
    assert not np.array_equal(four["energy_j"], other["energy_j"])


def test_two_policies_meet_the_same_episodes(task) -> None:
    starts = []
    for controller in (Limp(), Still()):
        play_batch(
            task, controller, [9, 0], observer=lambda step, observations, actions: starts.append(observations) if step == 0 else None
        )
    np.testing.assert_array_equal(starts[0], starts[1])


def test_progress_counts_every_robot_step(task) -> None:
    counts: list[int] = []
    metrics = run_episodes(task, Limp(), 8, seed=0, on_step=counts.append)
    assert set(counts) == {4}
    assert sum(counts) >= metrics["length"].sum()


@pytest.mark.parametrize("name", ["imitation", "lstm"])
def test_onnx_runtime_and_torch_drive_alike(name: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    policy, _ = load_policy(checkpoints[name])
    task = make_task("pidog_run", 3, CONFIG)
    write_onnx(ServedPolicy(policy, task.action_scaling), tmp_path / "policy.onnx")
    torch_controller, onnx_controller = TorchController(policy), OnnxController(tmp_path / "policy.onnx", task.action_scaling)
    for controller in (torch_controller, onnx_controller):
        controller.reset(3)
    observations, _ = task.reset(seed=0)
    for step in range(30):
        ours, theirs = torch_controller.act(observations), onnx_controller.act(observations)
        np.testing.assert_allclose(task.action_scaling.to_physical(ours), onnx_controller.action_rad, atol=1e-5)
        np.testing.assert_allclose(task.action_scaling.to_physical(theirs), onnx_controller.action_rad, atol=1e-6)
        if step == 15:
            for controller in (torch_controller, onnx_controller):
                controller.forget(np.array([False, True, False]))
        observations, *_ = task.step(ours)
    task.close()


def test_forgetting_zeroes_the_state_of_those_robots_only(checkpoints: dict[str, Path]) -> None:
    policy, _ = load_policy(checkpoints["lstm"])
    controller = TorchController(policy)
    controller.reset(3)
    controller.act(np.ones((3, 50), dtype=np.float32))
    before = {name: value.clone() for name, value in controller.state.items()}
    controller.forget(np.array([True, False, False]))
    for name, value in controller.state.items():
        assert torch.equal(value[1:], before[name][1:])
        assert torch.equal(value[0], torch.zeros_like(value[0]))
        assert not torch.equal(before[name][0], value[0])
