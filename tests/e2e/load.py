"""Robots that load an endpoint over HTTP, and what must be true of their episodes afterwards."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select

from cluster.store.database import Database
from cluster.store.tables import outcomes
from cluster.wire.client import PolicyClient

__all__ = ["OBSERVATION", "Load", "arms_of_episodes", "stored_outcomes", "token_of"]


def token_of(endpoint: dict[str, Any]) -> str:
    return Path(endpoint["token_file"]).read_text().strip()


OBSERVATION = np.linspace(-1, 1, 50, dtype=np.float32)


class Load:
    """Robots that step as fast as they can in threads of their own, a new episode every 20 steps, each with its outcome."""

    def __init__(self, endpoint: dict[str, Any], robots: int = 4) -> None:
        self.steps: list[tuple[float, str, str, str | None]] = []
        """When, episode, version, arm."""
        self.acknowledged: list[str] = []
        self.problems: list[BaseException] = []
        self._url, self._token, self._stop = endpoint["url"], token_of(endpoint), threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(f"load-{time.monotonic_ns()}-{k}",)) for k in range(robots)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, steps: int) -> None:
        wanted, deadline_s = len(self.steps) + steps, time.monotonic() + 60
        while len(self.steps) < wanted and not self.problems:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)

    def _run(self, name: str) -> None:
        try:
            with PolicyClient(self._url, "pidog-run", token=self._token, retry_s=60.0) as client:
                step = 0
                while not self._stop.is_set():
                    episode_id = f"{name}-{step // 20}"
                    reply = client.act(OBSERVATION, episode_id)
                    self.steps.append((time.monotonic(), episode_id, reply.version, reply.arm))
                    step += 1
                    if step % 20 == 0:
                        client.outcome(episode_id, 0.1, steps=20)
                        self.acknowledged.append(episode_id)
        except BaseException as error:
            self.problems.append(error)


def arms_of_episodes(load: Load) -> dict[str, set[tuple[str, str | None]]]:
    found: dict[str, set[tuple[str, str | None]]] = {}
    for _, episode_id, version, arm in load.steps:
        found.setdefault(episode_id, set()).add((version, arm))
    return found


def stored_outcomes(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(select(outcomes.c.episode_id)).scalars())
