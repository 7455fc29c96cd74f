"""Tasks by name, through Gymnasium, and a new task in a few lines."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers.vector import DictInfoToList

from cluster.contract import TensorField
from cluster.errors import ConfigError
from trainables.envs.base import BatchedTask, TaskConfig
from trainables.envs.pidog_run import PiDogRunConfig
from trainables.envs.registry import TASKS, gymnasium_id, make_task, register_gymnasium, task_config_model
from trainables.envs.robot_task import ActionScaling, RobotTask
from trainables.robots.registry import get_robot


def test_unknown_names_and_keys_are_one_clear_line():
    with pytest.raises(ConfigError, match=r"unknown task 'pidog_runn'; did you mean 'pidog_run'\?"):
        make_task("pidog_runn", 2)
    with pytest.raises(ConfigError, match=r"task pidog_run: reward.forward_velocty: unknown key; did you mean 'forward_velocity'\?"):
        make_task("pidog_run", 2, {"reward": {"forward_velocty": 1.0}})
    with pytest.raises(ConfigError, match=r"unknown gait 'galop'; known: walk_forward"):
        make_task("pidog_run", 2, {"command": {"gaits": {"galop": 1.0}}})
    with pytest.raises(ConfigError, match="'fast', 'medium' or 'production'"):
        make_task("pidog_run", 2, {"physics": {"preset": "slow"}})
    with pytest.raises(ConfigError, match=r"low end 1\.2 is above its high end 0\.8"):
        make_task("pidog_run", 2, {"randomization": {"friction": [1.2, 0.8]}})


def test_the_configuration_model_is_found_by_name():
    assert task_config_model("pidog_run") is PiDogRunConfig


def test_gymnasium_makes_the_batched_task_itself():
    register_gymnasium()
    register_gymnasium()
    task = gymnasium.make_vec(
        gymnasium_id("pidog_run"), num_envs=5, vectorization_mode="vector_entry_point", max_episode_steps=7, seed=1, reward={"energy": 0.5}
    )
    assert isinstance(task, BatchedTask)
    assert task.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.NEXT_STEP
    listed = DictInfoToList(task)  # RLlib's own wrapper
    listed.reset(seed=2)
    for step in range(1, 9):
        _, _, _, truncated, infos = listed.step(np.zeros((5, 12), np.float32))
        assert len(infos) == 5
        assert truncated.all() == (step == 7)
        if step == 7:
            assert infos[3]["episode_metrics"]["length"] == 7
        else:
            assert infos[3] == {}


@pytest.mark.filterwarnings("ignore:.*A Box observation space m:UserWarning")  # a sensor reading has no limits that a policy may rely on
def test_gymnasium_makes_a_plain_environment():
    register_gymnasium()
    env = gymnasium.make(gymnasium_id("pidog_run"), max_episode_steps=5)
    check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=0)
    for step in range(1, 6):
        _, reward, terminated, truncated, info = env.step(np.zeros(12, np.float32))
        assert isinstance(reward, float)
        assert not terminated
        assert truncated == (step == 5)
    assert isinstance(info["reward_terms"]["upright"], float)


@pytest.mark.filterwarnings("ignore:.*A Box observation space m:UserWarning")
@pytest.mark.parametrize("name", [name for name in TASKS if name != "pidog_run"])
def test_each_mujoco_task_is_a_gymnasium_environment_too(name: str):
    register_gymnasium()
    env = gymnasium.make(gymnasium_id(name), max_episode_steps=3)
    check_env(env.unwrapped, skip_render_check=True)
    assert env.unwrapped.task.name == name
    vector = gymnasium.make_vec(gymnasium_id(name), num_envs=2, vectorization_mode="vector_entry_point", seed=1)
    assert vector.reset()[0].shape == (2, *env.observation_space.shape)


class Balance(RobotTask):
    """Keep a number near 0; shows all that a new task has to answer."""

    def __init__(self, num_envs: int, seed: int = 0) -> None:
        robot = get_robot("pidog")
        one = np.ones(1)
        super().__init__(
            name="balance",
            robot=robot,
            config=TaskConfig(max_episode_steps=10),
            num_envs=num_envs,
            control_dt_s=0.1,
            observation_fields=(TensorField(name="position_m", shape=(1,)),),
            action_fields=(TensorField(name="speed_m_s", shape=(1,)),),
            action_scaling=ActionScaling(0 * one, 2 * one, -one, one),
            reward_weights={"near": 1.0, "calm": 0.5},
            seed=seed,
            reward_terms_in_info=True,
        )
        self.position = np.zeros(num_envs)

    def _place(self, envs: np.ndarray) -> None:
        self.position[envs] = [self.rngs[env].uniform(-0.5, 0.5) for env in envs]

    def _drive(self, joint_targets_rad: np.ndarray, active: np.ndarray) -> None:
        self.speed = joint_targets_rad[:, 0]
        self.position = self.position + self.control_dt_s * self.speed

    def _observe(self) -> np.ndarray:
        return self.position[:, None].astype(np.float32)

    def _reward_terms(self) -> dict[str, np.ndarray]:
        return {"near": -np.abs(self.position), "calm": -np.abs(self.speed)}

    def _terminated(self) -> np.ndarray:
        return np.abs(self.position) > 1.0


def test_a_new_task_answers_five_questions_and_gets_the_rest():
    task = Balance(3)
    observation, _ = task.reset()
    assert observation.shape == (3, 1)
    _, rewards, _, _, infos = task.step(np.array([[0.25], [-1.0], [5.0]]))
    assert task.speed.tolist() == [0.5, -1.0, 1.0]
    assert rewards == pytest.approx((-np.abs(task.position) - 0.5 * np.abs(task.speed)) * 0.1)
    assert infos["reward_terms"]["calm"] == pytest.approx(-0.05 * np.abs(task.speed))
    ended = [task.step(np.ones((3, 1)))[2:4] for _ in range(9)]
    assert any(terminated.any() for terminated, _ in ended)


def test_a_render_mode_that_a_library_asks_for_is_no_unknown_key():
    register_gymnasium()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Gymnasium's own: the task draws in no mode
        env = gymnasium.make("gaitway/HalfCheetah-v5", render_mode="rgb_array")
    assert env.reset(seed=0)[0].shape == (17,)
