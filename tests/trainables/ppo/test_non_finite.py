"""A number that is not finite stops the run before anything is trained on it, and says where it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.config import parse_config
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext
from trainables import sweep
from trainables.nonfinite import NON_FINITE_FILE, NonFiniteError
from trainables.ppo.config import PPOConfig
from trainables.ppo.run import PPORun
from trainables.sweeps.config import SweepConfig

MakeRoom = Callable[..., Any]


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_sampling_stops_at_the_step_and_names_the_environment(make_room: MakeRoom, what: str) -> None:
    room = make_room(task="own_tasks:Breaks", task_config={"what": what}, num_envs=5, batch_size=100)
    before = room.state()
    with pytest.raises(
        NonFiniteError, match=r"the observation or the reward is not finite \(environment 2, step 4\); nothing was trained"
    ) as caught:
        room.sample()
    error = caught.value
    assert (error.env_index, error.step) == (2, 4)
    assert np.isfinite(error.last_finite["observation"]).all()
    assert len(error.last_finite["observation"]) == 3
    assert len(error.last_finite["action"]) == 1
    assert json.loads(error.report())["env_index"] == 2
    for name, value in room.state().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("planted", ["weight", "reward"])
def test_a_loss_that_is_not_finite_changes_nothing(make_room: MakeRoom, planted: str) -> None:
    room = make_room(task="own_tasks:Uneven", num_envs=5, batch_size=100, minibatch_size=50, return_scaling="none")
    room.iterate()
    fragment = room.sample()
    if planted == "weight":
        with torch.no_grad():
            room.module.critic[-1].bias.fill_(torch.inf)
    else:
        fragment.rewards[3, 1] = np.nan
    before = room.state()
    with pytest.raises(NonFiniteError, match=r"the loss or its gradient is not finite \(gradient step 0\)") as caught:
        room.learn(fragment)
    assert np.isfinite(list(caught.value.last_finite.values())).all()
    assert caught.value.last_finite["gradient_norm"] > 0
    for name, value in room.state().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    "changes", [{"return_scaling": "popart"}, {"return_scaling": "rewards"}, {"num_envs": 3, "task": "own_tasks:Breaks"}]
)
def test_nothing_is_left_half_done_in_a_run(
    small: Callable[..., PPOConfig], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = PPORun(small(**({"task": "own_tasks:Uneven", "batch_size": 96} | changes)))
    learner = run.algorithm.learner_group._learner
    before = {name: value.clone() for name, value in learner.actor_critic.state_dict().items()}
    if "return_scaling" in changes:
        original = run.algorithm._source.collect

        def collect(weights: Any, env_steps: int) -> Any:
            fragment, metrics = original(weights, env_steps)
            fragment.rewards[3, 2] = fragment.discounted_returns[3, 2] = np.inf
            return fragment, metrics

        monkeypatch.setattr(run.algorithm._source, "collect", collect)
    with pytest.raises(NonFiniteError):
        run.advance()
    for name, value in learner.actor_critic.state_dict().items():
        assert torch.equal(value, before[name]), name
    run.close()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_trial_leaves_a_report_and_does_not_train_on(settings: Settings, tmp_path: Path) -> None:
    """The step size of 1 with this entropy bonus makes the noise grow e-fold at every gradient step. Tune's retry finds the report."""
    ppo = {"task": "gymnasium:Pendulum-v1", "total_env_steps": 512, "num_envs": 4, "batch_size": 256, "minibatch_size": 64}
    ppo |= {
        "num_epochs": 60,
        "learning_rate": 1.0,
        "entropy_coefficient": 1e3,
        "report_every_env_steps": 256,
        "evaluation": {"episodes": 2},
    }
    config = parse_config({"ppo": ppo, "num_trials": 1, "max_failures": 1, "scheduler": None}, SweepConfig)
    context = StageContext(folder=tmp_path, settings=settings, progress=Progress(mode="quiet"), results={}, experiment="non-finite")
    result = sweep.run(config, context)
    (trial,) = result["trials"]
    assert trial["status"] == "failed"
    assert NON_FINITE_FILE in trial["error"]
    (report,) = (tmp_path / "rl_model" / "tune").glob(f"*/{NON_FINITE_FILE}")
    found = json.loads(report.read_text())
    assert found["what"] == "the loss or its gradient"
    assert np.isfinite(list(found["last_finite"].values())).all()
    (results,) = (tmp_path / "rl_model" / "tune").glob("*/result.json")
    reported = [json.loads(line)["env_steps"] for line in results.read_text().splitlines()]
    assert reported == sorted(set(reported))  # a second attempt would have reported its start again
