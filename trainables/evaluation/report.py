"""The evaluation as JSON for machines and Markdown for people."""

from __future__ import annotations

from typing import Any

__all__ = ["metrics_table", "to_markdown"]

LABELS = {
    "forward_velocity_m_s": "forward velocity, m/s",
    "length": "episode length, steps",
    "full_length": "full-length episodes, share",
    "fell": "falls, share",
    "return": "return",
    "distance_m": "distance, m",
    "energy_j": "servo energy, J",
}


def metrics_table(policies: dict[str, dict[str, dict[str, Any]]]) -> str:
    """One Markdown row a metric, one pair of columns a policy. ``policies`` as in ``evaluation.json``."""
    header = ["metric"] + [f"{name}: {column}" for name in policies for column in ("mean [95 % interval]", "interquartile mean")]
    rows = [header, ["---"] * len(header)]
    for metric, label in LABELS.items():
        if any(metric not in summary for summary in policies.values()):
            continue
        row = [label]
        for summary in policies.values():
            entry = summary[metric]
            row += [_with_interval(entry["mean"], entry["ci95"]), _figure(entry["iqm"])]
        rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def to_markdown(report: dict[str, Any]) -> str:
    """The whole report. ``report`` as in ``evaluation.json``."""
    setting = report["setting"]
    parts = [
        "# Evaluation\n",
        f"{setting['episodes']} episodes of each policy on the task `{setting['task']}` under `{setting['physics']}` physics, "
        f"seed {setting['seed']}: the same starts, commands, dynamics and pushes for all. Intervals: 95 %; "
        f"bootstrap (BCa, {setting['resamples']} resamples), Wilson's for shares.\n",
        metrics_table(report["policies"]),
    ]
    for comparison in report["comparisons"]:
        parts.append(f"\n## {comparison['challenger']} against {comparison['champion']}\n")
        lines = [
            "| metric | difference of means [95 % interval] | probability that an episode is better [95 % interval] |",
            "| --- | --- | --- |",
        ]
        lines += [
            f"| {LABELS[metric]} | {_with_interval(entry['difference'], entry['ci95'])} "
            f"| {_with_interval(entry['probability_of_improvement'], entry['probability_ci95'])} |"
            for metric, entry in comparison["metrics"].items()
        ]
        parts.append("\n".join(lines) + "\n")
    terms = sorted({name for summary in report["policies"].values() for name in summary if name.startswith("reward/")})
    if terms:
        parts.append("\n## Mean raw value of each reward term\n")
        lines = ["| term | " + " | ".join(report["policies"]) + " |", "| --- " * (len(report["policies"]) + 1) + "|"]
        for term in terms:
            values = [_figure(summary[term]["mean"]) if term in summary else "–" for summary in report["policies"].values()]
            lines.append(f"| {term.removeprefix('reward/')} | " + " | ".join(values) + " |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _with_interval(value: float, interval: list[float]) -> str:
    return f"{_figure(value)} [{_figure(interval[0])}, {_figure(interval[1])}]"


def _figure(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"
