"""The Serve application: one ingress deployment whose replicas each hold every live version.

Deployed by import path, ``serve_apps.app:build``. What it serves is its ``user_config`` (``cluster.runtime.served``): ``gaitway serve up``
writes it, or, for plain ``serve deploy`` with ``args``, ``build`` does.
"""

from __future__ import annotations

import gc
from typing import Any

from ray import serve

from serve_apps.gateway.connection import install
from serve_apps.gateway.gateway import Gateway

__all__ = ["PolicyServer", "build"]


@serve.deployment(name="policies")
@serve.ingress()
class PolicyServer:
    """A replica."""

    def __init__(self) -> None:
        install()  # before Serve starts this replica's server
        self._gateway = Gateway(replica=serve.get_replica_context().replica_tag)
        self._is_frozen = False

    def __serve_build_asgi_app__(self) -> Any:
        """Called by Serve once the replica exists: plain ASGI, with no framework of Serve's in between."""
        return self._gateway.app

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Called by Serve with every new ``user_config``, while requests are being answered."""
        await self._gateway.apply(user_config)
        if not self._is_frozen:
            # Ray, Serve and what is loaded are some 180,000 objects that live as long as the replica. A full pass of the collector over
            # them took 150 ms when it was measured, in which no robot is answered; frozen, they are not walked again.
            self._is_frozen = True
            gc.collect()
            gc.freeze()

    async def __del__(self) -> None:
        """Awaited by Serve when it ends a replica, after the last request: what is known here alone reaches the disk."""
        await self._gateway.live.close()


def build(arguments: dict[str, Any]) -> serve.Application:
    """What Serve imports.

    Args:
        arguments: empty under ``gaitway serve up``; else ``policies``, ``max_body_bytes`` and ``requests_per_s`` as in ``ServedOptions``.
    """
    if not arguments:
        return PolicyServer.bind()
    # Runs in a process of Serve's that builds applications, not in a replica: it may ask the registry.
    from cluster.config import parse_config
    from cluster.runtime.desired import desired_state
    from cluster.runtime.serve_config import ServedOptions
    from cluster.settings import Settings

    options = parse_config(arguments, ServedOptions, source="args of serve_apps.app:build")
    state = desired_state(Settings.from_environment(), options.policies, start_comparisons=True)
    limits = {"max_body_bytes": options.max_body_bytes, "requests_per_s": options.requests_per_s}
    return PolicyServer.options(user_config=state.model_copy(update=limits).as_user_config()).bind()
