"""Every store test runs on SQLite and on PostgreSQL, each time in a database or schema of its own."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from cluster.bundle import seal
from cluster.contract import PolicyContract, TensorField
from cluster.settings import Settings
from cluster.store.database import Database, open_database

POSTGRES_URL = os.environ.get("GAITWAY_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/test")


@contextmanager
def postgres_schema() -> Iterator[str]:
    """URL of a new schema on the test server, dropped afterwards."""
    try:
        connection = psycopg.connect(POSTGRES_URL, connect_timeout=3, autocommit=True)
    except psycopg.OperationalError as error:
        pytest.skip(f"no PostgreSQL at {POSTGRES_URL} (set GAITWAY_TEST_POSTGRES_URL): {str(error).splitlines()[0]}")
    with connection:
        name = f"gaitway_test_{secrets.token_hex(6)}"
        connection.execute(f"CREATE SCHEMA {name}")
    try:
        yield f"{POSTGRES_URL}{'&' if '?' in POSTGRES_URL else '?'}options=-csearch_path%3D{name}"
    finally:
        with psycopg.connect(POSTGRES_URL, autocommit=True) as connection:
            # One table a statement: MLflow has more of them than one transaction may lock beside other tests.
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [name]).fetchall()
            for (table,) in tables:
                connection.execute(f'DROP TABLE IF EXISTS {name}."{table}" CASCADE')
            connection.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Settings whose databases do not exist yet."""
    environment = {"GAITWAY_HOME": str(tmp_path / "home")}
    if request.param == "sqlite":
        yield Settings.from_environment(environment)
        return
    with postgres_schema() as url:
        yield Settings.from_environment({**environment, "GAITWAY_DATABASE_URL": url})


@pytest.fixture
def db(fresh_settings: Settings) -> Iterator[Database]:
    with closing(open_database(fresh_settings)) as database:
        yield database


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def mlflow_settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings on one MLflow database for the session: its migration takes seconds. Tests use names of their own."""
    environment = {"GAITWAY_HOME": str(tmp_path_factory.mktemp("mlflow"))}
    if request.param == "sqlite":
        yield Settings.from_environment(environment)
        return
    with postgres_schema() as url:
        settings = Settings.from_environment({**environment, "GAITWAY_DATABASE_URL": url})
        # Our own tables first: MLflow must find its way into a database that is not empty.
        open_database(settings).close()
        yield settings
        _close_mlflow_pools()


@pytest.fixture
def policy() -> str:
    """A policy name that no other test uses."""
    return f"pidog-{secrets.token_hex(4)}"


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Makes sealed bundles that differ in their graph's bytes."""

    def make(policy: str, graph: bytes = b"graph") -> Path:
        folder = tmp_path / f"bundle {secrets.token_hex(4)}"
        folder.mkdir()
        (folder / "policy.onnx").write_bytes(graph)
        (folder / "card.md").write_text("# A card\n")
        field = TensorField(name="joint_position_rad", shape=(2,), unit="rad")
        PolicyContract(policy=policy, robot="pidog", task="pidog_run", control_dt_s=0.02, observation=(field,), action=(field,)).save(
            folder / "contract.json"
        )
        seal(folder)
        return folder

    return make


def _close_mlflow_pools() -> None:
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingStore

    for store in (RegistryStore, TrackingStore):
        for engine in store._engine_map.values():
            engine.dispose()
