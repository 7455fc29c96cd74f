from typing import Any

import pytest

from cluster.config import parse_config
from cluster.errors import ConfigError
from trainables.ppo.config import PPOConfig
from trainables.sweeps.config import SweepConfig
from trainables.sweeps.domain import Domain
from trainables.sweeps.swept import apply_sample, sample_default


def test_a_sample_reaches_ppo_and_the_task_and_leaves_the_rest() -> None:
    base = PPOConfig(task_config={"reward": {"energy": 0.1}})
    ppo = apply_sample(base, {"learning_rate": 1e-3, "task_config.reward.forward_velocity": 7.0})
    assert ppo.learning_rate == 1e-3
    assert ppo.task_config == {"reward": {"energy": 0.1, "forward_velocity": 7.0}}
    assert base.task_config == {"reward": {"energy": 0.1}}
    assert ppo.model_copy(update={"learning_rate": base.learning_rate, "task_config": base.task_config}) == base


def test_the_first_trial_runs_what_is_written_or_the_default() -> None:
    ppo = PPOConfig(learning_rate=2e-3, task_config={"reward": {"energy": 0.1}})
    assert sample_default(ppo, "learning_rate") == 2e-3
    assert sample_default(ppo, "task_config.reward.energy") == 0.1
    assert sample_default(ppo, "task_config.reward.alive") == apply_default("reward", "alive")
    assert sample_default(ppo, "final_learning_rate") is None


def apply_default(section: str, name: str) -> Any:
    from trainables.envs.registry import task_config_model

    return getattr(getattr(task_config_model("pidog_run")(), section), name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"search_space": {"lerning_rate": {"uniform": [0, 1]}}}, ["lerning_rate", "did you mean 'learning_rate'"]),
        (
            {"search_space": {"task_config.reward.forwrd_velocity": {"uniform": [0, 1]}}},
            ["forwrd_velocity", "did you mean 'forward_velocity'"],
        ),
        ({"search_space": {"learning_rate": {"uniform": [-1, 1]}}}, ["learning_rate", "greater than 0"]),
        ({"search_space": {"learning_rate": {"loguniform": [0, 1]}}}, ["loguniform needs low > 0"]),
        ({"search_space": {"learning_rate": {"uniform": [2, 1]}}}, ["low < high"]),
        ({"search_space": {"clip": {"uniform": [0.1, 0.2], "choice": [1]}}}, ["exactly one"]),
        ({"search_space": {}}, ["search_space is empty"]),
        ({"mode": "maximum"}, ["mode", "'max' or 'min'"]),
        ({"scheduler": {"kind": "asha", "grace_period": 10**9}}, ["grace_period", "budget of", "env_steps"]),
        ({"scheduler": "ahsa"}, ["scheduler", "'ahsa'", "'asha'", "'pbt'"]),
        ({"scheduler": "pbt", "searcher": "optuna"}, ["pbt explores by itself", "searcher random"]),
        ({"scheduler": "pbt", "num_trials": 1}, ["population of at least 2"]),
        ({"scheduler": "pbt", "seeds_per_configuration": 2}, ["seeds_per_configuration must be 1"]),
        ({"scheduler": "pb2", "search_space": {"clip": {"choice": [0.1, 0.2]}}}, ["pb2", "clip is a choice"]),
        ({"scheduler": "pbt", "search_space": {}}, ["search_space is empty"]),
        ({"searcher": "grid"}, ["grid", "must be a choice"]),
        ({"searcher": "bayesopt"}, ["bayesopt", "uniform domains only"]),
        ({"searcher": "optuna", "search_space": {"hidden": {"choice": [[8], [16]]}}}, ["optuna", "hidden"]),
        ({"ppo": {}, "imitation": {}}, ["give one of ppo, imitation, custom"]),
        ({"imitation": {}, "warm_start": "x", "search_space": {"mlp.learning_rate": {"uniform": [0.1, 0.2]}}}, ["warm_start is for PPO"]),
        ({"custom": {"trainable": "nonsense"}}, ["custom.trainable", "package.module:Class"]),
        ({"num_trials": 0}, ["num_trials", "greater than or equal to 1"]),
    ],
)
def test_a_wrong_sweep_is_one_line_that_names_the_key(change: dict[str, Any], words: list[str]) -> None:
    data = {"search_space": {"learning_rate": {"loguniform": [1e-4, 1e-3]}}} | change
    with pytest.raises(ConfigError) as caught:
        parse_config(data, SweepConfig, source="sweep.yaml")
    message = str(caught.value)
    assert "\n" not in message
    for word in ["sweep.yaml", *words]:
        assert word in message


def test_the_example_of_a_choice_is_its_first_value() -> None:
    assert Domain(choice=("elu", "tanh")).example == "elu"
