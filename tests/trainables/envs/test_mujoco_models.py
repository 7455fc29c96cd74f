"""Our models are Gymnasium's, number by number, though written by us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from trainables.envs.registry import make_task

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
FILES = {
    "HalfCheetah-v5": "half_cheetah",
    "Hopper-v5": "hopper",
    "Walker2d-v5": "walker2d_v5",
    "Ant-v5": "ant",
    "InvertedPendulum-v5": "inverted_pendulum",
    "InvertedDoublePendulum-v5": "inverted_double_pendulum",
    "Reacher-v5": "reacher",
}
LOOKS = ("light_", "mat_", "tex_", "cam_", "numeric_", "name_", "names", "nnames", "nlight", "nmat", "ntex", "nnumeric")
"""What only a picture or a person reads."""
OTHERS = ("geom_rgba", "geom_matid", "geom_user", "nuser_geom", "signature", "nbuffer", "narena", "text_data", "paths")
"""Colours, checksums of the file and sizes of memory."""


def physical_fields(model: mujoco.MjModel) -> dict[str, Any]:
    """Every number of a model that its motion may depend on."""
    fields: dict[str, Any] = {}
    for owner, prefix in ((model, ""), (model.opt, "opt."), (model.stat, "stat.")):
        for name in dir(owner):
            value = getattr(owner, name)
            if not name.startswith(("_", *LOOKS)) and name not in OTHERS and isinstance(value, (int, float, np.ndarray)):
                fields[prefix + name] = np.asarray(value)
    return fields


@pytest.mark.parametrize("name", FILES)
def test_every_physical_number_is_gymnasiums(name: str, mujoco_log: Path):
    task = make_task(name, 1)
    ours = physical_fields(task.physics.model)
    theirs = physical_fields(mujoco.MjModel.from_xml_path(str(ASSETS / f"{FILES[name]}.xml")))
    assert len(ours) > 250
    assert ours.keys() == theirs.keys()
    different = [field for field, value in ours.items() if not np.array_equal(value, theirs[field])]
    assert different == []


@pytest.mark.parametrize("name", FILES)
def test_our_models_compile_without_a_warning_and_name_all_parts(name: str, mujoco_log: Path):
    model = make_task(name, 1).physics.model
    assert not mujoco_log.exists()
    parts = {"body": model.nbody, "joint": model.njnt, "geom": model.ngeom, "actuator": model.nu}
    for kind, count in parts.items():
        assert all(getattr(model, kind)(index).name for index in range(count)), kind
