from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.bundle import MANIFEST_FILE, sha256_file, verify
from cluster.errors import BundleError, StoreError
from cluster.settings import Settings
from cluster.store.registry import delete_alias, get_version, list_policies, list_versions, register_bundle, set_alias
from cluster.store.tracking import start_run

MakeBundle = Callable[..., Path]


def test_versions_count_up_and_load_what_was_registered(mlflow_settings: Settings, policy: str, make_bundle: MakeBundle) -> None:
    with start_run(mlflow_settings, "registry", "export") as run:
        pass
    first = register_bundle(
        mlflow_settings, policy, make_bundle(policy, b"one"), run_id=run.run_id, tags={"source": "imitation", "seed": 3}
    )
    bundle = make_bundle(policy, b"two")
    assert (first, register_bundle(mlflow_settings, policy, bundle)) == (1, 2)
    assert policy in list_policies(mlflow_settings)
    assert [found.version for found in list_versions(mlflow_settings, policy)] == [2, 1]
    found = get_version(mlflow_settings, policy, 2)
    assert (found.digest, found.uri, found.load().contract.policy) == (verify(bundle), f"models:/{policy}/2", policy)
    assert found.path.is_relative_to(mlflow_settings.mlflow_artifact_path)
    found = get_version(mlflow_settings, policy, "1")
    assert (found.tags, found.run_id) == ({"source": "imitation", "seed": "3"}, run.run_id)
    assert found.load().onnx_path.read_bytes() == b"one"


