"""Stage ``prepare``: recordings in any format become one dataset: read, checked, filtered by grade, augmented, written.

    python -m trainables.prepare CONFIG.yaml --set sources='[{dataset: FOLDER}]' --set name=kitchen

``gaitway dataset import | filter | augment`` are this stage with a configuration of a few lines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import Config as BaseConfig
from cluster.stage import StageContext, stage_main
from trainables.datasets.augmentation.config import AugmentationConfig
from trainables.datasets.quality.config import QualityConfig

__all__ = ["Config", "SourceConfig", "check", "run"]


class SourceConfig(BaseConfig):
    """One thing to read."""

    dataset: str | None = Field(
        None,
        description="a dataset's name (its latest version), name/v2, or a file or folder in any known format; None: of the stage collect",
    )
    format: str | None = Field(None, description="its format; None: recognised")
    mapping: Path | None = Field(None, description="topics and fields of an MCAP file or ROS bag; None: of our own exports")
    fps: int | None = Field(None, ge=1, description="frames a second, where the format does not record them")
    episodes: tuple[int, ...] | None = Field(None, description="only these episodes of a LeRobot folder; None: all")


class Config(BaseConfig):
    """Configuration of the stage ``prepare``."""

    sources: tuple[SourceConfig, ...] = Field(
        (SourceConfig(),), min_length=1, description="what to read, in order; all must have the same features and rate"
    )
    name: str | None = Field(None, description="keep the result as a version of this named dataset; None: in the run folder")
    robot: str = Field("", description="robot whose joints the actions must be; empty: not checked")
    task: str | None = Field(None, description="what was attempted, for every episode; None: as recorded")
    units: dict[str, str] = Field(default_factory=dict, description="unit by feature, where the source does not say")
    leave_out: tuple[str, ...] = Field((), description="features that are not taken over, such as images")
    min_grade: Literal["A", "B", "C", "D"] | None = Field(None, description="keep episodes of this grade or better; None: all")
    quality: QualityConfig = Field(default_factory=QualityConfig, description="thresholds of the grades")
    augmentation: AugmentationConfig | None = Field(None, description="changed copies of the training episodes; None: none")
    validation_fraction: float | None = Field(
        None, ge=0, lt=1, description="share of each task's episodes held out; None: as recorded, a tenth where nothing is"
    )
    seed: int = Field(0, ge=0, description="of every random draw; the same seed gives the same digest")

    @field_validator("name")
    @classmethod
    def _name(cls, name: str | None) -> str | None:
        from cluster.errors import UsageError
        from trainables.datasets.versions import check_name

        if name is not None:
            try:
                check_name(name)
            except UsageError as error:
                raise ValueError(str(error)) from None
        return name

    @model_validator(mode="after")
    def _own(self) -> Config:
        if "action" in self.leave_out or "timestamp" in self.leave_out:
            raise ValueError("leave_out: action and timestamp are part of every dataset")
        return self


def check(config: Config) -> None:
    """Open every source, so that one that cannot be read is refused before anything is started."""
    from cluster.settings import Settings
    from trainables.datasets.preparation import open_sources

    if all(source.dataset for source in config.sources):
        open_sources(config, Settings.from_environment())


def run(config: Config, context: StageContext) -> dict[str, Any]:
    """Write the dataset to ``<run>/data/`` (beside what the stage collect made: ``<run>/prepared_data/``) or as a named one's next version.

    Returns:
        ``dataset`` (folder), ``digest``, ``episodes``, ``frames``, ``dropped`` (key of the episode -> why), ``missing_videos``; of a named
        dataset also ``version`` (``name/v2``) and ``is_new``.

    Raises:
        GaitwayError: a source cannot be read, the sources do not fit together, or nothing is left.
    """
    from trainables.datasets.preparation import prepare

    return prepare(config, context)


if __name__ == "__main__":
    stage_main("trainables.prepare")
