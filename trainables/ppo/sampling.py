"""Where an iteration's fragments come from: the runner in this process, or remote ones asked in one round trip.

The weights travel with the request. A remote runner that dies costs what it was sampling: the others' fragments make the batch, and
RLlib brings it back.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from cluster.errors import ClusterError
from trainables.ppo.fragment import Fragment

__all__ = ["FragmentSource"]

_PATIENCE_S = 120.0
"""How long to wait for a first env runner to come back when all have died; a restart takes 5 to 20 seconds on a busy machine."""


class FragmentSource:
    """Asks the env runners of an algorithm for fragments."""

    def __init__(self, group: EnvRunnerGroup, timeout_s: float) -> None:
        self._group, self._timeout_s = group, timeout_s
        self._waiting: dict[Any, int] = {}

    @property
    def asked(self) -> bool:
        """Whether a request is on its way."""
        return bool(self._waiting)

    def ask(self, weights: dict[str, np.ndarray], env_steps: int = 0) -> None:
        """Ask every healthy remote runner for a fragment sampled with these weights, ``env_steps`` into the run."""
        manager = self._group._worker_manager
        reference = ray.put(weights)
        actors = manager.actors()
        self._waiting = {
            actors[index].sample_fragment.remote(reference, env_steps=env_steps): index for index in manager.healthy_actor_ids()
        }

    def forget(self) -> None:
        """Drop what was asked for: its weights are no longer of this run."""
        self._waiting = {}

    def collect(self, weights: dict[str, np.ndarray], env_steps: int = 0) -> tuple[Fragment, list[dict[str, Any]]]:
        """The fragments that were asked for, side by side, and the runners' metrics.

        Asks with ``weights`` and ``env_steps`` when nothing was asked, or when every runner died meanwhile.

        Raises:
            ClusterError: no runner is left and none comes back.
            Exception: what a runner raised, as it raised it.
        """
        if self._group.num_remote_env_runners() == 0:
            fragment, metrics = self._group.local_env_runner.sample_fragment(weights, env_steps=env_steps)
            return fragment, [metrics]
        give_up_s = time.monotonic() + _PATIENCE_S
        while True:
            if not self._waiting:
                self._group.probe_unhealthy_env_runners()
                self.ask(weights, env_steps)
            answers = self._answers()
            if answers:
                return Fragment.join([fragment for fragment, _ in answers]), [metrics for _, metrics in answers]
            if time.monotonic() > give_up_s:
                raise ClusterError(
                    f"all {self._group.num_remote_env_runners()} env runners died and none came back within {_PATIENCE_S:g} s"
                )
            time.sleep(0.2)

    def _answers(self) -> list[tuple[Fragment, dict[str, Any]]]:
        waiting, self._waiting = self._waiting, {}
        answers = []
        ready, late = ray.wait(list(waiting), num_returns=len(waiting), timeout=self._timeout_s) if waiting else ([], [])
        for reference in (*ready, *late):
            try:
                answers.append(ray.get(reference, timeout=None if reference in ready else 0))
            except RayTaskError as error:
                raise error.cause from None
            except (RayActorError, ray.exceptions.GetTimeoutError, ray.exceptions.ObjectLostError):
                self._group._worker_manager.set_actor_state(waiting[reference], healthy=False)
        return answers
