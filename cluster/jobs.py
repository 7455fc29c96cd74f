"""Submit, follow and stop Ray jobs: the same verb, on a cluster."""

from __future__ import annotations

import asyncio
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import ClusterError
from cluster.runtime.head import prepare_authentication
from cluster.settings import Settings

__all__ = ["submit", "submit_and_follow", "submit_config_and_follow"]

PASSED_VARIABLES = ("database_url", "storage_path", "experiments_path")


def submit(address: str, module: str, arguments: Sequence[str], working_dir: Path | None = None) -> str:
    """Submit ``python -m module arguments`` and return the job id. Raises ``ClusterError`` when the cluster refuses.

    The entry point asks for no CPUs, so it runs on the head at once, also on a head that offers none; its stages ask for their own.
    """
    client = _client(address)
    entrypoint = shlex.join(["python", "-m", module, *arguments])
    settings = Settings.from_environment()
    variables = {
        name: value for name, value in settings.as_environment().items() if name.removeprefix("GAITWAY_").lower() in PASSED_VARIABLES
    }
    try:
        job_id: str = client.submit_job(
            entrypoint=entrypoint,
            runtime_env={"working_dir": str(working_dir or Path.cwd()), "env_vars": variables},
            metadata={"gaitway": module, "arguments": shlex.join(arguments)[:500]},  # what the dashboard shows of it
        )
    except (RuntimeError, ConnectionError, ValueError) as error:
        raise ClusterError(f"{address}: the job was refused: {' '.join(str(error).split())[:200]}") from None
    return job_id


def submit_and_follow(address: str, module: str, arguments: Sequence[str], json_: bool = False) -> int:
    """Submit, print the job's log to stderr as it comes, and return its exit code (0 or 1)."""
    job_id = submit(address, module, [*arguments, *(["--json"] if json_ else [])])
    print(f"job {job_id} on {address}; stop it with: ray job stop --address {address} {job_id}", file=sys.stderr)
    client = _client(address)

    async def follow() -> None:
        async for text in client.tail_job_logs(job_id):
            print(text, end="", file=sys.stderr)

    asyncio.run(follow())
    status = str(client.get_job_status(job_id))
    return 0 if status.endswith("SUCCEEDED") else 1


def submit_config_and_follow(address: str, module: str, config: Mapping[str, Any], label: str, json_: bool = False) -> int:
    """``submit_and_follow`` for a stage whose configuration is made here; ``label`` is the start of its file's name."""
    # A job sees the working directory, so its configuration must be in it until it has been sent there.
    with tempfile.NamedTemporaryFile("w", prefix=f"{label}-", suffix=".yaml", dir=Path.cwd(), encoding="utf-8") as file:
        yaml.safe_dump(dict(config), file, sort_keys=False)
        file.flush()
        return submit_and_follow(address, module, [Path(file.name).name], json_=json_)


def _client(address: str) -> Any:
    prepare_authentication()
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        hint = "give the dashboard's address, such as http://127.0.0.1:8265"
        raise ClusterError(f"{address}: no Ray dashboard answers there ({' '.join(str(error).split())[:120]}); {hint}") from None
