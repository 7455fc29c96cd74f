"""The one door to MLflow: imported late, kept quiet, its schema made by one process at a time.

Importing MLflow takes seconds and its first use of a new database migrates for about five more. ``prepare(settings)`` does both
ahead of time; call it in a thread while something else works.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from cluster.errors import StoreError, StoreUnavailableError, UsageError
from cluster.settings import Settings
from cluster.storage import is_url, shown_url
from cluster.store.database import Database

__all__ = ["mlflow_client", "mlflow_errors", "mlflow_lock", "prepare"]

_OBJECT_STORE_CLIENTS = {"s3": ("boto3", "'gaitway[s3]'"), "gs": ("google.cloud.storage", "google-cloud-storage")}


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
    _prepare_object_store(settings)
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
        kind = StoreError if isinstance(error, MlflowException) else StoreUnavailableError
        raise kind(f"MLflow's database {where}: {lines[0] if lines else type(error).__name__}") from error
    except Exception as error:
        # MLflow lets the errors of the object store's own client through.
        if type(error).__module__.partition(".")[0] not in ("boto3", "botocore", "google"):
            raise
        raise StoreError(f"MLflow's artifacts in {shown_url(settings.storage_url)}: {' '.join(str(error).split())[:200]}") from error


def _prepare_object_store(settings: Settings) -> None:
    """Give MLflow what it needs for artifacts in an object store. Raises ``UsageError`` when a package is missing."""
    split = urlsplit(settings.storage_url)
    if split.scheme not in _OBJECT_STORE_CLIENTS:
        return
    module, install = _OBJECT_STORE_CLIENTS[split.scheme]
    try:
        importlib.import_module(module)
    except ImportError:
        raise UsageError(
            f"GAITWAY_STORAGE_PATH={shown_url(settings.storage_url)}: MLflow needs {module} for it; pip install {install}"
        ) from None
    query = dict(parse_qsl(split.query))
    if endpoint := query.get("endpoint_override"):
        os.environ["MLFLOW_S3_ENDPOINT_URL"] = endpoint if is_url(endpoint) else f"{query.get('scheme', 'https')}://{endpoint}"


def _import_client() -> Any:
    # Telemetry would call home; the import hint and INFO lines would talk over our own progress.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient
