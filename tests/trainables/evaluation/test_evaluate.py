import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from cluster.config import parse_config
from cluster.errors import ConfigError, GaitwayError
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext
from trainables import evaluate
from trainables.evaluation.metrics import compare, summarise, with_full_length
from trainables.evaluation.report import to_markdown
from trainables.export.bundle import export_policy
from trainables.export.config import VerificationConfig
from trainables.networks.checkpoint import save_policy
from trainables.networks.policies import MlpPolicy

SETTINGS = {"seed": 0, "resamples": 500}


def table(offset: float, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "forward_velocity_m_s": rng.normal(0.1, 0.02, 40) + offset,
        "return": rng.normal(20.0, 2.0, 40) + 100 * offset,
        "length": np.full(40, 500.0),
        "fell": np.zeros(40),
        "energy_j": rng.normal(10.0, 1.0, 40) + 10 * offset,
    }


def test_summary_gives_mean_iqm_and_intervals_of_every_metric() -> None:
    episodes = with_full_length(table(0.0), 500)
    summary = summarise(episodes, **SETTINGS)
    velocity = summary["forward_velocity_m_s"]
    assert velocity["mean"] == pytest.approx(episodes["forward_velocity_m_s"].mean())
    assert velocity["iqm"] == pytest.approx(scipy.stats.trim_mean(episodes["forward_velocity_m_s"], 0.25))
    assert velocity["ci95"][0] < velocity["mean"] < velocity["ci95"][1]
    assert summary["length"]["ci95"] == [500.0, 500.0]
    assert summary["full_length"]["mean"] == 1.0


def test_no_fall_in_forty_episodes_is_no_proof() -> None:
    low, high = summarise(table(0.0), **SETTINGS)["fell"]["ci95"]
    # Wilson's upper end for 0 of n is z²/(n + z²).
    z = scipy.stats.norm.ppf(0.975)
    assert (low, high) == pytest.approx((0.0, z**2 / (40 + z**2)), abs=1e-12)


def test_comparison_pairs_episodes_and_counts_less_energy_as_better() -> None:
    champion, challenger = table(0.0), table(0.05)
    figures = compare(challenger, champion, **SETTINGS)
    # Paired by seed the difference is exact although the episodes vary.
    assert figures["forward_velocity_m_s"]["difference"] == pytest.approx(0.05)
    assert figures["forward_velocity_m_s"]["ci95"] == pytest.approx([0.05, 0.05])
    assert figures["forward_velocity_m_s"]["probability_of_improvement"] > 0.9
    assert figures["energy_j"]["difference"] == pytest.approx(0.5)
    assert figures["energy_j"]["probability_of_improvement"] < 0.5
    assert figures["length"]["probability_of_improvement"] == 0.5


def test_markdown_shows_every_policy_and_comparison() -> None:
    tables = {"imitation": table(0.0), "rl": table(0.05, seed=1)}
    report = {
        "setting": {"task": "t", "episodes": 40, "physics": "fast", "seed": 0, "resamples": 500},
        "policies": {name: summarise(with_full_length(episodes, 500), **SETTINGS) for name, episodes in tables.items()},
        "comparisons": [{"challenger": "rl", "champion": "imitation", "metrics": compare(tables["rl"], tables["imitation"], **SETTINGS)}],
    }
    text = to_markdown(report)
    assert "## rl against imitation" in text
    mean = report["policies"]["rl"]["forward_velocity_m_s"]["mean"]
    assert f"| {mean:.3g} [" in text
    for line in text.splitlines():
        if line.startswith("| forward velocity") and "difference" not in line:
            assert line.count("|") in (4, 6)


def context(folder: Path, settings: Settings, **results) -> StageContext:
    return StageContext(folder=folder, settings=settings, progress=Progress(mode="quiet"), results=results, experiment="test")


def test_stage_evaluates_checkpoint_and_bundle_on_the_same_episodes(
    checkpoints: dict[str, Path], settings: Settings, tmp_path: Path
) -> None:
    quick = VerificationConfig(observations=16, latency_calls=10, latency_batches=(1,), physics="fast")
    bundle = export_policy(checkpoints["imitation"], tmp_path / "bundle", "pidog-run", verification=quick)
    config = parse_config(
        {
            "policies": {"imitation": None, "bundle": str(bundle.path)},
            "episodes": 6,
            "num_envs": 3,
            "physics": "fast",
            "resamples": 200,
            "task_config": {"max_episode_steps": 15},
        },
        evaluate.Config,
    )
    result = evaluate.run(config, context(tmp_path, settings, imitate={"checkpoint": str(checkpoints["imitation"])}))
    assert json.loads(json.dumps(result)) == result
    report = json.loads(Path(result["json"]).read_text())
    assert report["policies"] == result["policies"]
    assert report["setting"]["task_config"]["physics"]["preset"] == "fast"
    torch_figures, onnx_figures = result["policies"]["imitation"], result["policies"]["bundle"]
    assert torch_figures["length"]["max"] <= 15
    assert {"forward_velocity_m_s", "length", "return", "fell", "energy_j", "full_length", "reward/upright"} <= set(torch_figures)
    # The same graph on the same episodes: 15 steps are too few for the last bit to grow.
    assert onnx_figures["forward_velocity_m_s"]["mean"] == pytest.approx(torch_figures["forward_velocity_m_s"]["mean"], abs=1e-3)
    [comparison] = result["comparisons"]
    assert (comparison["challenger"], comparison["champion"]) == ("bundle", "imitation")
    assert comparison["metrics"]["forward_velocity_m_s"]["difference"] == pytest.approx(0.0, abs=1e-3)
    assert "bundle against imitation" in Path(result["markdown"]).read_text()
    episodes = json.loads((tmp_path / "evaluation" / "episodes.json").read_text())
    assert len(episodes["bundle"]["return"]) == 6

    again = evaluate.run(config, context(tmp_path / "again", settings, imitate={"checkpoint": str(checkpoints["imitation"])}))
    assert again["policies"] == result["policies"]


def test_a_missing_stage_is_named(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(GaitwayError, match="needs 'checkpoint' from the stage 'imitate'"):
        evaluate.run(parse_config({}, evaluate.Config), context(tmp_path, settings))


def test_a_policy_of_other_sizes_is_refused(settings: Settings, tmp_path: Path) -> None:
    save_policy(MlpPolicy(7, 12), tmp_path / "odd", {"task": "pidog_run", "task_config": {}})
    config = parse_config({"policies": {"odd": str(tmp_path / "odd")}, "episodes": 2}, evaluate.Config)
    with pytest.raises(GaitwayError, match="maps 7 numbers to 12; the task pidog_run wants 50 to 12"):
        evaluate.run(config, context(tmp_path, settings))


def test_a_policy_learned_from_recordings_has_no_task_to_be_played_in(settings: Settings, tmp_path: Path) -> None:
    save_policy(MlpPolicy(6, 6), tmp_path / "arm", {"task": "recorded", "task_config": {}})
    config = parse_config({"policies": {"arm": str(tmp_path / "arm")}, "episodes": 2}, evaluate.Config)
    with pytest.raises(GaitwayError, match=r"arm: learned from recordings, which have no simulated task.*open_loop\.json"):
        evaluate.run(config, context(tmp_path, settings))


def test_a_name_that_no_stage_makes_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match=r"policies\.mine: give a folder; only imitation, lstm, rl"):
        parse_config({"policies": {"mine": None}}, evaluate.Config)
