"""The document against the routes that there are, and against what the server really answers (schemathesis, over a real socket)."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from cluster.settings import Settings
from cluster.store.registry import register_bundle, set_alias
from serve_apps.gateway.openapi import document
from serve_apps.gateway.problems import STATUSES, TITLES

pytestmark = pytest.mark.anyio

SLOW = "start_comparison"
"""Each valid request of it starts a process."""


@pytest.fixture
async def operated(empty_site: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """All three versions served, the comparison running, and a home that the process beside finds."""
    monkeypatch.setenv("GAITWAY_HOME", str(settings.home))
    for number in ("1", "2"):
        register_bundle(settings, "pidog-run", empty_site.bundles[number])
    set_alias(settings, "pidog-run", "champion", 1)
    set_alias(settings, "pidog-run", "challenger", 2)
    await empty_site.serve("123", comparison=empty_site.comparison)
    yield empty_site
    await empty_site.gateway.operators.close()


async def test_every_route_is_described_and_nothing_else(site: Any) -> None:
    described = {(path, method.upper()) for path, item in document()["paths"].items() for method in item if method != "parameters"}
    routed = {
        (route.path, method)
        for route in site.gateway.app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert described == routed
    operations = [operation for item in document()["paths"].values() for key, operation in item.items() if key != "parameters"]
    assert len({operation["operationId"] for operation in operations}) == len(operations)


async def test_it_is_there_without_a_token_and_holds_no_secret(site: Any) -> None:
    response = await site.http.get("/v1/openapi.json", headers={"Authorization": ""})
    assert response.status_code == 200
    found = response.json()
    assert found["openapi"] == "3.1.0"
    assert site.comparison.salt not in response.text
    assert "salt" not in found["components"]["schemas"]["Comparison"]["properties"]
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', response.text))
    assert references <= set(found["components"]["schemas"])


def test_every_problem_has_a_title_a_status_and_a_line_in_the_table() -> None:
    from serve_apps.gateway import problems

    assert STATUSES.keys() == TITLES.keys()
    for name, status in STATUSES.items():
        assert f"| ``urn:gaitway:problem:{name}`` | {status} |" in (problems.__doc__ or "")


@pytest.mark.slow
@pytest.mark.parametrize("url", ["auto"], indirect=True)
async def test_the_server_answers_as_the_document_says(operated: Any, url: str, tmp_path: Path) -> None:
    # One check is left out, that what fits the document is accepted: only the contract says how many numbers an observation has.
    token = operated.header("admin", requests_per_s=1e9)["Authorization"]
    runs = (
        (f"--exclude-operation-id={SLOW}", "--max-examples=40", "--max-time=60"),
        (f"--include-operation-id={SLOW}", "--max-examples=6", "--max-time=15", "--phases=examples,fuzzing"),
    )
    for options in runs:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://{url}/v1/openapi.json", f"--header=Authorization: {token}"]
        command += [
            "--checks=all",
            "--exclude-checks=positive_data_acceptance",
            "--seed=1",
            "--generation-database=none",
            "--no-color",
            "--request-timeout=95",
            *options,
        ]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()[-20_000:]
