"""The sans-io HTTP client: every way of cutting the bytes gives the same response."""

from __future__ import annotations

import http.client
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.wire.http1 import HttpResponse, ProtocolError, ResponseReader, encode_request


def read_all(data: bytes, cuts: list[int]) -> HttpResponse | None:
    reader, start, response = ResponseReader(), 0, None
    for cut in sorted({cut for cut in cuts if 0 < cut < len(data)} | {len(data)}):
        response = reader.feed(data[start:cut])
        start = cut
    return response


def encode_response(status: int, body: bytes, chunks: list[int] | None, interim: bool) -> bytes:
    head = b"HTTP/1.1 100 Continue\r\n\r\n" if interim else b""
    head += f"HTTP/1.1 {status} X\r\nX-Thing: a: b\r\n".encode()
    if chunks is None:
        return head + f"content-length: {len(body)}\r\n\r\n".encode() + body
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    start = 0
    for cut in sorted({cut for cut in chunks if 0 < cut < len(body)} | {len(body)}):
        if cut > start:
            head += f"{cut - start:x};x=1\r\n".encode() + body[start:cut] + b"\r\n"
        start = cut
    return head + b"0\r\nTrailer: t\r\n\r\n"


@given(
    status=st.sampled_from([200, 404, 500]),
    body=st.binary(max_size=300),
    chunks=st.none() | st.lists(st.integers(0, 300), max_size=5),
    interim=st.booleans(),
    cuts=st.lists(st.integers(0, 500), max_size=20),
)
def test_any_cut_gives_what_the_standard_library_reads(
    status: int, body: bytes, chunks: list[int] | None, interim: bool, cuts: list[int]
) -> None:
    data = encode_response(status, body, chunks, interim)
    response = read_all(data, cuts)
    assert response is not None

    class Socket:
        def makefile(self, *_arguments: object) -> io.BytesIO:
            return io.BytesIO(data)

    oracle = http.client.HTTPResponse(Socket())  # type: ignore[arg-type]
    oracle.begin()
    assert (response.status, response.body, response.headers["x-thing"]) == (oracle.status, oracle.read(), oracle.getheader("x-thing"))
    assert response.body == body
    assert response.keep_alive


def test_two_responses_on_one_connection() -> None:
    reader = ResponseReader()
    for body in (b"one", b""):
        response = reader.feed(encode_response(200, body, None, False))
        assert response is not None
        assert response.body == body


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 0", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 0", False),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0", True),
        (b"HTTP/1.1 204 No Content", True),
    ],
)
def test_whether_the_connection_may_be_used_again(head: bytes, keep_alive: bool) -> None:
    response = ResponseReader().feed(head + b"\r\n\r\n")
    assert response is not None
    assert response.keep_alive is keep_alive


def test_a_body_may_end_with_the_connection() -> None:
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nsome") is None
    response = reader.feed(b"")
    assert response is not None
    assert (response.body, response.keep_alive) == (b"some", False)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno separator\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
    ],
)
def test_what_is_not_http_is_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        ResponseReader().feed(data)


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab"])
def test_a_connection_that_ends_too_early_is_an_error(data: bytes) -> None:
    reader = ResponseReader()
    if data:
        assert reader.feed(data) is None
    with pytest.raises(ProtocolError):
        reader.feed(b"")


def test_a_request_is_one_that_the_standard_library_understands() -> None:
    body = json.dumps({"a": 1}).encode()
    data = encode_request("POST", "/v1/x", "host:1", {"Content-Type": "application/json"}, body)
    head, _, rest = data.partition(b"\r\n\r\n")
    message = http.client.parse_headers(io.BytesIO(head.partition(b"\r\n")[2] + b"\r\n\r\n"))
    assert head.startswith(b"POST /v1/x HTTP/1.1\r\n")
    assert (message["host"], message["content-length"], message["content-type"]) == ("host:1", str(len(body)), "application/json")
    assert rest == body
    with pytest.raises(ValueError, match="line breaks"):
        encode_request("GET", "/", "host", {"Authorization": "Bearer x\r\nEvil: 1"})
