import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from cluster.bundle import Bundle
from cluster.config import parse_config
from cluster.errors import BundleError, GaitwayError
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext
from trainables import export
from trainables.envs.registry import make_task
from trainables.export.bundle import export_policy
from trainables.export.config import VerificationConfig
from trainables.export.graph import ServedPolicy, write_onnx
from trainables.export.parity import check_parity
from trainables.export.provenance import git_commit
from trainables.networks.checkpoint import load_policy, save_policy

QUICK = VerificationConfig(observations=48, latency_calls=20, physics="fast")


@pytest.fixture(scope="module")
def bundles(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: export_policy(path, folder / name, "pidog-run", label=name, verification=QUICK) for name, path in checkpoints.items()}


def test_bundle_is_complete_and_readable_by_others(bundles: dict[str, Bundle]) -> None:
    for bundle in bundles.values():
        names = {path.name for path in bundle.path.iterdir()}
        assert names == {"policy.onnx", "contract.json", "card.md", "README.md", "parity.json", "latency.json", "manifest.json"}
        assert all(path.stat().st_mode & 0o044 == 0o044 for path in bundle.path.iterdir())
        assert Bundle.load(bundle.path).digest == bundle.digest


def test_contract_is_the_tasks(bundles: dict[str, Bundle]) -> None:
    contract = bundles["lstm"].contract
    task = make_task("pidog_run", 1)
    task.close()
    assert (contract.policy, contract.robot, contract.task, contract.control_dt_s) == ("pidog-run", "pidog", "pidog_run", 0.02)
    assert (contract.observation, contract.action) == (task.observation_fields, task.action_fields)
    assert {field.name: field.shape for field in contract.state} == {"lstm_h": (16,), "lstm_c": (16,)}
    assert bundles["imitation"].contract.state == ()
    provenance = contract.provenance
    assert provenance.dataset_digest == "abc"
    assert re.fullmatch(r"[0-9a-f]{64}", provenance.config_sha256)
    assert provenance.versions["torch"].startswith("2.")
    assert provenance.source.startswith("test: ")


def test_parity_and_latency_are_recorded(bundles: dict[str, Bundle]) -> None:
    for bundle in bundles.values():
        parity = json.loads((bundle.path / "parity.json").read_text())
        assert parity["observations"] == 48
        assert 0 <= parity["max_abs_error_rad"] <= 1e-5
        assert parity["closed_loop"]["steps"] >= 1
        assert parity["closed_loop"]["max_abs_error_rad"] <= 1e-5
        latency = json.loads((bundle.path / "latency.json").read_text())
        assert [row["batch"] for row in latency] == [1, 8, 64]
        assert all(0 < row["median_ms"] <= row["p99_ms"] for row in latency)


@pytest.mark.parametrize("name", ["policy.onnx", "contract.json", "card.md", "parity.json"])
def test_a_tampered_bundle_is_refused(name: str, bundles: dict[str, Bundle], tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundles["imitation"].path, copy)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{re.escape(name)} does not match its SHA-256"):
        Bundle.load(copy)


def test_the_readmes_examples_are_true(bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    for bundle in bundles.values():
        text = (bundle.path / "README.md").read_text()
        request = json.loads(re.search(r"-d '(\{.*\})'", text).group(1))
        sizes = {name: len(values) for name, values in request["observation"].items()}
        assert sizes == {field.name: field.size for field in bundle.contract.observation}
        assert request["observation"]["projected_gravity"][2] < -0.9
        snippet = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[-1]
        monkeypatch.chdir(bundle.path)
        names: dict = {}
        exec(snippet, names)
        assert names["action"].shape == (1, 12)


def test_a_wrong_graph_is_found_out_and_nothing_is_written(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_wrong(served: ServedPolicy, path: Path) -> None:
        write_onnx(served, path)
        model = onnx.load(path)
        weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.01), weights.name))
        onnx.save(model, path)

    out = tmp_path / "final_model"
    first = export_policy(checkpoints["imitation"], out, "pidog-run", verification=QUICK)
    monkeypatch.setattr("trainables.export.bundle.write_onnx", write_wrong)
    with pytest.raises(GaitwayError, match="ONNX Runtime and torch differ by"):
        export_policy(checkpoints["imitation"], out, "pidog-run", verification=QUICK)
    assert Bundle.load(out).digest == first.digest
    assert [path.name for path in tmp_path.iterdir()] == ["final_model"]


def test_weights_that_are_not_finite_are_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    policy, metadata = load_policy(checkpoints["imitation"])
    with torch.no_grad():
        policy.network[-1].bias[0] = float("nan")
    save_policy(policy, tmp_path / "broken", {key: metadata[key] for key in ("task", "task_config")})
    with pytest.raises(GaitwayError, match=r"network\.4\.bias holds NaN or infinity: the training that wrote it has diverged"):
        export_policy(tmp_path / "broken", tmp_path / "out", "pidog-run", verification=QUICK)
    assert not (tmp_path / "out").exists()


def test_exporting_again_replaces_whole_and_clears_what_a_killed_attempt_left(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "final_model"
    (tmp_path / ".final_model.partial-999999").mkdir()
    first = export_policy(checkpoints["imitation"], out, "pidog-run", verification=QUICK)
    (out / "stale.txt").write_text("from an older layout")
    bundle = export_policy(checkpoints["imitation"], out, "pidog-run", verification=QUICK)
    assert Bundle.load(out).digest == bundle.digest != first.digest
    assert [path.name for path in tmp_path.iterdir()] == ["final_model"]


def test_a_folder_of_something_else_is_left_alone(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(GaitwayError, match="is there and is no bundle"):
        export_policy(checkpoints["imitation"], tmp_path, "pidog-run", verification=QUICK)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_parity_would_catch_a_lost_state(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """The recurrent state counts: against a policy whose state decays differently the check fails."""
    policy, metadata = load_policy(checkpoints["lstm"])
    task = make_task("pidog_run", 1)
    task.close()
    write_onnx(ServedPolicy(policy, task.action_scaling), tmp_path / "policy.onnx")
    policy.cell.weight_hh_l0.data.mul_(1.5)
    with pytest.raises(GaitwayError, match="differ"):
        check_parity(
            ServedPolicy(policy, task.action_scaling),
            tmp_path / "policy.onnx",
            "pidog_run",
            metadata["task_config"],
            observations=64,
            tolerance_rad=1e-5,
            seed=0,
        )


def test_stage_places_each_bundle(checkpoints: dict[str, Path], settings: Settings, tmp_path: Path) -> None:
    config = parse_config({"policies": {"imitation": None, "rl": None}, "verification": QUICK.model_dump()}, export.Config)
    evaluation = {"rl": {"forward_velocity_m_s": {"mean": 0.2, "ci95": [0.19, 0.21], "iqm": 0.2}}}
    context = StageContext(
        folder=tmp_path,
        settings=settings,
        progress=Progress(mode="quiet"),
        results={
            "imitate": {"checkpoint": str(checkpoints["imitation"])},
            "sweep": {"checkpoint": str(checkpoints["imitation"])},
            "evaluate": {"policies": evaluation},
        },
    )
    result = export.run(config, context)
    assert json.loads(json.dumps(result)) == result
    assert result["bundles"] == {"imitation": str(tmp_path / "imitation_model" / "bundle"), "rl": str(tmp_path / "final_model")}
    for name, folder in result["bundles"].items():
        assert Bundle.load(Path(folder)).digest == result["digests"][name]
    assert "| forward velocity, m/s | 0.2 [0.19, 0.21] | 0.2 |" in (tmp_path / "final_model" / "card.md").read_text()


def test_commit_is_marked_when_the_tree_was_changed_and_empty_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_commit(tmp_path) == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    commit = git_commit(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{40}", commit)
    (tmp_path / "file").write_text("2")
    assert git_commit(tmp_path) == f"{commit}-dirty"
    monkeypatch.setenv("PATH", os.devnull)
    assert git_commit(tmp_path) == ""


def test_the_session_of_a_bundle_takes_any_batch(bundles: dict[str, Bundle]) -> None:
    session = onnxruntime.InferenceSession(str(bundles["imitation"].onnx_path), providers=["CPUExecutionProvider"])
    for batch in (1, 3, 64):
        assert session.run(["action"], {"observation": np.zeros((batch, 50), np.float32)})[0].shape == (batch, 12)
