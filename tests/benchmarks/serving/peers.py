"""What a policy is served with otherwise: ``python -m tests.benchmarks.serving.peers bare | stock MODEL.onnx PORT``.

- bare: Starlette, uvicorn and ONNX Runtime, and nothing else: the floor of a policy over HTTP;
- stock: Ray Serve as it comes: a FastAPI ingress behind Serve's own proxy, one replica, on a Ray of its own.

Both answer ``POST /act`` with ``{"action": [...]}`` to ``{"obs": [...]}`` and print ``ready``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import numpy as np


def _session(model: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def bare(model: str, port: int) -> None:
    """The floor."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    session = _session(model)

    async def act(request: Request) -> JSONResponse:
        observation = json.loads(await request.body())["obs"]
        action = session.run(None, {"observation": np.asarray([observation], dtype=np.float32)})[0]
        return JSONResponse({"action": action[0].tolist()})

    print("ready", flush=True)
    uvicorn.run(
        Starlette(routes=[Route("/act", act, methods=["POST"])]), host="127.0.0.1", port=port, log_level="warning", access_log=False
    )


def stock(model: str, port: int) -> None:
    """Ray Serve with nothing set."""
    for name in [name for name in os.environ if name.startswith("RAY_SERVE_")]:
        del os.environ[name]
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray
    from fastapi import FastAPI
    from ray import serve

    ray.init(address="local", include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    application = FastAPI()

    @serve.deployment
    @serve.ingress(application)
    class Act:
        def __init__(self) -> None:
            self.session = _session(model)

        @application.post("/act")
        async def act(self, body: dict[str, list[float]]) -> dict[str, list[float]]:
            action = self.session.run(None, {"observation": np.asarray([body["obs"]], dtype=np.float32)})[0]
            return {"action": action[0].tolist()}

    serve.run(Act.bind())
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    {"bare": bare, "stock": stock}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
