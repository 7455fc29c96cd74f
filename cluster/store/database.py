"""One SQLAlchemy database for comparisons, episodes and outcomes: SQLite by default, PostgreSQL by URL.

``open_database(settings)`` creates what is missing, brings the schema up to date and returns a ``Database``. Several processes
may do so at once: one migrates, the others wait.

What is committed is durable: SQLite runs in WAL mode with ``synchronous=FULL`` (every commit reaches the disk before it
returns), PostgreSQL with its default ``synchronous_commit=on``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from cluster.errors import StoreError, StoreUnavailableError
from cluster.settings import Settings
from cluster.store.locks import exclusive_file_lock

__all__ = ["VERSION_TABLE", "Database", "open_database"]

VERSION_TABLE = "gaitway_alembic_version"
"""MLflow keeps its own ``alembic_version`` in the same PostgreSQL database."""

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_S = 30.0
_WRITES = "gaitway_writes"


class Database:
    """A pool of connections to one database. Safe to share between threads; pickles as its URL."""

    def __init__(self, url: str) -> None:
        try:
            self._url = make_url(url)
            self._engine = _engine(self._url)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise StoreError(
                f"GAITWAY_DATABASE_URL: {_first_line(error)}; use postgresql://user:password@host:port/name, or unset it for SQLite"
            ) from None

    def __reduce__(self) -> tuple[type[Database], tuple[str]]:
        return Database, (self.url,)

    @property
    def url(self) -> str:
        """The SQLAlchemy URL, password included: for another process, never for a message."""
        return self._url.render_as_string(hide_password=False)

    @property
    def name(self) -> str:
        """What to call it in a message: the file, or the server without its password."""
        return str(self._url.database) if self.is_sqlite else self._url.set(query={}).render_as_string(hide_password=True)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is one file on this machine."""
        return self._url.get_backend_name() == "sqlite"

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads. Raises ``StoreError`` when the database cannot be reached."""
        with self._translated(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes; leaving it commits, and what it wrote is then on disk.

        SQLite's begins by taking the write lock (``BEGIN IMMEDIATE``), so that it never fails half-way with "database is locked".
        """
        with self._translated(), self._engine.connect() as plain:
            connection = plain.execution_options(**{_WRITES: True})
            with connection.begin():
                yield connection

    def migrate(self) -> None:
        """Bring the schema up to date; safe when several processes do it at the same moment."""
        if self.is_sqlite:
            path = Path(str(self._url.database))
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"{path}: cannot create its folder: {error.strerror}; set GAITWAY_HOME to a writable one") from None
        with self.read() as connection:
            if self._revision(connection) == _newest_revision():
                return
        with self.exclusively("gaitway-migration"):
            if self.is_sqlite:
                # Switching to WAL needs the file for itself and is not retried by SQLite's busy handler: hence under the lock.
                with contextlib.closing(sqlite3.connect(str(self._url.database), timeout=_BUSY_TIMEOUT_S)) as raw:
                    raw.execute("PRAGMA journal_mode=WAL")
            self._upgrade()

    @contextlib.contextmanager
    def exclusively(self, name: str) -> Iterator[None]:
        """Hold ``name`` among all processes that use this database, whatever machine they are on; freed when the holder dies."""
        if self.is_sqlite:
            path = Path(str(self._url.database))
            with exclusive_file_lock(path.with_name(f"{path.name}.{name}.lock")):
                yield
            return
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        with self.read() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
            yield

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()

    def _upgrade(self) -> None:
        from alembic import command
        from alembic.util import CommandError

        with self.write() as connection:
            config = _alembic_config()
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError:
                found = self._revision(connection)
                raise StoreError(
                    f"{self.name}: its schema {found!r} was made by a newer Gaitway than this one; upgrade Gaitway or use another database"
                ) from None

    def _revision(self, connection: Connection) -> str | None:
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar_one_or_none()
        return None if found is None else str(found)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            if error.connection_invalidated or type(error).__name__ in ("OperationalError", "InterfaceError", "DatabaseError"):
                raise StoreUnavailableError(f"database {self.name}: {_first_line(error.orig)}; {self._advice()}") from None
            raise
        except SQLAlchemyError as error:
            if type(error).__name__ == "TimeoutError":
                raise StoreUnavailableError(f"database {self.name}: every connection is in use; {self._advice()}") from None
            raise

    def _advice(self) -> str:
        if self.is_sqlite:
            return "check that it is our file, that its folder is writable and that the disk is not full"
        return "check GAITWAY_DATABASE_URL and that the server runs"


def open_database(settings: Settings) -> Database:
    """Open our database, creating and migrating it as needed. Raises ``StoreError`` when it cannot be reached."""
    database = Database(settings.gaitway_database_url)
    database.migrate()
    return database


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S, "isolation_level": None})
        event.listen(engine, "connect", _set_pragmas)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if url.get_backend_name() == "postgresql":
        arguments = {"connect_timeout": "5"} if "connect_timeout" not in url.query else {}
        return create_engine(url, pool_pre_ping=True, connect_args=arguments)
    raise ArgumentError(f"database kind {url.get_backend_name()!r} is not supported")


def _set_pragmas(connection: Any, _record: Any) -> None:
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # The driver's own transaction control is off (isolation_level None): it would begin late and deferred.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITES) else "BEGIN")


def _alembic_config() -> Any:
    from alembic.config import Config as AlembicConfig

    # No ini file: works from an installed wheel and from any folder.
    config = AlembicConfig()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _newest_revision() -> str:
    names = sorted(entry.removesuffix(".py") for entry in os.listdir(_MIGRATIONS / "versions") if entry.startswith("v"))
    return names[-1].split("_")[0]


def _first_line(error: BaseException | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
