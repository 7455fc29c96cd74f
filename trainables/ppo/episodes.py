"""A fragment's steps as RLlib's ``SingleAgentEpisode``s, for whatever of RLlib wants them."""

from __future__ import annotations

import uuid

import gymnasium
import numpy as np
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from trainables.ppo.fragment import Fragment

__all__ = ["EpisodeBuilder"]


class EpisodeBuilder:
    """Remembers which episode each environment is in, from one fragment to the next."""

    def __init__(self, num_envs: int, observation_space: gymnasium.Space, action_space: gymnasium.Space) -> None:
        self._spaces = {"observation_space": observation_space, "action_space": action_space}
        self._ids = [uuid.uuid4().hex for _ in range(num_envs)]
        self._steps = np.zeros(num_envs, dtype=np.int64)

    def build(self, fragment: Fragment, weights_seq_no: int) -> list[SingleAgentEpisode]:
        """All pieces of episodes in the fragment, environment by environment; those that ended and those that go on."""
        return [episode for env in range(len(self._ids)) for episode in self._pieces(fragment, env, weights_seq_no)]

    def _pieces(self, fragment: Fragment, env: int, weights_seq_no: int) -> list[SingleAgentEpisode]:
        valid = fragment.valid[:, env]
        ended = fragment.terminated[:, env] | fragment.truncated[:, env]
        pieces, start = [], 0
        for end in [*np.flatnonzero(ended), len(valid) - 1]:
            if start <= end and not valid[start]:
                start += 1  # this step only reset the environment
            if start > end:
                continue
            steps = slice(start, end + 1)
            length = int(end) + 1 - start
            pieces.append(
                SingleAgentEpisode(
                    id_=self._ids[env],
                    observations=fragment.observations[start : end + 2, env],
                    actions=fragment.actions[steps, env],
                    rewards=fragment.rewards[steps, env],
                    infos=[{}] * (length + 1),
                    terminated=bool(fragment.terminated[end, env]),
                    truncated=bool(fragment.truncated[end, env]),
                    extra_model_outputs={
                        Columns.ACTION_LOGP: fragment.log_probs[steps, env],
                        WEIGHTS_SEQ_NO: np.full(length, weights_seq_no),
                    },
                    t_started=int(self._steps[env]),
                    len_lookback_buffer=0,
                    **self._spaces,
                )
            )
            self._steps[env] += length
            if ended[end]:
                self._ids[env], self._steps[env] = uuid.uuid4().hex, 0
            start = int(end) + 1
        return pieces
