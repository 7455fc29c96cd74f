from __future__ import annotations

import pytest

from cluster.errors import UsageError
from cluster.settings import Settings


def test_defaults_need_no_set_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_environment({})
    assert settings.home == tmp_path / ".gaitway"
    assert settings.mlflow_tracking_uri == f"sqlite:///{tmp_path}/.gaitway/mlflow.db"
    assert settings.gaitway_database_url == f"sqlite:///{tmp_path}/.gaitway/gaitway.db"
    assert settings.endpoint_url == "http://127.0.0.1:8000"


def test_one_variable_moves_both_databases():
    settings = Settings.from_environment({"GAITWAY_DATABASE_URL": "postgresql://somebody@127.0.0.1/test"})
    assert settings.mlflow_tracking_uri == settings.gaitway_database_url == "postgresql+psycopg://somebody@127.0.0.1/test"


def test_another_process_builds_equal_settings(tmp_path):
    settings = Settings.from_environment(
        {"GAITWAY_HOME": str(tmp_path), "GAITWAY_HTTP_PORT": "9001", "GAITWAY_RAY_ADDRESS": "10.0.0.1:6379"}
    )
    assert Settings.from_environment(settings.as_environment()) == settings


def test_a_bad_value_names_its_variable():
    with pytest.raises(UsageError, match="GAITWAY_HTTP_PORT=99999"):
        Settings.from_environment({"GAITWAY_HTTP_PORT": "99999"})
