"""What is to be trained on what: the driver settles it once, the workers and the trials of a sweep are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cluster.errors import GaitwayError
from cluster.lerobot.features import Feature
from cluster.lerobot.info import DatasetInfo
from cluster.lerobot.split import split_episodes
from cluster.settings import Settings
from trainables.datasets.frames import INDEX_COLUMNS
from trainables.envs.robot_task import ActionScaling
from trainables.imitation.config import ImitationConfig, LstmConfig, SensingConfig
from trainables.imitation.fitting import Moments
from trainables.imitation.frames import Frames
from trainables.imitation.interface import check_features, has_task, recorded_interface, task_interface
from trainables.imitation.survey import Spread, survey
from trainables.networks.interface import PolicyInterface

__all__ = ["TrainSpec", "hold_out", "make_spec"]

VALIDATION_SHARE = 0.2  # of every episode, where no whole episode can be held out
VALIDATION_EPISODES = 0.1  # of the episodes, where the dataset does not say which


@dataclass(frozen=True, eq=False)
class TrainSpec:
    """What the driver tells the workers beside the frames."""

    config: ImitationConfig
    interface: PolicyInterface
    train_episodes: tuple[int, ...]
    validation_episodes: tuple[int, ...]
    """Empty for a dataset of one episode: its last part is held out."""
    moments: Moments
    """Of the training split's observations."""
    features: Mapping[str, Feature]
    """Of the columns that are read."""
    streamed: bool = False

    @property
    def scaling(self) -> ActionScaling:
        """Of the actions."""
        return self.interface.scaling

    @property
    def fields(self) -> dict[str, slice]:
        """Where each observation field lies in the flat vector."""
        return self.interface.fields

    @property
    def sides(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Features that make the observation, and the action."""
        return self.interface.observation_features, self.interface.action_features

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns to read."""
        return tuple(dict.fromkeys((*self.sides[0], *self.sides[1], *INDEX_COLUMNS)))

    def with_config(self, config: ImitationConfig) -> TrainSpec:
        """The same data under another configuration, as the trials of a sweep have.

        Raises:
            GaitwayError: it would make other data of them.
        """
        for name in ("dataset", "observations", "actions", "normalisation", "action_margin", "robot"):
            if getattr(config, name) != getattr(self.config, name):
                raise GaitwayError(
                    f"imitation.{name} says what the data are and is the same for all trials; leave it out of the search space"
                )
        return replace(self, config=config)


def make_spec(config: ImitationConfig, info: DatasetInfo, settings: Settings) -> TrainSpec:
    """Settle everything, after reading every number once and checking that dataset, robot and configuration fit together.

    Raises:
        GaitwayError: one line that says what does not fit; nothing has been started.
    """
    names = check_features(config, info)
    splits = _splits(config, info)
    interface = task_interface(info) if has_task(info) else None
    if interface is not None:
        _check_fields(config, interface)
    spreads = survey(info, list(dict.fromkeys((*names[0], *names[1]))), splits["train"], settings)
    if interface is None:
        interface = recorded_interface(config, info, spreads)
        _check_fields(config, interface)
    spec = TrainSpec(
        config,
        interface,
        splits["train"],
        splits.get("validation", ()),
        _moments(spreads, names[0]),
        {name: info.features[name] for name in (*names[0], *names[1])},
    )
    return replace(spec, streamed=_is_streamed(config, info, spec))


def hold_out(frames: Frames, spec: TrainSpec) -> tuple[Frames, Frames]:
    """Frames to train on and to validate on."""
    if spec.validation_episodes:
        return frames.of_episodes(spec.train_episodes), frames.of_episodes(spec.validation_episodes)
    return frames.cut(VALIDATION_SHARE)


def _splits(config: ImitationConfig, info: DatasetInfo) -> dict[str, tuple[int, ...]]:
    """Episodes by side. Raises ``GaitwayError`` where nothing is left to train on or to validate with."""
    splits = info.splits
    if not splits.get("validation") and info.num_episodes > 1:
        tasks = [episode.tasks[0] if episode.tasks else "" for episode in info.episodes]
        positions = split_episodes(tasks, VALIDATION_EPISODES, config.seed)
        splits = {name: tuple(info.episodes[index].index for index in indices) for name, indices in positions.items()}
    lengths = {episode.index: episode.length for episode in info.episodes}
    if not splits.get("train"):
        raise GaitwayError(f"{info.path}: its split holds no episode to train on, of {info.num_episodes}; prepare the dataset again")
    if unknown := sorted({index for side in splits.values() for index in side} - set(lengths)):
        raise GaitwayError(f"{info.path}: its split names the episode {unknown[0]}, which is not there; it has {info.num_episodes}")
    frames = sum(lengths[index] for index in splits["train"])
    if frames < (2 if splits.get("validation") else 5):
        raise GaitwayError(f"{info.path}: {frames} frames in {len(splits['train'])} episode to train on are too few; record more episodes")
    return splits


def _check_fields(config: ImitationConfig, interface: PolicyInterface) -> None:
    """Raise ``GaitwayError`` for an observation field that the configuration names and the interface has not."""
    of = "the recording" if interface.is_recorded else f"the task {interface.task}"
    fields = interface.fields
    for name in config.models:
        model = getattr(config, name)
        wanted = (model.exact_fields or ()) if isinstance(model, SensingConfig) else (model.input_field,)
        if unknown := [field for field in wanted if field not in fields]:
            hint = "; it reads a command, so leave it out of models" if isinstance(model, LstmConfig) and interface.is_recorded else ""
            raise GaitwayError(f"imitation: {name}: {of} has no observation field {unknown[0]!r}; it has: {', '.join(fields)}{hint}")
    if config.algorithm == "dagger" and interface.is_recorded:
        raise GaitwayError("imitation: dagger asks an expert on a simulated task, and a recording has none; use algorithm: bc")


def _is_streamed(config: ImitationConfig, info: DatasetInfo, spec: TrainSpec) -> bool:
    mode = config.streaming.mode
    size_gb = 4e-9 * info.num_frames * (spec.interface.observation_size + spec.interface.action_size)
    streamed = mode == "always" or (mode == "auto" and size_gb > config.streaming.memory_gb)
    if streamed and not spec.validation_episodes:
        raise GaitwayError(f"{info.path}: streaming needs an episode to validate on, and there is only one")
    if streamed and config.algorithm == "dagger":
        raise GaitwayError(
            f"imitation: dagger holds its data in memory, and {info.path} has {size_gb:.1f} GB; "
            "raise streaming.memory_gb or use algorithm: bc"
        )
    return streamed


def _moments(spreads: Mapping[str, Spread], names: tuple[str, ...]) -> Moments:
    parts = [spreads[name].statistics for name in names]
    mean, std = (np.concatenate([np.asarray(getattr(part, label), np.float64).ravel() for part in parts]) for label in ("mean", "std"))
    return mean, std**2, parts[0].count
