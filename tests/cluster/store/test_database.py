from __future__ import annotations

import os
import pickle
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from cluster.errors import StoreError
from cluster.settings import Settings
from cluster.store.comparisons import Arm, NewComparison, create_comparison, get_comparison, outcomes_in_order
from cluster.store.database import VERSION_TABLE, Database, open_database
from cluster.store.tables import metadata

NEW = NewComparison(
    policy="pidog-run",
    arms=(Arm(name="champion", version="1", weight=0.5), Arm(name="challenger", version="2", weight=0.5)),
    metric="forward_velocity_m_s",
    low=0.0,
    high=1.0,
)


def run_python(code: str, settings: Settings, cwd: Path, **keywords: object) -> subprocess.Popen[str]:
    environment = {**os.environ, **settings.as_environment()}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **keywords
    )


def test_migrations_make_exactly_the_tables_that_the_code_uses(db: Database) -> None:
    with db.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_opening_again_changes_nothing(fresh_settings: Settings) -> None:
    with closing(open_database(fresh_settings)) as db:
        made = create_comparison(db, NEW)
    with closing(open_database(fresh_settings)) as db:
        assert get_comparison(db, made.id) == made


def test_many_processes_may_open_a_new_database_at_once_from_any_folder(fresh_settings: Settings, tmp_path: Path) -> None:
    code = """
import sys
from cluster.settings import Settings
from cluster.store.database import open_database
sys.stdin.readline()
open_database(Settings.from_environment())
"""
    processes = [run_python(code, fresh_settings, tmp_path, stdin=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output, errors) == (0, "", "")
    with closing(Database(fresh_settings.gaitway_database_url)) as db, db.read() as connection:
        assert len(connection.execute(text(f"SELECT * FROM {VERSION_TABLE}")).all()) == 1


def test_an_acknowledged_outcome_survives_kill_9(fresh_settings: Settings, tmp_path: Path) -> None:
    code = """
from cluster.settings import Settings
from cluster.store.comparisons import EpisodeRow, Outcome, list_comparisons, record_episode, record_outcome
from cluster.store.database import open_database
db = open_database(Settings.from_environment())
comparison = list_comparisons(db)[0]
for number in range(100000):
    record_episode(db, EpisodeRow(policy="pidog-run", episode_id=str(number), version="1", comparison_id=comparison.id,
                                  arm="champion", propensity=0.5))
    record_outcome(db, str(number), Outcome(value=number), policy="pidog-run")
    print(number, flush=True)
"""
    with closing(open_database(fresh_settings)) as db:
        comparison = create_comparison(db, NEW)
        process = run_python(code, fresh_settings, tmp_path)
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 20:
                break
        process.send_signal(signal.SIGKILL)
        acknowledged = 21 + len(process.communicate(timeout=30)[0].splitlines())
        values = [episode.outcome.value for episode in outcomes_in_order(db, comparison.id) if episode.outcome]
        # One more may be on disk: written, and killed before it could say so.
        assert values in ([float(n) for n in range(acknowledged)], [float(n) for n in range(acknowledged + 1)])


def test_sqlite_writes_reach_the_disk_before_they_return(tmp_path: Path) -> None:
    with closing(open_database(Settings.from_environment({"GAITWAY_HOME": str(tmp_path)}))) as db, db.write() as connection:
        pragmas = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys")}
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_failed_transaction_leaves_nothing(db: Database) -> None:
    made = create_comparison(db, NEW)

    def fail_half_way() -> None:
        with db.write() as connection:
            connection.execute(text("UPDATE comparisons SET status = 'stopped'"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert get_comparison(db, made.id).status == "running"


def test_a_database_travels_to_another_process_as_its_url(db: Database) -> None:
    made = create_comparison(db, NEW)
    with closing(pickle.loads(pickle.dumps(db))) as copy:
        assert get_comparison(copy, made.id) == made


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    settings = Settings(database_url="postgresql://robot:secret@127.0.0.1:1/gaits?connect_timeout=2")
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1/gaits") as caught:
        open_database(settings)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "GAITWAY_DATABASE_URL" in str(caught.value)


@pytest.mark.parametrize("url", ["mysql://a:secret@b/c", "postgresql", "oracle://x"])
def test_a_url_that_names_no_supported_database_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="GAITWAY_DATABASE_URL") as caught:
        open_database(Settings(database_url=url))
    assert "secret" not in str(caught.value)


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="GAITWAY_HOME"):
        open_database(Settings.from_environment({"GAITWAY_HOME": str(tmp_path / "file" / "home")}))


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "gaitway.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match=r"gaitway\.db.*not a database"):
        open_database(Settings.from_environment({"GAITWAY_HOME": str(tmp_path)}))


def test_a_schema_from_a_newer_gaitway_is_refused(fresh_settings: Settings) -> None:
    with closing(open_database(fresh_settings)) as db:
        with db.write() as connection:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = 'v9999'"))
        with pytest.raises(StoreError, match=r"v9999.*newer"):
            db.migrate()


def test_two_holders_of_one_name_take_turns(fresh_settings: Settings, tmp_path: Path) -> None:
    code = """
import time
from cluster.settings import Settings
from cluster.store.database import Database
db = Database(Settings.from_environment().gaitway_database_url)
with db.exclusively("turn"):
    with open("log", "a") as log:
        log.write("in\\n"); log.flush(); time.sleep(0.2); log.write("out\\n")
db.close()
"""
    fresh_settings.home.mkdir(parents=True)
    processes = [run_python(code, fresh_settings, tmp_path) for _ in range(3)]
    for process in processes:
        assert process.communicate(timeout=60) == ("", "")
    assert (tmp_path / "log").read_text().split() == ["in", "out"] * 3


def test_the_ledger_does_not_load_mlflow(tmp_path: Path) -> None:
    code = """
import sys
import cluster.store.comparisons, cluster.store.database, cluster.store.registry, cluster.store.tracking
print([name for name in ("mlflow", "torch", "ray", "alembic") if name in sys.modules])
"""
    process = run_python(code, Settings.from_environment({"GAITWAY_HOME": str(tmp_path)}), tmp_path)
    assert process.communicate(timeout=60) == ("[]\n", "")


def test_wal_holds_for_whoever_opens_the_file(tmp_path: Path) -> None:
    open_database(Settings.from_environment({"GAITWAY_HOME": str(tmp_path)})).close()
    with closing(sqlite3.connect(tmp_path / "gaitway.db")) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
