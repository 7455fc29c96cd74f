from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.contract import PolicyContract, Provenance, TensorField
from cluster.errors import BundleError


def contract(**changes):
    values = {
        "policy": "pidog-run",
        "robot": "pidog",
        "task": "pidog_run",
        "control_dt_s": 0.02,
        "observation": (TensorField(name="joint_position_rad", shape=(12,), unit="rad"), TensorField(name="command", shape=(4,))),
        "action": (TensorField(name="joint_position_target_rad", shape=(12,), unit="rad", low=(-1.0,) * 12, high=(1.0,) * 12),),
    }
    return PolicyContract(**{**values, **changes})


@given(st.lists(st.lists(st.integers(1, 5), min_size=0, max_size=3), min_size=1, max_size=6))
def test_sizes_are_the_sum_of_the_fields(shapes):
    fields = tuple(TensorField(name=f"field_{index}", shape=tuple(shape)) for index, shape in enumerate(shapes))
    total = 0
    for shape in shapes:
        size = 1
        for axis in shape:
            size *= axis
        total += size
    assert contract(observation=fields).observation_size == total


def test_a_saved_contract_loads_equal(tmp_path):
    made = contract(provenance=Provenance(git_commit="abc-dirty", versions={"torch": "2.13.0"}))
    made.save(tmp_path / "contract.json")
    assert PolicyContract.load(tmp_path / "contract.json") == made


def test_interface_ignores_where_a_policy_comes_from():
    assert contract().interface() == contract(provenance=Provenance(run_id="x")).interface()
    assert contract().interface() != contract(control_dt_s=0.01).interface()


@pytest.mark.parametrize(
    "changes",
    [
        {"control_dt_s": 0},
        {"observation": ()},
        {"action": (TensorField(name="a", shape=(1,)), TensorField(name="a", shape=(1,)))},
        {"policy": "../../etc"},
        {"unknown": 1},
    ],
)
def test_a_contract_that_makes_no_sense_is_refused(changes):
    with pytest.raises(ValidationError):
        contract(**changes)


@pytest.mark.parametrize("changes", [{"low": (0.0,)}, {"components": ("x", "y")}, {"shape": (0,)}])
def test_a_field_whose_parts_disagree_is_refused(changes):
    with pytest.raises(ValidationError):
        TensorField(**{"name": "joint", "shape": (12,), **changes})


@pytest.mark.parametrize("text", ["", "{", '{"policy": 1}', "[]", "\ufffd"])
def test_a_damaged_file_is_one_line(tmp_path, text):
    (tmp_path / "contract.json").write_text(text)
    with pytest.raises(BundleError, match=r"contract\.json: not a valid contract") as caught:
        PolicyContract.load(tmp_path / "contract.json")
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_what_a_bundle_holds(tmp_path):
    with pytest.raises(BundleError, match="no contract here"):
        PolicyContract.load(tmp_path / "contract.json")
