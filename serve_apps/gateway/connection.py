"""The short way of a session's frames: from the socket to the policy and back, without a task in between.

Through ASGI a frame passes four tasks and three queues before it is answered, which takes longer than the policy. So our connections are
uvicorn's own with one addition: whoever serves the route may ``take`` single binary frames where they arrive and ``reply`` to them at
once. All else (handshake, fragments, text, control frames, compressed or oversized frames, closing) is uvicorn's business as ever, and what
is taken and what is not stays in order: while one frame is being answered, those behind it wait.

``install`` makes uvicorn use it for every server that is started afterwards in this process with ``ws="auto"``, as Serve's are. Where Serve
puts a proxy process of its own between (no HAProxy), the application sees no connection and answers through ASGI.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from uvicorn.config import WS_PROTOCOLS
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import apply_mask
from websockets.http11 import Request

__all__ = ["SessionConnection", "connection_of", "install"]

_EXTENSION = "gaitway.connection"
_FINAL, _CONTROL, _OPCODE, _TEXT, _BINARY, _MASKED = 0x80, 0x08, 0x0F, 0x1, 0x2, 0x80
_LONGEST_BYTES = 1 << 20
"""Of a frame that is collected here; uvicorn decides about longer ones."""
_MOST_WAITING = 64
"""Frames that may wait behind one that is being answered, before the robot's sending is held up."""

Take = Callable[[bytes], bool]


def install() -> None:
    """Use it for servers that this process starts from now on."""
    WS_PROTOCOLS["auto"] = f"{__name__}:{SessionConnection.__name__}"  # type: ignore[index]


def connection_of(scope: Mapping[str, Any]) -> SessionConnection | None:
    """The connection behind an ASGI scope; None when another process holds it, or another thread's event loop."""
    found = scope.get("extensions", {}).get(_EXTENSION)
    return found if isinstance(found, SessionConnection) and found.loop is asyncio.get_running_loop() else None


class SessionConnection(WebSocketsSansIOProtocol):
    """One WebSocket (RFC 6455, section 5.2: two bytes and up to eight of header, four of mask, the payload)."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._take: Take | None = None
        self._upgraded = self._foreign = self._in_fragments = self._taken = False
        self._handed_up = 0
        self._rest = b""
        self._waiting: deque[bytes] = deque()

    def take(self, function: Take) -> None:
        """From now on show single binary frames to ``function`` first.

        It gets the payload and returns True when it has seen to it: ``reply`` is then called once, at once or later. False: the frame goes
        through ASGI. Whoever takes must call ``answered`` after each message that came through ASGI.
        """
        self._take = function

    def reply(self, payload: bytes, text: bool = False) -> None:
        """Answer the frame that was taken, and go on with those behind it."""
        self.write(payload, text)
        self._taken = False
        self._go_on()

    def answered(self) -> None:
        """A message that came through ASGI has been answered."""
        self._handed_up = max(0, self._handed_up - 1)
        self._go_on()

    def write(self, payload: bytes, text: bool = False) -> bool:
        """Send one frame now; False when it cannot be: the robot is gone, or does not read."""
        if self.close_sent or not self.writable.is_set() or self.transport.is_closing():
            return False
        size = len(payload)
        opcode = _FINAL | (_TEXT if text else _BINARY)
        if size < 126:
            header = bytes((opcode, size))
        elif size < 1 << 16:
            header = bytes((opcode, 126, size >> 8, size & 0xFF))
        else:
            header = bytes((opcode, 127)) + size.to_bytes(8, "big")
        self.transport.write(header + payload)
        return True

    def handle_connect(self, event: Request) -> None:
        """Put the connection where the application finds it."""
        super().handle_connect(event)
        if not self.close_sent:
            self.scope["extensions"][_EXTENSION] = self  # type: ignore[index, typeddict-unknown-key]

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what waits."""
        self._waiting.clear()
        self._take = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Cut what arrives into frames."""
        if not self._upgraded or self._foreign:
            self._upgraded = True  # the first bytes are the handshake, whole
            super().data_received(data)
            return
        if self._rest:
            data = self._rest + data
        start, end = 0, len(data)
        while end - start >= 2:
            length, header = data[start + 1] & 0x7F, 2
            if length >= 126:
                header = 4 if length == 126 else 10
                if end - start < header:
                    break
                length = int.from_bytes(data[start + 2 : start + header], "big")
            if length > _LONGEST_BYTES or not data[start + 1] & _MASKED:
                self._foreign, self._rest = True, b""
                super().data_received(data[start:])
                return
            stop = start + header + 4 + length
            if stop > end:
                break
            self._arrived(data[start:stop] if start or stop < end else data)
            start = stop
        self._rest = data[start:] if start < end else b""

    def _arrived(self, frame: bytes) -> None:
        if frame[0] & _CONTROL:
            super().data_received(frame)
        elif self._taken or self._waiting:
            self._waiting.append(frame)
            if len(self._waiting) >= _MOST_WAITING:
                self.transport.pause_reading()
        else:
            self._dispatch(frame)

    def _dispatch(self, frame: bytes) -> None:
        if self._take is not None and not self._handed_up and not self._in_fragments and frame[0] == _FINAL | _BINARY:
            self._taken = True
            if self._take(_payload(frame)):
                return
            self._taken = False
        if not frame[0] & _FINAL:
            self._in_fragments = True
        else:
            self._in_fragments = False
            self._handed_up += 1
        super().data_received(frame)

    def _go_on(self) -> None:
        if not self._waiting:
            return
        while self._waiting and not self._taken:
            self._dispatch(self._waiting.popleft())
        if not self._waiting and not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()


def _payload(frame: bytes) -> bytes:
    length = frame[1] & 0x7F
    start = 2 if length < 126 else 4 if length == 126 else 10
    return apply_mask(frame[start + 4 :], frame[start : start + 4])
