"""Whole folders: a Ray Data pipeline and one process grade alike, a broken file costs its own episodes, grades are kept by digest."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.cli.main import app
from cluster.config import load_config
from cluster.errors import ConfigError, GaitwayError
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from cluster.lerobot.folder import write_dataset
from cluster.lerobot.metadata import DatasetSpec
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext
from tests.trainables.datasets.quality.conftest import FEATURES, FPS, changed, grade, reaching
from trainables.datasets.quality import grading
from trainables.datasets.quality.grading import grade_source
from trainables.datasets.quality.store import load_grade, load_letter, save_grade
from trainables.datasets.quality.text import CHECKS, below, headline, summary_lines
from trainables.datasets.sources.lerobot import open_lerobot
from trainables.grade import Config, run

REPOSITORY = Path(__file__).resolve().parents[4]


def _spiked(item):
    def spike(values):
        values[100, 0] += 50.0

    return changed(item, "observation.state", spike)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 episodes in a dozen files, every sixth with a spike."""
    path = tmp_path_factory.mktemp("graded") / "arm"
    episodes = [_spiked(reaching(index)) if index % 6 == 5 else reaching(index) for index in range(24)]
    write_dataset(path, episodes, DatasetSpec(FPS, FEATURES, "arm", data_file_mb=0.02))
    return path


@pytest.fixture
def settings(tmp_path):
    return Settings.from_environment({"GAITWAY_HOME": str(tmp_path / "home"), "GAITWAY_EXPERIMENTS_PATH": str(tmp_path / "experiments")})