def test_a_registered_version_does_not_need_its_origin(mlflow_settings: Settings, policy: str, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(policy)
    register_bundle(mlflow_settings, policy, bundle)
    shutil.rmtree(bundle)
    assert get_version(mlflow_settings, policy, 1).load().contract.policy == policy


def test_aliases_move(mlflow_settings: Settings, policy: str, make_bundle: MakeBundle) -> None:
    for graph in (b"one", b"two"):
        register_bundle(mlflow_settings, policy, make_bundle(policy, graph))
    set_alias(mlflow_settings, policy, "champion", 1)
    set_alias(mlflow_settings, policy, "@challenger", "2")
    assert [found.aliases for found in list_versions(mlflow_settings, policy)] == [("challenger",), ("champion",)]
    set_alias(mlflow_settings, policy, "champion", "@challenger")
    assert get_version(mlflow_settings, policy, "@champion").version == 2
    assert get_version(mlflow_settings, policy, "champion").aliases == ("challenger", "champion")
    delete_alias(mlflow_settings, policy, "challenger")
    delete_alias(mlflow_settings, policy, "challenger")
    assert get_version(mlflow_settings, policy, 2).aliases == ("champion",)


def test_mlflow_itself_finds_the_version(mlflow_settings: Settings, policy: str, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(policy)
    register_bundle(mlflow_settings, policy, bundle)
    set_alias(mlflow_settings, policy, "champion", 1)
    code = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
for number, uri in enumerate((f"models:/{sys.argv[2]}/1", f"models:/{sys.argv[2]}@champion")):
    print(mlflow.artifacts.download_artifacts(uri, dst_path=f"{sys.argv[3]}/{number}"))
"""
    command = [sys.executable, "-c", code, mlflow_settings.mlflow_tracking_uri, policy, str(tmp_path / "downloads")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=True)
    folders = done.stdout.split()
    assert len(folders) == 2
    for folder in folders:
        assert verify(Path(folder)) == verify(bundle)


def test_the_same_bundle_twice_is_one_version(mlflow_settings: Settings, policy: str, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(policy)
    shutil.copytree(bundle, tmp_path / "copy")
    assert [register_bundle(mlflow_settings, policy, folder) for folder in (bundle, bundle, tmp_path / "copy")] == [1, 1, 1]
    assert len(list_versions(mlflow_settings, policy)) == 1


def test_processes_register_at_once(mlflow_settings: Settings, policy: str, make_bundle: MakeBundle, tmp_path: Path) -> None:
    code = """
import sys
from cluster.settings import Settings
from cluster.store.registry import register_bundle
for bundle in sys.argv[2:]:
    print(register_bundle(Settings.from_environment(), sys.argv[1], bundle))
"""
    shared = make_bundle(policy, b"shared")
    environment = {**os.environ, **mlflow_settings.as_environment()}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, policy, str(shared), str(make_bundle(policy, b"%d" % number))],
            env=environment,
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(3)
    ]
    numbers = []
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert errors == ""
        numbers.append([int(line) for line in output.split()])
    assert len({shared_version for shared_version, _ in numbers}) == 1
    assert len({own for _, own in numbers}) == 3
    versions = list_versions(mlflow_settings, policy)
    assert [found.version for found in versions] == [4, 3, 2, 1]
    for found in versions:
        found.load()


def tamper_graph(folder: Path) -> None:
    (folder / "policy.onnx").write_bytes(b"evil!")


def tamper_contract(folder: Path) -> None:
    text = (folder / "contract.json").read_text()
    (folder / "contract.json").write_text(text.replace("0.02", "0.01"))


def add_file(folder: Path) -> None:
    (folder / "extra.pkl").write_bytes(b"")


def remove_card(folder: Path) -> None:
    (folder / "card.md").unlink()


def reseal_graph(folder: Path) -> None:
    """What somebody does who knows the manifest's format."""
    tamper_graph(folder)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["sha256"]["policy.onnx"] = sha256_file(folder / "policy.onnx")
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


@pytest.mark.parametrize("tamper", [tamper_graph, tamper_contract, add_file, remove_card])
def test_a_tampered_bundle_is_refused_at_registration(
    mlflow_settings: Settings, policy: str, make_bundle: MakeBundle, tamper: Callable[[Path], None]
) -> None:
    bundle = make_bundle(policy)
    tamper(bundle)
    with pytest.raises(BundleError, match="export the bundle again"):
        register_bundle(mlflow_settings, policy, bundle)
    assert list_versions(mlflow_settings, policy) == []


@pytest.mark.parametrize("tamper", [tamper_graph, tamper_contract, add_file, remove_card, reseal_graph])
def test_a_tampered_bundle_is_refused_at_load(
    mlflow_settings: Settings, policy: str, make_bundle: MakeBundle, tamper: Callable[[Path], None]
) -> None:
    register_bundle(mlflow_settings, policy, make_bundle(policy))
    found = get_version(mlflow_settings, policy, 1)
    tamper(found.path)
    with pytest.raises(BundleError):
        found.load()


def test_registering_again_mends_what_was_damaged_in_storage(mlflow_settings: Settings, policy: str, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(policy)
    register_bundle(mlflow_settings, policy, bundle)
    found = get_version(mlflow_settings, policy, 1)
    tamper_graph(found.path)
    assert register_bundle(mlflow_settings, policy, bundle) == 1
    found.load()


def test_a_bundle_for_another_policy_is_refused(mlflow_settings: Settings, policy: str, make_bundle: MakeBundle) -> None:
    with pytest.raises(BundleError, match="duck-walk"):
        register_bundle(mlflow_settings, policy, make_bundle("duck-walk"))


def test_what_is_not_there_is_named_with_what_is(mlflow_settings: Settings, policy: str, make_bundle: MakeBundle) -> None:
    with pytest.raises(StoreError, match=f"no policy '{policy}'"):
        get_version(mlflow_settings, policy, 1)
    register_bundle(mlflow_settings, policy, make_bundle(policy))
    set_alias(mlflow_settings, policy, "champion", 1)
    with pytest.raises(StoreError, match=r"'@challenger'; it has 1, @champion"):
        get_version(mlflow_settings, policy, "@challenger")
    with pytest.raises(StoreError, match="7"):
        set_alias(mlflow_settings, policy, "champion", 7)
    assert list_versions(mlflow_settings, "it's") == []
