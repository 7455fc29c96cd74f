"""The commands that carry on from a sweep, and the files that they read."""

from pathlib import Path

import yaml

from cluster.config import load_config
from trainables.evaluation.config import EvaluationConfig
from trainables.export.config import ExportConfig
from trainables.imitation.config import ImitationConfig
from trainables.sweeps.analysis import analyse
from trainables.sweeps.analysis.commands import write_files
from trainables.train import Config as TrainConfig


def test_the_commands_files_are_what_the_stages_take(make_sweep, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint 7"
    (checkpoint / "policy").mkdir(parents=True)
    (checkpoint / "policy" / "policy.json").write_text("{}")
    config = {
        "ppo": {"task": "pidog_run", "seed": 5, "task_config": {"max_episode_steps": 50}, "evaluation": {"episodes": 2}},
        "constraints": {"evaluation/fell": {"at_most": 0.0}},
    }
    sample = {"learning_rate": 2e-4, "task_config.reward.forward_velocity": 6.0}
    record = make_sweep(
        {"a": [(1000, 1.0)], "b": [(1000, 0.1)]},
        {"a": {"checkpoint": str(checkpoint), "sample": sample, "seed": 1}},
        config=config,
        name="pidog asha",
    )
    listed = analyse(record)["commands"]
    paths = write_files(listed)
    assert all(str(path) in entry["command"] for path, entry in zip(paths, listed[:3], strict=True))
    evaluate, export, train, train_on = [entry["command"].split(" ", 3) for entry in listed]
    assert [words[2] for words in (evaluate, export, train, train_on)] == [
        "trainables.evaluate",
        "trainables.export",
        "trainables.train",
        "trainables.train",
    ]
    policy = checkpoint / "policy"
    assert load_config(paths[0], EvaluationConfig).policies == {"rl": policy}
    exported = load_config(paths[1], ExportConfig)
    assert (exported.policies, exported.policy_name) == ({"rl": policy}, "pidog-run")
    trained = load_config(paths[2], TrainConfig)
    assert (trained.learning_rate, trained.seed, trained.metric) == (2e-4, 1, "evaluation/forward_velocity_m_s")
    assert trained.task_config == {"max_episode_steps": 50, "reward": {"forward_velocity": 6.0}}
    assert trained.evaluation.task_config == {"max_episode_steps": 50}  # judged as the sweep judged it
    assert trained.constraints["evaluation/fell"].at_most == 0.0
    assert f"'warm_start={policy}'" in listed[3]["command"]  # quoted: its path has a blank


def test_an_imitation_sweep_trains_the_model_that_it_swept(make_sweep) -> None:
    config = {"imitation": {"dataset": "/data/walks", "models": ["simple_lstm", "mlp"], "seed": 3}, "ppo": None}
    trials = {"a": {"sample": {"simple_lstm.learning_rate": 2e-3}, "checkpoint": "/trials/a", "seed": 4}}
    info = {"trainable": "imitate", "unit": "epochs", "metric": "validation/loss", "mode": "min", "name": "walks_20260301_100000"}
    record = make_sweep({"a": [(10, 0.1)]}, trials, config=config, **info)
    evaluate, export, train = analyse(record)["commands"]
    assert yaml.safe_load(evaluate["content"]) == {"policies": {"imitation": "/trials/a/policy"}}
    assert train["command"] == f"python -m trainables.imitate {record.folder}/winner/walks_train.yaml"
    write_files([export, train])
    trained = load_config(train["file"], ImitationConfig)
    assert (trained.models, trained.simple_lstm.learning_rate, trained.seed) == (("simple_lstm",), 2e-3, 4)
    assert load_config(export["file"], ExportConfig).policy_name == "pidog-run"


def test_a_trainable_of_ones_own_has_no_policy_to_export(make_sweep) -> None:
    record = make_sweep({"a": [(10, 0.1)]}, {"a": {"checkpoint": "/trials/a"}}, trainable="custom", config={"custom": {"trainable": "x:Y"}})
    assert analyse(record)["commands"] == []


def test_where_the_checkpoint_is_out_of_reach_the_sweeps_own_copy_serves(make_sweep, tmp_path: Path) -> None:
    copied = tmp_path / "run" / "rl_model" / "best"
    copied.mkdir(parents=True)
    (copied / "policy.json").write_text("{}")
    record = make_sweep({"a": [(1000, 1.0)]}, {"a": {"checkpoint": "s3://bucket/7"}})
    assert yaml.safe_load(analyse(record)["commands"][0]["content"])["policies"] == {"rl": str(copied)}


def test_a_policy_on_an_object_store_is_fetched_first(make_sweep) -> None:
    record = make_sweep({"a": [(1000, 1.0)]}, {"a": {"checkpoint": "s3://bucket/it's/7"}})
    fetch, evaluate, *_ = analyse(record)["commands"]
    assert "s3://bucket/it" in fetch["command"]
    assert not yaml.safe_load(evaluate["content"])["policies"]["rl"].startswith("s3:")


def test_only_an_unfinished_sweep_is_resumed(make_sweep) -> None:
    assert not any("resume" in entry["command"] for entry in analyse(make_sweep({"a": [(1000, 1.0)]}))["commands"])
    (entry,) = analyse(make_sweep({"a": []}, {"a": {"status": "pending"}}, status="stopped"))["commands"]
    assert entry["command"].startswith("gaitway sweep resume ")
