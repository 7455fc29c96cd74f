"""The robot's session against a real server, through a network that stalls, breaks and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from cluster.bundle import seal
from cluster.contract import PolicyContract, TensorField
from cluster.store.comparisons import get_episode
from cluster.store.tables import episodes
from cluster.wire.aio_session import AsyncSession
from cluster.wire.errors import DeadlineError, ForbiddenError, InvalidRequestError, NotFoundError, UnreachableError
from cluster.wire.session import Session

pytestmark = pytest.mark.anyio

FLAT = np.array([0.5, -0.25, 1.0, 0.1, 0.2, 0.75], np.float32)
FIELDS = {"gravity": FLAT[:3], "joint_position_rad": FLAT[3:5], "range_m": 0.75}


class Network:
    """A TCP relay whose traffic from the server can be held back, and whose connections can be cut."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.refuse = False

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def hold(self) -> None:
        self._flowing.clear()

    def release(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def stop(self) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        upstream_reader, upstream_writer = await asyncio.open_connection(self._host, int(self._port))
        self._writers |= {writer, upstream_writer}
        for source, target, held in ((reader, upstream_writer, False), (upstream_reader, writer, True)):
            task = asyncio.create_task(self._relay(source, target, held))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _relay(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, held: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if held:
                    await self._flowing.wait()
                target.write(data)
            target.close()


@pytest.fixture
async def network(url: str) -> AsyncIterator[Network]:
    network = Network(url)
    network.url = await network.start()
    yield network
    await network.stop()


class InTime:
    """Takes the time of actions, with the event loop's longest pause in each: server, relay and robot share it, and it may be halted."""

    LONGEST_S = 0.15

    def __init__(self) -> None:
        self._took_s: list[float] = []
        self._beyond_pause_s: list[float] = []

    async def __aenter__(self) -> None:
        self._started_s, self._pause_s = time.monotonic(), 0.0
        self._watching = asyncio.create_task(self._watch())

    async def __aexit__(self, *raised: object) -> None:
        self._took_s.append(time.monotonic() - self._started_s)
        self._beyond_pause_s.append(self._took_s[-1] - self._pause_s)
        self._watching.cancel()

    def check(self) -> None:
        """One action may be as late as the loop was halted; a session that halts it itself would do so more than once."""
        assert sorted(self._took_s)[-2] < self.LONGEST_S
        assert max(self._beyond_pause_s) < self.LONGEST_S

    async def _watch(self) -> None:
        while True:
            turned_s = time.monotonic()
            await asyncio.sleep(0.005)
            self._pause_s = max(self._pause_s, time.monotonic() - turned_s)


def token(site: Any, role: str = "robot") -> str:
    return str(site.header(role)["Authorization"].removeprefix("Bearer "))


async def test_a_walk_through_episodes(site: Any, url: str) -> None:
    async with AsyncSession(f"http://{url}", "pidog-run", "dog-7", token(site)) as session:
        assert session.metadata["control_dt_s"] == 0.02
        for turn in range(2):
            episode = await session.reset()
            assert session.episode == episode
            for observation in (FLAT, FIELDS, FLAT.tolist()):
                action = await session.act(observation)
                np.testing.assert_array_equal(action.vector, FLAT[:2] * float(episode.version))
                assert not action.is_fallback
            assert await session.outcome(0.1 * turn, steps=3, metrics={"energy_j": 2.0})
            assert session.episode is None
            stored = get_episode(site.database, "pidog-run", episode.episode_id)
            assert stored is not None
            assert (stored.robot_id, stored.arm) == ("dog-7", episode.arm)
        await session.act(FLAT)  # without a reset: it asks for one by itself, for the outcome needs a name
        assert session.episode is not None
        assert await session.outcome(0.3)
        with pytest.raises(ValueError, match="has 5 numbers; 6 are wanted"):
            await session.act(FLAT[:5])
        with pytest.raises(ValueError, match="has the fields"):
            await session.act({"gravity": FLAT[:3]})
        with pytest.raises(InvalidRequestError, match="finite"):
            await session.act(FLAT * np.nan)
        assert session.reconnects == session.stale_replies == 0


async def test_the_first_episode_needs_no_reset(site: Any, url: str) -> None:
    async with AsyncSession(f"http://{url}", "pidog-run", token=token(site)) as session:
        await session.act(FLAT)
        assert session.episode is not None
        assert session.episode.episode_id == session.metadata["episode_id"]
        assert await session.outcome(0.2)


async def test_a_session_outlives_its_connection_and_hands_its_state_back(empty_site: Any, network: Network) -> None:
    await empty_site.serve("3", default="3")
    async with AsyncSession(network.url, "pidog-run", token=token(empty_site)) as session:
        episode = await session.reset()
        for step in range(9):
            if step in (2, 5):
                network.cut()
                empty_site.gateway.live.episodes._episodes.clear()  # the next replica knows nothing
            action = await session.act(FLAT)
            np.testing.assert_allclose(action.vector, FLAT[:2] + step, err_msg=f"step {step}")
        assert session.reconnects == 2
        assert session.episode == episode
        network.cut()
        assert await session.outcome(0.5)
    with empty_site.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(episodes)).scalar_one() == 1


async def test_an_episode_that_began_unheard_is_gone_on_with(empty_site: Any, network: Network) -> None:
    await empty_site.serve("3", default="3")
    async with AsyncSession(network.url, "pidog-run", token=token(empty_site), timeout_s=0.3) as session:
        network.hold()
        waiting = asyncio.create_task(session.act(FLAT))
        await asyncio.sleep(0.1)  # it has arrived and begun an episode; its answer is held back
        network.cut()
        network.release()
        action = await waiting
        np.testing.assert_allclose(action.vector, FLAT[:2])
    with empty_site.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(episodes)).scalar_one() == 1


