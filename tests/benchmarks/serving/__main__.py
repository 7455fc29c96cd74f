"""Serving measured: ``python -m tests.benchmarks.serving [--only rates|robots|swap|kill|verdicts] [--quick]``; needs ``wrk`` for HTTP.

- rates: session frames and HTTP steps a second, A/B and tokens on, beside a bare server and Ray Serve as it comes, in turns;
- robots: how many robots at 50 Hz are served with p99 of at most 20 ms and no missed deadline;
- swap: another version takes a policy's place under that load;
- kill: one of two replicas is killed under it;
- verdicts: how often equal arms are told apart, and how soon different ones are, by simulation of the comparison engine.

Prints one table a figure, keeps the raw figures in ``serving/results.json`` and writes ``serving/RESULTS.md`` from them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # before any import of Ray

from cluster.bundle import ONNX_FILE
from cluster.config import write_text_atomic
from cluster.errors import ClusterError
from cluster.runtime.head import stop_head
from cluster.runtime.serve_config import ServeConfig, ServedPolicyConfig, SplitConfig
from cluster.runtime.serving import refresh, serve_down, serve_status, serve_up
from cluster.settings import Settings
from cluster.store.database import open_database
from cluster.store.registry import register_bundle, set_alias
from cluster.store.tokens import create_token
from tests.benchmarks.records import document, markdown, provenance, save_section
from tests.benchmarks.serving import verdicts
from tests.benchmarks.serving.models import OBSERVATION_SIZE, make_policy

FOLDER = Path(__file__).parent
_BARE_PORT, _STOCK_PORT = 29100, 29200


class Site:
    """Our endpoint with two versions under comparison."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        for seed, alias in ((1, "champion"), (2, "challenger")):
            set_alias(settings, "bench", alias, register_bundle(settings, "bench", make_policy(folder / alias, seed)))
        with closing(open_database(settings)) as db:
            _, self.token = create_token(db, "load", "robot", actor="bench", requests_per_s=1e6)

    def up(self, replicas: int = 1) -> None:
        """Serve both versions, half and half."""
        split = SplitConfig(arms={"champion": 0.5, "challenger": 0.5}, metric="forward_velocity_m_s", low=-0.5, high=0.5)
        policy = ServedPolicyConfig(policy="bench", split=split)
        serve_up(self.settings, ServeConfig(policies=(policy,), num_replicas=replicas))

    def load(self, connections: int, seconds: float, rate_hz: float | None = None) -> subprocess.Popen[str]:
        """Sessions under load, in a process of their own."""
        command = [sys.executable, "-m", "tests.benchmarks.serving.load", self.settings.endpoint_url, "bench", self.token]
        command += ["--connections", str(connections), "--seconds", str(seconds), *(["--rate", str(rate_hz)] if rate_hz else [])]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def loaded(self, connections: int, seconds: float, rate_hz: float | None = None) -> dict[str, Any]:
        """The figures of a load that has run."""
        return finish(self.load(connections, seconds, rate_hz))


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """A load's figures. Raises ``ClusterError`` when it failed."""
    out, _ = process.communicate()
    if process.returncode:
        raise ClusterError("the load generator failed; its error is above")
    figures: dict[str, Any] = json.loads(out)
    return figures


def measure_rates(site: Site, quick: bool) -> dict[str, Any]:
    """In turns, so that a slow moment of the machine hits all."""
    seconds, repetitions = (2.0, 1) if quick else (5.0, 5)
    observation = np.random.default_rng(0).uniform(-1, 1, OBSERVATION_SIZE).round(6).tolist()
    model = site.folder / "champion" / ONNX_FILE
    site.up()
    runs = []
    act = json.dumps({"episode_id": "measured", "observation": observation})
    with peer("bare", model, _BARE_PORT) as bare, peer("stock", model, _STOCK_PORT) as stock:
        plain = json.dumps({"obs": observation})
        for _ in range(repetitions):
            run: dict[str, Any] = {}
            for connections in (1, 8):
                run[f"session_{connections}"] = site.loaded(connections, seconds)
                run[f"http_{connections}"] = wrk(
                    f"{site.settings.endpoint_url}/v1/policies/bench/act", act, connections, seconds, site.token
                )
                run[f"bare_{connections}"] = wrk(f"{bare}/act", plain, connections, seconds)
            run["stock_8"] = wrk(f"{stock}/act", plain, 8, seconds)
            runs.append(run)
            print(
                json.dumps({name: round(figures.get("frames_per_s", figures.get("per_s"))) for name, figures in run.items()}),
                file=sys.stderr,
            )
    return {"runs": runs}


