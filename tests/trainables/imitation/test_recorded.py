"""Recordings without a task: what their interface is, what is refused before anything is started, and open-loop errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cluster.config import parse_config
from cluster.contract import PolicyContract
from cluster.errors import GaitwayError
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext
from trainables import imitate
from trainables.datasets.lerobot import DatasetSpec, Episode, Feature, load_frames, load_info, write_dataset
from trainables.imitation.config import ImitationConfig
from trainables.imitation.fits import make_fit
from trainables.imitation.frames import gather_frames
from trainables.imitation.interface import relative_base
from trainables.imitation.open_loop import HeldOut, ensemble, held_out_episodes, measure, plans_along
from trainables.imitation.plot import sparkline
from trainables.imitation.results import best_policy
from trainables.imitation.spec import TrainSpec, hold_out, make_spec
from trainables.networks.interface import PolicyInterface

JOINTS = ("pan.pos", "lift.pos", "grip.pos")
Write = Callable[..., Path]


def episodes(count: int = 5, length: int = 40, seed: int = 0) -> list[Episode]:
    """An arm whose joints follow their commands two frames later; ``grip`` never moves. Degrees, and a force without unit."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        time = np.arange(length + 2) / 10 + random.uniform(0, 6)
        command = np.stack([40 * np.sin(time), 10 + 20 * np.cos(time), np.full_like(time, 7.0)], axis=1).astype(np.float32)
        columns = {"observation.state": command[:-2], "observation.force": random.normal(size=length).astype(np.float32)}
        made.append(Episode(f"{number:03d}", "pick", {**columns, "action": command[2:]}))
    return made


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(made: list[Episode] | None = None, **options: Any) -> Path:
        names = options.pop("names", JOINTS)
        features = (
            Feature("observation.state", "float32", (3,), JOINTS, unit="deg"),
            Feature("observation.force", "float32", (1,)),
            Feature("action", "float32", (3,), names, unit="deg"),
        )
        spec = DatasetSpec(30, features, options.pop("robot_type", "lab arm (v2)"), **{"validation_fraction": 0.2, **options})
        write_dataset(tmp_path / "recording", made or episodes(), spec)
        return tmp_path / "recording"

    return make


def spec_of(path: Path, **changes: Any) -> TrainSpec:
    config = parse_config({"models": ["chunk"], **changes}, ImitationConfig)
    return make_spec(config, load_info(path), Settings.from_environment({}))


def refused(path: Path, tmp_path: Path, settings: Settings, **changes: Any) -> str:
    """The one line that says no; nothing was started or written."""
    config = parse_config({"models": ["mlp"], "dataset": str(path), **changes}, ImitationConfig)
    folder = tmp_path / "run"
    context = StageContext(folder=folder, settings=settings, progress=Progress(mode="quiet"), experiment="test")
    with pytest.raises(GaitwayError) as raised:
        imitate.run(config, context)
    assert not folder.exists()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def damage(path: Path, change: Callable[[Any], Any]) -> Path:
    (file,) = (path / "data").glob("*/*.parquet")
    table = pq.read_table(file, partitioning=None)
    pq.write_table(change(table), file)
    return file


# The interface ---------------------------------------------------------------------------------------------------------------


def test_features_become_fields_with_their_own_names_and_units(write: Write) -> None:
    spec = spec_of(write(), observations=["observation.state", "observation.force"])
    interface = spec.interface
    assert (interface.task, interface.robot) == ("recorded", "lab_arm_v2")
    assert interface.control_dt_s == pytest.approx(1 / 30)
    assert [(field.name, field.shape, field.unit, field.components) for field in interface.observation] == [
        ("observation_state", (3,), "deg", JOINTS),
        ("observation_force", (1,), "", ()),
    ]
    (action,) = interface.action_fields(4)
    assert (action.name, action.shape, action.components[:4]) == (
        "action",
        (4, 3),
        ("pan.pos.t0", "lift.pos.t0", "grip.pos.t0", "pan.pos.t1"),
    )
    # What a contract demands of names, shapes and limits, it demands here too.
    contract = PolicyContract(
        policy="arm", robot=interface.robot, task=interface.task, control_dt_s=1 / 30, observation=interface.observation, action=(action,)
    )
    assert PolicyContract.model_validate_json(contract.model_dump_json()) == contract