async def test_past_the_deadline_the_fallback_acts_and_the_late_reply_is_dropped(site: Any, network: Network) -> None:
    async with AsyncSession(network.url, "pidog-run", token=token(site), deadline_s=0.05, fallback="hold") as session:
        await session.reset("held")
        gain = float(session.episode.version)
        first = await session.act(FLAT)
        network.hold()
        in_time = InTime()
        for _ in range(3):
            async with in_time:
                held = await session.act(FLAT * 2)
            assert held.is_fallback
            np.testing.assert_array_equal(held.vector, first.vector)
        in_time.check()
        network.release()
        fresh = await session.act(FLAT * 3)
        np.testing.assert_array_equal(fresh.vector, FLAT[:2] * 3 * gain)  # not the answer to FLAT * 2
        assert not fresh.is_fallback
        assert session.stale_replies == 3
    stand = np.array([0.7, 0.8], np.float32)
    async with AsyncSession(network.url, "pidog-run", token=token(site), deadline_s=0.05, fallback=stand) as session:
        await session.reset()
        network.hold()
        np.testing.assert_array_equal((await session.act(FLAT)).vector, stand)
        network.release()
    async with AsyncSession(network.url, "pidog-run", token=token(site), deadline_s=0.05) as session:
        await session.reset()
        network.hold()
        with pytest.raises(DeadlineError, match=r"no action within \d+ ms"):
            await session.act(FLAT)
        network.release()


async def test_while_it_reconnects_the_robot_gets_its_fallback_in_time(site: Any, network: Network) -> None:
    async with AsyncSession(network.url, "pidog-run", token=token(site), deadline_s=0.03, fallback="hold", timeout_s=0.5) as session:
        await session.reset()
        await session.act(FLAT)
        network.refuse = True
        network.cut()
        in_time, actions = InTime(), []
        for step in range(40):
            async with in_time:
                actions.append(await session.act(FLAT * step))
            network.refuse = step < 15
            await asyncio.sleep(0.01)
        in_time.check()
        assert actions[5].is_fallback
        assert not actions[-1].is_fallback
        assert session.reconnects == 1


