"""MujocoBatch: one MuJoCo simulation an environment, kept for good and stepped in place.

Each environment is an ``MjData`` of its own, so what MuJoCo carries from step to step besides positions and velocities (the solver's
warm start, contact forces, positions of bodies) is carried here as in a single simulation. ``mj_step`` runs without the interpreter
lock: threads step different environments at the same time, and what one environment does never depends on the others.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mujoco
import numpy as np

__all__ = ["MujocoBatch", "Reading"]

_READ = mujoco.mjtState.mjSTATE_TIME.value | mujoco.mjtState.mjSTATE_QPOS.value | mujoco.mjtState.mjSTATE_QVEL.value


class Reading:
    """One quantity of all simulations.

    Attributes:
        values: as of the last step or state set. Shape (num_envs, size).
        previous: as of the one before. Shape (num_envs, size).
    """

    def __init__(self, values: Any, previous: Any) -> None:
        self.values, self.previous = values, previous

    def swap(self) -> None:
        """The present values become the previous ones; the others are about to be overwritten."""
        self.values, self.previous = self.previous, self.values


class MujocoBatch:
    """``num_envs`` simulations of one model.

    Attributes:
        data: the simulations, one an environment.
        qpos: positions. Shape (num_envs, nq).
        qvel: velocities. Shape (num_envs, nv).
        dt_s: time of one ``step``, seconds.
    """

    def __init__(
        self, model: mujoco.MjModel, num_envs: int, frame_skip: int, num_threads: int = 1, with_contact_forces: bool = False
    ) -> None:
        """Make the simulations, at the model's reference position.

        Args:
            model: the model that they share.
            num_envs: simulations.
            frame_skip: MuJoCo timesteps in one ``step``.
            num_threads: threads that step them; results do not depend on it.
            with_contact_forces: compute ``cfrc_ext`` after each step, which costs time.
        """
        self.model, self.frame_skip, self.dt_s = model, frame_skip, model.opt.timestep * frame_skip
        self.data = [mujoco.MjData(model) for _ in range(num_envs)]
        self._with_contact_forces = with_contact_forces
        self._control = [data.ctrl for data in self.data]
        states = np.zeros((2, num_envs, 1 + model.nq + model.nv))
        self._state = Reading(*states)
        self._rows = Reading(*(list(state) for state in states))  # each row as an array of its own, made once
        parts = np.split(states, [1, 1 + model.nq], axis=2)
        self._time, self.qpos, self.qvel = Reading(*parts[0][..., 0]), Reading(*parts[1]), Reading(*parts[2])
        self._readings = [self._state, self._rows, self._time, self.qpos, self.qvel]
        self._followed: list[tuple[Reading, list[np.ndarray]]] = []
        shares = np.array_split(np.arange(num_envs), min(num_threads, num_envs))
        self._shares = [range(int(share[0]), int(share[-1]) + 1) for share in shares]
        self._pool = ThreadPoolExecutor(len(shares) - 1) if len(shares) > 1 else None
        for env in range(num_envs):
            self.place(env, model.qpos0, np.zeros(model.nv))

    def follow(self, view: Callable[[mujoco.MjData], np.ndarray]) -> Reading:
        """Read another quantity from now on; ``view`` must give a view of the simulation's own memory, not a copy."""
        views = [view(data).reshape(-1) for data in self.data]
        reading = Reading(np.stack(views), np.stack(views))
        self._readings.append(reading)
        self._followed.append((reading, views))
        return reading

    def place(self, env: int, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Forget what this simulation did and put it into a state. Shapes (nq,), (nv,). ``read`` shows it."""
        data = self.data[env]
        mujoco.mj_resetData(self.model, data)
        # MuJoCo starts a simulation that diverges again at time 0. Ours start later, so that its clock gives it away.
        data.time = self.dt_s
        data.qpos[:], data.qvel[:] = qpos, qvel
        mujoco.mj_forward(self.model, data)

    def step(self, controls: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Advance the active simulations by ``frame_skip`` timesteps and read all.

        Args:
            controls: actuators' inputs. Shape (num_envs, nu).
            active: whom to advance. Shape (num_envs,), bool.

        Returns:
            Indices of the simulations that have diverged, usually none. MuJoCo has put those back to its reference position; their
            ``qpos.previous`` and ``qvel.previous`` are from before. Shape (n,).
        """
        chosen = active.tolist()
        for reading in self._readings:
            reading.swap()
        others = [self._pool.submit(self._step_share, share, controls, chosen) for share in self._shares[1:]] if self._pool else []
        self._step_share(self._shares[0], controls, chosen)
        for other in others:
            other.result()
        restarted = (self._time.values <= self._time.previous) & active
        state = self._state.values
        if not restarted.any() and np.isfinite(state.sum()):
            return _NONE
        return np.flatnonzero(restarted | ~np.isfinite(state).all(axis=1))

    def read(self) -> None:
        """Bring all readings up to date."""
        nobody = np.zeros(len(self.data), dtype=bool)
        self.step(np.zeros((len(self.data), self.model.nu)), nobody)

    def close(self) -> None:
        """Stop the threads."""
        if self._pool:
            self._pool.shutdown()

    def _step_share(self, share: range, controls: np.ndarray, chosen: list[bool]) -> None:
        # Called for every environment and step: names are looked up once, not per environment.
        model, frame_skip, simulations, inputs, rows = self.model, self.frame_skip, self.data, self._control, self._rows.values
        step, get_state, with_contact_forces = mujoco.mj_step, mujoco.mj_getState, self._with_contact_forces
        followed = [(reading.values, views) for reading, views in self._followed]
        for env in share:
            data = simulations[env]
            if chosen[env]:
                inputs[env][:] = controls[env]
                step(model, data, frame_skip)
                if with_contact_forces:
                    mujoco.mj_rnePostConstraint(model, data)
            # Read at once: by the time that all are done, this one's memory has left the processor's cache.
            get_state(model, data, rows[env], _READ)
            for values, views in followed:
                values[env] = views[env]


_NONE = np.zeros(0, dtype=np.int64)
