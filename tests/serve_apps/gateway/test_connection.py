"""Frames that are taken where they arrive, and all the others, in order: against an application that echoes both ways."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from serve_apps.gateway.connection import SessionConnection, connection_of

pytestmark = pytest.mark.anyio


class Echo:
    """Takes binary frames that begin with ``f`` (answered at once) or ``d`` (answered a little later); the rest goes through ASGI.

    Every answer says which way it went.
    """

    def __init__(self) -> None:
        self.connections: list[SessionConnection | None] = []
        self.ended = asyncio.Event()

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        connection = connection_of(scope)
        self.connections.append(connection)
        if connection is not None:
            connection.take(lambda payload: self._take(connection, payload))
        try:
            while (message := await receive())["type"] != "websocket.disconnect":
                given = message.get("bytes")
                await asyncio.sleep(0.002)
                await send({"type": "websocket.send", "text": f"asgi:{message['text'] if given is None else given[:8].decode()}"})
                if connection is not None:
                    connection.answered()
        finally:
            self.ended.set()

    def _take(self, connection: SessionConnection, payload: bytes) -> bool:
        if payload[:1] not in (b"f", b"d"):
            return False
        if payload[:1] == b"f":
            connection.reply(b"taken:" + payload)
        else:
            asyncio.get_running_loop().call_later(0.005, connection.reply, b"taken:" + payload)
        return True


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=[SessionConnection, "websockets-sansio"])
async def place(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[tuple[Echo, str, bool]]:
    """The application, its URL, and whether it sees its connections; without, all of it has to work as well."""
    echo = Echo()
    config = uvicorn.Config(echo, host="127.0.0.1", port=0, log_level="error", ws=request.param, lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield echo, f"ws://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/", request.param is SessionConnection
    server.should_exit = True
    await serving


def open_socket(url: str, **options: Any) -> connect:
    """Without compression, as robots connect: a compressed frame is never taken."""
    return connect(url, **{"compression": None, **options})


def said(answer: str | bytes) -> str:
    return answer if isinstance(answer, str) else answer.decode()


async def answers(socket: ClientConnection, count: int) -> list[str]:
    return [said(await asyncio.wait_for(socket.recv(), 10)) for _ in range(count)]


async def test_each_frame_goes_its_way_and_answers_keep_the_order(place: tuple[Echo, str, bool]) -> None:
    echo, url, short = place
    sent = [b"f1", "text", b"d2", b"f3", b"x4", b"d5", "more", b"f6"]
    async with open_socket(url) as socket:
        found = []
        for message in sent:
            await socket.send(message)
            found += await answers(socket, 1)
        way = "taken" if short else "asgi"
        assert found == [f"{way}:f1", "asgi:text", f"{way}:d2", f"{way}:f3", "asgi:x4", f"{way}:d5", "asgi:more", f"{way}:f6"]
        for message in sent:  # without waiting for an answer: what comes behind a message in ASGI's hands goes there too
            await socket.send(message)
        found = await answers(socket, len(sent))
        assert [answer.partition(":")[2] for answer in found] == [said(message) for message in sent]
    assert (echo.connections[0] is not None) == short


async def test_a_flood_is_answered_in_order_and_nothing_is_lost(place: tuple[Echo, str, bool]) -> None:
    _, url, _ = place
    count = 400

    async def flood(socket: ClientConnection) -> None:
        for number in range(count):
            await socket.send(b"%s%05d" % (b"d" if number % 100 == 0 else b"f", number))

    async with open_socket(url) as socket:
        sending = asyncio.create_task(flood(socket))
        found = await answers(socket, count)
        await sending
    assert [int(answer.partition(":")[2][1:]) for answer in found] == list(range(count))


async def test_fragments_pings_and_large_frames_are_as_ever(place: tuple[Echo, str, bool]) -> None:
    _, url, short = place
    async with open_socket(url) as socket:
        await socket.send([b"f", b"ragmen", b"ts"])  # three frames, one message
        assert await answers(socket, 1) == ["asgi:fragment"]
        await asyncio.wait_for(await socket.ping(), 10)
        for size in (125, 126, 65_535, 65_536):
            await socket.send(b"f" + b"." * (size - 1))
            answer = said(await socket.recv())
            assert answer == ("taken:f" + "." * (size - 1) if short else "asgi:f.......")
        await socket.send(b"f" * (2 << 20))
        assert await answers(socket, 1) == ["asgi:ffffffff"]  # longer than what is collected here
        await socket.send(b"f again")
        assert await answers(socket, 1) == ["asgi:f again"]


async def test_compressed_frames_go_through_asgi(place: tuple[Echo, str, bool]) -> None:
    _, url, _ = place
    async with open_socket(url, compression="deflate") as socket:
        await socket.send(b"f" * 100)
        assert await answers(socket, 1) == ["asgi:ffffffff"]


async def test_the_end_is_seen_however_it_comes(place: tuple[Echo, str, bool]) -> None:
    echo, url, _ = place
    socket = await open_socket(url)
    await socket.send(b"d1")
    await socket.close()
    assert await asyncio.wait_for(echo.ended.wait(), 10)
    echo.ended.clear()
    socket = await open_socket(url)
    await socket.send(b"d1")
    socket.transport.abort()
    assert await asyncio.wait_for(echo.ended.wait(), 10)


async def test_bytes_that_trickle_in_make_the_same_frames(place: tuple[Echo, str, bool]) -> None:
    _, url, short = place
    host, _, port = url.removeprefix("ws://").rstrip("/").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(0.05)
    mask = os.urandom(4)

    def frame(payload: bytes) -> bytes:
        masked = bytes(byte ^ mask[k % 4] for k, byte in enumerate(payload))
        length = bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + struct.pack(">H", len(payload))
        return b"\x82" + length + mask + masked

    payloads = [b"f0", b"f" + b"1" * 200, b"f2"]
    for byte in b"".join(map(frame, payloads)):
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0)
    for payload in payloads:
        head = await reader.readexactly(2)
        size = head[1] if head[1] < 126 else int.from_bytes(await reader.readexactly(2), "big")
        answer = (await reader.readexactly(size)).decode()
        assert answer == (f"taken:{payload.decode()}" if short else f"asgi:{payload[:8].decode()}")
    writer.write(b"\x82\x02f0")  # not masked: against the protocol
    await writer.drain()
    end = await asyncio.wait_for(reader.read(), 10)
    assert end[:1] == b"\x88"
    assert int.from_bytes(end[2:4], "big") == 1002
    writer.close()


async def test_a_server_that_stops_closes_what_it_took(anyio_backend: str) -> None:
    echo = Echo()
    server = uvicorn.Server(
        uvicorn.Config(echo, host="127.0.0.1", port=0, log_level="error", ws=SessionConnection, lifespan="off", timeout_graceful_shutdown=1)
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    socket = await open_socket(f"ws://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/")
    await socket.send(b"f1")
    assert await socket.recv() == b"taken:f1"
    server.should_exit = True
    with pytest.raises(ConnectionClosed) as closed:
        await asyncio.wait_for(socket.recv(), 10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    await serving
