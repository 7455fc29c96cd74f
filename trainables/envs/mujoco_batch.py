"""MujocoBatch: one MuJoCo simulation an environment, kept for good and stepped in place.

Each environment is an ``MjData`` of its own, so what MuJoCo carries from step to step besides positions and velocities (the solver's
warm start, contact forces, positions of bodies) is carried here as in a single simulation. ``mj_step`` runs without the interpreter
lock: threads step different environments at the same time, and what one environment does never depends on the others.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np

__all__ = ["MujocoBatch", "Reading"]

_DIVERGED = slice(mujoco.mjtWarning.mjWARN_BADQPOS.value, mujoco.mjtWarning.mjWARN_BADQACC.value + 1)
"""Counters of what makes MuJoCo throw a simulation away: bad positions, velocities and accelerations stand side by side."""


class Reading:
    """One quantity of all simulations.

    Attributes:
        values: as of the last step or state set. Shape (num_envs, size).
        previous: as of the one before. Shape (num_envs, size).
    """

    def __init__(self, views: list[np.ndarray]) -> None:
        self._views = [view.reshape(-1) for view in views]
        self.values = np.stack(self._views)
        self.previous = self.values.copy()

    def read(self) -> None:
        """Take the simulations' present values."""
        self.values, self.previous = self.previous, self.values
        np.concatenate(self._views, out=self.values.reshape(-1))


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
        self._warnings = Reading([data.warning.number[_DIVERGED] for data in self.data])
        self._readings: list[Reading] = []
        self.qpos, self.qvel = self.reading(lambda data: data.qpos), self.reading(lambda data: data.qvel)
        shares = np.array_split(np.arange(num_envs), min(num_threads, num_envs))
        self._shares = [range(int(share[0]), int(share[-1]) + 1) for share in shares]
        self._pool = ThreadPoolExecutor(len(shares) - 1) if len(shares) > 1 else None

    def reading(self, view: Callable[[mujoco.MjData], np.ndarray]) -> Reading:
        """Follow a quantity; ``view`` must give a view of the simulation's own memory, not a copy."""
        reading = Reading([view(data) for data in self.data])
        self._readings.append(reading)
        return reading

    def place(self, env: int, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Forget what this simulation did and put it into a state. Shapes (nq,), (nv,). ``read`` shows it."""
        data = self.data[env]
        mujoco.mj_resetData(self.model, data)
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
        others = [self._pool.submit(self._step_share, share, controls, chosen) for share in self._shares[1:]] if self._pool else []
        self._step_share(self._shares[0], controls, chosen)
        for other in others:
            other.result()
        self.read()
        self._warnings.read()
        if not self._warnings.values.any() and np.isfinite(self.qpos.values).all() and np.isfinite(self.qvel.values).all():
            return _NONE
        finite = np.isfinite(self.qpos.values).all(axis=1) & np.isfinite(self.qvel.values).all(axis=1)
        return np.flatnonzero(self._warnings.values.any(axis=1) | ~finite)

    def read(self) -> None:
        """Bring all readings up to date."""
        for reading in self._readings:
            reading.read()

    def close(self) -> None:
        """Stop the threads."""
        if self._pool:
            self._pool.shutdown()

    def _step_share(self, share: range, controls: np.ndarray, chosen: list[bool]) -> None:
        model, frame_skip = self.model, self.frame_skip
        for env in share:
            if chosen[env]:
                data = self.data[env]
                self._control[env][:] = controls[env]
                mujoco.mj_step(model, data, frame_skip)
                if self._with_contact_forces:
                    mujoco.mj_rnePostConstraint(model, data)


_NONE = np.zeros(0, dtype=np.int64)
