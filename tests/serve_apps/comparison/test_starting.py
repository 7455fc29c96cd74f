"""How a comparison is started: from the command line and from the config of what is served."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cluster.cli.ab import app
from cluster.config import parse_config
from cluster.errors import ConfigError, UsageError
from cluster.runtime.desired import desired_state
from cluster.runtime.serve_config import ServedPolicyConfig, SplitConfig
from cluster.settings import Settings
from cluster.store.comparisons import EpisodeRow, Outcome, active_comparison, get_comparison, record_episode, record_outcome
from cluster.store.database import Database
from serve_apps.comparison.assignment import assign

POLICY = "pidog-run"
BOUNDS = ("--metric", "success", "--low", "0", "--high", "1")


@pytest.fixture
def ab(registered: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``gaitway ab`` on the registered versions; no endpoint is up."""
    for name, value in registered.as_environment().items():
        monkeypatch.setenv(name, value)

    def call(*arguments: str) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        if isinstance(result.exception, Exception):
            raise result.exception
        return result

    return call


def test_a_start_says_what_to_expect_and_splits_by_the_ramps_first_stage(ab: Any, db: Database) -> None:
    result = ab("start", "--ramp", "0.1:50,0.25:100,0.5:200", "--guardrail", "server_error_steps>0<=0.01", *BOUNDS)
    comparison = active_comparison(db, POLICY)
    assert comparison is not None
    assert result.stdout.strip() == comparison.id  # data to stdout, talk to stderr
    assert "  +0.2 in success: about " in result.stderr
    assert [round(arm.weight, 6) for arm in comparison.arms] == [0.9, 0.1]
    assert [(stage.share, stage.episodes) for stage in comparison.ramp] == [(0.1, 50), (0.25, 100), (0.5, 200)]
    assert comparison.guardrails[0].name == "server_error_steps"
    assert "expected with 80 % power" in ab("report").stdout
    assert "ramp: stage 1 of 3" in ab("status").stdout


def test_what_is_started_as_json_has_its_plan(ab: Any) -> None:
    started = json.loads(ab("start", "--unit", "robot", "--episodes-per-robot", "3", "--json", *BOUNDS).stdout)
    assert (started["unit"], started["episodes_per_robot"]) == ("robot", 3)
    assert started["plan"]["scenarios"][0]["effects"][0]["effect"] == pytest.approx(0.2)


def test_a_shadow_alone_and_a_bandit(ab: Any, db: Database) -> None:
    ab("start", "--shadow", "challenger")
    comparison = active_comparison(db, POLICY)
    assert comparison is not None
    assert [(arm.name, arm.weight, arm.shadow) for arm in comparison.arms] == [("champion", 1.0, False), ("shadow-2", 0.0, True)]
    assert "nothing is compared" in ab("report").stdout
    ab("stop")
    ab("start", "--bandit", "--bandit-uniform-share", "0.3", "--share", "0.5")
    assert "bandit: split 1 is in force, the next comes after 20 counted episodes; 30 % are split evenly" in ab("status").stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--ramp", "0.1:50", "--bandit"), "both set the split"),
        (("--ramp", "0.1"), "give SHARE:EPISODES"),
        (("--shadow", "challenger", "--bandit"), "all arms but the first are shadows"),
        (("--unit", "fleet"), "unit"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(ab: Any, options: tuple[str, ...], says: str) -> None:
    with pytest.raises((UsageError, ConfigError), match=says) as caught:
        ab("start", *options)
    assert "\n" not in str(caught.value)


def test_a_recommended_verdict_says_what_to_type(ab: Any, db: Database) -> None:
    ab("start", "--auto", "recommend", "--share", "0.5", *BOUNDS)
    comparison = active_comparison(db, POLICY)
    assert comparison is not None
    for number in range(40):
        index, propensity = assign(comparison.salt, f"e{number}", [0.5, 0.5])
        arm = comparison.arms[index]
        row = EpisodeRow(
            policy=POLICY, episode_id=f"e{number}", version=arm.version, comparison_id=comparison.id, arm=arm.name, propensity=propensity
        )
        record_episode(db, row)
        record_outcome(db, f"e{number}", Outcome(value=0.9 if index else 0.1), policy=POLICY)
    advice = f"recommends promote; `gaitway ab promote {comparison.id}` does it"
    assert advice in ab("status").stdout
    assert advice in ab("report").stdout
    assert json.loads(ab("status", "--json").stdout)["recommendation"] == advice
    ab("promote")
    assert "recommends" not in ab("report").stdout
    assert get_comparison(db, comparison.id).status == "promoted"


def test_a_served_split_starts_with_its_options_and_plan(registered: Settings, db: Database) -> None:
    split = SplitConfig(
        arms={"champion": 0.8, "challenger": 0.2},
        metric="success",
        low=0.0,
        high=1.0,
        unit="robot",
        ramp=[{"share": 0.2, "episodes": 30}, {"share": 0.5, "episodes": 90}],  # type: ignore[arg-type]
    )
    served = desired_state(registered, (ServedPolicyConfig(policy=POLICY, split=split),), start_comparisons=True).policies[POLICY]
    assert served.comparison is not None
    assert served.comparison.unit == "robot"
    stored = get_comparison(db, served.comparison.id)
    assert [stage.episodes for stage in stored.ramp] == [30, 90]
    assert stored.plan is not None
    with pytest.raises(ConfigError, match="both set the split"):
        parse_config(split.model_dump(mode="json") | {"bandit": True}, SplitConfig)
