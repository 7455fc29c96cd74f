"""One pass over a dataset's frames: Ray Data tasks measure episodes, the driver compares them and gives the letters.

A task holds one piece's episode under way and returns a few kilobytes an episode; the driver holds those rows. So memory does not grow
with the frames. A small source is read here and now: a few seconds of work need no cluster.
"""

from __future__ import annotations

import math
import os
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from cluster.lerobot.episodes import Episode
from cluster.lerobot.errors import DatasetError
from cluster.progress import Progress
from cluster.runtime.session import is_ray_up, ray_session
from cluster.settings import Settings
from trainables.datasets.pipeline import own_errors, piece_rows
from trainables.datasets.quality.across import compare_episodes
from trainables.datasets.quality.config import QualityConfig
from trainables.datasets.quality.coverage import Coverage, cover
from trainables.datasets.quality.limits import find_limits
from trainables.datasets.quality.measure import EpisodeRow, Ruler
from trainables.datasets.quality.model import DatasetGrade, EpisodeGrade, Finding, dataset_letter, episode_letter
from trainables.datasets.quality.scales import probe
from trainables.datasets.quality.signals import find_signals
from trainables.datasets.quality.whole import dataset_findings, dataset_measures
from trainables.datasets.sources.base import Piece, Source
from trainables.datasets.sources.lerobot import LeRobotSource

__all__ = ["Graded", "grade_source", "grade_with_coverage"]

STATES_KEPT = 2**18
"""States that all rows together keep for the coverage, about."""
INLINE_FRAMES = 100_000
"""So many frames are measured in this process: a Ray that is up has work for its other cores only with more."""
STARTING_FRAMES = 2_000_000
"""What one core measures while a Ray that is not up, its workers and Ray Data start: 8 to 15 s, at 130,000 to 250,000 frames a second
(two machines, 2 cores). Only what the other cores would save beyond that makes up for starting one."""


@dataclass(frozen=True)
class Graded:
    """A grade and what its page shows beside it."""

    grade: DatasetGrade
    coverage: Coverage
    config: QualityConfig


def grade_source(
    source: Source,
    config: QualityConfig | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    robot: str = "",
    limits: Mapping[str, tuple[float, float]] | None = None,
) -> DatasetGrade:
    """Grade every episode of a source and the whole.

    Args:
        source: what to grade; its files must be visible to every node.
        config: thresholds; None: the published ones.
        settings: where Ray is; None: from the environment.
        progress: where to report; None: nowhere.
        robot: whose joints the actions must be and whose limits hold; empty: as the dataset says.
        limits: entries of a limits file (``limits.read_limits``), by component or joint.

    Raises:
        DatasetError: nothing can be read, or there is neither state nor action.
    """
    settings, progress = settings or Settings.from_environment(), progress or Progress(mode="quiet")
    return grade_with_coverage(source, config or QualityConfig(), settings, progress, robot, limits).grade


def grade_with_coverage(
    source: Source,
    config: QualityConfig,
    settings: Settings,
    progress: Progress,
    robot: str,
    limits: Mapping[str, tuple[float, float]] | None,
) -> Graded:
    """As ``grade_source``, with the states that the page draws."""
    robot = robot or str(source.gaitway.get("robot") or source.robot_type)
    signals = find_signals(source.features, str(source.path))
    state_limits, action_limits = find_limits(signals, robot, source.gaitway.get("contract"), limits)
    narrow = _numbers_only(source)
    scales = probe(narrow, signals, state_limits, action_limits)
    pieces = list(narrow.pieces())
    episodes = sum(len(piece.episodes) for piece in pieces)
    kept = int(np.clip(STATES_KEPT // max(1, episodes), 4, 32)) if episodes else 16
    ruler = Ruler(signals, scales, state_limits, action_limits, source.fps, kept, config)
    rows: list[EpisodeRow] = []
    with progress.task("grade", float(sum(piece.frames for piece in pieces)) or None, "frames") as task:
        frames = 0
        for some in _measured(narrow, pieces, ruler, settings):
            rows += some
            frames += sum(row.frames for row in some)
            task.update(float(frames))
        rows.sort(key=lambda row: row.key)
        if not any(not row.problem for row in rows):
            raise DatasetError(rows[0].problem if rows else f"{source.path}: there are no episodes")
        compare_episodes(rows, signals, source.fps, config)
        coverage = cover(rows, config)
        whole = dataset_findings(rows, signals, source.features, robot, str(source.path), coverage.measures, config)
        graded = tuple(_episode_grade(row, place) for place, row in enumerate(rows))
        defects = tuple(finding for finding in whole if finding.severity == "defect")
        risks = tuple(finding for finding in whole if finding.severity == "risk")
        letter = dataset_letter([episode.letter for episode in graded], config.dataset_share, len(defects), len(risks))
        task.update(float(frames), message=f"grade {letter}")
    known = [(channel, found) for channel, found in ((signals.state, state_limits), (signals.action, action_limits)) if channel and found]
    grade = DatasetGrade(
        dataset=str(source.path),
        digest=getattr(source, "digest", None),
        robot=robot,
        fps=source.fps,
        frames=frames,
        letter=letter,
        defects=defects,
        risks=risks,
        measures=_finite({**dataset_measures(rows), **coverage.measures}),
        affected=dict(Counter(check for episode in graded for check in {item.check for item in (*episode.defects, *episode.risks)})),
        limits={name: where for channel, found in known for name, where in zip(channel.names, found.sources, strict=True) if where},
        episodes=graded,
    )
    return Graded(grade, coverage, config)


def _measured(source: Source, pieces: Sequence[Piece], ruler: Ruler, settings: Settings) -> Iterator[list[EpisodeRow]]:
    """Some rows at a time as they come, in no order."""
    if _is_small(pieces, settings):
        yield from ([row] for piece in pieces for row in measure_piece(source, piece, ruler))
        return
    with ray_session(settings), own_errors():

        def measure(batch: pa.Table) -> Iterator[pa.Table]:
            for number in batch["piece"].to_pylist():
                rows = [pickle.dumps(row) for row in measure_piece(source, pieces[number], ruler)]
                yield pa.table({"row": pa.array(rows, pa.large_binary())})

        measured = piece_rows(len(pieces)).map_batches(measure, batch_format="pyarrow", batch_size=1, num_cpus=1)
        for batch in measured.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield [pickle.loads(item) for item in batch["row"].to_pylist()]


def _is_small(pieces: Sequence[Piece], settings: Settings) -> bool:
    """Whether this process alone is done sooner. Where a source does not know its frames beforehand, one piece counts as small."""
    if len(pieces) > 1 and not all(piece.frames for piece in pieces):
        return False
    frames = sum(piece.frames for piece in pieces)
    if frames <= INLINE_FRAMES or is_ray_up(settings):
        return frames <= INLINE_FRAMES
    return frames * (1 - 1 / (os.cpu_count() or 1)) <= STARTING_FRAMES


def measure_piece(source: Source, piece: Piece, ruler: Ruler) -> Iterator[EpisodeRow]:
    """Rows of a piece's episodes. One that cannot be read has a row that says why; the others of its file are still measured."""
    seen: set[str] = set()
    try:
        for episode in source.read(piece):
            seen.add(episode.key)
            yield _measure(episode, ruler)
    except DatasetError as error:
        missing = [number for number in piece.episodes if _key(number) not in seen]
        if not isinstance(source, LeRobotSource) or not piece.episodes:
            yield EpisodeRow(f"{piece.file.name}:{len(seen)}", problem=str(error))
            return
        if len(missing) == 1:
            yield EpisodeRow(_key(missing[0]), problem=str(error))
            return
        for number in missing:
            yield from measure_piece(source, Piece(piece.file, (number,)), ruler)


def _measure(episode: Episode, ruler: Ruler) -> EpisodeRow:
    try:
        return ruler.measure(episode)
    except KeyError as error:
        return EpisodeRow(episode.key, episode.task, problem=f"episode {episode.key}: has no column {error}")


def _key(number: int) -> str:
    """As ``LeRobotSource`` has it."""
    return f"{number:07d}"


def _numbers_only(source: Source) -> Source:
    """Without images, which nothing here looks at and which are most of the bytes; only our own reader leaves columns out."""
    if not isinstance(source, LeRobotSource):
        return source
    return replace(source, features=tuple(feature for feature in source.features if not feature.is_visual))


def _episode_grade(row: EpisodeRow, place: int) -> EpisodeGrade:
    index = int(row.key) if row.key.isdigit() else place
    if row.problem:
        finding = Finding(check="unreadable", severity="defect", text=row.problem)
        return EpisodeGrade(key=row.key, index=index, task=row.task, letter="F", defects=(finding,))
    defects = tuple(finding for finding in row.findings if finding.severity == "defect")
    risks = tuple(finding for finding in row.findings if finding.severity == "risk")
    letter = episode_letter(len({item.check for item in defects}), len({item.check for item in risks}))
    measures = _finite({"duration_s": row.duration_s, **row.measures})
    return EpisodeGrade(
        key=row.key, index=index, task=row.task, frames=row.frames, letter=letter, defects=defects, risks=risks, measures=measures
    )


def _finite(measures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(f"{value:.6g}") if math.isfinite(value) else None for name, value in measures.items()}