@pytest.fixture
def gaitway(tmp_path, monkeypatch, capsys):
    """Run the command -> exit code, stdout, stderr."""
    from cluster.stage import run_app

    monkeypatch.setenv("GAITWAY_HOME", str(tmp_path / "home"))

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["gaitway", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_app(app, name="gaitway")
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def in_tasks(ray_session, monkeypatch):
    """However little there is to measure, Ray's tasks do it."""
    monkeypatch.setattr(grading, "INLINE_FRAMES", 0)


@pytest.mark.usefixtures("in_tasks")
def test_many_pieces_through_ray_and_one_process_give_the_same_grade(folder, settings, monkeypatch):
    source = open_lerobot(folder)
    assert len(source.pieces()) > 4
    found = grade_source(source, settings=settings)
    assert found.letters() == {"A": 20, "B": 0, "C": 0, "D": 4, "F": 0}
    assert [item.index for item in found.episodes] == list(range(24))
    assert [item.index for item in found.episodes if item.defects] == [5, 11, 17, 23]
    assert (found.frames, found.digest) == (sum(item.frames for item in found.episodes), source.digest)
    episodes = [episode for piece in source.pieces() for episode in source.read(piece)]
    with monkeypatch.context() as here:
        here.setattr(grading, "INLINE_FRAMES", found.frames)
        here.setattr(grading, "piece_rows", None)
        assert grade_source(source, settings=settings) == found
    alone = grade(episodes, source.features)
    assert [item.letter for item in alone.episodes] == [item.letter for item in found.episodes]
    for left, right in zip(alone.episodes, found.episodes, strict=True):
        assert left.measures["smoothness_ldlj"] == pytest.approx(right.measures["smoothness_ldlj"], abs=0.2)
    assert found.model_validate_json(found.model_dump_json()) == found


@pytest.mark.usefixtures("in_tasks")
def test_a_truncated_file_costs_its_own_episodes_and_a_folder_of_them_is_an_error(folder, settings, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    files = sorted((broken / "data").rglob("*.parquet"))
    lost = sorted(set(pq.read_table(files[2], columns=["episode_index"])["episode_index"].to_pylist()))
    files[2].write_bytes(files[2].read_bytes()[:3000])
    found = grade_source(open_lerobot(broken), settings=settings)
    assert [item.index for item in found.episodes if item.letter == "F"] == lost
    first = found.episodes[lost[0]]
    assert str(files[2]) in first.reason
    assert "not readable parquet" in first.reason
    assert found.affected["unreadable"] == len(lost)
    assert len(found.kept("C")) == 24 - len(set(lost) | {5, 11, 17, 23})
    for file in files:
        file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(DatasetError, match="not readable parquet"):
        grade_source(open_lerobot(broken), settings=settings)


@pytest.mark.usefixtures("in_tasks")
def test_an_episode_with_too_few_frames_for_its_metadata_is_unreadable_alone(folder, settings, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    file = sorted((broken / "data").rglob("*.parquet"))[1]
    table = pq.read_table(file)
    numbers = table["episode_index"].to_numpy()
    last = int(numbers[-1])
    pq.write_table(table.slice(0, len(table) - 10), file)
    found = grade_source(open_lerobot(broken), settings=settings)
    assert [item.index for item in found.episodes if "unreadable" in {one.check for one in item.defects}] == [last]
    assert f"episode {last} has" in found.episodes[last].reason


def test_what_has_neither_state_nor_action_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="has neither observation"):
        grade([replace(reaching(0), columns={"timestamp": np.arange(30, dtype=np.float32)})], [FEATURES[2]])


def test_images_are_not_read(tmp_path, monkeypatch, settings):
    path = tmp_path / "with_images"
    features = (*FEATURES, Feature("observation.images.front", "image", (4, 4, 3)))
    episodes = []
    for index in range(3):
        item, images = reaching(index), np.empty(reaching(index).length, object)
        images[:] = [b"not a picture"] * len(images)
        episodes.append(replace(item, columns={**item.columns, "observation.images.front": images}))
    write_dataset(path, episodes, DatasetSpec(FPS, features, "arm"))
    seen = []
    measure = grading._measure
    monkeypatch.setattr(grading, "_measure", lambda episode, ruler: seen.append(set(episode.columns)) or measure(episode, ruler))
    assert grade_source(open_lerobot(path), settings=settings).letter == "A"
    assert seen == [{"observation.state", "action", "timestamp"}] * 3


def test_a_grade_is_found_again_by_the_digest_of_its_dataset(reaches, settings):
    found = grade(reaches).model_copy(update={"digest": "abc"})
    path = save_grade(settings, found)
    assert path == settings.shared_path / "grades" / "abc.jsonl"
    assert load_grade(settings, "abc") == found
    assert load_grade(settings, "abd") is None
    assert load_grade(settings, None) is None
    assert save_grade(settings, found.model_copy(update={"digest": None})) is None
    assert [load_letter(settings, digest) for digest in ("abc", "abd", None)] == [found.letter, None, None]
    letter, whole = path.read_text().splitlines()
    path.write_text(f"{letter}\n{json.dumps({**json.loads(whole), 'schema_version': 2})}\n")
    assert load_grade(settings, "abc") is None


@pytest.mark.usefixtures("ray_session")
def test_the_stage_writes_grade_and_page_and_fails_below_the_wanted_grade(folder, settings, tmp_path):
    context = StageContext(tmp_path / "run", settings, Progress(mode="quiet"))
    result = run(Config(dataset=str(folder)), context)
    assert result["letter"] == "D"
    assert result["episodes"]["D"] == 4
    page = Path(result["html"]).read_text()
    assert "episode 5" in page
    assert "https://" not in page.partition("<script nonce")[0].replace("http-equiv", "")
    assert load_grade(settings, result["digest"]).letter == "D"
    with pytest.raises(GaitwayError, match=r"has grade D, below B: 4 of 24 episodes \(5, 11, 17, 23\)"):
        run(Config(dataset=str(folder), min_grade="B"), context)
    assert json.loads((tmp_path / "run" / "quality.json").read_text())["letter"] == "D"


def test_the_command_gates_prints_reasons_and_says_what_to_type_next(shared_data, gaitway, tmp_path):
    folder = shared_data / "lerobot_so101"
    code, out, err = gaitway("dataset", "grade", folder, "--min-grade", "B", "--html", tmp_path / "page.html")
    assert code == 0
    assert out.startswith("B  ")
    assert "look at: idle time in 2 episodes (50.0%)" in out
    assert "nothing moves for the first 4.5 s" in out
    assert err.splitlines()[-1] == f"keep it, with its grade, as a named dataset: gaitway dataset import {folder}"
    assert "travels there by itself" in (tmp_path / "page.html").read_text()
    code, out, err = gaitway("dataset", "grade", folder, "--min-grade", "A", "--json")
    assert code == 1
    assert json.loads(out)["letter"] == "B"
    assert "has grade B, below A: 3 of 4 episodes (0, 2, 3)" in err
    code, _, err = gaitway("dataset", "grade", folder, "--min-grade", "E")
    assert (code, err.count("\n")) == (2, 1)
    limits = tmp_path / "limits.yaml"
    limits.write_text("knee: [0, 1]\n")
    code, _, err = gaitway("dataset", "grade", folder, "--limits", limits)
    assert code == 2
    assert "the dataset has no joint 'knee'; it has: shoulder_pan" in err
    code, _, err = gaitway("dataset", "grade", tmp_path / "nothing")
    assert code == 1
    assert err.startswith("error: no dataset")


def test_the_shipped_limits_of_the_arm_fit_its_recording(shared_data, gaitway):
    limits = REPOSITORY / "configs" / "datasets" / "grade_so101_limits.yaml"
    code, out, _ = gaitway("dataset", "grade", shared_data / "lerobot_so101", "--limits", limits, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["limits"]["gripper.pos"] == "limits file"
    assert not any(item["defects"] for item in found["episodes"])


def test_the_shipped_configuration_is_valid_and_stricter_on_request():
    path = REPOSITORY / "configs" / "datasets" / "grade.yaml"
    assert load_config(path, Config).min_grade == "B"
    assert load_config(path, Config, ["preset=strict"]).quality.held_defect_share == 0.02
    with pytest.raises(ConfigError):
        load_config(path, Config, ["quality.held=1"])


def test_words_name_every_check_and_what_is_below(reaches):
    found = grade([_spiked(item) if place == 2 else item for place, item in enumerate(reaches)])
    assert headline(found).startswith(f"{found.letter}  planted: 14 episodes (13 A, 1 D)")
    assert summary_lines(found) == ["must fix: jumps in one frame in 1 episode (7.1%)"]
    assert below(found, "D") is None
    assert below(found, "B") == "planted has grade D, below B: 1 of 14 episodes (2)"
    assert set(found.affected) <= set(CHECKS)
