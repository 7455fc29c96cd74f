"""HTTP/1.1 for one request at a time on one persistent connection, without input or output.

A robot sends fifty small requests a second on one connection; a general client library spends more time on each than the
policy does. Bytes go in and out of here; ``client`` and ``aio`` bring the socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["HttpResponse", "ProtocolError", "ResponseReader", "encode_request"]

_MAX_HEAD_BYTES = 64 << 10


class ProtocolError(Exception):
    """The peer does not speak HTTP/1.1 as we know it; the connection must be closed."""


@dataclass(frozen=True)
class HttpResponse:
    """One complete response."""

    status: int
    headers: Mapping[str, str]
    """Header names in lower case."""
    body: bytes
    keep_alive: bool
    """Whether the connection may carry another request."""


def encode_request(method: str, target: str, host: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
    """One request on the wire. ``target`` is the percent-encoded path."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join(lines)
    if "\r" in head.replace("\r\n", "") or "\n" in head.replace("\r\n", "") or head.count("\r\n") != len(lines) - 1:
        raise ValueError("a header must not contain line breaks")
    return head.encode("latin-1") + b"\r\n\r\n" + (body or b"")


class ResponseReader:
    """Collects bytes until a response is complete; then it is ready for the next one.

    Understands ``Content-Length``, ``Transfer-Encoding: chunked`` and bodies that end with the connection.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: tuple[int, dict[str, str], bool] | None = None

    def feed(self, data: bytes) -> HttpResponse | None:
        """Take received bytes; return the response once it is complete. Empty ``data`` means that the peer closed.

        Raises:
            ProtocolError: malformed bytes, or the peer closed in the middle of a response.
        """
        self._buffer += data
        while True:
            if self._head is None and not self._read_head():
                break
            assert self._head is not None
            status, headers, keep_alive = self._head
            if 100 <= status < 200:
                self._head = None  # an interim response: the real one follows
                continue
            body = self._body(status, headers, closed=not data)
            if body is None:
                break
            self._head = None
            return HttpResponse(status, headers, body, keep_alive and bool(data))
        if not data:
            raise ProtocolError("the server closed the connection in the middle of a response")
        return None

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise ProtocolError("endless response header")
            return False
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        version, _, rest = lines[0].partition(" ")
        code = rest[:3]
        if version not in ("HTTP/1.1", "HTTP/1.0") or not code.isdigit():
            raise ProtocolError(f"not an HTTP/1.1 response: {lines[0][:60]!r}")
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, separator, value = line.partition(":")
            if not separator:
                raise ProtocolError(f"not a header line: {line[:60]!r}")
            headers[name.strip().lower()] = value.strip()
        connection = headers.get("connection", "").lower()
        keep_alive = connection != "close" if version == "HTTP/1.1" else connection == "keep-alive"
        self._head = int(code), headers, keep_alive
        return True

    def _body(self, status: int, headers: Mapping[str, str], closed: bool) -> bytes | None:
        if status in (204, 304):
            return b""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._chunks()
        if "content-length" in headers:
            if not headers["content-length"].isdigit():
                raise ProtocolError(f"bad content-length {headers['content-length'][:40]!r}")
            length = int(headers["content-length"])
            return self._take(length) if len(self._buffer) >= length else None
        if not closed:
            return None
        return self._take(len(self._buffer))

    def _chunks(self) -> bytes | None:
        """Decode a chunked body once all of it is here (bodies are small: decoding again on more bytes costs nothing)."""
        body, position = bytearray(), 0
        while True:
            end = self._buffer.find(b"\r\n", position)
            if end < 0:
                return None
            try:
                size = int(self._buffer[position:end].partition(b";")[0], 16)
            except ValueError:
                raise ProtocolError("bad chunk size") from None
            if size == 0:
                # Trailer fields may follow; an empty line ends them.
                if self._buffer[end : end + 4] == b"\r\n\r\n":
                    del self._buffer[: end + 4]
                    return bytes(body)
                last = self._buffer.find(b"\r\n\r\n", end)
                if last < 0:
                    return None
                del self._buffer[: last + 4]
                return bytes(body)
            start, stop = end + 2, end + 2 + size
            if len(self._buffer) < stop + 2:
                return None
            body += self._buffer[start:stop]
            position = stop + 2

    def _take(self, length: int) -> bytes:
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body