@pytest.mark.parametrize("normalisation", ["min_max", "quantile", "mean_std"])
def test_actions_are_scaled_by_the_training_split_and_come_back(write: Write, normalisation: str) -> None:
    path = write()
    spec = spec_of(path, normalisation=normalisation, action_margin=0.1)
    train = load_frames(path, episodes=spec.train_episodes)["action"].astype(np.float64)
    scaling = spec.scaling
    normalised = scaling.to_normalised(train)
    np.testing.assert_allclose(scaling.to_physical(normalised), train, atol=1e-5)
    if normalisation == "min_max":
        np.testing.assert_allclose([normalised[:, :2].min(0), normalised[:, :2].max(0)], [[-1, -1], [1, 1]], atol=1e-6)
    if normalisation == "mean_std":
        np.testing.assert_allclose(normalised[:, :2].std(0), 1, rtol=1e-5)
    # A joint that never moved has no range to divide by, and stays where it was whatever the network says.
    assert spec.interface.sources["constant"] == ["grip.pos"]
    np.testing.assert_allclose(
        scaling.to_physical(np.array([9.0, -9.0, 5.0])), [train[:, 0].max() + 8, train[:, 1].min() - 4, 7], rtol=0.02
    )


def test_an_interface_survives_the_checkpoint(write: Write) -> None:
    interface = spec_of(write()).interface
    again = PolicyInterface.of_metadata({"task": "recorded", "interface": interface.to_json()})
    assert again.to_json() == interface.to_json()
    assert again.action_fields(3) == interface.action_fields(3)
    rows = interface.observed.draw(500, 0)
    assert rows.shape == (500, 3)
    assert (rows >= interface.observed.low - 1e-4).all()
    with pytest.raises(GaitwayError, match="interface cannot be read"):
        PolicyInterface.of_metadata({"task": "recorded", "interface": {}})


def test_an_untrained_relative_policy_holds_the_joints_where_they_are(write: Write) -> None:
    path = write()
    spec = spec_of(path, chunk={"chunk_size": 4, "hidden": [8]})
    assert relative_base(spec.interface)["index"] == [0, 1, 2]
    frames = gather_frames([load_frames(path, columns=spec.columns)], spec.scaling, *spec.sides)
    fit = make_fit("chunk", spec.config, 3, 3, spec.fields, 0, torch.device("cpu"), spec.interface).attach(*hold_out(frames, spec))
    fit.prepare()
    plans = plans_along(fit.policy, spec.interface, frames.observation)
    np.testing.assert_allclose(plans, np.repeat(frames.observation[:, None], 4, axis=1), atol=2.0)


# What is refused -------------------------------------------------------------------------------------------------------------


def test_a_number_that_is_none_is_named_with_its_file_episode_and_frame(write: Write, tmp_path: Path, settings: Settings) -> None:
    path = write()
    ruined = episodes()[1].columns["action"].copy()
    ruined[17, 1] = np.nan

    def spoil(table: Any) -> Any:
        import pyarrow as pa

        flat = table["action"].combine_chunks().flatten().to_numpy().copy().reshape(-1, 3)
        flat[40:80] = ruined
        column = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), 3)
        return table.set_column(table.column_names.index("action"), "action", column)

    file = damage(path, spoil)
    said = refused(path, tmp_path, settings)
    assert said.startswith(f"{file}: episode 1: action (lift.pos) of frame 17 holds NaN or infinity")


def test_a_feature_that_is_not_there_is_named(write: Write, tmp_path: Path, settings: Settings) -> None:
    path = write()
    assert "no column 'observation.speed'; it has: observation.state" in refused(
        path, tmp_path, settings, observations=["observation.speed"]
    )
    damage(path, lambda table: table.drop_columns(["action"]))
    assert "action" in refused(path, tmp_path, settings)


def test_frames_that_are_missing_are_named(write: Write, tmp_path: Path, settings: Settings) -> None:
    path = write()
    file = damage(path, lambda table: table.slice(0, 195))
    assert refused(path, tmp_path, settings) == f"{file}: episode 4 has 35 frames of the 40 that the metadata name"


def test_joints_of_another_robot_are_refused_where_the_robot_is_one_of_ours(write: Write, tmp_path: Path, settings: Settings) -> None:
    path = write(robot_type="pidog")
    said = refused(path, tmp_path, settings)
    assert "the joints of its actions are not those of pidog" in said
    # The configuration may say that it is another robot after all.
    assert spec_of(path, robot="lab-arm").interface.robot == "lab-arm"


def test_an_image_is_no_input(shared_data: Path, tmp_path: Path, settings: Settings) -> None:
    said = refused(shared_data / "lerobot_so101", tmp_path, settings, observations=["observation.images.top"])
    assert "'observation.images.top' is a video, which is not read as numbers" in said


def test_an_empty_split_and_too_few_frames_are_said(write: Write, tmp_path: Path, settings: Settings) -> None:
    import json

    path = write()
    meta = path / "meta" / "gaitway.json"
    said = json.loads(meta.read_text())
    meta.write_text(json.dumps({**said, "split": {"train": [], "validation": [0, 1, 2, 3, 4]}}))
    assert "its split holds no episode to train on, of 5" in refused(path, tmp_path, settings)
    meta.write_text(json.dumps({**said, "split": {"train": [0, 9], "validation": [1]}}))
    assert "its split names the episode 9, which is not there" in refused(path, tmp_path, settings)


def test_three_frames_are_too_few(write: Write, tmp_path: Path, settings: Settings) -> None:
    assert "3 frames in 1 episode to train on are too few" in refused(write(episodes(1, 3)), tmp_path, settings)


def test_two_features_of_one_name_are_refused(tmp_path: Path, settings: Settings) -> None:
    features = tuple(Feature(name, "float32", (2,)) for name in ("arm.left", "arm_left", "action"))
    made = [Episode(str(n), "t", {f.name: np.random.default_rng(n).random((20, 2), np.float32) for f in features}) for n in range(3)]
    write_dataset(tmp_path / "twice", made, DatasetSpec(10, features, ""))
    assert "have one name in a contract" in refused(tmp_path / "twice", tmp_path, settings, observations=["arm.left", "arm_left"])


def test_what_the_data_are_is_not_swept(write: Write) -> None:
    spec = spec_of(write())
    other = parse_config({"models": ["chunk"], "chunk": {"chunk_size": 3}}, ImitationConfig)
    assert spec.with_config(other).config.chunk.chunk_size == 3
    with pytest.raises(GaitwayError, match=r"imitation\.normalisation says what the data are"):
        spec.with_config(parse_config({"models": ["chunk"], "normalisation": "quantile"}, ImitationConfig))


# Open loop -------------------------------------------------------------------------------------------------------------------


def test_ensembling_is_the_weighted_mean_of_every_plan_for_a_step() -> None:
    plans = np.random.default_rng(0).normal(size=(9, 4, 2))
    found = ensemble(plans, 0.3)
    for now in range(9):
        made = [start for start in range(max(0, now - 3), now + 1)]  # oldest first
        weights = np.exp(-0.3 * np.arange(len(made)))
        expected = sum(w * plans[start, now - start] for w, start in zip(weights, made, strict=True)) / weights.sum()
        np.testing.assert_allclose(found[now], expected)


