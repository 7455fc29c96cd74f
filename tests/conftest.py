"""What tests of all rooms share: one Ray, one migrated home, and where the real recordings are."""

from __future__ import annotations

import os

# Before any import of Ray: it would turn token authentication on by itself.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for the whole test session: it takes seconds to start."""
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=512 * 2**20,
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def migrated_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose databases are migrated once; tests copy it, because MLflow's migration takes six seconds."""
    from cluster.store.database import open_database
    from cluster.store.tracking import prepare

    settings = Settings.from_environment({"GAITWAY_HOME": str(tmp_path_factory.mktemp("home"))})
    open_database(settings)
    prepare(settings)
    return settings.home


@pytest.fixture
def settings(migrated_home: Path, tmp_path: Path) -> Settings:
    """Settings of a fresh home with empty, migrated databases; everything it points to is under ``tmp_path``."""
    home = tmp_path / "home"
    shutil.copytree(migrated_home, home)
    return Settings.from_environment({"GAITWAY_HOME": str(home), "GAITWAY_EXPERIMENTS_PATH": str(tmp_path / "experiments")})


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings beside the repository; tests that need it are skipped where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real recordings are not here: no folder {folder}")
    return folder
