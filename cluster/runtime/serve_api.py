"""Serve's REST interface on the Ray dashboard, with our errors: deploy, look, take down."""

from __future__ import annotations

import os
import re
from typing import Any

import httpx

from cluster.errors import ClusterError
from cluster.runtime.head import find_head, prepare_authentication
from cluster.settings import Settings

__all__ = ["APPLICATION", "ServeApi"]

APPLICATION = "gaitway"
_PATH = "/api/serve/applications/"
# The first deployment starts Serve's controller and waits for its proxies.
_DEPLOY_TIMEOUT_S = 90.0


class ServeApi:
    """The dashboard of the cluster that these settings use.

    Raises ``ClusterError`` from every method when the dashboard does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        head = None if settings.ray_address else find_head(settings)
        if head is not None:
            self.url = head.dashboard_url
        else:
            host = (settings.ray_address or "127.0.0.1").rpartition(":")[0] or "127.0.0.1"
            given = os.environ.get("RAY_DASHBOARD_ADDRESS") or os.environ.get("RAY_API_SERVER_ADDRESS")
            self.url = (given or f"http://{host}:{settings.dashboard_port}").rstrip("/")
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


def last_line(text: str) -> str:
    """The line of a traceback that says what was wrong, without the exception's module path."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    line = (errors or lines or ["no reason given"])[-1]
    return re.sub(r"^(?:\w+\.)+(?=\w+(?:Error|Exception)\b)", "", line)[:300]
