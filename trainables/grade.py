"""Stage ``grade``: every episode of a dataset gets a letter and its reasons; the grade is kept with the dataset's digest.

    python -m trainables.grade configs/datasets/grade.yaml --set dataset=kitchen --set min_grade=B

``gaitway dataset grade`` is the same without a run folder, or this stage as a Ray job.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from cluster.config import Config as BaseConfig
from cluster.stage import StageContext, stage_main
from trainables.datasets.quality.config import QualityConfig

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.settings import Settings
    from trainables.datasets.quality.model import DatasetGrade

__all__ = ["Config", "check", "grade_dataset", "run"]


class Config(BaseConfig):
    """Configuration of the stage ``grade``."""

    dataset: str | None = Field(
        None, description="a dataset's name, name/v2, or a file or folder in any known format; None: of the stage prepare or collect"
    )
    format: str | None = Field(None, description="its format; None: recognised")
    mapping: Path | None = Field(None, description="topics and fields of an MCAP file or ROS bag; None: of our own exports")
    robot: str = Field("", description="robot whose joints the actions must be and whose limits hold; empty: as the dataset says")
    limits: Path | None = Field(None, description="YAML of joint: [low, high] in the dataset's unit; None: of the robot, else none")
    min_grade: Literal["A", "B", "C", "D"] | None = Field(None, description="fail, with exit code 1, below this grade; None: never")
    html: Path | None = Field(None, description="file of the page; None: quality.html in the run folder")
    quality: QualityConfig = Field(default_factory=QualityConfig, description="thresholds of every check")


def check(config: Config) -> None:
    """Open the dataset and the limits, so that what cannot be read is refused before anything is made."""
    from cluster.settings import Settings

    if config.dataset:
        _open(config, Settings.from_environment())
    _limits(config)


def run(config: Config, context: StageContext) -> dict[str, Any]:
    """Grade, keep the grade, write ``<run>/quality.json`` and the page.

    Returns:
        ``dataset``, ``digest``, ``letter``, ``episodes`` (by letter), ``affected`` (check -> episodes), ``grade`` (file), ``html`` (file).

    Raises:
        GaitwayError: the dataset cannot be read, or is below ``min_grade``; everything is written then too.
    """
    from cluster.config import write_text_atomic
    from cluster.errors import GaitwayError
    from trainables.datasets.quality.text import below

    if config.dataset is None:
        stage = "prepare" if "prepare" in context.results else "collect"
        config = config.model_copy(update={"dataset": context.result(stage, "dataset")})
    html = config.html or context.folder / "quality.html"
    grade = grade_dataset(config, context.settings, context.progress, html)
    path = context.folder / "quality.json"
    write_text_atomic(path, grade.model_dump_json(indent=1) + "\n")
    if config.min_grade and (problem := below(grade, config.min_grade)):
        raise GaitwayError(problem)
    return {
        "dataset": grade.dataset,
        "digest": grade.digest,
        "letter": grade.letter,
        "episodes": grade.letters(),
        "affected": grade.affected,
        "grade": str(path),
        "html": str(html),
    }


def grade_dataset(config: Config, settings: Settings, progress: Progress, html: Path | None) -> DatasetGrade:
    """Grade what ``config`` names, keep the grade with its digest, and write the page where one is asked for.

    Raises:
        GaitwayError: the dataset cannot be read, or the page cannot be written.
    """
    from trainables.datasets.quality.grading import grade_with_coverage
    from trainables.datasets.quality.store import save_grade

    source = _open(config, settings)
    graded = grade_with_coverage(source, config.quality, settings, progress, config.robot, _limits(config))
    save_grade(settings, graded.grade)
    if html is not None:
        from trainables.datasets.quality.html import write_page

        write_page(graded, source, html)
    return graded.grade


def _open(config: Config, settings: Settings) -> Any:
    from trainables.datasets.catalogue import find_dataset
    from trainables.datasets.sources.detect import open_source

    assert config.dataset is not None
    path = Path(config.dataset)
    if not path.exists():
        path = find_dataset(settings, config.dataset)
    return open_source(path.resolve(), config.format, config.mapping)


def _limits(config: Config) -> dict[str, tuple[float, float]] | None:
    from trainables.datasets.quality.limits import read_limits

    return read_limits(config.limits) if config.limits else None


if __name__ == "__main__":
    stage_main("trainables.grade")
