"""What a grade is: findings in words, letters by a rule of five lines, all of it JSON-able.

The rule for an episode: **A** nothing found · **B** one or two risks · **C** three risks or more · **D** one defect · **F** two defects
or more, or it cannot be read. A *defect* makes the data wrong and must be fixed or left out; a *risk* may be meant and wants a look.

The rule for a dataset: the best letter that 95 % of its episodes reach; at most **B** with a risk of the dataset as a whole,
at most **D** with a defect of it as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from cluster.config import Config
from cluster.errors import UsageError

__all__ = ["LETTERS", "DatasetGrade", "EpisodeGrade", "Finding", "Letter", "check_letter", "dataset_letter", "episode_letter", "reaches"]

Letter = Literal["A", "B", "C", "D", "F"]
LETTERS: tuple[Letter, ...] = ("A", "B", "C", "D", "F")
"""Best first."""


class Finding(Config):
    """One thing found, in words."""

    check: str = Field(description="name of the check, such as spikes")
    severity: Literal["defect", "risk"] = Field(description="defect: must fix; risk: look at")
    text: str = Field(description="what was found, with its numbers")
    component: str = Field("", description="component of state or action; empty: not of one")
    column: str = Field("", description="feature that the component is of")
    start_s: float | None = Field(None, description="where it begins, seconds from the episode's first frame")
    end_s: float | None = Field(None, description="where it ends")


class EpisodeGrade(Config):
    """One episode."""

    key: str = Field(description="key in its source")
    index: int = Field(description="number in its source")
    task: str = Field("", description="task string")
    frames: int = Field(0, description="number of frames")
    letter: Letter = Field(description="A, B, C, D or F")
    defects: tuple[Finding, ...] = Field((), description="what must be fixed")
    risks: tuple[Finding, ...] = Field((), description="what wants a look")
    measures: dict[str, float | None] = Field(default_factory=dict, description="figures; the unit is the name's suffix; None: undefined")

    @property
    def reason(self) -> str:
        """What was found in one line, defects first; of a kind that several components have, the first."""
        kinds: dict[tuple[str, str], list[str]] = {}
        for finding in (*self.defects, *self.risks):
            kinds.setdefault((finding.check, "" if finding.component else finding.text), []).append(finding.text)
        more = (f"{texts[0]} (and {len(texts) - 1} more like it)" if len(texts) > 1 else texts[0] for texts in kinds.values())
        return "; ".join(more) or "nothing found"


class DatasetGrade(Config):
    """A dataset and its episodes."""

    schema_version: int = Field(1, ge=1, le=1, description="layout of the file")
    dataset: str = Field(description="where it was read")
    digest: str | None = Field(None, description="its recorded digest; None: from elsewhere")
    robot: str = Field("", description="robot, where it is named")
    fps: int = Field(description="frames a second")
    frames: int = Field(description="frames of all episodes that could be read")
    letter: Letter = Field(description="A, B, C, D or F")
    defects: tuple[Finding, ...] = Field((), description="of the dataset as a whole")
    risks: tuple[Finding, ...] = Field((), description="of the dataset as a whole")
    measures: dict[str, float | None] = Field(default_factory=dict, description="figures of the dataset")
    affected: dict[str, int] = Field(default_factory=dict, description="check -> episodes with such a finding")
    limits: dict[str, str] = Field(default_factory=dict, description="component -> where its limits are from")
    episodes: tuple[EpisodeGrade, ...] = Field(description="in the order of their keys")

    def kept(self, min_grade: str) -> frozenset[str]:
        """Keys of the episodes of a grade or better. Raises ``UsageError`` for what is no letter."""
        check_letter(min_grade)
        return frozenset(episode.key for episode in self.episodes if reaches(episode.letter, min_grade))

    def worst(self, count: int) -> tuple[EpisodeGrade, ...]:
        """The worst episodes, those in which nothing was found left out."""
        found = [episode for episode in self.episodes if episode.letter != "A"]
        order = sorted(found, key=lambda item: (-LETTERS.index(item.letter), -len(item.defects), -len(item.risks), item.key))
        return tuple(order[:count])

    def letters(self) -> dict[str, int]:
        """Episodes by letter, best first."""
        counts = Counter(episode.letter for episode in self.episodes)
        return {letter: counts[letter] for letter in LETTERS}


def check_letter(letter: str) -> None:
    """Raise ``UsageError`` unless it is one of A, B, C, D, F."""
    if letter not in LETTERS:
        raise UsageError(f"the grade {letter!r} is none; grades are {', '.join(LETTERS)}")


def reaches(letter: str, wanted: str) -> bool:
    """Whether ``letter`` is ``wanted`` or better."""
    return LETTERS.index(letter) <= LETTERS.index(wanted)  # type: ignore[arg-type]


def episode_letter(defects: int, risks: int, readable: bool = True) -> Letter:
    """See the module's docstring."""
    if not readable or defects > 1:
        return "F"
    if defects:
        return "D"
    return "C" if risks > 2 else "B" if risks else "A"


def dataset_letter(letters: Sequence[str], share: float, defects: int, risks: int) -> Letter:
    """See the module's docstring; ``share`` is that of the episodes that must reach it."""
    reached = next(letter for letter in LETTERS if sum(reaches(own, letter) for own in letters) >= share * len(letters))
    least: Letter = "D" if defects else "B" if risks else "A"
    return max(reached, least, key=LETTERS.index)
