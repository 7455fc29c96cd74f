"""``gaitway doctor``: does this machine have what Gaitway needs?"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import sys
from collections.abc import Callable

import typer

from cluster.cli.output import JsonOption, print_json, print_table
from cluster.errors import GaitwayError
from cluster.settings import Settings

__all__ = ["doctor"]

MINIMUM_FREE_DISK_GIB = 2.0
MINIMUM_SHARED_MEMORY_GIB = 0.5


def doctor(json_: JsonOption = False) -> None:
    """Check Python, packages, memory, disk, ports and the database; exit code 1 when something must be mended."""
    settings = Settings.from_environment()
    checks: dict[str, Callable[[], str]] = {
        "python": _python,
        "ray": lambda: _package("ray", "2.60.0"),
        "torch": lambda: _package("torch", "2.13.0"),
        "mujoco": lambda: _package("mujoco", "4.0.0"),
        "disk": lambda: _disk(settings),
        "shared memory": _shared_memory,
        "endpoint port": lambda: _port(settings),
        "database": lambda: _database(settings),
    }
    results = []
    for name, check in checks.items():
        try:
            results.append({"check": name, "ok": True, "detail": check()})
        except (GaitwayError, importlib.metadata.PackageNotFoundError, OSError) as error:
            results.append({"check": name, "ok": False, "detail": str(error)})
    if json_:
        print_json(results)
    else:
        print_table(["check", "", "detail"], [[item["check"], "ok" if item["ok"] else "MEND", item["detail"]] for item in results], "")
    if not all(item["ok"] for item in results):
        raise typer.Exit(1)


def _python() -> str:
    version = sys.version.split()[0]
    if sys.version_info[:2] != (3, 11):
        raise GaitwayError(f"Python {version}; 3.11 is wanted")
    return f"{version}, {os.cpu_count()} CPUs"


def _package(name: str, wanted: str) -> str:
    version = importlib.metadata.version(name)
    if version.partition("+")[0] != wanted:
        raise GaitwayError(f"{version} is installed, {wanted} is wanted; run `make install`")
    return version


def _disk(settings: Settings) -> str:
    folder = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free_gib = shutil.disk_usage(folder).free / 2**30
    if free_gib < MINIMUM_FREE_DISK_GIB:
        raise GaitwayError(f"{free_gib:.1f} GiB free at {folder}; {MINIMUM_FREE_DISK_GIB:.0f} GiB are wanted")
    return f"{free_gib:.0f} GiB free at {folder}"


def _shared_memory() -> str:
    if not os.path.isdir("/dev/shm"):
        return "no /dev/shm: Ray uses the temporary folder"
    free_gib = shutil.disk_usage("/dev/shm").free / 2**30
    if free_gib < MINIMUM_SHARED_MEMORY_GIB:
        raise GaitwayError(
            f"{free_gib:.2f} GiB free in /dev/shm; Ray's object store wants {MINIMUM_SHARED_MEMORY_GIB} GiB (docker run --shm-size=2g)"
        )
    return f"{free_gib:.1f} GiB free in /dev/shm"


def _port(settings: Settings) -> str:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex((settings.http_host, settings.http_port)) == 0:
            return f"{settings.http_host}:{settings.http_port} answers (an endpoint is up)"
    return f"{settings.http_host}:{settings.http_port} is free"


def _database(settings: Settings) -> str:
    from cluster.store.database import open_database

    open_database(settings)
    return "PostgreSQL" if settings.database_url else f"SQLite under {settings.home}"
