"""The Serve application: one ingress deployment whose replicas each hold every live version.

Deployed by import path, ``serve_apps.app:build``; what it serves arrives as ``user_config`` (``cluster.runtime.served``).
"""

from __future__ import annotations

from typing import Any

from ray import serve

from serve_apps.gateway.gateway import Gateway

__all__ = ["PolicyServer", "build"]


@serve.deployment(name="policies")
@serve.ingress()
class PolicyServer:
    """A replica."""

    def __init__(self) -> None:
        self._gateway = Gateway(replica=serve.get_replica_context().replica_tag)

    def __serve_build_asgi_app__(self) -> Any:
        """Called by Serve once the replica exists: plain ASGI, with no framework of Serve's in between."""
        return self._gateway.app

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Called by Serve with every new ``user_config``, while requests are being answered."""
        await self._gateway.apply(user_config)


def build(_arguments: dict[str, Any]) -> serve.Application:
    """What Serve imports."""
    return PolicyServer.bind()
