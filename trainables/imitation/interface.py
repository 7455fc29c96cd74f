"""The interface of what a dataset teaches: its task's, or that of the recording itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from cluster.contract import TensorField
from cluster.errors import GaitwayError
from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from cluster.lerobot.info import DatasetInfo
from trainables.datasets.joints import check_joints
from trainables.envs.registry import make_robot_task
from trainables.imitation.config import ImitationConfig
from trainables.imitation.survey import Spread
from trainables.networks.interface import RECORDED, ObservedRange, PolicyInterface, RecordedScaling
from trainables.networks.policies import RelativeBase
from trainables.robots.registry import ROBOTS

__all__ = ["check_features", "has_task", "recorded_interface", "relative_base", "task_interface"]

CONSTANT = 1e-6
"""Share of a component's size below which its range counts as none: float32 holds about as much."""


def has_task(info: DatasetInfo) -> bool:
    """Whether a dataset's observations and actions are those of a simulated task."""
    return info.gaitway.get("task") not in (None, "", RECORDED)


def check_features(config: ImitationConfig, info: DatasetInfo) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Features that are inputs and outputs, after checking that they are numbers and that the joints are the robot's.

    Raises:
        DatasetError: a feature is not there or is a video, or the joints are not those of the robot.
    """
    names = (("observation.state",), ("action",)) if has_task(info) else (config.observations, config.actions)
    info.check_columns((*names[0], *names[1], "episode_index", "frame_index"))
    robot = robot_of(config, info)
    action = info.features.get("action")
    if robot in ROBOTS and action is not None and action.names:
        check_joints(tuple(info.features.values()), robot, str(info.path))
    return names


def robot_of(config: ImitationConfig, info: DatasetInfo) -> str:
    """Name of the robot as a contract takes it."""
    said = config.robot or str(info.gaitway.get("robot") or info.robot_type)
    return re.sub(r"[^0-9A-Za-z_-]+", "_", said).strip("_") or "robot"


def task_interface(info: DatasetInfo) -> PolicyInterface:
    """Of the simulated task that a dataset was made on.

    Raises:
        GaitwayError: there is no such task, or a column has another size than it wants.
    """
    task_config = info.gaitway.get("task_config") or {}
    task = make_robot_task(info.gaitway["task"], 1, task_config)
    try:
        for column, size in (("observation.state", task.observation_size), ("action", task.action_size)):
            if info.features[column].shape != (size,):
                raise GaitwayError(f"{info.path}: {column} has shape {info.features[column].shape}; the task {task.name} wants ({size},)")
        return PolicyInterface.of_task(task, task_config)
    finally:
        task.close()


def recorded_interface(config: ImitationConfig, info: DatasetInfo, spreads: Mapping[str, Spread]) -> PolicyInterface:
    """Of a recording: its features become contract fields, its training split says how actions are scaled.

    Raises:
        DatasetError: two features would be the same field.
    """
    inputs, outputs = ([info.features[name] for name in names] for names in (config.observations, config.actions))
    offset, scale = (np.concatenate(parts) for parts in zip(*(_scaling(spreads[f.name], config) for f in outputs), strict=True))
    lowest, highest = (_flat(spreads, outputs, name) for name in ("minimum", "maximum"))
    constant = highest - lowest <= CONSTANT * np.maximum(1.0, np.abs(highest))
    # A joint that never moved stays where it was: a scale of nothing would divide by it, one of noise would magnify it.
    offset, scale = np.where(constant, (lowest + highest) / 2, offset), np.where(constant, 1.0, scale)
    margin = config.action_margin * (highest - lowest)
    low, high = lowest - margin, highest + margin
    fields = [_field(feature) for feature in inputs]
    bounds = np.cumsum([feature.size for feature in outputs])[:-1]
    targets = [
        _field(feature, part_low, part_high)
        for feature, part_low, part_high in zip(outputs, np.split(low, bounds), np.split(high, bounds), strict=True)
    ]
    for group in (fields, targets):
        if len({field.name for field in group}) != len(group):
            raise DatasetError(f"{info.path}: two of the features {', '.join(field.name for field in group)} have one name in a contract")
    return PolicyInterface(
        task=RECORDED,
        task_config={},
        robot=robot_of(config, info),
        control_dt_s=1.0 / info.fps,
        observation=tuple(fields),
        action=tuple(targets),
        scaling=RecordedScaling(offset, scale, low, high),
        observed=ObservedRange(*(_flat(spreads, inputs, name) for name in ("mean", "std", "minimum", "maximum"))),
        observation_features=config.observations,
        action_features=config.actions,
        sources={
            "normalisation": config.normalisation,
            "constant": [name for name, still in zip(_components(outputs), constant.tolist(), strict=True) if still],
        },
    )


def relative_base(interface: PolicyInterface) -> RelativeBase | None:
    """Where each action component's present value stands in the observation, by name; None when none is observed.

    ``shoulder_pan.pos`` of the action is found as ``shoulder_pan.pos`` of the observation, in the same unit.
    """
    observed, start = {}, 0
    for field in interface.observation:
        for place, component in enumerate(field.components):
            observed.setdefault((component, field.unit), start + place)
        start += field.size
    wanted = [(name, part.unit) for part in interface.action for name in (part.components or ("",) * part.size)]
    index = [observed.get(name, -1) for name in wanted]
    if all(place < 0 for place in index):
        return None
    offset, scale = interface.scaling.offset, interface.scaling.scale
    return {
        "index": [max(place, 0) for place in index],
        "gain": [float(1.0 / scale[i]) if place >= 0 else 0.0 for i, place in enumerate(index)],
        "bias": [float(-offset[i] / scale[i]) if place >= 0 else 0.0 for i, place in enumerate(index)],
    }


def _scaling(spread: Spread, config: ImitationConfig) -> tuple[np.ndarray, np.ndarray]:
    statistics = spread.statistics
    if config.normalisation == "mean_std":
        return statistics.mean.ravel(), statistics.std.ravel()
    low, high = statistics.minimum.ravel(), statistics.maximum.ravel()
    if config.normalisation == "quantile":
        # Percentiles of a joint that moves in a few frames only can coincide; its range does not.
        moved = spread.high_quantile > spread.low_quantile
        low, high = np.where(moved, spread.low_quantile, low), np.where(moved, spread.high_quantile, high)
    return (low + high) / 2, (high - low) / 2


def _field(feature: Feature, low: Sequence[float] | np.ndarray = (), high: Sequence[float] | np.ndarray = ()) -> TensorField:
    """``observation.state`` becomes ``observation_state``: a contract's names have no dots. Components keep theirs."""
    name = re.sub(r"[^0-9A-Za-z_-]+", "_", feature.name).strip("_") or "feature"
    components = feature.names if feature.names and len(feature.names) == feature.size else ()
    return TensorField(
        name=name,
        shape=(feature.size,),
        unit=feature.unit,
        components=components,
        low=tuple(float(value) for value in low),
        high=tuple(float(value) for value in high),
    )


def _flat(spreads: Mapping[str, Spread], features: Sequence[Feature], name: str) -> np.ndarray:
    return np.concatenate([np.asarray(getattr(spreads[feature.name].statistics, name), dtype=np.float64).ravel() for feature in features])


def _components(features: Sequence[Feature]) -> list[str]:
    return [name for feature in features for name in (feature.names or [f"{feature.name}[{place}]" for place in range(feature.size)])]
