"""The benchmark's own arithmetic and plumbing on small data; how fast anything is, only the benchmark itself says."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import GaitwayError
from tests.benchmarks import memory, sampling, scores, throughput
from tests.benchmarks.physics_only import METHODS, Workload, make_workload, physics_rate, plain_loop_rate
from tests.benchmarks.processes import benchmark_environment, last_json_line, run_measured
from tests.benchmarks.records import PEERS_FOLDER, Spread, load, markdown, paired_ratio, provenance, save_section
from tests.benchmarks.report import render, text

_RATES = st.lists(st.floats(1.0, 1e6), min_size=1, max_size=9)


def _throughput_runs() -> list[dict]:
    """Two repetitions; in the second one everything is half as fast."""
    runs = []
    for repetition, speed in enumerate((1.0, 0.5)):
        for name, rate in (*zip(throughput.OURS, (9000.0, 6000.0), strict=True), ("RLlib PPO", 3000.0), ("SB3 PPO", 4000.0)):
            setting = {"envs": 8}
            runs.append({"task": "Ant-v5", "name": name, "setting": setting, "repetition": repetition, "env_steps_per_s": rate * speed})
    return runs


def _sampling_runs() -> list[dict]:
    sides = {
        ("sampler", 1, ""): (80.0, 90.0, 100.0),
        ("sampler", 2, ""): (50.0, 50.0, 50.0),
        ("end to end", 1, ""): (30.0, 40.0, 50.0),
        ("plain loop", 1, "rollout"): (100.0, 100.0, 100.0),
        ("plain loop", 1, "pool"): (99.0, 200.0, 10.0),
        ("plain loop", 2, "rollout"): (100.0, 100.0, 100.0),
        ("physics", 2, "rollout"): (150.0, 150.0, 150.0),
        ("physics", 2, "pool"): (200.0, 200.0, 200.0),
    }
    common = {"task": "Ant-v5", "num_envs": 64}
    return [
        common | {"side": side, "method": method, "threads": threads, "repetition": repetition, "env_steps_per_s": rate}
        for (side, threads, method), rates in sides.items()
        for repetition, rate in enumerate(rates)
    ]


@given(_RATES)
def test_a_spread_holds_its_values_and_a_side_is_as_fast_as_itself(values: list[float]):
    spread = Spread.of(values)
    assert spread.low <= spread.median <= spread.high
    assert spread.median == pytest.approx(float(np.median(values)))
    assert paired_ratio(values, values) == Spread(1.0, 1.0, 1.0)


def test_ratios_are_taken_within_a_repetition():
    rows = {row[1]: row for row in throughput.table(_throughput_runs())}
    # Medians alone would say the same here; the extremes show that a slow repetition slowed both sides.
    assert rows["RLlib PPO"][3:] == ["2,250", "1,500–3,000", "3.00 (3.00–3.00)", "2.00 (2.00–2.00)"]
    assert rows["SB3 PPO"][5:] == ["2.25 (2.25–2.25)", "1.50 (1.50–1.50)"]
    assert rows["ours, overlap on"][5:] == ["", ""]


def test_peers_without_ours_make_a_table_too():
    rows = throughput.table([run for run in _throughput_runs() if run["name"] not in throughput.OURS])
    assert [row[5:] for row in rows] == [["", ""], ["", ""]]


def test_the_fastest_setting_of_a_peer_is_chosen_for_each_task():
    runs = [
        {"task": task, "name": "RLlib PPO", "setting": {"runners": runners, "envs": 8}, "env_steps_per_s": rate}
        for task, runners, rate in (("a", 1, 10.0), ("a", 2, 9.0), ("b", 1, 1.0), ("b", 2, 2.0))
    ]
    best = throughput.best_peers(runs)
    assert best == {"a": {"RLlib PPO": {"runners": 1, "envs": 8}}, "b": {"RLlib PPO": {"runners": 2, "envs": 8}}}
    task = throughput.TASKS["pidog_run"]
    names = [contestant.name for contestant in throughput.contestants(task, 60_000, best["b"])]
    assert names == [*throughput.OURS, "RLlib PPO", "SB3 PPO"]
    stock = throughput.contestants(task, 60_000, best["b"])[2].command
    assert stock[stock.index("--runners") + 1] == "2"
    assert json.loads(stock[stock.index("--kwargs") + 1]) == {"physics": {"preset": "medium"}}
    mine = throughput.contestants(task, 60_000, {})[0].command
    assert {"task=pidog_run", "preset=peer", "total_env_steps=60000", "overlap=true", "num_env_runners=1"} <= set(mine)
    assert 'task_config={"physics": {"preset": "medium", "num_threads": 2}}' in mine


def test_of_both_physics_the_faster_median_counts():
    single, double, whole = sampling.shares(_sampling_runs(), "Ant-v5")
    assert single.kept == Spread(0.9, 0.8, 1.0)  # the rollout's median of 100 beats the pool's 99
    assert double.kept == Spread(0.5, 0.5, 0.5)
    assert whole.kept == Spread(0.2, 0.15, 0.25)
    rows = sampling.table(_sampling_runs())
    assert [row[4] for row in rows] == ["plain loop, rollout, 1 thread", "plain loop, rollout, 2 threads", "physics, pool, 2 threads"]
    assert rows[0][6] == "0.90 (0.80–1.00)"


@pytest.mark.parametrize("task", ["HalfCheetah-v5", "pidog_run"])
def test_both_physics_move_alike_and_the_plain_loop_runs(task: str):
    workload = make_workload(task, throughput.TASKS[task].task_config)
    engines = [build(workload, 3, 2) for build in METHODS.values()]
    rng = np.random.default_rng(0)
    for _ in range(3):
        control = workload.control(rng.uniform(-1.0, 1.0, (3, workload.control_scale.size)))
        for engine in engines:
            engine.step(control)
    moved = [engine.positions_and_velocities() for engine in engines]
    for engine in engines:
        engine.close()
    start = workload.initial_state[1 : 1 + moved[0].shape[1]]
    assert np.abs(moved[0] - start).max() > 0.01
    # Only the solver's warm start differs between the two.
    np.testing.assert_allclose(moved[0], moved[1], atol=1e-3, rtol=1e-3)
    records = sampling.measure_floor(throughput.TASKS[task], num_envs=4, steps=5)
    assert {(record["side"], record["threads"], record["method"]) for record in records} == {
        (side, threads, method) for side, threads in (("physics", 2), ("plain loop", 1), ("plain loop", 2)) for method in METHODS
    }
    assert all(math.isfinite(record["env_steps_per_s"]) and record["env_steps_per_s"] > 100 for record in records)


def test_a_workload_maps_actions_to_controls_within_their_range():
    zeros = np.zeros(2)
    workload = Workload(None, 1, zeros, np.array([1.0, 0.0]), np.array([2.0, 0.4]), np.zeros((0, 3)), 3)
    np.testing.assert_allclose(workload.control(np.array([[-1.0, 5.0]])), [[-1.0, 0.4]])


def test_the_last_line_is_the_result():
    assert last_json_line('chatter\n{"a": 1}\n{"env_steps_per_s": 2.5}\n\n') == {"env_steps_per_s": 2.5}
    for wrong in ("", "no json", "[1]"):
        with pytest.raises(GaitwayError, match="last line"):
            last_json_line(wrong)


def test_a_measured_command_is_bounded_and_says_why_it_failed(tmp_path: Path):
    environment = benchmark_environment(tmp_path)
    assert environment["RAY_AUTH_MODE"] == "disabled"
    assert "RAY_ADDRESS" not in environment
    core = sorted(os.sched_getaffinity(0))[0]
    code = "import json, os, time; time.sleep(0.5); print('x'); print(json.dumps({'cores': sorted(os.sched_getaffinity(0))}))"
    assert run_measured([sys.executable, "-c", code], environment, 60, cores=[core]).result == {"cores": [core]}
    with pytest.raises(GaitwayError, match="exit code 3: too bad"):
        run_measured([sys.executable, "-c", "import sys; print('too bad', file=sys.stderr); sys.exit(3)"], environment, 60)
    with pytest.raises(GaitwayError, match="not finished after 1 s"):
        run_measured([sys.executable, "-c", "import time; time.sleep(60)"], environment, 1)


def test_what_others_use_is_told_from_what_the_measurement_uses(tmp_path: Path):
    spin = "import time; end = time.monotonic() + 3\nwhile time.monotonic() < end: pass\nprint('{}')"
    alone = run_measured([sys.executable, "-c", spin], benchmark_environment(tmp_path), 60).foreign_cores
    disturbing = subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.DEVNULL)
    waiting = run_measured([sys.executable, "-c", "import time; time.sleep(2.5); print('{}')"], benchmark_environment(tmp_path), 60)
    disturbing.wait()
    # Whatever else this machine does counts in both; the spinning process is foreign only to the second.
    assert 0.0 <= alone <= psutil.cpu_count()
    assert waiting.foreign_cores > 0.3


def test_the_peak_of_a_child_process_is_seen(tmp_path: Path):
    watch = memory.PeakMemory()
    child = "x = bytearray(200 * 2**20); import time; time.sleep(1)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True); print('{{}}')"
    run_measured([sys.executable, "-c", code], benchmark_environment(tmp_path), 60, watch=watch)
    assert len(watch.peaks_bytes) == 2
    assert 200 * 2**20 < max(watch.peaks_bytes.values()) < 300 * 2**20
    assert watch.peak_together_bytes > 200 * 2**20


def test_intervals_are_students():
    values = [3.0, 4.0, 8.0]
    found = scores.interval(values)
    low, high = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))
    assert math.isnan(scores.interval([5.0]).half_width)


def test_a_killed_score_run_goes_on_where_it_was(tmp_path: Path):
    log = tmp_path / "scores.jsonl"
    assert len(scores.missing(log, scores.BARS, 2, 1000)) == 8
    run = {"task": "Hopper-v5", "seed": 0, "total_env_steps": 1000, "evaluation_return_mean": 2500.0, "episode_return_mean": 2300.0}
    log.write_text(json.dumps(run) + "\n" + json.dumps(run | {"total_env_steps": 5}) + "\n" + '{"task": "Walker2d-v5", "se')
    left = scores.missing(log, scores.BARS, 2, 1000)
    assert ("Hopper-v5", 0) not in left
    assert len(left) == 7
    assert [seed for _, seed in left] == sorted(seed for _, seed in left)
    scores.append(log, run | {"seed": 1})
    assert ("Hopper-v5", 1) not in scores.missing(log, scores.BARS, 2, 1000)
    assert len(scores.read(log)) == 3
    assert scores.table([run])[0][3] == "2,300"
    row = scores.table([run, run | {"seed": 1, "evaluation_return_mean": 1500.0}])[0]
    assert row[:4] == ["Hopper-v5", "1,000", "2", "2,300 ± 0"]
    assert row[4] == "2,000 ± 6,353"  # 12.706 × 707 / √2
    assert row[5:] == ["2,200", "training", "2,609"]


def test_sections_keep_each_other_and_make_the_document(tmp_path: Path):
    path, source = tmp_path / "results.json", provenance()
    assert source["versions"]["mujoco"][0].isdigit()
    assert (source["versions"]["stable_baselines3"] == "not installed") is not (PEERS_FOLDER / "stable_baselines3").is_dir()
    save_section(path, "throughput", source | {"runs": _throughput_runs()})
    only_one = render(load(path))
    assert "Not measured yet." in only_one
    assert "| Ant-v5 | RLlib PPO | envs=8 | 2,250 | 1,500–3,000 | 3.00 (3.00–3.00) | 2.00 (2.00–2.00) |" in only_one
    save_section(path, "sampling", source | {"runs": _sampling_runs()})
    used = {"process": "python", "process_gib": 0.9, "together_gib": 1.8, "processes": 7, "foreign_cores": 0.25}
    results = save_section(path, "memory", source | {"run": used})
    document = render(results)
    assert only_one.split("## Sampling")[0] == document.split("## Sampling")[0]
    assert "| training process (python) | 0.90 | 1.5 |" in document
    assert source["cpu"] in document
    assert "other programs used 0.2 cores meanwhile, 0.2 at most" in document
    assert text("memory", results["memory"]).splitlines()[0].startswith("HalfCheetah-v5, 256 environments")
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_rates_are_rates():
    workload = make_workload("InvertedPendulum-v5")
    for measure in (physics_rate, plain_loop_rate):
        assert measure("rollout", workload, 8, 1, 10) > 500