def measure_robots(site: Site, quick: bool) -> dict[str, Any]:
    """More and more robots."""
    site.up()
    seconds = 5.0 if quick else 60.0
    return {"seconds": seconds, "runs": [site.loaded(robots, seconds, 50.0) for robots in ((30,) if quick else (30, 50, 80, 100))]}


def measure_swap(site: Site, quick: bool) -> dict[str, Any]:
    """A third version becomes the default, and the comparison ends, under 30 robots."""
    from cluster.store.comparisons import active_comparison, close_comparison

    site.up()
    load = site.load(30, 15.0, 50.0)
    time.sleep(5.0)
    set_alias(
        site.settings, "bench", "champion", register_bundle(site.settings, "bench", make_policy(site.folder / f"next_{time.time_ns()}", 3))
    )
    with closing(open_database(site.settings)) as db:
        running = active_comparison(db, "bench")
        if running is not None:
            close_comparison(db, running.id, "stopped")
    refresh(site.settings)
    return finish(load)


def measure_kill(site: Site, quick: bool) -> dict[str, Any]:
    """One of two replicas dies under 30 robots."""
    site.up(replicas=2)
    load = site.load(30, 20.0, 50.0)
    time.sleep(6.0)
    replicas = serve_status(site.settings)["replicas"]
    os.kill(replicas[0]["pid"], signal.SIGKILL)
    return finish(load)


@contextlib.contextmanager
def peer(kind: str, model: Path, port: int) -> Iterator[str]:
    """A peer under way; its URL."""
    command = [sys.executable, "-m", "tests.benchmarks.serving.peers", kind, str(model), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        while "ready" not in (line := process.stdout.readline()):
            if not line and process.poll() is not None:
                raise ClusterError(f"the peer {kind} did not come up; its error is above")
        url = f"http://127.0.0.1:{port}"
        for _ in range(100):
            with contextlib.suppress(httpx.HTTPError):
                httpx.post(f"{url}/act", json={"obs": [0.0] * OBSERVATION_SIZE}, trust_env=False).raise_for_status()
                break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def wrk(url: str, body: str, connections: int, seconds: float, token: str | None = None) -> dict[str, Any]:
    """Requests a second and latencies by wrk."""
    if shutil.which("wrk") is None:
        raise ClusterError("wrk is not installed; apt-get install wrk")
    environment = os.environ | {"BODY": body} | ({"TOKEN": token} if token else {})
    script = str(FOLDER / "act.lua")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", script, url]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in out:
        raise ClusterError(f"{url}: {re.search(r'Non-2xx.*', out)}")  # noqa: RUF100
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])  # type: ignore[index]
    quantiles = {name: _ms(re.search(rf"{name}%\s+([\d.]+)(us|ms|s)", out)) for name in ("50", "99")}
    return {"per_s": rate, "p50_ms": quantiles["50"], "p99_ms": quantiles["99"]}


def _ms(found: re.Match[str] | None) -> float:
    assert found is not None
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]


# Telling -----------------------------------------------------------------------------------------------------------------


