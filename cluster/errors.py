"""The errors that reach a person, as one line each.

    GaitwayError            exit code 1: something that was asked for could not be done
     +-- UsageError         exit code 2: what was asked for makes no sense; nothing was started
     |    +-- ConfigError   a configuration file or override is wrong
     +-- BundleError        an exported bundle is incomplete or does not match its manifest
     +-- StoreError         the database, the registry or the shared storage refused
     |    +-- StoreUnavailableError  it cannot be reached now: the same may work later
     +-- ClusterError     Ray, Serve or another process did not start, answer or stop

The message says what was given, what is allowed and what to do. Any other exception is a defect: it keeps its traceback.
"""

from __future__ import annotations

__all__ = ["BundleError", "ClusterError", "ConfigError", "GaitwayError", "StoreError", "StoreUnavailableError", "UsageError"]


class GaitwayError(Exception):
    """Something that was asked for could not be done. Its message is one clear line."""

    exit_code = 1


class UsageError(GaitwayError):
    """What was asked for makes no sense as asked; nothing was started."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file or override is wrong: names the file, the key, what is allowed."""


class BundleError(GaitwayError):
    """An exported bundle is incomplete, unreadable, or does not match its manifest."""


class StoreError(GaitwayError):
    """The database, the model registry or the shared storage refused an operation."""


class StoreUnavailableError(StoreError):
    """The database or the registry cannot be reached now: the same request may work later."""


class ClusterError(GaitwayError):
    """Ray, Serve or another process did not start, answer or stop."""