def test_errors_and_baselines_are_what_a_loop_over_frames_gives(write: Write) -> None:
    path = write()
    spec = spec_of(path)
    held = held_out_episodes(load_info(path), spec)
    assert [episode.episode for episode in held] == list(spec.validation_episodes)
    random = np.random.default_rng(1)
    plans = [episode.action[:, None] + random.normal(size=(len(episode.action), 3, 3)) for episode in held]
    report = measure(plans, held, spec.interface)
    ours, state, action = [], [], []
    for plan, episode in zip(plans, held, strict=True):
        for now in range(1, len(episode.action)):
            for ahead in range(min(3, len(episode.action) - now)):
                wanted = episode.action[now + ahead]
                ours.append(np.abs(plan[now, ahead] - wanted))
                state.append(np.abs(episode.observation[now] - wanted))
                action.append(np.abs(episode.action[now - 1] - wanted))
    for name, rows in (("horizon", ours), ("horizon_hold_state", state), ("horizon_hold_action", action)):
        np.testing.assert_allclose(report[name]["per_component"], np.mean(rows, axis=0), rtol=1e-6)
    # The joint that never moves is in no mean: nothing can be wrong about it.
    share = np.mean(ours, axis=0)[:2] / spec.scaling.scale[:2]
    assert report["horizon"]["mean"] == pytest.approx(share.mean())
    assert report["units"] == ["deg"] * 3
    assert len(report["by_step"]) == 3


def test_the_verdict_says_which_baselines_win(write: Write) -> None:
    path = write()
    spec = spec_of(path)
    held = held_out_episodes(load_info(path), spec)
    exact = measure([episode.action[:, None] for episode in held], held, spec.interface)
    assert exact["one_step"]["mean"] == 0
    assert "better than holding the last state" in exact["verdict"][0]
    assert "NOT" not in exact["verdict"][0]
    lazy = measure([episode.observation[:, None] for episode in held], held, spec.interface)
    assert lazy["one_step"] == lazy["one_step_hold_state"]
    assert "NOT better than holding the last state" in lazy["verdict"][0]


def test_a_learned_chunk_beats_holding_still_on_a_regular_arm(write: Write) -> None:
    path = write(episodes(10, 60))
    options = {"chunk_size": 5, "hidden": [64], "epochs": 60, "batch_size": 32, "learning_rate": 5e-3}
    spec = spec_of(path, chunk={**options, "history": 3, "history_stride": 2})
    frames = gather_frames([load_frames(path, columns=spec.columns)], spec.scaling, *spec.sides)
    fit = make_fit("chunk", spec.config, 3, 3, spec.fields, 0, torch.device("cpu"), spec.interface).attach(*hold_out(frames, spec))
    fit.prepare()
    while not fit.finished:
        fit.run_epoch()
    policy = best_policy(fit.state_dict())
    held = held_out_episodes(load_info(path), spec)
    report = measure([plans_along(policy, spec.interface, e.observation, 2) for e in held], held, spec.interface, ensemble_decay=0.01)
    assert report["horizon"]["mean"] < 0.5 * min(report["horizon_hold_state"]["mean"], report["horizon_hold_action"]["mean"])
    assert report["ensembled"]["mean"] < report["horizon"]["mean"]


def test_asked_every_second_step_a_policy_sees_what_it_was_trained_on(write: Write) -> None:
    """The recurrent state of the served policy holds the observations of its questions: with ``history_stride`` 2, every second."""
    path = write()
    spec = spec_of(path, chunk={"chunk_size": 4, "hidden": [16], "history": 3, "history_stride": 2})
    policy = make_fit("chunk", spec.config, 3, 3, spec.fields, 0, torch.device("cpu"), spec.interface).policy.eval()
    (episode, *_) = held_out_episodes(load_info(path), spec)
    assert isinstance(episode, HeldOut)
    plans = plans_along(policy, spec.interface, episode.observation, 2)
    state = policy.initial_state(1)
    with torch.inference_mode():
        for frame in range(0, len(episode.observation), 2):
            plan, state = policy.plan(torch.from_numpy(episode.observation[frame : frame + 1]), state)
            np.testing.assert_allclose(spec.scaling.to_physical(plan.numpy()[0]), plans[frame], atol=1e-3)


def test_a_curve_in_one_line() -> None:
    assert sparkline([1.0, 0.1, 0.01]) == "█▅▁"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert len(sparkline([1.0 / k for k in range(1, 500)], width=30)) == 30
