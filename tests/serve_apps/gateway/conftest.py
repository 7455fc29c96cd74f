"""A gateway with two versions under comparison, called as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from cluster.bundle import verify
from cluster.runtime.served import ServedArm, ServedComparison, ServedPolicy, ServedState, ServedVersion
from cluster.settings import Settings
from cluster.store.comparisons import Arm, Comparison, NewComparison, create_comparison
from cluster.store.database import Database
from cluster.store.tokens import Role, create_token
from serve_apps.gateway.connection import SessionConnection
from serve_apps.gateway.gateway import Gateway


class Site:
    """What a test needs: the gateway, its database, its comparison, bundles, and a client."""

    def __init__(self, settings: Settings, folder: Path, make_bundle: Callable[..., Path]) -> None:
        self.gateway = Gateway(replica="test")
        self.database = Database(settings.gaitway_database_url)
        self.bundles = {
            "1": make_bundle(folder / "1", gain=1.0),
            "2": make_bundle(folder / "2", gain=2.0),
            "3": make_bundle(folder / "3", gain=1.0, recurrent=True),
        }
        arms = (Arm(name="champion", version="1", weight=0.5), Arm(name="challenger", version="2", weight=0.5))
        self.comparison = create_comparison(
            self.database, NewComparison(policy="pidog-run", arms=arms, metric="forward_velocity_m_s", low=-0.5, high=0.5)
        )
        transport = httpx.ASGITransport(app=self.gateway.app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://test", headers=self.header("admin"))

    def header(self, role: Role, **options: Any) -> dict[str, str]:
        """Headers of a new token."""
        return {"Authorization": f"Bearer {create_token(self.database, role, role, actor='test', **options)[1]}"}

    def state(self, versions: str = "12", default: str = "1", comparison: Comparison | None = None, **changes: Any) -> ServedState:
        served = {number: ServedVersion(bundle=self.bundles[number], digest=verify(self.bundles[number])) for number in versions}
        split = None
        if comparison is not None:
            arms = tuple(ServedArm(**arm.model_dump()) for arm in comparison.arms)
            version = comparison.weights[-1].version
            split = ServedComparison(id=comparison.id, salt=comparison.salt, arms=arms, weights_version=version)
        policies = {"pidog-run": ServedPolicy(versions=served, default_version=default, comparison=split)}
        return ServedState(policies=policies, database_url=self.database.url, **changes)

    async def serve(self, *arguments: Any, **keywords: Any) -> None:
        await self.gateway.apply(self.state(*arguments, **keywords).as_user_config())

    async def act(self, body: Any, policy: str = "pidog-run") -> httpx.Response:
        if isinstance(body, bytes):
            return await self.http.post(f"/v1/policies/{policy}/act", content=body)
        return await self.http.post(f"/v1/policies/{policy}/act", json=body)

    async def outcome(self, episode_id: str, body: Any, policy: str = "pidog-run") -> httpx.Response:
        return await self.http.post(f"/v1/policies/{policy}/episodes/{episode_id}/outcome", json=body)


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, as replicas do."""
    return "asyncio"


@pytest.fixture
async def empty_site(anyio_backend: str, settings: Settings, tmp_path: Path, make_bundle: Callable[..., Path]) -> AsyncIterator[Site]:
    """Before the first ``apply``."""
    site = Site(settings, tmp_path / "bundles", make_bundle)
    yield site
    await site.http.aclose()
    await site.gateway.live.close()
    site.database.close()


@pytest.fixture
async def site(empty_site: Site) -> Site:
    """Serving versions 1 and 2 with the comparison running."""
    await empty_site.serve(comparison=empty_site.comparison)
    return empty_site


@pytest.fixture(params=[SessionConnection, "websockets-sansio"], ids=["short way", "ASGI"])
async def url(request: pytest.FixtureRequest, empty_site: Site) -> AsyncIterator[str]:
    """``host:port`` of a real server with the site's gateway: what httpx's transport cannot do, sessions, needs one.

    With our own connections, as under HAProxy, and with uvicorn's, as behind Serve's own proxy.
    """
    config = uvicorn.Config(empty_site.gateway.app, host="127.0.0.1", port=0, log_level="error", ws=request.param, lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving
