"""Both clients against a real server on a real socket, including servers that misbehave."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from cluster.wire.aio import AsyncPolicyClient
from cluster.wire.client import PolicyClient
from cluster.wire.errors import ConflictError, InvalidRequestError, NotFoundError, ProblemError, UnreachableError

Answer = Callable[[str, dict[str, Any]], tuple[int, Any] | None]


class Server:
    """Answers by a function of (path, body); None: closes the connection without an answer."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.connections: set[Any] = set()
        self.answer: Answer = lambda path, body: (200, {})
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
                outer.requests.append((self.path, body, dict(self.headers)))
                outer.connections.add(self.client_address)
                answer = outer.answer(self.path, body)
                if answer is None:
                    self.close_connection = True
                    return
                status, content = answer
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                kind = "application/problem+json" if status >= 400 and not isinstance(content, bytes) else "application/json"
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST  # noqa: N815 - the standard library's name

            def log_message(self, *_arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


class SyncFacade:
    """The asyncio client behind the blocking one's methods, so that every test runs on both."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._client = AsyncPolicyClient(*arguments, **keywords)
        self._loop = asyncio.new_event_loop()

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if not asyncio.iscoroutinefunction(attribute):
            return attribute
        return lambda *arguments, **keywords: self._loop.run_until_complete(attribute(*arguments, **keywords))

    def close(self) -> None:
        self._client.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


@pytest.fixture(params=["blocking", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(url: str, **keywords: Any) -> Any:
        made.append((PolicyClient if request.param == "blocking" else SyncFacade)(url, "pidog-run", **keywords))
        return made[-1]

    yield make
    for client in made:
        client.close()


def act_answer(body: dict[str, Any], **changes: Any) -> dict[str, Any]:
    answer = {"action": {"a": [1, 2], "b": [3]}, "version": "4", "arm": "champion", "sequence": body["sequence"]}
    return answer | {"episode_id": body["episode_id"]} | changes


def test_steps_are_numbered_and_state_is_handed_back(server: Server, connect: Callable[..., Any]) -> None:
    server.answer = lambda path, body: (200, act_answer(body, state={"h": [body["sequence"] + 0.5]}))
    client = connect(server.url, robot_id="r1", token="t0")
    for _ in range(3):
        reply = client.act(np.array([0.1, 0.2], dtype=np.float32), "e1")
    client.act({"gravity": np.zeros(2), "range_m": 1.0}, "e2")
    np.testing.assert_array_equal(reply.vector, [1, 2, 3])
    assert (reply.version, reply.arm, reply.sequence) == ("4", "champion", 2)
    bodies = [body for _, body, _ in server.requests]
    assert [(body["episode_id"], body["sequence"], body.get("state")) for body in bodies] == [
        ("e1", 0, None),
        ("e1", 1, {"h": [0.5]}),
        ("e1", 2, {"h": [1.5]}),
        ("e2", 0, None),
    ]
    assert bodies[3]["observation"] == {"gravity": [0.0, 0.0], "range_m": 1.0}
    assert bodies[0]["robot_id"] == "r1"
    assert {headers["Authorization"] for _, _, headers in server.requests} == {"Bearer t0"}
    assert len(server.connections) == 1


def test_outcome_says_whether_it_was_new(server: Server, connect: Callable[..., Any]) -> None:
    server.answer = lambda path, body: (200, {"repeated": len(server.requests) > 1})
    client = connect(server.url)
    assert client.outcome("walk 1/é", 0.2, fell=True, steps=3, duration_s=0.06, metrics={"energy_j": 1}) is True
    assert client.outcome("walk 1/é", 0.2, fell=True, steps=3, duration_s=0.06, metrics={"energy_j": 1}) is False
    path, body, _ = server.requests[0]
    assert path == "/v1/policies/pidog-run/episodes/walk%201%2F%C3%A9/outcome"
    assert body == {"value": 0.2, "fell": True, "steps": 3, "duration_s": 0.06, "metrics": {"energy_j": 1.0}}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, NotFoundError),
        (409, ConflictError),
        (422, InvalidRequestError),
        (413, InvalidRequestError),
        (401, ProblemError),
        (500, ProblemError),
    ],
)
def test_a_problem_is_raised_at_once_with_its_field(
    server: Server, connect: Callable[..., Any], status: int, error: type[ProblemError]
) -> None:
    problem = {"type": "urn:gaitway:problem:some-kind", "title": "T", "detail": "it is wrong", "field": "observation.gravity"}
    server.answer = lambda path, body: (status, problem)
    with pytest.raises(error, match=f"{status} some-kind: it is wrong") as raised:
        connect(server.url).act([1.0], "e")
    assert (raised.value.status, raised.value.field) == (status, "observation.gravity")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(None, id="connection closed"),
        pytest.param((500, b"Internal Server Error"), id="a proxy with nobody behind it"),
        pytest.param((404, b"Path '/v1' not found."), id="a proxy that knows no application yet"),
        pytest.param((503, {"type": "urn:gaitway:problem:not-ready", "detail": "not loaded"}), id="not ready"),
        pytest.param((200, b"<html>"), id="something else"),
    ],
)
def test_what_passes_is_tried_again(server: Server, connect: Callable[..., Any], first: Any) -> None:
    server.answer = lambda path, body: first if len(server.requests) <= 2 else (200, act_answer(body))
    client = connect(server.url)
    assert client.act([1.0], "e").sequence == 0
    assert [body["sequence"] for _, body, _ in server.requests] == [0, 0, 0]
    assert client.retries == 2


def test_a_late_answer_is_never_taken_for_the_next_one(server: Server, connect: Callable[..., Any]) -> None:
    def slow_first(_path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if len(server.requests) == 1:
            time.sleep(0.4)
        return 200, act_answer(body, action={"a": [len(server.requests)]})

    server.answer = slow_first
    client = connect(server.url, timeout_s=0.15)
    assert client.act([1.0], "e").vector == [2]
    time.sleep(0.4)
    assert client.act([1.0], "e").vector == [3]
    assert len(server.connections) == 3 - 1  # the timed-out one was closed


def test_it_gives_up_when_the_window_is_over(connect: Callable[..., Any]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    started_s = time.monotonic()
    with pytest.raises(UnreachableError, match=rf"http://127\.0\.0\.1:{port}: no answer within 0\.3 s"):
        connect(f"http://127.0.0.1:{port}", retry_s=0.3).act([1.0], "e")
    assert 0.3 <= time.monotonic() - started_s < 2.0


def test_it_finds_a_server_that_comes_back(connect: Callable[..., Any]) -> None:
    first = Server()
    first.answer = lambda path, body: (200, act_answer(body))
    client = connect(first.url, retry_s=20.0)
    client.act([1.0], "e")
    first.close()
    client.close() if isinstance(client, PolicyClient) else client._client.close()
    second: list[Server] = []

    def come_back() -> None:
        second.append(Server(int(first.url.rpartition(":")[2])))
        second[0].answer = first.answer

    timer = threading.Timer(0.3, come_back)
    timer.start()
    try:
        assert client.act([1.0], "e").sequence == 1
        assert client.retries > 0
    finally:
        timer.join()
        second[0].close()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_sent(server: Server, connect: Callable[..., Any], value: float) -> None:
    client = connect(server.url)
    with pytest.raises(ValueError, match="JSON compliant"):
        client.act([value], "e")
    with pytest.raises(ValueError, match="JSON compliant"):
        client.outcome("e", value)
    assert server.requests == []


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://"])
def test_a_url_that_is_none(connect: Callable[..., Any], url: str) -> None:
    with pytest.raises(ValueError, match="give http://host:port"):
        connect(url)


def test_a_robot_needs_only_numpy_httpx_websockets_and_msgpack() -> None:
    code = (
        "import sys; before = set(sys.modules); import cluster.wire.client, cluster.wire.aio;"
        "roots = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(root for root in roots if root not in sys.stdlib_module_names and not root.startswith('_')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(result.stdout.replace("'", '"'))) <= {"cluster", "numpy", "httpx", "websockets", "msgpack"}
