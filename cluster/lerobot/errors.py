"""The error of this room."""

from __future__ import annotations

from cluster.errors import GaitwayError

__all__ = ["DatasetError"]


class DatasetError(GaitwayError):
    """A dataset cannot be read or written as asked: names the folder or file, what is wrong, what is allowed."""
