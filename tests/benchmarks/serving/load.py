"""Sessions under load: ``python -m tests.benchmarks.serving.load URL POLICY TOKEN --connections 8 --seconds 5 [--rate 50]``.

Without ``--rate`` every connection sends its next observation as soon as the action is here; with it, every robot sends at its own ticks,
and an action that is not here before the next tick is a missed deadline. Bytes are written and read by hand (RFC 6455), because a client
library on the same two cores would be measured instead of the server. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import json
import os
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np

from cluster.wire.frames import ACTION, OBSERVATION, unpack, write_compact


class Robot(asyncio.Protocol):
    """One connection. Reconnects by itself, going on with its episode, when the server closes it."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self.fleet, self.number = fleet, number
        self.episode_id: str | None = None
        self.arm: Any = None
        self.metadata: dict[str, Any] | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._upgraded = False
        self.sequence = 0
        self.sent_s = 0.0
        self.waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Shake hands."""
        self._transport = cast(asyncio.Transport, transport)
        self._buffer.clear()
        self._upgraded = False
        query = f"?robot_id=load-{self.number}" + (f"&episode_id={self.episode_id}" if self.episode_id else "")
        lines = [
            f"GET /v1/policies/{self.fleet.policy}/session{query} HTTP/1.1",
            f"Host: {self.fleet.host}:{self.fleet.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            f"Authorization: Bearer {self.fleet.token}",
        ]
        self._transport.write(("\r\n".join(lines) + "\r\n\r\n").encode())

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._buffer += data
        if not self._upgraded:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self._buffer.startswith(b"HTTP/1.1 101"):
                self._transport.abort()  # type: ignore[union-attr]
                return
            del self._buffer[: end + 4]
            self._upgraded = True
        while (frame := self._frame()) is not None:
            self._take(*frame)

    def connection_lost(self, error: Exception | None) -> None:
        """Come back, as a robot does."""
        self.waiting = False
        if not self.fleet.over:
            self.fleet.lost.append(time.perf_counter())
            self.opened = asyncio.get_running_loop().create_future()
            self.fleet.spawn(self.fleet.connect(self))

    def send(self) -> None:
        """One observation."""
        self.sequence = (self.sequence + 1) & 0xFFFFFFFF
        payload = self.fleet.payload
        struct.pack_into("<I", payload, self.fleet.sequence_offset, self.sequence)
        self.waiting, self.sent_s = True, time.perf_counter()
        self._transport.write(bytes(payload))  # type: ignore[union-attr]

    def _frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        length, start = buffer[1] & 0x7F, 2
        if length == 126:
            if len(buffer) < 4:
                return None
            length, start = int.from_bytes(buffer[2:4], "big"), 4
        if len(buffer) < start + length:
            return None
        frame = buffer[0] & 0x0F, bytes(buffer[start : start + length])
        del buffer[: start + length]
        return frame

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == 9:  # ping
            self._transport.write(bytes((0x8A, 0x80 | len(payload))) + bytes(4) + payload)  # type: ignore[union-attr]
        elif opcode == 1:
            self.fleet.problems.append(payload.decode())
            self.waiting = False
        elif opcode == 2 and payload[0] == ACTION:
            self._acted(payload)
        elif opcode == 2:
            metadata = unpack(payload)
            if self.arm is not None and self.arm != (metadata["arm"], metadata["version"]):
                self.fleet.problems.append(f"{self.episode_id} changed from {self.arm} to {metadata['arm'], metadata['version']}")
            self.arm, self.episode_id, self.metadata = (metadata["arm"], metadata["version"]), metadata["episode_id"], metadata
            if not self.opened.done():
                self.opened.set_result(None)

    def _acted(self, payload: bytes) -> None:
        now_s = time.perf_counter()
        if int.from_bytes(payload[4:8], "little") != self.sequence:
            return
        self.waiting = False
        self.fleet.acted(self, now_s)


class Fleet:
    """All connections of one process."""

    def __init__(self, url: str, policy: str, token: str, connections: int, rate_hz: float | None) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.policy, self.token, self.connections, self.rate_hz = policy, token, connections, rate_hz
        self.latencies_s: list[float] = []
        self.times_s: list[float] = []
        self.problems: list[str] = []
        self.lost: list[float] = []
        self.gaps_s: list[float] = []
        self.missed = 0
        self.over = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, seconds: float, warm_s: float = 1.0) -> dict[str, Any]:
        """The figures."""
        robots = [Robot(self, number) for number in range(self.connections)]
        for robot in robots:
            await self.connect(robot)
            self._prepare(robot.metadata or {})
        gc.disable()
        started_s = time.perf_counter()
        self._counted_from_s = started_s + warm_s
        until_s = started_s + warm_s + seconds
        if self.rate_hz is None:
            for robot in robots:
                robot.send()
            await asyncio.sleep(until_s - time.perf_counter())
        else:
            await asyncio.gather(*(self._pace(robot, until_s) for robot in robots))
        self.over = True
        for robot in robots:
            robot._transport.abort()  # type: ignore[union-attr]
        latencies_ms = 1e3 * np.array(self.latencies_s or [np.nan])
        p50, p99 = np.percentile(latencies_ms, [50, 99])
        return {
            "connections": self.connections,
            "frames": len(self.latencies_s),
            "frames_per_s": len(self.latencies_s) / seconds,
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "max_ms": float(latencies_ms.max()),
            "missed": self.missed,
            "lost": len(self.lost),
            "longest_gap_s": max(self.gaps_s, default=0.0),
            "problems": self.problems[:5],
            "problem_count": len(self.problems),
            "arms": {str(key): sum(robot.arm == key for robot in robots) for key in {robot.arm for robot in robots}},
        }

    async def connect(self, robot: Robot) -> None:
        """Connect, again and again until it works."""
        began_s = time.perf_counter()
        while True:
            try:
                await asyncio.get_running_loop().create_connection(lambda: robot, self.host, self.port)
                await asyncio.wait_for(asyncio.shield(robot.opened), 2.0)
            except (OSError, TimeoutError):
                if self.over:
                    return
                await asyncio.sleep(0.02)
                continue
            break
        if self.lost:
            self.gaps_s.append(time.perf_counter() - began_s)
            if self.rate_hz is None:
                robot.send()

    def spawn(self, call: Any) -> None:
        """Run something beside."""
        task = asyncio.get_running_loop().create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def acted(self, robot: Robot, now_s: float) -> None:
        """An action came."""
        if now_s >= self._counted_from_s:
            self.latencies_s.append(now_s - robot.sent_s)
        if self.rate_hz is None and not self.over:
            robot.send()

    async def _pace(self, robot: Robot, until_s: float) -> None:
        assert self.rate_hz is not None
        period_s = 1.0 / self.rate_hz
        tick_s = time.perf_counter() + period_s * robot.number / self.connections
        while tick_s < until_s:
            await asyncio.sleep(max(0.0, tick_s - time.perf_counter()))
            if robot.waiting or not robot.opened.done():
                self.missed += tick_s >= self._counted_from_s
            if not robot.waiting and robot.opened.done():
                robot.send()
            tick_s += period_s

    def _prepare(self, metadata: dict[str, Any]) -> None:
        observation = np.random.default_rng(0).uniform(-1, 1, metadata["observation_size"]).astype(np.float32)
        frame = write_compact(OBSERVATION, 0, observation)
        length = bytes((0x80 | len(frame),)) if len(frame) < 126 else bytes((0xFE,)) + len(frame).to_bytes(2, "big")
        # A masking key of zeros leaves the payload as it is.
        self.payload = bytearray(b"\x82" + length + bytes(4) + frame)
        self.sequence_offset = len(self.payload) - len(frame) + 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("policy")
    parser.add_argument("token")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float)
    options = parser.parse_args(arguments)
    fleet = Fleet(options.url, options.policy, options.token, options.connections, options.rate)
    print(json.dumps(asyncio.run(fleet.run(options.seconds))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
