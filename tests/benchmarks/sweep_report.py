"""How long a large sweep's report takes: ``python -m tests.benchmarks.sweep_report [--trials 1000] [--reports 200]``.

Makes a synthetic record, then prints the seconds to load it, to analyse it, to write the page, and, where Chromium is installed, until the
page has painted and has drawn its learning curves. The aim: all of it in under 10 s on 2 cores for 1,000 trials of 200 reports.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import orjson
import websockets

from trainables.sweeps.analysis import analyse
from trainables.sweeps.records import REPORTS_FILE, SweepInfo, SweepLog, TrialRecord, load_sweep
from trainables.sweeps.report import render

BUDGET, RUNGS = 2_000_000, (100_000, 300_000, 900_000)
SPACE = {
    "learning_rate": {"loguniform": [1e-5, 1e-2]},
    "clip": {"uniform": [0.1, 0.3]},
    "gamma": {"uniform": [0.9, 0.999]},
    "num_epochs": {"randint": [2, 12]},
    "activation": {"choice": ["tanh", "relu", "elu"]},
    "task_config.reward.forward_velocity": {"uniform": [1.0, 8.0]},
}
FIGURES = 12
"""Further figures in every report, as PPO's trials have them."""


def make_record(folder: Path, num_trials: int, num_reports: int, seed: int = 0) -> None:
    """A sweep whose best learning rate is 1e-3, half of its trials cut at rungs; every trial has ``num_reports`` reports."""
    generator = np.random.default_rng(seed)
    log = SweepLog(folder)
    config = {"ppo": {"task": "pidog_run", "total_env_steps": BUDGET}}
    log.write_info(
        SweepInfo(
            "synthetic_asha", "ppo", "env_steps", "evaluation/forward_velocity_m_s", "max", BUDGET, num_trials, "asha", "random",
            SPACE, config, "2026-01-01T08:00:00+00:00", str(folder), RUNGS,
        )
    )  # fmt: skip
    trials = []
    with (folder / REPORTS_FILE).open("wb") as file:
        for number in range(1, num_trials + 1):
            trial_id = f"{number:05d}_{generator.integers(16**6):06x}"
            sample = {
                "learning_rate": float(10 ** generator.uniform(-5, -2)),
                "clip": float(generator.uniform(0.1, 0.3)),
                "gamma": float(generator.uniform(0.9, 0.999)),
                "num_epochs": int(generator.integers(2, 12)),
                "activation": str(generator.choice(["tanh", "relu", "elu"])),
                "task_config.reward.forward_velocity": float(generator.uniform(1, 8)),
            }
            quality = float(np.exp(-((np.log10(sample["learning_rate"]) + 3) ** 2)) + 0.1 * (sample["activation"] == "elu"))
            quality += 0.05 * float(generator.standard_normal())
            end = BUDGET if generator.random() < 0.5 else int(generator.choice(RUNGS))
            progress = np.linspace(end / num_reports, end, num_reports).astype(int)
            values = quality * (1 - np.exp(-progress / 4e5)) + 0.02 * generator.standard_normal(num_reports)
            figures = {f"learners/figure_{index}": float(value) for index, value in enumerate(generator.standard_normal(FIGURES))}
            for step, value in zip(progress.tolist(), values.tolist(), strict=True):
                line = {"trial": trial_id, "progress": step, "value": value, "score": value, "work": step, "time_s": step / 5e3}
                file.write(orjson.dumps({**line, "figures": figures}, option=orjson.OPT_APPEND_NEWLINE))
            best = int(np.argmax(values))
            trials.append(
                TrialRecord(
                    trial_id=trial_id, number=number, configuration=f"c{number}", sample=sample, progress=end, work=end,
                    status="finished" if end == BUDGET else "stopped early", last_value=float(values[-1]), best_value=float(values[best]),
                    best_score=float(values[best]), best_progress=int(progress[best]), started_at="2026-01-01T08:00:00+00:00",
                    ended_at="2026-01-01T09:00:00+00:00", checkpoint=str(folder / trial_id),
                )
            )  # fmt: skip
    log.write_trials("finished", trials)


async def seconds_in_chromium(chromium: str, page: Path) -> dict[str, float]:
    """Seconds from opening the page to its first paint and to its first drawn chart."""
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--remote-debugging-port=0", "--window-size=1280,1000", f"--user-data-dir={profile}"]
        process = subprocess.Popen([chromium, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port_file = Path(profile) / "DevToolsActivePort"
            while not port_file.is_file() or len(port_file.read_text().splitlines()) < 2:
                await asyncio.sleep(0.1)
            port, path = port_file.read_text().splitlines()[:2]
            async with websockets.connect(f"ws://127.0.0.1:{port}{path}", max_size=None) as socket:
                return await _open_and_watch(socket, page)
        finally:
            process.terminate()
            process.wait()


async def _open_and_watch(socket: websockets.ClientConnection, page: Path) -> dict[str, float]:
    last_id = 0

    async def call(method: str, session: str | None = None, **params: object) -> dict:
        nonlocal last_id
        last_id += 1
        message = {"id": last_id, "method": method, "params": params} | ({"sessionId": session} if session else {})
        await socket.send(json.dumps(message))
        while True:
            answer = json.loads(await socket.recv())
            if answer.get("id") == last_id:
                return answer["result"]

    target = (await call("Target.createTarget", url="about:blank"))["targetId"]
    session = (await call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
    started_s = time.perf_counter()
    await call("Page.navigate", session, url=page.resolve().as_uri())
    seconds: dict[str, float] = {}
    watched = {
        "first paint": "performance.getEntriesByType('paint').length > 0",
        "curves drawn": "document.querySelectorAll('[data-figure=curves] .main-svg').length > 0",
    }
    while len(seconds) < len(watched):
        for name, expression in watched.items():
            result = await call("Runtime.evaluate", session, expression=expression)
            if name not in seconds and result["result"].get("value"):
                seconds[name] = time.perf_counter() - started_s
        if time.perf_counter() - started_s > 120:
            raise TimeoutError(f"the page drew nothing in 120 s; seen: {seconds}")
        await asyncio.sleep(0.02)
    return seconds


def main() -> None:
    """Print one line a part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--reports", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="leave the record and the page here")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="gaitway-sweep-report-"))
    try:
        make_record(folder, arguments.trials, arguments.reports)
        size = (folder / REPORTS_FILE).stat().st_size
        print(f"{arguments.trials} trials x {arguments.reports} reports, {size / 2**20:.0f} MiB of reports")
        seconds = {}
        marks = [time.perf_counter()]
        record = load_sweep(folder)
        marks.append(time.perf_counter())
        analysis = analyse(record)
        marks.append(time.perf_counter())
        page = folder / "report.html"
        page.write_text(render(analysis), encoding="utf-8")
        marks.append(time.perf_counter())
        seconds |= dict(zip(("load", "analyse", "write the page"), np.diff(marks).tolist(), strict=True))
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        shown = asyncio.run(seconds_in_chromium(chromium, page)) if chromium else {}
        for name, value in {**seconds, **shown}.items():
            print(f"{name:16} {value:6.2f} s")
        together = sum(seconds.values()) + max(shown.values(), default=0)
        print(f"{'altogether':16} {together:6.2f} s   page {page.stat().st_size / 2**20:.1f} MiB")
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
