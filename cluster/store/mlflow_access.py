"""The one door to MLflow: imported late, kept quiet, its schema made by one process at a time.

Importing MLflow takes seconds and its first use of a new database migrates for about five more. ``prepare(settings)`` does both
ahead of time; call it in a thread while something else works.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from cluster.errors import StoreError
from cluster.settings import Settings
from cluster.store.database import Database

__all__ = ["mlflow_client", "mlflow_errors", "mlflow_lock", "prepare"]


def prepare(settings: Settings) -> None:
    """Import MLflow and bring its database up to date; safe from several processes at once."""
    mlflow_client(settings)


def mlflow_client(settings: Settings) -> Any:
    """An ``MlflowClient`` on the settings' tracking and registry database. Raises ``StoreError`` when it cannot be reached."""
    uri = settings.mlflow_tracking_uri
    if not settings.database_url:
        try:
            settings.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{settings.home}: cannot create it: {error.strerror}; set GAITWAY_HOME to a writable folder") from None
    client_class = _import_client()
    # MLflow migrates when a store is first built, under a lock in the temporary folder, which other nodes and users do not share.
    with mlflow_errors(settings), mlflow_lock(settings, "mlflow-migration"):
        client = client_class(tracking_uri=uri, registry_uri=uri)
        client.search_registered_models(max_results=1)
    return client


@contextlib.contextmanager
def mlflow_lock(settings: Settings, name: str) -> Iterator[None]:
    """Hold a name among all processes that share MLflow's database."""
    with contextlib.closing(Database(settings.mlflow_tracking_uri)) as database, database.exclusively(name):
        yield


@contextlib.contextmanager
def mlflow_errors(settings: Settings) -> Iterator[None]:
    """MLflow's and its database's refusals as ``StoreError``, without the password."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        where = Database(settings.mlflow_tracking_uri).name
        raise StoreError(f"MLflow's database {where}: {lines[0] if lines else type(error).__name__}") from error


def _import_client() -> Any:
    # Telemetry would call home; the import hint and INFO lines would talk over our own progress.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient
