"""Where things are. Every value comes from one ``GAITWAY_*`` environment variable and has a default that needs no set-up.

| variable | default | what |
|---|---|---|
| ``GAITWAY_HOME`` | ``.gaitway`` | databases, artifacts, process records |
| ``GAITWAY_DATABASE_URL`` | SQLite files under home | one PostgreSQL URL moves MLflow and our own tables there |
| ``GAITWAY_STORAGE_PATH`` | ``<home>/storage`` | what several nodes must all see: a folder, or a URL such as ``s3://bucket/prefix`` |
| ``GAITWAY_EXPERIMENTS_PATH`` | ``experiments`` | run folders |
| ``GAITWAY_RAY_ADDRESS`` | none: our own local head | an existing Ray cluster to attach to |
| ``GAITWAY_HTTP_HOST`` / ``GAITWAY_HTTP_PORT`` | ``127.0.0.1`` / ``8000`` | the policy endpoint |
| ``GAITWAY_DASHBOARD_PORT`` | ``8265`` | the Ray dashboard of our own head |
| ``GAITWAY_RAY_PORT`` | ``6390`` | the GCS of our own head (6379 is Redis's) |
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from cluster.config import Config
from cluster.errors import UsageError
from cluster.storage import is_url, join_url, plain_url, secret_in_url, shown_url

__all__ = ["MLFLOW_ARTIFACTS", "Settings"]

MLFLOW_ARTIFACTS = "mlflow-artifacts"
"""Folder of MLflow's artifacts on the shared storage."""


class Settings(Config):
    """One process's view of where things are. Build it with ``Settings.from_environment()``."""

    home: Path = Field(Path(".gaitway"), description="folder of databases, artifacts and process records")
    database_url: str | None = Field(None, description="PostgreSQL URL for MLflow and our tables; None: SQLite under home")
    storage_path: str | None = Field(None, description="folder or object-store URL that every node must see; None: <home>/storage")
    experiments_path: Path = Field(Path("experiments"), description="where run folders go")
    ray_address: str | None = Field(None, description="existing Ray cluster (host:port); None: our own local head")
    http_host: str = Field("127.0.0.1", description="address the policy endpoint binds")
    http_port: int = Field(8000, ge=1, le=65535, description="port of the policy endpoint")
    dashboard_port: int = Field(8265, ge=1, le=65535, description="dashboard port of our own Ray head")
    ray_port: int = Field(6390, ge=1, le=65535, description="GCS port of our own Ray head")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read ``GAITWAY_*``. Paths become absolute, so that workers in another folder agree on them."""
        source = os.environ if environment is None else environment
        given = {name: source[f"GAITWAY_{name.upper()}"] for name in cls.model_fields if source.get(f"GAITWAY_{name.upper()}")}
        try:
            # Text from the environment: parse leniently, the strictness is about keys, not about "8000" being a string.
            settings = cls.model_validate(given, strict=False)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            variable = f"GAITWAY_{str(first['loc'][0]).upper()}"
            raise UsageError(f"{variable}={first.get('input')}: {first['msg']}") from None
        home = settings.home.expanduser().resolve()
        return settings.model_copy(
            update={
                "home": home,
                "storage_path": _storage(settings.storage_path, home),
                "experiments_path": settings.experiments_path.expanduser().resolve(),
            }
        )

    @property
    def storage_url(self) -> str:
        """What every node sees, for those that can deal with an object store: a URL, or the path of a folder (``cluster.storage``)."""
        return self.storage_path or str(self.home / "storage")

    @property
    def shared_path(self) -> Path:
        """The folder that every node sees. Raises ``UsageError`` when the storage is an object store, which has no folders to open."""
        if is_url(self.storage_url):
            raise UsageError(
                f"this needs a folder that all nodes share; GAITWAY_STORAGE_PATH is the object store {shown_url(self.storage_url)}; "
                "set it to a folder"
            )
        return Path(self.storage_url)

    @property
    def gaitway_database_url(self) -> str:
        """SQLAlchemy URL of our own tables."""
        return _sqlalchemy_url(self.database_url) if self.database_url else f"sqlite:///{self.home / 'gaitway.db'}"

    @property
    def mlflow_tracking_uri(self) -> str:
        """MLflow's tracking and registry URI."""
        return _sqlalchemy_url(self.database_url) if self.database_url else f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def mlflow_artifact_path(self) -> Path:
        """Folder of MLflow's artifacts. Raises ``UsageError`` when the storage is an object store: see ``mlflow_artifact_url``."""
        return self.shared_path / MLFLOW_ARTIFACTS

    @property
    def mlflow_artifact_url(self) -> str:
        """Where MLflow keeps artifacts, as it wants to be told; on the shared storage, so that every node can read them."""
        return plain_url(join_url(self.storage_url, MLFLOW_ARTIFACTS))

    @property
    def token_path(self) -> Path:
        """File, readable by its owner only, of the token that this home's commands use at the endpoint."""
        return self.home / "admin.token"

    @property
    def endpoint_url(self) -> str:
        """Base URL at which this machine reaches the policy endpoint."""
        return f"http://{self.http_host}:{self.http_port}"

    def as_environment(self) -> dict[str, str]:
        """The ``GAITWAY_*`` variables that make another process build equal settings."""
        values: dict[str, FieldInfo] = dict(type(self).model_fields)
        return {f"GAITWAY_{name.upper()}": str(getattr(self, name)) for name in values if getattr(self, name) is not None}


def _storage(given: str | None, home: Path) -> str:
    """An absolute path, or a URL as it was given. Raises ``UsageError`` when the URL holds a credential: it travels to every node."""
    if given is None:
        return str(home / "storage")
    if given.startswith("file://"):
        given = unquote(urlsplit(given).path)
    if not is_url(given):
        return str(Path(given).expanduser().resolve())
    if secret := secret_in_url(given):
        raise UsageError(
            f"GAITWAY_STORAGE_PATH={shown_url(given)}: take {secret} out of the URL; "
            "credentials come from the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS)"
        )
    return given


def _sqlalchemy_url(url: str) -> str:
    """Psycopg 3 is the driver that we install; a bare ``postgresql://`` would make SQLAlchemy look for psycopg2."""
    for prefix in ("postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    return url
