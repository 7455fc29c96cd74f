"""Named datasets and their versions: ``datasets/<name>/v1``, ``v2``, ...; a version never changes once it is there.

A version is made under a hidden name beside its place and appears with one rename. Data that are a version already make no new one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import UsageError
from cluster.lerobot.info import recorded_digest
from cluster.lerobot.layout import INFO_PATH
from cluster.settings import Settings

__all__ = ["Version", "check_name", "datasets_folder", "latest_version", "publish_version", "versions_of"]

_VERSION = re.compile(r"v([1-9]\d*)")
_INCOMING = ".incoming-"


@dataclass(frozen=True)
class Version:
    """One version of a named dataset."""

    name: str
    number: int
    path: Path

    @property
    def label(self) -> str:
        """``name/v2``, by which every command finds it."""
        return f"{self.name}/v{self.number}"


def datasets_folder(settings: Settings) -> Path:
    """Where named datasets are kept; every node sees it."""
    return settings.shared_path / "datasets"


def check_name(name: str) -> None:
    """Raise ``UsageError`` unless ``name`` can be a folder's everywhere."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name):
        raise UsageError(f"dataset name {name!r}: use letters, digits, - and _ only; give one with --name")


def versions_of(settings: Settings, name: str) -> list[Version]:
    """The versions of a dataset, oldest first; empty when there is none."""
    found = []
    for path in (datasets_folder(settings) / name).glob("v*"):
        match = _VERSION.fullmatch(path.name)
        if match and (path / INFO_PATH).is_file():
            found.append(Version(name, int(match[1]), path))
    return sorted(found, key=lambda version: version.number)


def latest_version(settings: Settings, name: str) -> Version | None:
    """The newest version of a dataset."""
    return next(reversed(versions_of(settings, name)), None)


def publish_version(
    settings: Settings, name: str, identity: str, make: Callable[[Path], dict[str, Any]]
) -> tuple[Version, dict[str, Any], bool]:
    """Make a dataset and keep it as the next version of ``name``.

    Args:
        settings: where named datasets are.
        name: of the dataset.
        identity: the same for the same work, so that a repeated command clears up after a killed one.
        make: writes the dataset at the folder it is given; what is there already is a killed attempt's and may be replaced.

    Returns:
        The version, what ``make`` returned, and whether it is new: data equal to an earlier version's are that version.

    Raises:
        UsageError: ``name`` cannot be a name.
    """
    check_name(name)
    folder = datasets_folder(settings) / name
    incoming = folder / f"{_INCOMING}{identity}"
    try:
        result = make(incoming)
        digest = recorded_digest(incoming)
        for version in versions_of(settings, name):
            if recorded_digest(version.path) == digest:
                return version, result, False
        _protect(incoming)
        while True:
            latest = latest_version(settings, name)
            version = Version(name, latest.number + 1 if latest else 1, folder / f"v{latest.number + 1 if latest else 1}")
            try:
                os.rename(incoming, version.path)
            except OSError:
                # Somebody else's version took this number in between; anything else is an error of the disk.
                if not (version.path / INFO_PATH).is_file():
                    raise
                continue
            return version, result, True
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _protect(folder: Path) -> None:
    """A version's files are for reading: an edit in place would make its digest untrue."""
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o444)
