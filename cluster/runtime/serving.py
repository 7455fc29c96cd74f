"""The policy endpoint: bring it up, change what it serves while traffic flows, look at it, take it down.

What is served follows from two places and nothing else: the registry's aliases and the database's running comparison.
``refresh`` makes the replicas follow after either has changed.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from cluster.config import load_config, save_config
from cluster.errors import BundleError, ClusterError, GaitwayError, UsageError
from cluster.runtime.desired import desired_state
from cluster.runtime.head import MARK, Head, ensure_head, find_head, head_processes, stop_head
from cluster.runtime.nodes import local_nodes
from cluster.runtime.processes import HAPROXY_VARIABLE, end_processes, haproxy_folder, port_owner
from cluster.runtime.serve_api import APPLICATION, ServeApi, foreign_address, last_line, own_head
from cluster.runtime.serve_config import ServeConfig
from cluster.runtime.served import ServedState
from cluster.settings import Settings
from cluster.store.locks import exclusive_file_lock

__all__ = ["haproxy_processes", "refresh", "serve_down", "serve_status", "serve_up"]

IMPORT_PATH = "serve_apps.app:build"
DEPLOYMENT = "policies"

Say = Callable[[str], None]


def serve_up(settings: Settings, config: ServeConfig, say: Say = lambda text: None) -> dict[str, Any]:
    """Bring the endpoint up, or change a running one to ``config``; returns once every replica serves it.

    Starts our own Ray head if no cluster is there, and a comparison where ``config`` splits a policy that has none running.

    Args:
        settings: where things are.
        config: what to serve.
        say: told what is being waited for.

    Returns:
        What ``serve_status`` returns.

    Raises:
        ClusterError: the port is taken, Ray or Serve did not come up, or a replica refused.
        StoreError, BundleError: a version is not registered, or its bundle has changed.
    """
    from cluster.store.tokens import ensure_own_token

    say("looking up versions")
    with _one_at_a_time(settings):
        had_head = find_head(settings) is not None
        with ThreadPoolExecutor(2) as pool:
            # Each takes seconds: importing MLflow's client, and Ray's processes.
            wanted = pool.submit(desired_state, settings, config.policies, start_comparisons=True)
            started = pool.submit(_ready_cluster, settings, config)
            started.result()
            try:
                state = _with_options(wanted.result(), config)
                ensure_own_token(settings)
            except GaitwayError:
                if not had_head:
                    stop_head(settings)  # started for an endpoint that will not be
                raise
        save_config(config, _record(settings))
        api = ServeApi(settings)
        api.deploy(_application(settings, config, state))
        _wait_until_served(settings, api, config, state, say)
        return serve_status(settings)


def refresh(settings: Settings, say: Say = lambda text: None) -> dict[str, Any]:
    """Make the running endpoint follow the registry and the database; returns once every replica does.

    A state that cannot be served is taken back: the endpoint goes on with the one before.

    Raises:
        ClusterError: nothing is being served from this home, or Serve does not answer.
        BundleError: a replica refused a bundle.
    """
    with _one_at_a_time(settings):
        config = _load_record(settings)
        api = ServeApi(settings)
        before = _deployed(api.details())
        state = _with_options(desired_state(settings, config.policies), config)
        application = _application(settings, config, state)
        api.deploy(application)
        try:
            _wait_until_served(settings, api, config, state, say)
        except BundleError:
            if before is not None:
                api.deploy({**application, "applications": [before]})
            raise
        return serve_status(settings)


def serve_status(settings: Settings) -> dict[str, Any]:
    """What is being served: ``running``, ``url``, ``proxy``, ``replicas``, ``policies``, ``generation``, ``message``."""
    try:
        details = ServeApi(settings).details()
    except ClusterError as error:
        return {"running": False, "url": settings.endpoint_url, "message": str(error)}
    application = details.get("applications", {}).get(APPLICATION)
    if application is None:
        return {"running": False, "url": settings.endpoint_url, "message": "nothing is being served; gaitway serve up CONFIG.yaml"}
    answer = _ask(settings)
    deployment = application.get("deployments", {}).get(DEPLOYMENT, {})
    replicas = [
        {"replica": replica["replica_id"], "state": replica["state"], "pid": replica.get("pid"), "node": replica.get("node_ip")}
        for replica in deployment.get("replicas", [])
    ]
    haproxy = haproxy_processes(settings)
    return {
        "running": answer is not None and application["status"] == "RUNNING",
        "url": settings.endpoint_url,
        "token_file": str(settings.token_path),
        "proxy": "HAProxy" if haproxy else "Serve",
        "haproxy_pids": [process.pid for process in haproxy],
        "status": application["status"],
        "message": last_line(application["message"]) if application.get("message") else "",
        "replicas": replicas,
        **(answer or {}),
    }


def serve_down(settings: Settings) -> dict[str, Any]:
    """Take the endpoint down; the Ray head stays. No HAProxy of ours is left, however the last run ended. Safe when nothing runs."""
    was_running = False
    with _one_at_a_time(settings):
        if own_head(settings) is not None or foreign_address(settings) is not None:
            api = ServeApi(settings)
            was_running = bool(api.details().get("applications"))
            api.shut_down()
        ended = end_processes(haproxy_processes(settings))
        shutil.rmtree(haproxy_folder(settings), ignore_errors=True)
        _record(settings).unlink(missing_ok=True)
    return {"was_running": was_running, "ended_haproxy_processes": ended}


def haproxy_processes(settings: Settings) -> list[psutil.Process]:
    """HAProxy processes of this home: they carry its head's mark and run our configuration file."""
    folder = str(haproxy_folder(settings)) + os.sep
    found = []
    for process in head_processes(settings):
        try:
            if any(argument.startswith(folder) for argument in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _with_options(state: ServedState, config: ServeConfig) -> ServedState:
    return state.model_copy(update={"max_body_bytes": config.max_body_bytes, "requests_per_s": config.requests_per_s})


def _application(settings: Settings, config: ServeConfig, state: ServedState) -> dict[str, Any]:
    """Serve's deploy schema."""
    deployment = {
        "name": DEPLOYMENT,
        "num_replicas": config.num_replicas,
        "max_ongoing_requests": config.max_ongoing_requests,
        "ray_actor_options": {"num_cpus": config.cpus_per_replica},
        "graceful_shutdown_timeout_s": 5.0,
        "user_config": state.as_user_config(),
    }
    return {
        "proxy_location": config.proxies,
        "http_options": {"host": settings.http_host, "port": settings.http_port},
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": [{"name": APPLICATION, "route_prefix": "/", "import_path": IMPORT_PATH, "args": {}, "deployments": [deployment]}],
    }


def _deployed(details: dict[str, Any]) -> dict[str, Any] | None:
    application = details.get("applications", {}).get(APPLICATION) or {}
    config: dict[str, Any] | None = application.get("deployed_app_config")
    return config


def _ready_cluster(settings: Settings, config: ServeConfig) -> None:
    """A cluster with nobody else on the endpoint's port."""
    if foreign_address(settings) is not None:
        return
    head = own_head(settings)
    if head is None:
        _free_port(settings, serving=False)
        if config.haproxy != "auto":
            os.environ[HAPROXY_VARIABLE] = config.haproxy
        ensure_head(settings)
        return
    if config.proxies == "EveryNode" and local_nodes(settings):
        raise UsageError("proxies: EveryNode: the nodes of this cluster share one machine, and so the endpoint's port; use HeadOnly")
    if config.haproxy != "auto" and (config.haproxy == "on") != _has_haproxy(head):
        raise ClusterError(
            f"the running Ray head was started with HAProxy {'on' if _has_haproxy(head) else 'off'}, the configuration wants "
            f"{config.haproxy}; run gaitway cluster down first"
        )
    details = ServeApi(settings).details()
    serving = bool(details.get("applications"))
    bound = details.get("http_options") or {}
    if serving and bound.get("port") != settings.http_port:
        raise ClusterError(f"Serve is up on port {bound.get('port')}, not on {settings.http_port}; run gaitway serve down first")
    _free_port(settings, serving)


def _free_port(settings: Settings, serving: bool) -> None:
    """End a proxy that a killed run of ours left on the port; refuse when it is somebody else's."""
    owner = port_owner(settings.http_port)
    if owner is None:
        return
    mark = None
    if owner.process is not None:
        try:
            mark = owner.process.environ().get(MARK)
        except (psutil.Error, OSError):
            mark = None
    if mark == str(settings.home):
        if not serving:
            end_processes([owner.process] if owner.process else [])
            end_processes(haproxy_processes(settings))
        return
    whose = f"; it belongs to the Gaitway home {mark}" if mark else ""
    raise ClusterError(f"{owner}{whose}; end it, or choose another port with GAITWAY_HTTP_PORT")


def _has_haproxy(head: Head) -> bool:
    try:
        return psutil.Process(head.pid).environ().get("RAY_SERVE_ENABLE_HA_PROXY") == "1"
    except psutil.Error:
        return False


def _wait_until_served(settings: Settings, api: ServeApi, config: ServeConfig, state: ServedState, say: Say) -> None:
    """Poll until every replica answers with this state through the endpoint (accepted is not healthy)."""
    deadline_s = time.monotonic() + config.start_timeout_s
    wanted, seen = state.generation, set[str]()
    status, message = "not deployed", ""
    next_details_s = 0.0
    while time.monotonic() < deadline_s:
        if time.monotonic() >= next_details_s:
            next_details_s = time.monotonic() + 0.5
            application = api.details().get("applications", {}).get(APPLICATION, {})
            status, message = application.get("status", "not deployed"), application.get("message", "")
            if status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise ClusterError(f"the endpoint does not come up ({status}): {last_line(message)}")
            say(f"waiting for {config.num_replicas} replica(s): {status.lower().replace('_', ' ')}")
        # A new connection each time: the proxy spreads connections over the replicas.
        answer = _ask(settings)
        if answer is not None:
            refused = answer.get("refused")
            if refused and refused["generation"] == wanted:
                raise BundleError(f"a replica refused, the version before goes on: {refused['reason']}")
            if answer["generation"] == wanted:
                seen.add(answer["replica"])
        if status == "RUNNING" and len(seen) >= config.num_replicas:
            return
        time.sleep(0.05 if seen else 0.2)
    reason = last_line(message) if message else f"status {status}, {len(seen)} of {config.num_replicas} replicas answered"
    raise ClusterError(f"the endpoint {settings.endpoint_url} did not serve within {config.start_timeout_s:g} s: {reason}")


def _ask(settings: Settings) -> dict[str, Any] | None:
    """``GET /v1/policies``, or None while nobody of ours answers there."""
    from cluster.store.tokens import own_token

    headers = {"Authorization": f"Bearer {own_token(settings)}"}
    try:
        with httpx.Client(timeout=5.0, trust_env=False) as client:
            response = client.get(f"{settings.endpoint_url}/v1/policies", headers=headers)
        answer = response.json() if response.status_code == 200 else None
    except (httpx.HTTPError, ValueError):
        return None
    if response.status_code in (401, 403):
        raise ClusterError(f"{settings.endpoint_url} refuses this home's token (GAITWAY_TOKEN, or {settings.token_path})")
    return answer if isinstance(answer, dict) and "generation" in answer else None


@contextmanager
def _one_at_a_time(settings: Settings) -> Iterator[None]:
    """Two commands that deploy at once would each wait for a state that the other replaced."""
    with exclusive_file_lock(settings.home / "serve.lock"):
        yield


def _record(settings: Settings) -> Path:
    return settings.home / "serve.yaml"


def _load_record(settings: Settings) -> ServeConfig:
    if not _record(settings).is_file():
        raise ClusterError("nothing is being served from this home; run gaitway serve up CONFIG.yaml first")
    return load_config(_record(settings), ServeConfig)
