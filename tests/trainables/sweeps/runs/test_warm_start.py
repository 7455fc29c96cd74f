"""A sweep that starts from a policy: found by path or by registered version, and resumed where that policy is not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cluster.config import load_config, save_config
from cluster.errors import GaitwayError
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext
from cluster.store.registry import register_bundle
from trainables import sweep
from trainables.export.bundle import export_policy
from trainables.export.config import VerificationConfig
from trainables.networks.checkpoint import save_policy
from trainables.networks.policies import MlpPolicy
from trainables.sweeps.config import SweepConfig
from trainables.sweeps.overview import find_sweep
from trainables.sweeps.records import REPORTS_FILE, read_lines
from trainables.sweeps.warm_start import resolve_warm_start


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Of a pendulum, in an own folder."""
    torch.manual_seed(0)
    folder = tmp_path / "elsewhere_trained"
    save_policy(MlpPolicy(3, 1, hidden=(16,), activation="tanh"), folder, {"task": "gymnasium:Pendulum-v1", "task_config": {}})
    return folder


@pytest.mark.usefixtures("ray_session")
def test_it_is_resumed_where_the_policy_is_not(
    context: StageContext, settings: Settings, s3_url: str, tmp_path: Path, policy: Path, small_sweep: Callable[..., SweepConfig]
) -> None:
    config = small_sweep(storage=s3_url, warm_start=str(policy), ppo={"total_env_steps": 512})
    save_config(config, context.folder / "config.yaml")
    first = sweep.run(config, context)
    assert first["warm_start_max_abs_error"] <= 1e-6
    shutil.rmtree(policy)
    shutil.rmtree(context.folder)

    elsewhere = settings.model_copy(update={"experiments_path": tmp_path / "elsewhere"})
    head, _, query = s3_url.partition("?")
    folder = find_sweep(elsewhere, f"{head}/{context.folder.name}?{query}")
    reports = folder / "rl_model" / REPORTS_FILE
    before = list(read_lines(reports))
    again = StageContext(folder=folder, settings=elsewhere, progress=Progress(mode="quiet"), experiment="sweep-test")
    second = sweep.run(load_config(folder / "config.yaml", SweepConfig), again)
    # It was recognised as the same sweep, whose trials had all ended.
    assert list(read_lines(reports)) == before
    assert (second["best_trial"], second["value"]) == (first["best_trial"], first["value"])

    # The other policy in its place makes it another sweep.
    torch.manual_seed(1)
    save_policy(MlpPolicy(3, 1, hidden=(16,), activation="tanh"), policy, {"task": "gymnasium:Pendulum-v1", "task_config": {}})
    sweep.run(load_config(folder / "config.yaml", SweepConfig), again)
    assert len(list(read_lines(reports))) == len(before)
    assert list(read_lines(reports)) != before


def test_a_registered_version_leads_to_the_policy_that_it_was_exported_from(
    context: StageContext, migrated_home: Path, small_sweep: Callable[..., SweepConfig], tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    quick = VerificationConfig(observations=48, latency_calls=20, physics="fast")
    bundle = export_policy(checkpoints["imitation"], tmp_path / "bundle", "pidog-run", verification=quick)
    register_bundle(context.settings, "pidog-run", bundle.path)
    space = {"clip": {"uniform": [0.1, 0.2]}}

    resolved = resolve_warm_start(small_sweep(warm_start="models:/pidog-run/1", search_space=space), context)
    assert resolved.ppo is not None
    assert resolved.ppo.warm_start == checkpoints["imitation"]
    kept = context.folder / "rl_model" / "warm_start"
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {
        path.name: path.read_bytes() for path in checkpoints["imitation"].iterdir()
    }

    other = StageContext(tmp_path / "other", context.settings, Progress(mode="quiet"))
    for written, told in (
        ("models:/pidog-run@latest", "no version or alias 'latest'"),
        ("models:/pidog-run", "write models:/NAME/VERSION"),
    ):
        with pytest.raises(GaitwayError, match=told):
            resolve_warm_start(small_sweep(warm_start=written, search_space=space), other)
