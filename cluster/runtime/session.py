"""``with ray_session(settings):`` — Ray for the length of a stage, wherever it runs.

In order: a session that this process already has; the cluster of the job that it runs in, or ``GAITWAY_RAY_ADDRESS``; our own head
if it is up; else a private local Ray that ends with the block (and, being a child, with the process).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cluster.errors import ClusterError
from cluster.runtime.head import find_head, prepare_authentication
from cluster.settings import Settings

__all__ = ["is_ray_up", "ray_address", "ray_session"]


def ray_address(settings: Settings) -> str | None:
    """Address of the cluster that this process should use; None: no cluster is there, start a private one."""
    address = os.environ.get("RAY_ADDRESS") or settings.ray_address
    if address:
        return address
    head = find_head(settings)
    return head.address if head else None


def is_ray_up(settings: Settings) -> bool:
    """Whether ``ray_session`` would find a Ray; else it starts one, which takes some ten seconds with its first workers."""
    ray = sys.modules.get("ray")
    return (ray is not None and ray.is_initialized()) or ray_address(settings) is not None


@contextmanager
def ray_session(settings: Settings, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to Ray, quietly. Raises ``ClusterError`` when the cluster that was named does not answer."""
    address = ray_address(settings)
    head = find_head(settings) if address is None or not os.environ.get("RAY_ADDRESS") else None
    prepare_authentication(head.auth_mode if head else None)
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
    variables = settings.as_environment()
    # Inside `ray job submit --runtime-env-json '{"env_vars": {"GAITWAY_HOME": ...}}'` both name the same variables, and Ray refuses that
    # even when they are equal. Ours were read from the job's.
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    if address is None:
        options |= {"num_cpus": num_cpus or os.cpu_count(), "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    else:
        options["runtime_env"] = {"env_vars": variables}
    try:
        # A private Ray has its variables from this process: with an environment of the job, the workers that it starts beforehand
        # could not be used, and the first task would wait a second longer.
        with _variables(variables if address is None else {}):
            ray.init(address=address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        place = address or "a private local Ray"
        raise ClusterError(f"Ray at {place}: cannot connect: {' '.join(str(error).split())[:200]}") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables of this process for the length of a block, for the processes that it starts there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
