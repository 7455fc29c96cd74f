"""Loading, checking and swapping bundles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.bundle import CONTRACT_FILE, ONNX_FILE, Bundle, seal, verify
from cluster.errors import BundleError
from cluster.runtime.served import ServedArm, ServedComparison, ServedPolicy, ServedState, ServedVersion
from serve_apps.inference.policy_set import load_policies
from serve_apps.inference.session import PolicySession


def state(versions: dict[str, Path], default: str = "1", comparison: ServedComparison | None = None) -> ServedState:
    served = {number: ServedVersion(bundle=path, digest=verify(path)) for number, path in versions.items()}
    return ServedState(policies={"pidog-run": ServedPolicy(versions=served, default_version=default, comparison=comparison)})


def test_a_session_gives_what_the_graph_computes(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    session = PolicySession(Bundle.load(make_bundle(tmp_path / "b", gain=2.0)))
    observation = np.arange(12, dtype=np.float32).reshape(2, 6)
    action, following = session.run(observation)
    np.testing.assert_array_equal(action, 2.0 * observation[:, :2])
    assert following == {}


def test_recurrent_state_starts_at_zero_and_is_carried(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    session = PolicySession(Bundle.load(make_bundle(tmp_path / "b", recurrent=True)))
    observation, carried = np.zeros((1, 6), dtype=np.float32), None
    for step in range(3):
        action, carried = session.run(observation, carried)
        np.testing.assert_array_equal(action, [[step, step]])


def test_a_changed_bundle_is_refused(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle(tmp_path / "b")
    wanted = state({"1": folder})
    graph = bytearray((folder / ONNX_FILE).read_bytes())
    graph[-5] ^= 1
    (folder / ONNX_FILE).write_bytes(graph)
    with pytest.raises(BundleError, match=r"policy\.onnx does not match its SHA-256"):
        load_policies(wanted)
    seal(folder)  # consistent again, but not what was registered
    with pytest.raises(BundleError, match="is not the registered"):
        load_policies(wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda contract: contract["observation"].append({"name": "more", "shape": [1]}), "does not run"),
        (lambda contract: contract["action"][0].update(shape=[3]), "action has shape"),
        (lambda contract: contract.update(state=[{"name": "count", "shape": [1]}]), "wants inputs"),
    ],
)
def test_a_graph_that_contradicts_its_contract_is_refused(
    tmp_path: Path, make_bundle: Callable[..., Path], change: Callable[[Any], None], message: str
) -> None:
    folder = make_bundle(tmp_path / "b")
    contract = json.loads((folder / CONTRACT_FILE).read_text())
    change(contract)
    (folder / CONTRACT_FILE).write_text(json.dumps(contract))
    seal(folder)
    with pytest.raises(BundleError, match=message):
        PolicySession(Bundle.load(folder))


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle(tmp_path / "b")
    (folder / ONNX_FILE).write_bytes(b"not a graph")
    seal(folder)
    with pytest.raises(BundleError, match="does not load"):
        PolicySession(Bundle.load(folder))


def test_versions_that_share_traffic_must_be_exchangeable(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    one, other = make_bundle(tmp_path / "1"), make_bundle(tmp_path / "2", observation={"gravity": 3, "joint_position_rad": 3})
    with pytest.raises(BundleError, match="differ in observation"):
        load_policies(state({"1": one, "2": other}))
    foreign = make_bundle(tmp_path / "3", policy="duck-run")
    with pytest.raises(BundleError, match="is a version of the policy 'duck-run'"):
        load_policies(state({"1": foreign}))


def test_a_change_reuses_sessions_and_retires_one_generation(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    one, two, three = (make_bundle(tmp_path / str(k), gain=k) for k in (1, 2, 3))
    first = load_policies(state({"1": one, "2": two}))
    second = load_policies(state({"2": two, "3": three}, default="2"), first)
    before, after = first.policies["pidog-run"], second.policies["pidog-run"]
    assert after.versions["2"] is before.versions["2"]
    assert after.session("1") is before.versions["1"]
    third = load_policies(state({"3": three}, default="3"), second).policies["pidog-run"]
    assert third.session("1") is None
    assert third.session("2") is before.versions["2"]
    assert first.generation != second.generation
    assert load_policies(state({"1": one, "2": two})).generation == first.generation


def test_an_arm_is_drawn_by_weight_and_logged_with_its_propensity(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    one, two = make_bundle(tmp_path / "1"), make_bundle(tmp_path / "2", gain=2)
    arms = (ServedArm(name="champion", version="1", weight=9), ServedArm(name="challenger", version="2", weight=1))
    comparison = ServedComparison(id="c", salt="s", arms=arms)
    policy = load_policies(state({"1": one, "2": two}, comparison=comparison)).policies["pidog-run"]
    drawn = [policy.assign(f"e{k}") for k in range(4000)]
    challengers = [item for item in drawn if item.arm == "challenger"]
    assert abs(len(challengers) / 4000 - 0.1) < 4 * (0.1 * 0.9 / 4000) ** 0.5
    assert {(item.version, item.comparison_id, item.propensity) for item in challengers} == {("2", "c", 0.1)}
    assert drawn == [policy.assign(f"e{k}") for k in range(4000)]
