"""Serve's REST interface on the Ray dashboard, with our errors: deploy, look, take down."""

from __future__ import annotations

import os
import re
from typing import Any

import httpx

from cluster.errors import ClusterError
from cluster.runtime.head import Head, find_head, prepare_authentication
from cluster.settings import Settings

__all__ = ["APPLICATION", "ServeApi", "foreign_address", "last_line", "own_head"]

APPLICATION = "gaitway"
_PATH = "/api/serve/applications/"
# The first deployment starts Serve's controller and waits for its proxies.
_DEPLOY_TIMEOUT_S = 90.0


class ServeApi:
    """The dashboard of the cluster that these settings use.

    Raises ``ClusterError`` from every method when the dashboard does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        head, address = own_head(settings), foreign_address(settings)
        if head is not None:
            self.url = head.dashboard_url
        elif address is not None:
            given = os.environ.get("RAY_DASHBOARD_ADDRESS") or os.environ.get("RAY_API_SERVER_ADDRESS")
            self.url = (given or _connected_dashboard() or f"http://{address.rpartition(':')[0]}:8265").rstrip("/")
        else:
            # Never the default port of whatever Ray may be on this machine: it could be somebody else's.
            raise ClusterError("no Ray head of this home is running; gaitway serve up CONFIG.yaml starts one")
        prepare_authentication(head.auth_mode if head else None)

    def details(self) -> dict[str, Any]:
        """Everything that Serve says of itself."""
        result: dict[str, Any] = self._request("GET", 20.0).json()
        return result

    def deploy(self, config: dict[str, Any]) -> None:
        """Make ``config`` (Serve's deploy schema) the desired state; returns before it is reached."""
        self._request("PUT", _DEPLOY_TIMEOUT_S, json=config)

    def shut_down(self) -> None:
        """Take all applications, proxies and Serve's controller down."""
        self._request("DELETE", _DEPLOY_TIMEOUT_S)

    def _request(self, method: str, timeout_s: float, **arguments: Any) -> httpx.Response:
        from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

        try:
            # No proxy of the environment: the dashboard is on this machine or in this cluster.
            with httpx.Client(timeout=timeout_s, trust_env=False) as client:
                response = client.request(method, self.url + _PATH, headers=get_auth_headers_if_auth_enabled({}), **arguments)
        except httpx.HTTPError as error:
            raise ClusterError(f"the Ray dashboard at {self.url} does not answer: {type(error).__name__} {error}") from None
        if response.status_code in (401, 403):
            raise ClusterError(f"the Ray dashboard at {self.url} refuses the token: set RAY_AUTH_MODE and RAY_AUTH_TOKEN as on the cluster")
        if response.is_error:
            raise ClusterError(f"Serve at {self.url} refused: {last_line(response.text)}")
        return response


def own_head(settings: Settings) -> Head | None:
    """Our own head, if it is up and no other cluster is meant."""
    head, address = find_head(settings), os.environ.get("RAY_ADDRESS") or settings.ray_address
    if head is None or not address:
        return head
    # A job on our own head is told its address in another spelling: 192.0.2.2:6390 for 127.0.0.1:6390.
    return head if address.rpartition(":")[2] == head.address.rpartition(":")[2] else None


def foreign_address(settings: Settings) -> str | None:
    """GCS address of the cluster that is meant when it is not our own head."""
    return None if own_head(settings) is not None else os.environ.get("RAY_ADDRESS") or settings.ray_address


def _connected_dashboard() -> str | None:
    import ray

    if not ray.is_initialized():
        return None
    found = ray._private.worker.get_dashboard_url()
    return f"http://{found}" if found and "://" not in found else found


def last_line(text: str) -> str:
    """The line of a traceback that says what was wrong, without the exception's module path."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    line = (errors or lines or ["no reason given"])[-1]
    return re.sub(r"^(?:\w+\.)+(?=\w+(?:Error|Exception)\b)", "", line)[:300]