async def test_a_silent_connection_is_given_up(site: Any, network: Network) -> None:
    async with AsyncSession(network.url, "pidog-run", token=token(site), deadline_s=0.03, fallback="hold", timeout_s=0.3) as session:
        await session.reset()
        await session.act(FLAT)
        network.hold()
        deadline_s = time.monotonic() + 5
        while session.reconnects == 0 and time.monotonic() < deadline_s:
            assert (await session.act(FLAT)).is_fallback or session.reconnects
            if session._socket is None:
                network.release()
        assert session.reconnects == 1


async def test_chunks_are_taken_row_by_row(empty_site: Any, url: str, tmp_path: Path, make_bundle: Any) -> None:
    bundle = make_bundle(tmp_path / "chunks", gain=1.0, action_size=6)
    contract = PolicyContract.load(bundle / "contract.json")
    field = TensorField(name="joint_position_target_rad", shape=(3, 2), unit="rad")
    contract.model_copy(update={"action": (field,)}).save(bundle / "contract.json")
    seal(bundle)
    empty_site.bundles["3"] = bundle
    await empty_site.serve("3", default="3")
    address, key = f"http://{url}", token(empty_site)
    async with AsyncSession(address, "pidog-run", token=key, chunk_steps=2) as session:
        await session.reset()
        actions = [await session.act(FLAT * (k + 1)) for k in range(4)]
        assert [(action.sequence, action.chunk_step) for action in actions] == [(1, 0), (1, 1), (2, 0), (2, 1)]
        np.testing.assert_array_equal([action.vector for action in actions], [FLAT[:2], FLAT[2:4], FLAT[:2] * 3, FLAT[2:4] * 3])
        await session.reset()
        assert (await session.act(FLAT)).chunk_step == 0
    with pytest.raises(ValueError, match=r"chunk_steps 4: the policy's action fields have the shapes \[3, 2\]"):
        await AsyncSession(address, "pidog-run", token=key, chunk_steps=4).__aenter__()


async def test_refusals_and_absence_are_told_apart(site: Any, url: str) -> None:
    with pytest.raises(ForbiddenError, match="unauthorized"):
        await AsyncSession(f"http://{url}", "pidog-run").__aenter__()
    with pytest.raises(ForbiddenError, match="role viewer may not"):
        await AsyncSession(f"http://{url}", "pidog-run", token=token(site, "viewer")).__aenter__()
    with pytest.raises(NotFoundError, match="no policy 'nobody'"):
        await AsyncSession(f"http://{url}", "nobody", token=token(site)).__aenter__()
    with pytest.raises(UnreachableError, match=r"no answer within 0\.2 s"):
        await AsyncSession("http://127.0.0.1:9", "pidog-run", retry_s=0.2).__aenter__()
    for arguments, says in ((("ftp://x", "p"), "give http://host:port"),):
        with pytest.raises(ValueError, match=says):
            AsyncSession(*arguments)
    with pytest.raises(ValueError, match='give an action, "hold" or None'):
        AsyncSession("http://x", "p", fallback="jump")


async def test_without_asyncio(site: Any, url: str) -> None:
    def robot() -> None:
        with Session(f"http://{url}", "pidog-run", "dog-8", token(site), deadline_s=1.0, fallback="hold") as session:
            episode = session.reset("mine")
            assert episode.episode_id == session.metadata["episode_id"] or episode.episode_id == "mine"
            action = session.act(FLAT)
            np.testing.assert_array_equal(action.vector, FLAT[:2] * float(episode.version))
            assert session.outcome(0.1)
            assert (session.episode, session.reconnects, session.stale_replies) == (None, 0, 0)
        session.close()  # again: nothing happens
        with pytest.raises(ForbiddenError):
            Session(f"http://{url}", "pidog-run").__enter__()

    await asyncio.to_thread(robot)
