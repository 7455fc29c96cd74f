"""The stage ``prepare`` on real and on made-up recordings: what goes in comes out, and what does not fit is refused by name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from cluster.config import parse_config
from cluster.errors import ConfigError, GaitwayError
from cluster.lerobot.errors import DatasetError
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext
from trainables.datasets import preparation
from trainables.datasets.lerobot import DatasetSpec, Episode, Feature, compute_digest, load_frames, load_info, write_dataset
from trainables.datasets.versions import datasets_folder
from trainables.prepare import Config, check, run

REPOSITORY = Path(__file__).resolve().parents[3]
FEATURES = (Feature("observation.state", "float32", (2,), ("a.pos", "b.pos")), Feature("action", "float32", (2,), ("a.pos", "b.pos")))
SPEC = DatasetSpec(50, FEATURES, "arm", validation_fraction=0.3)


@pytest.fixture(params=["tasks", "inline"])
def context(tmp_path, request, monkeypatch):
    """Both ways of writing: through Ray Data, and here and now."""
    if request.param == "tasks":
        monkeypatch.setattr(preparation, "INLINE_BYTES", -1)
    settings = Settings.from_environment({"GAITWAY_HOME": str(tmp_path / "home")})
    return StageContext(tmp_path / "run", settings, Progress(mode="quiet"))


def made(folder, spec=SPEC, episodes=4, start=0.0):
    random = np.random.default_rng(int(start))
    return write_dataset(
        folder,
        [
            Episode(
                f"{index}",
                "lift",
                {feature.name: random.normal(start, 1, (20 + index, 2)).astype(np.float32) for feature in spec.features},
            )
            for index in range(episodes)
        ],
        spec,
    )


def config(*folders, **given):
    return parse_config({"sources": [{"dataset": str(folder)} for folder in folders], **given}, Config, source="test")


@pytest.mark.usefixtures("ray_session")
def test_a_real_recording_becomes_a_named_version_with_equal_values(shared_data, context):
    folder = shared_data / "lerobot_so101"
    result = run(config(folder, name="so101", units={"action": "deg"}), context)
    assert (result["episodes"], result["frames"], result["version"], result["is_new"]) == (4, 1492, "so101/v1", True)
    assert len(result["missing_videos"]) == 2
    info = load_info(result["dataset"])
    assert info.digest == compute_digest(folder) == compute_digest(info.path)
    assert info.features["action"].unit == "deg"
    assert info.features["observation.images.front"].info["video.codec"] == "av1"
    assert [video.name for video in info.missing_videos] == ["file-000.mp4", "file-000.mp4"]
    clip = info.episodes[1].videos["observation.images.top"]
    assert (clip.from_timestamp_s, clip.to_timestamp_s) == pytest.approx((12.4333, 24.9), abs=1e-3)
    for name, values in load_frames(folder).items():
        np.testing.assert_array_equal(load_frames(info.path)[name], values)
    assert info.gaitway["lineage"]["sources"][0]["path"] == str(folder.resolve())
    assert run(config(folder, name="so101", units={"action": "deg"}), context)["is_new"] is False


@pytest.mark.usefixtures("ray_session")
def test_two_sources_are_one_dataset_and_keep_their_own_split(context, tmp_path):
    first, second = made(tmp_path / "a"), made(tmp_path / "b", start=5.0)
    result = run(config(tmp_path / "a", tmp_path / "b", task="stack"), context)
    info = load_info(result["dataset"])
    assert (info.num_episodes, info.tasks) == (8, ("stack",))
    held_out = {*first.splits["validation"], *(4 + index for index in second.splits["validation"])}
    assert set(info.splits["validation"]) == held_out
    assert result["digest"] == run(config(tmp_path / "a", tmp_path / "b", task="stack"), context)["digest"]
    assert run(config(tmp_path / "b", tmp_path / "a", task="stack"), context)["digest"] != result["digest"]


def test_videos_and_images_are_carried_as_they_are(tmp_path, context, request):
    video = tmp_path / "somebody.mp4"
    video.write_bytes(b"\x00video" * 100)
    from cluster.lerobot.videos import VideoClip

    features = (*FEATURES, Feature("observation.images.wrist", "image", (2, 2, 3)), Feature("observation.images.top", "video", (2, 2, 3)))
    images = np.empty(3, dtype=object)
    images[:] = [b"\x89PNG one", b"\x89PNG two", b"\x89PNG three"]
    numbers = {"observation.state": np.ones((3, 2), np.float32), "action": np.ones((3, 2), np.float32)}
    episodes = [
        Episode(
            str(index),
            "see",
            numbers | {"observation.images.wrist": images},
            videos={"observation.images.top": VideoClip(video, index, index + 1)},
        )
        for index in range(2)
    ]
    write_dataset(tmp_path / "seen", episodes, replace(SPEC, features=features))
    request.getfixturevalue("ray_session")
    info = load_info(run(config(tmp_path / "seen"), context)["dataset"])
    assert info.missing_videos == ()
    clip = info.episodes[1].videos["observation.images.top"]
    assert (clip.file.read_bytes(), clip.from_timestamp_s, clip.to_timestamp_s) == (video.read_bytes(), 1, 2)
    assert info.episodes[0].videos["observation.images.top"].file == clip.file
    stored = pq.read_table(info.episodes[0].data_file)["observation.images.wrist"].to_pylist()
    assert [image["bytes"] for image in stored[:3]] == list(images)
    assert info.digest == compute_digest(info.path) == load_info(tmp_path / "seen").digest
    numbers_only = load_info(
        run(config(tmp_path / "seen", leave_out=["observation.images.wrist", "observation.images.top"]), context)["dataset"]
    )
    assert set(numbers_only.features) == {
        "observation.state",
        "action",
        *[n for n in numbers_only.features if "index" in n or n == "timestamp"],
    }
    assert numbers_only.digest != info.digest


@pytest.mark.parametrize(
    ("spec", "given", "words"),
    [
        (replace(SPEC, fps=30), {}, r"b: has 30 frames a second, .*a has 50; sources must have one rate"),
        (replace(SPEC, features=FEATURES[1:]), {}, r"b: the feature 'observation.state' is missing, .*a has it"),
        (
            replace(SPEC, features=(FEATURES[0], Feature("action", "float32", (2,), ("b.pos", "a.pos")))),
            {},
            r"b: the feature 'action' is float32\[2\] \(b.pos, a.pos\), in .*a it is float32\[2\] \(a.pos, b.pos\)",
        ),
        (
            SPEC,
            {"robot": "pidog"},
            r"a: the joints of its actions are not those of pidog: it lacks left_front_hip.*it has the unknown a, b",
        ),
        (SPEC, {"robot": "pidgo"}, r"unknown robot 'pidgo'; did you mean 'pidog'"),
        (SPEC, {"units": {"acton": "rad"}}, r"units: .*a has no feature 'acton'; it has: action"),
        (replace(SPEC, provenance={"task": "pidog_run"}), {}, r"b: belongs to the task 'pidog_run', .*a to None; prepare them apart"),
    ],
)
def test_sources_that_do_not_fit_are_refused_before_anything_is_written(context, tmp_path, spec, given, words):
    made(tmp_path / "a")
    made(tmp_path / "b", spec)
    with pytest.raises(GaitwayError, match=words):
        run(config(tmp_path / "a", tmp_path / "b", name="both", **given), context)
    assert not datasets_folder(context.settings).exists()


@pytest.mark.usefixtures("ray_session")
def test_a_bad_file_is_named_with_its_episode_and_nothing_is_written(context, tmp_path):
    made(tmp_path / "a")
    path = next((tmp_path / "a/data").rglob("*.parquet"))
    whole = path.read_bytes()
    table = pq.read_table(path)
    for damage, words in (
        (lambda: path.write_bytes(whole[: len(whole) // 2]), r"file-000.parquet: not readable parquet"),
        (lambda: pq.write_table(table.slice(0, 30), path), r"file-000.parquet: episode 1 has 10 frames of the 21 that the metadata name"),
        (lambda: pq.write_table(table.drop_columns(["action"]), path), r"file-000.parquet: the column 'action' is missing"),
        (lambda: pq.write_table(_with_nan(table, 25), path), r"a: episode 0000001: action of frame 5 holds NaN or infinity"),
    ):
        damage()
        with pytest.raises(DatasetError, match=words):
            run(config(tmp_path / "a", name="bad"), context)
        assert not (datasets_folder(context.settings) / "bad").exists()
    path.write_bytes(whole)
    assert run(config(tmp_path / "a", name="bad"), context)["version"] == "bad/v1"


@pytest.mark.usefixtures("ray_session")
def test_an_episode_at_another_rate_is_named(context, tmp_path):
    episodes = [
        Episode(str(number), "t", {name: np.zeros((9, 2), np.float32) for name in ("observation.state", "action")} | {"timestamp": stamps})
        for number, stamps in enumerate((np.arange(9, dtype=np.float32) / 50, np.arange(9, dtype=np.float32) / 25))
    ]
    write_dataset(tmp_path / "mixed", episodes, SPEC)
    with pytest.raises(DatasetError, match=r"mixed: episode 0000001: has 25 frames a second \(median\), the dataset 50"):
        run(config(tmp_path / "mixed", name="mixed"), context)
    assert not (datasets_folder(context.settings) / "mixed").exists()


def test_a_path_that_leads_out_of_the_folder_is_refused(tmp_path):
    for name, template in (
        ("data_path", "../b/data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"),
        ("data_path", "/etc/{chunk_index}"),
    ):
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        made(tmp_path / "a")
        file = tmp_path / "a/meta/info.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {name: template}))
        with pytest.raises(DatasetError, match=r"leads out of the dataset's folder"):
            check(config(tmp_path / "a"))


def test_a_configuration_that_cannot_be_meant_is_refused():
    for given, words in (
        ({"name": "../x"}, "use letters, digits"),
        ({"leave_out": ["action"]}, "action and timestamp are part of every dataset"),
        ({"sorces": []}, "did you mean"),
    ):
        with pytest.raises(ConfigError, match=words):
            config(Path("x"), **given)


def _with_nan(table, row):
    values = table["action"].to_pylist()
    values[row][0] = float("nan")
    place = table.schema.get_field_index("action")
    import pyarrow as pa

    return table.set_column(place, table.schema.field("action"), pa.chunked_array([pa.array(values, table.schema.field("action").type)]))


def smooth(count=10, spiky=()):
    """Arms that reach back and forth; some jump once."""
    episodes = []
    for number in range(count):
        angle = np.linspace(0, 4 * np.pi, 200) + number
        wanted = np.stack([np.sin(angle), np.cos(0.7 * angle)], axis=1)
        measured = np.concatenate([wanted[:2], wanted[:-2]])
        if number in spiky:
            measured[100, 0] += 1.5
        columns = {"observation.state": measured.astype(np.float32), "action": wanted.astype(np.float32)}
        episodes.append(Episode(str(number), "reach", columns))
    return episodes


@pytest.mark.usefixtures("ray_session")
def test_episodes_with_defects_are_left_out_by_name_and_the_rest_is_as_it_was(context, tmp_path):
    write_dataset(tmp_path / "mixed", smooth(spiky=(3, 7)), SPEC)
    result = run(config(tmp_path / "mixed", min_grade="C", name="clean"), context)
    assert set(result["dropped"]) == {"0000003", "0000007"}
    assert all("jumps" in reason for reason in result["dropped"].values()), result["dropped"]
    assert result["episodes"] == 8
    frames = load_frames(result["dataset"])["observation.state"]
    kept = [episode.columns["observation.state"] for episode in smooth() if episode.key not in ("3", "7")]
    np.testing.assert_array_equal(frames, np.concatenate(kept))
    write_dataset(tmp_path / "bad", smooth(3, spiky=(0, 1, 2)), SPEC)
    with pytest.raises(DatasetError, match=r"no episode is of grade C or better; 0000000 is of grade D: .*jumps"):
        run(config(tmp_path / "bad", min_grade="C", name="none"), context)
    assert not (datasets_folder(context.settings) / "none").exists()


@pytest.mark.usefixtures("ray_session")
def test_copies_join_the_training_episodes_and_their_lineage_is_kept(context, shared_data):
    folder = shared_data / "lerobot_so101"
    augmentation = yaml.safe_load((REPOSITORY / "configs/datasets/augment_so101.yaml").read_text())
    first = run(config(folder, name="so101", validation_fraction=0.25), context)
    result = run(config(first["dataset"], name="more", augmentation=augmentation), context)
    info = load_info(result["dataset"])
    copies = sum(variant.get("copies", 1) for variant in augmentation["variants"])
    assert (info.num_episodes, len(info.splits["validation"])) == (4 + 3 * copies, 1)
    variants = [episode.about["variant"] for episode in info.episodes]
    assert variants.count("original") == 4
    (held_out,) = info.splits["validation"]
    assert info.episodes[held_out].about["variant"] == "original"
    held_key = load_info(first["dataset"]).splits["validation"][0]
    assert f"{held_key:07d}" not in {episode.about["augmented_from"] for episode in info.episodes}
    lineage = info.gaitway["lineage"]
    assert lineage["config"]["augmentation"]["variants"]
    assert lineage["sources"][0]["digest"] == first["digest"]
    assert lineage["sources"][0]["lineage"]["sources"][0]["path"] == str(folder.resolve())
    again = run(config(first["dataset"], name="more", augmentation=augmentation), context)
    assert (again["digest"], again["is_new"]) == (result["digest"], False)


@pytest.mark.usefixtures("ray_session")
def test_in_a_pipeline_it_prepares_what_was_collected(context, tmp_path):
    with pytest.raises(GaitwayError, match="which has not run here; give sources"):
        run(parse_config({}, Config, source="test"), context)
    made(tmp_path / "run" / "data")
    context.results["collect"] = {"dataset": str(tmp_path / "run" / "data")}
    result = run(parse_config({"leave_out": ["observation.state"]}, Config, source="test"), context)
    assert result["dataset"] == str(tmp_path / "run" / "prepared_data")
    assert load_info(tmp_path / "run" / "data").num_episodes == result["episodes"] == 4
