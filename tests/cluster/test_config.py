from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from cluster.config import Config, load_config, parse_config, read_yaml, save_config, write_text_atomic
from cluster.errors import ConfigError


class Optimizer(Config):
    learning_rate: float = Field(3e-4, gt=0, lt=1)
    schedule: Literal["constant", "linear"] = "constant"


class Layer(Config):
    width: int = Field(ge=1)


class Example(Config):
    name: str
    optimizer: Optimizer = Optimizer()
    layers: tuple[Layer, ...] = ()
    per_joint: dict[str, Layer] = Field(default_factory=dict)
    file: Path | None = None


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "example.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("name: a\noptimizer: {learning_rat: 1}", ["optimizer.learning_rat", "did you mean 'learning_rate'", "schedule"]),
        ("name: a\noptimiser: {}", ["optimiser", "did you mean 'optimizer'"]),
        ("name: a\nlayers: [{width: 3}, {widht: 4}]", ["layers.1.widht", "did you mean 'width'"]),
        ("name: a\nper_joint: {knee: {with: 4}}", ["per_joint.knee.with", "did you mean 'width'"]),
        ("name: a\noptimizer: {learning_rate: fast}", ["optimizer.learning_rate", "fast"]),
        ("name: a\noptimizer: {learning_rate: 2.0}", ["optimizer.learning_rate", "less than 1", "2.0"]),
        ("name: a\noptimizer: {learning_rate: .nan}", ["optimizer.learning_rate"]),
        ("name: a\noptimizer: {schedule: linea}", ["'constant' or 'linear'", "did you mean 'linear'"]),
        ("optimizer: {}", ["name", "required"]),
        ("name: a\nname: b", ["'name'", "twice"]),
        ("name: [a", ["not valid YAML"]),
        ("- a", ["list", "mapping"]),
    ],
)
def test_a_wrong_file_is_one_line_naming_file_key_and_what_is_allowed(tmp_path, text, wanted):
    path = _file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, Example)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    for part in [str(path), *wanted]:
        assert part in message


def test_a_missing_file_names_the_nearest(tmp_path):
    path = _file(tmp_path, "name: a")
    with pytest.raises(ConfigError, match=r"no such configuration file; did you mean .*example\.yaml"):
        load_config(path.with_name("exampel.yaml"), Example)


def test_overrides_are_applied_before_validation(tmp_path):
    path = _file(tmp_path, "name: a\nlayers: [{width: 1}, {width: 2}]")
    config = load_config(path, Example, ["optimizer.learning_rate=1e-3", "layers.1.width=7", "name=b", "optimizer.schedule=linear"])
    assert (config.name, config.optimizer.learning_rate, config.layers[1].width, config.optimizer.schedule) == ("b", 1e-3, 7, "linear")


@pytest.mark.parametrize("override", ["name", "=3", "optimizer..x=1", "name.x=1", "layers.9.width=1", "optimizer.typo=1"])
def test_a_wrong_override_is_refused(tmp_path, override):
    with pytest.raises(ConfigError):
        load_config(_file(tmp_path, "name: a\nlayers: [{width: 1}]"), Example, [override])


@given(st.floats(min_value=1e-12, max_value=0.9), st.lists(st.integers(1, 99), max_size=4))
def test_a_saved_configuration_loads_equal(learning_rate, widths):
    config = parse_config(
        {"name": "n", "optimizer": {"learning_rate": learning_rate}, "layers": [{"width": width} for width in widths]}, Example
    )
    again = parse_config(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))), Example)
    assert again == config


def test_save_is_atomic_and_readable(tmp_path):
    config = parse_config({"name": "n", "file": "a/b.txt"}, Example)
    save_config(config, tmp_path / "deep" / "config.yaml")
    assert load_config(tmp_path / "deep" / "config.yaml", Example) == config
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["config.yaml"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "file.txt"
    write_text_atomic(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomic(target, "new \ud800")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("3E5", 3e5), ("-2e+1", -20.0), ("1.5e-4", 1.5e-4)])
def test_numbers_written_as_people_write_them_are_numbers(tmp_path, text, value):
    assert read_yaml(_file(tmp_path, f"x: {text}")) == {"x": value}


PRESETS = "name: a\noptimizer: {learning_rate: 0.1}\npresets: {debug: {optimizer.learning_rate: 0.2, name: small}, large: {}}"


def test_a_preset_is_applied_below_the_other_overrides(tmp_path):
    path = _file(tmp_path, PRESETS)
    assert load_config(path, Example).optimizer.learning_rate == 0.1
    config = load_config(path, Example, ["name=mine", "preset=debug"])
    assert (config.name, config.optimizer.learning_rate) == ("mine", 0.2)


@pytest.mark.parametrize(("override", "wanted"), [("preset=debgu", "did you mean 'debug'"), ("preset=none", "known here: debug, large")])
def test_an_unknown_preset_names_the_known_ones(tmp_path, override, wanted):
    with pytest.raises(ConfigError, match=wanted):
        load_config(_file(tmp_path, PRESETS), Example, [override])