def rates_table(section: dict[str, Any]) -> str:
    """Medians, and medians of the ratios run by run."""
    runs = section["runs"]

    def median(name: str, figure: str) -> float:
        return statistics.median(run[name][figure] for run in runs)

    def ratio(mine: str, my_figure: str, other: str, figure: str) -> str:
        ratios = [run[mine][my_figure] / run[other][figure] for run in runs]
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"

    rows = [
        [
            "session, 8 connections, frames/s, against the bare server's HTTP",
            f"{median('session_8', 'frames_per_s'):,.0f}",
            f"{median('bare_8', 'per_s'):,.0f}",
            ratio("session_8", "frames_per_s", "bare_8", "per_s"),
            "at least 1.2",
        ],
        [
            "session, 1 connection, p50 ms, against the bare server's",
            f"{median('session_1', 'p50_ms'):.3f}",
            f"{median('bare_1', 'p50_ms'):.3f}",
            ratio("session_1", "p50_ms", "bare_1", "p50_ms"),
            "at most 1.5",
        ],
        [
            "HTTP act, 8 connections, requests/s, against Ray Serve as it comes",
            f"{median('http_8', 'per_s'):,.0f}",
            f"{median('stock_8', 'per_s'):,.0f}",
            ratio("http_8", "per_s", "stock_8", "per_s"),
            "at least 10",
        ],
        [
            "the same against the bare server",
            f"{median('http_8', 'per_s'):,.0f}",
            f"{median('bare_8', 'per_s'):,.0f}",
            ratio("http_8", "per_s", "bare_8", "per_s"),
            "",
        ],
    ]
    return markdown(["figure", "ours", "theirs", "ratio (all runs)", "bar"], rows)


def load_table(section: dict[str, Any]) -> str:
    """Loads at 50 Hz."""
    runs = section.get("runs", [section])
    header = ["robots", "actions", "p50 ms", "p99 ms", "max ms", "missed deadlines", "connections lost", "longest reconnect s", "problems"]
    return markdown(
        header,
        [
            [
                str(run["connections"]),
                f"{run['frames']:,}",
                f"{run['p50_ms']:.2f}",
                f"{run['p99_ms']:.2f}",
                f"{run['max_ms']:.1f}",
                str(run["missed"]),
                str(run["lost"]),
                f"{run['longest_gap_s']:.2f}",
                str(run["problem_count"]),
            ]
            for run in runs
        ],
    )


_SECTIONS = {
    "rates": measure_rates,
    "robots": measure_robots,
    "swap": measure_swap,
    "kill": measure_kill,
    "verdicts": lambda _site, quick: verdicts.measure(quick),
}
_TABLES = {"rates": rates_table, "robots": load_table, "swap": load_table, "kill": load_table, "verdicts": verdicts.table}
_TITLES = {
    "rates": "Rates and latencies",
    "robots": "Robots at 50 Hz",
    "swap": "A version swapped in under load",
    "kill": "One of two replicas killed under load",
    "verdicts": "Verdicts",
}


def render(results: dict[str, Any]) -> str:
    """The document of all sections measured so far."""
    return document("Serving: measured", "make bench-serving", _TITLES, _TABLES, results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=_SECTIONS, action="append")
    parser.add_argument("--quick", action="store_true", help="one short repetition, kept nowhere")
    options = parser.parse_args(arguments)
    for section in options.only or _SECTIONS:
        with tempfile.TemporaryDirectory(prefix="gaitway-bench-") as place:
            settings = Settings.from_environment(
                {
                    "GAITWAY_HOME": f"{place}/home",
                    "GAITWAY_EXPERIMENTS_PATH": f"{place}/experiments",
                    "GAITWAY_RAY_PORT": "26390",
                    "GAITWAY_DASHBOARD_PORT": "28265",
                    "GAITWAY_HTTP_PORT": "28000",
                }
            )
            source = provenance()
            try:
                measured = _SECTIONS[section](Site(settings, Path(place) / "bundles"), options.quick)
            finally:
                serve_down(settings)
                stop_head(settings)
        if not options.quick:
            results = save_section(FOLDER / "results.json", section, source | measured)
            write_text_atomic(FOLDER / "RESULTS.md", render(results))
        print(_TABLES[section](measured), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
