from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.bundle import MANIFEST_FILE, Bundle, seal, verify
from cluster.contract import PolicyContract, TensorField
from cluster.errors import BundleError

FIELD = TensorField(name="joint_position_rad", shape=(2,), unit="rad")


def make(folder: Path) -> str:
    folder.mkdir(parents=True)
    (folder / "policy.onnx").write_bytes(bytes(range(256)))
    (folder / "card.md").write_text("# A card\n")
    (folder / "figures").mkdir()
    (folder / "figures" / "latency.json").write_text("{}")
    contract = PolicyContract(policy="pidog-run", robot="pidog", task="pidog_run", control_dt_s=0.02, observation=(FIELD,), action=(FIELD,))
    contract.save(folder / "contract.json")
    return seal(folder)


def test_a_sealed_bundle_loads_with_its_digest(tmp_path: Path) -> None:
    digest = make(tmp_path / "bundle")
    bundle = Bundle.load(tmp_path / "bundle", expected_digest=digest)
    assert (bundle.digest, bundle.contract.policy) == (digest, "pidog-run")
    assert seal(tmp_path / "bundle") == digest
    assert make(tmp_path / "other") == digest


def test_another_digest_than_the_registered_one_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "bundle")
    with pytest.raises(BundleError, match="is not the registered 000000000000"):
        Bundle.load(tmp_path / "bundle", expected_digest="0" * 64)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("flip") / "bundle"
    digest = make(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    target = data.draw(st.sampled_from(files))
    content = bytearray(target.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    target.write_bytes(bytes(content))
    with pytest.raises(BundleError):
        Bundle.load(folder, expected_digest=digest)


@pytest.mark.parametrize("name", ["policy.onnx", "contract.json", "card.md", "figures/latency.json", MANIFEST_FILE])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    make(tmp_path / "bundle")
    (tmp_path / "bundle" / name).unlink()
    with pytest.raises(BundleError, match=name):
        verify(tmp_path / "bundle")


def test_a_file_that_nobody_listed_is_named(tmp_path: Path) -> None:
    make(tmp_path / "bundle")
    (tmp_path / "bundle" / "figures" / "extra.pkl").write_bytes(b"")
    with pytest.raises(BundleError, match=r"figures/extra\.pkl is not in the manifest"):
        verify(tmp_path / "bundle")


def test_an_incomplete_folder_is_not_sealed(tmp_path: Path) -> None:
    (tmp_path / "policy.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"contract\.json, card\.md"):
        seal(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 3}', "\x00"])
def test_a_manifest_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    make(tmp_path / "bundle")
    (tmp_path / "bundle" / MANIFEST_FILE).write_text(text)
    with pytest.raises(BundleError):
        verify(tmp_path / "bundle")
