"""``feedback`` in the endpoint's configuration: its defaults, what is refused, and the place that replicas are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.config import parse_config
from cluster.errors import ConfigError
from cluster.runtime.desired import desired_state
from cluster.runtime.serve_config import ServeConfig
from cluster.settings import Settings
from cluster.store.registry import register_bundle, set_alias


def config(feedback: object) -> ServeConfig:
    return parse_config({"policies": [{"policy": "pidog-run", "feedback": feedback}]}, ServeConfig)


def test_a_share_is_enough_and_none_is_off() -> None:
    feedback = config({"share": 0.25}).policies[0].feedback
    assert feedback is not None
    assert (feedback.share, feedback.folder, feedback.buffer_mb, feedback.episodes_per_dataset) == (0.25, None, 64, 100)
    assert config(None).policies[0].feedback is None


@pytest.mark.parametrize(
    ("feedback", "message"),
    [({"shares": 0.1}, "did you mean 'share'"), ({"share": 0}, "share"), ({"share": 1.5}, "share"), ({"flush_s": -1}, "flush_s")],
)
def test_what_is_wrong_is_named(feedback: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(feedback)


def test_replicas_are_told_a_place_that_all_of_them_see(settings: Settings, tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    set_alias(settings, "pidog-run", "champion", register_bundle(settings, "pidog-run", make_bundle(tmp_path / "bundle")))
    told = desired_state(settings, config({"share": 0.25}).policies).policies["pidog-run"].feedback
    assert told is not None
    assert told.folder == f"{settings.storage_url}/served"
    own = desired_state(settings, config({"folder": "/data/served"}).policies).policies["pidog-run"].feedback
    assert own is not None
    assert own.folder == "/data/served"
