"""Batched MuJoCo by itself, two ways, and the plain loop that adds a bare policy to it: what sampling is measured against.

Nothing of the project's own physics is used, only the models: ``mujoco.rollout`` over state arrays, and a thread pool over
persistent ``MjData``. Which one is faster depends on the model (a persistent ``MjData`` keeps its solver's warm start).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import gymnasium
import mujoco
import mujoco.rollout
import numpy as np

__all__ = ["METHODS", "Physics", "PooledPhysics", "RolloutPhysics", "Workload", "make_workload", "physics_rate", "plain_loop_rate"]

_FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
_CONTROL, _MOCAP = mujoco.mjtState.mjSTATE_CTRL.value, mujoco.mjtState.mjSTATE_MOCAP_POS.value
_EPISODE_STEPS = 100
"""Everything starts again after so many control steps, about as often as a random policy falls."""
_ACTION_STD = 0.5


@dataclass(frozen=True, eq=False)
class Workload:
    """A task's physics without the task.

    Attributes:
        substeps: physics steps in a control step.
        initial_state: full physics state at the start. Shape (state_size,).
        control_offset: control at action 0. Shape (num_controls,).
        control_scale: half range of actions -1..1. Shape (num_controls,).
        mocap_position_m: where the model's mocap bodies stand. Shape (num_mocap, 3).
        observation_size: what the task's own policy would see.
    """

    model: mujoco.MjModel
    substeps: int
    initial_state: np.ndarray
    control_offset: np.ndarray
    control_scale: np.ndarray
    mocap_position_m: np.ndarray
    observation_size: int

    def control(self, actions: np.ndarray) -> np.ndarray:
        """Physical control of normalised actions. Shapes (num_envs, num_controls) -> the same."""
        return self.control_offset + self.control_scale * np.clip(actions, -1.0, 1.0)


def make_workload(task: str, task_config: dict | None = None) -> Workload:
    """Of a task of ours that carries its robot's physics (``pidog_run``), or of one of Gymnasium's MuJoCo environments."""
    if "-v" not in task:
        from trainables.envs.registry import make_task

        ours = make_task(task, 1, task_config)
        ours.reset(seed=0)
        physics, scaling = ours.physics, ours.action_scaling
        obstacles = physics.obstacle_position_m[0].copy()
        workload = Workload(
            physics.model, physics.substeps, physics.state[0].copy(), scaling.offset, scaling.scale, obstacles, ours.observation_size
        )
        ours.close()
        return workload
    environment = gymnasium.make(task)
    environment.reset(seed=0)
    inner = environment.unwrapped
    state = np.zeros(mujoco.mj_stateSize(inner.model, _FULL))
    mujoco.mj_getState(inner.model, inner.data, state, _FULL)
    low, high = inner.model.actuator_ctrlrange.T
    size = environment.observation_space.shape[0]
    return Workload(inner.model, inner.frame_skip, state, (low + high) / 2, (high - low) / 2, np.zeros((0, 3)), size)


class Physics(Protocol):
    """``num_envs`` copies of a workload that can be advanced."""

    def restart(self) -> None:
        """Everybody to the initial state."""

    def step(self, control: np.ndarray) -> None:
        """One control step of all. Shape (num_envs, num_controls)."""

    def positions_and_velocities(self) -> np.ndarray:
        """Generalised coordinates of all. Shape (num_envs, nq + nv)."""

    def close(self) -> None:
        """End the threads."""


class RolloutPhysics:
    """``mujoco.rollout``: one native call a control step."""

    def __init__(self, workload: Workload, num_envs: int, num_threads: int) -> None:
        model = workload.model
        self._workload = workload
        self._models = [model] * num_envs
        self._data = [mujoco.MjData(model) for _ in range(num_threads)]
        self._pool = mujoco.rollout.Rollout(nthread=0 if num_threads == 1 else num_threads)
        self._state = np.tile(workload.initial_state, (num_envs, 1))
        self._trace = np.zeros((num_envs, workload.substeps, workload.initial_state.size))
        self._inputs = np.zeros((num_envs, workload.substeps, model.nu + 3 * model.nmocap))
        self._inputs[:, :, model.nu :] = workload.mocap_position_m.ravel()
        self._input_spec = _CONTROL | (_MOCAP if model.nmocap else 0)

    def restart(self) -> None:
        """See ``Physics``."""
        self._state[:] = self._workload.initial_state

    def step(self, control: np.ndarray) -> None:
        """See ``Physics``."""
        workload = self._workload
        self._inputs[:, :, : workload.model.nu] = control[:, None]
        self._pool.rollout(
            self._models,
            self._data,
            self._state,
            self._inputs,
            control_spec=self._input_spec,
            skip_checks=True,
            nstep=workload.substeps,
            state=self._trace,
        )
        self._state[:] = self._trace[:, -1]

    def positions_and_velocities(self) -> np.ndarray:
        """See ``Physics``."""
        model = self._workload.model
        return self._state[:, 1 : 1 + model.nq + model.nv]

    def close(self) -> None:
        """See ``Physics``."""
        self._pool.close()


class PooledPhysics:
    """A thread pool over one persistent ``MjData`` an environment."""

    def __init__(self, workload: Workload, num_envs: int, num_threads: int) -> None:
        self._workload = workload
        self._data = [mujoco.MjData(workload.model) for _ in range(num_envs)]
        for data in self._data:
            data.mocap_pos[:] = workload.mocap_position_m
        self._control = [data.ctrl for data in self._data]
        self._coordinates = [data.qpos for data in self._data], [data.qvel for data in self._data]
        self._pool = ThreadPoolExecutor(num_threads)
        # Four pieces a thread: robots that touch the ground take longer than those in the air.
        self._pieces = np.array_split(np.arange(num_envs), min(num_envs, 4 * num_threads if num_threads > 1 else 1))
        self.restart()

    def restart(self) -> None:
        """See ``Physics``."""
        for data in self._data:
            mujoco.mj_setState(self._workload.model, data, self._workload.initial_state, _FULL)

    def step(self, control: np.ndarray) -> None:
        """See ``Physics``."""
        model, substeps = self._workload.model, self._workload.substeps

        def advance(envs: np.ndarray) -> None:
            for env in envs:
                self._control[env][:] = control[env]
                mujoco.mj_step(model, self._data[env], substeps)

        if len(self._pieces) == 1:
            advance(self._pieces[0])
        else:
            list(self._pool.map(advance, self._pieces))

    def positions_and_velocities(self) -> np.ndarray:
        """See ``Physics``."""
        positions, velocities = self._coordinates
        return np.concatenate([np.stack(positions), np.stack(velocities)], axis=1)

    def close(self) -> None:
        """See ``Physics``."""
        self._pool.shutdown()


METHODS: dict[str, Callable[[Workload, int, int], Physics]] = {"rollout": RolloutPhysics, "pool": PooledPhysics}


def physics_rate(method: str, workload: Workload, num_envs: int, num_threads: int, steps: int = 60) -> float:
    """Environment steps per second under uniform random controls and nothing else."""
    physics = METHODS[method](workload, num_envs, num_threads)
    rng = np.random.default_rng(0)
    controls = workload.control(rng.uniform(-1.0, 1.0, (steps, num_envs, workload.control_scale.size)))

    def run() -> None:
        for step in range(steps):
            if step % _EPISODE_STEPS == 0:
                physics.restart()
            physics.step(controls[step])

    return _timed(physics, run, num_envs * steps)


def plain_loop_rate(method: str, workload: Workload, num_envs: int, num_threads: int, steps: int = 60) -> float:
    """Environment steps per second of the simplest sampler there can be: physics, one network, Gaussian noise; one torch thread.

    Its observation is the generalised coordinates, padded to the size of the task's own. No reward, no resets by fall, no storage.
    """
    import torch
    from torch import nn

    physics = METHODS[method](workload, num_envs, num_threads)
    policy = nn.Sequential(
        nn.Linear(workload.observation_size, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, workload.control_scale.size)
    )
    width = min(workload.observation_size, workload.model.nq + workload.model.nv)
    observations = np.zeros((num_envs, workload.observation_size), dtype=np.float32)
    shared = torch.from_numpy(observations)
    torch_threads = torch.get_num_threads()

    @torch.inference_mode()
    def run() -> None:
        for step in range(steps):
            if step % _EPISODE_STEPS == 0:
                physics.restart()
            observations[:, :width] = physics.positions_and_velocities()[:, :width]
            mean = policy(shared)
            actions = mean + _ACTION_STD * torch.randn_like(mean)
            physics.step(workload.control(actions.numpy()))

    torch.set_num_threads(1)
    try:
        return _timed(physics, run, num_envs * steps)
    finally:
        torch.set_num_threads(torch_threads)


def _timed(physics: Physics, run: Callable[[], None], env_steps: int) -> float:
    """Rate of the second of two runs: the first one starts the threads and fills the caches."""
    run()
    start_s = time.perf_counter()
    run()
    elapsed_s = time.perf_counter() - start_s
    physics.close()
    return env_steps / elapsed_s
