"""What a pipeline run ends with: ``SUMMARY.md`` in the run folder, and the closing lines on the screen."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from cluster.config import write_text_atomic
from cluster.pipeline.run_folder import RunFolder
from cluster.progress import format_duration
from cluster.runtime.head import find_head
from cluster.settings import Settings

__all__ = ["write_summary"]


def write_summary(run: RunFolder, results: dict[str, dict[str, Any]], settings: Settings) -> str:
    """Write ``SUMMARY.md`` and return the closing text: the verdict, where everything is, what to type next."""
    verdict = _verdict(results.get("compare"))
    places = _places(run, results, settings)
    calls = _calls(results, settings)
    following = _following(results, settings)
    stages = [
        f"| {name} | {record.status} | {format_duration(record.duration_s)} | {record.attempts} |" for name, record in run.stages.items()
    ]
    lines = [
        f"# {run.path.name}",
        "",
        *([verdict, ""] if verdict else []),
        "| stage | status | duration | attempts |",
        "|---|---|---|---|",
        *stages,
        "",
        *_file_section("Evaluation", results.get("evaluate", {}).get("markdown")),
        *_text_section("Verdict", run.path / "comparison" / "report.txt"),
        "## Where things are",
        "",
        *(f"- {name}: `{place}`" for name, place in places.items()),
        "",
        *(["## Calling the endpoint", "", "```console", *calls, "```", ""] if calls else []),
        "## What to type next",
        "",
        "```console",
        *following,
        "```",
    ]
    write_text_atomic(run.path / "SUMMARY.md", "\n".join(lines) + "\n")
    width = max(len(name) for name in places)
    closing = [
        *([verdict, ""] if verdict else []),
        *(f"{name:<{width}}  {place}" for name, place in places.items()),
        *(["", "call it:", *(f"  {call}" for call in calls)] if calls else []),
        "",
        "next:",
        *(f"  {command}" for command in following),
    ]
    return "\n".join(closing)


def _verdict(compare: dict[str, Any] | None) -> str:
    """What won, by how much and how sure, in one sentence."""
    if compare is None:
        return ""
    report = compare["report"]
    names = [f"{arm['name']} (version {arm['version']})" for arm in report["arms"]]
    champion, challenger = names[0], names[1]
    metric = _metric_words(report["metric"])
    if report["difference"] is None:
        return f"No verdict yet: {report['reason']}"
    difference, (low, high) = report["difference"], report["interval"]
    sure = f"{100 * (1 - 2 * report['alpha']):g} % confidence sequence {low:+.3f} to {high:+.3f}"
    decided, counted = report["decided_at_episode"], report["episodes"]
    episodes = f"after {counted} live episodes" + (f", decided at episode {decided}" if decided and decided != counted else "")
    if report["decision"] == "promote":
        return f"The {challenger} won: {difference:+.3f} {metric} against the {champion} ({sure}) {episodes}. It is @champion now."
    if report["decision"] == "keep":
        return f"The {champion} stays: the {challenger} differs by {difference:+.3f} {metric} ({sure}) {episodes}."
    return f"No verdict yet {episodes}: {difference:+.3f} {metric} ({sure}); {report['reason']}"


def _metric_words(metric: str) -> str:
    """``forward_velocity_m_s`` -> ``m/s of forward velocity``."""
    for suffix, unit in (("_m_s", "m/s"), ("_rad_s", "rad/s"), ("_m", "m"), ("_s", "s"), ("_j", "J")):
        if metric.endswith(suffix):
            return f"{unit} of {metric.removesuffix(suffix).replace('_', ' ')}"
    return metric.replace("_", " ")


def _places(run: RunFolder, results: dict[str, dict[str, Any]], settings: Settings) -> dict[str, str]:
    head = find_head(settings)
    places = {"run folder": str(run.path)}
    if "serve" in results:
        places["endpoint"] = str(results["serve"]["url"])
    places["MLflow UI"] = shlex.join(
        [_command("mlflow"), "ui", "--backend-store-uri", _hidden(settings.mlflow_tracking_uri), "--port", "5000"]
    )
    if head is not None:
        token = f" (token: {_command('ray')} get-auth-token)" if head.auth_mode == "token" else ""
        places["Ray dashboard"] = head.dashboard_url + token
    return places


def _hidden(url: str) -> str:
    """A database URL without its password."""
    scheme, separator, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{separator}{user.partition(':')[0]}{at}{host}" if at else url


def _calls(results: dict[str, dict[str, Any]], settings: Settings) -> list[str]:
    """Commands that call the endpoint; the observation is a real one from the exported bundle."""
    if "serve" not in results or "register" not in results:
        return []
    url, policy = results["serve"]["url"], results["register"]["policy"]
    example = _example_request(results)
    token = f'-H "Authorization: Bearer $(cat {shlex.quote(str(settings.token_path))})"'
    calls = [f"curl -s {url}/v1/policies/{policy} {token}"]
    if example is not None:
        data = f"-H 'Content-Type: application/json' -d @{shlex.quote(str(example))}"
        calls.append(f"curl -s {url}/v1/policies/{policy}/act {token} {data}")
    return calls


def _example_request(results: dict[str, dict[str, Any]]) -> Path | None:
    """Write one valid request beside the bundle's folder, made from its contract."""
    from cluster.contract import PolicyContract

    bundles = results.get("export", {}).get("bundles", {})
    if not bundles:
        return None
    bundle = Path(list(bundles.values())[-1])
    contract = PolicyContract.load(bundle / "contract.json")
    # All zeros is valid by shape, and within the limits wherever they include zero.
    observation = {
        field.name: [
            min(max(0.0, low), high) for low, high in zip(field.low or (0.0,) * field.size, field.high or (0.0,) * field.size, strict=True)
        ]
        for field in contract.observation
    }
    path = bundle.parent / "request.json"
    write_text_atomic(path, json.dumps({"episode_id": "hello-1", "observation": observation}) + "\n")
    return path


def _following(results: dict[str, dict[str, Any]], settings: Settings) -> list[str]:
    gaitway = _command("gaitway")
    commands = []
    if "compare" in results:
        commands.append((f"{gaitway} ab report", "the verdict in full"))
        commands.append((f"{gaitway} fleet run --episodes 16", "more simulated robots on the endpoint"))
    commands.append((f"{gaitway} pipeline run configs/pipelines/pidog_fast_runner.yaml", "the full-size run"))
    if find_head(settings) is not None:
        commands.append((f"{gaitway} cluster down", "stop Ray, the endpoint and everything else that was started"))
    width = max(len(command) for command, _ in commands)
    return [f"{command:<{width}}   # {why}" for command, why in commands]


def _command(name: str) -> str:
    """How to type a command of this environment: its name where the shell finds it, else its path."""
    own = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if found is not None and Path(found) == own:
        return name
    return os.path.relpath(own) if own.is_relative_to(Path.cwd()) else str(own)


def _file_section(title: str, path: str | None) -> list[str]:
    if path is None or not Path(path).is_file():
        return []
    text = Path(path).read_text(encoding="utf-8").strip()
    body = text.split("\n", 1)[1].strip() if text.startswith("# ") and "\n" in text else text
    return [f"## {title}", "", body, ""]


def _text_section(title: str, path: Path) -> list[str]:
    if not path.is_file():
        return []
    return [f"## {title}", "", "```", path.read_text(encoding="utf-8").rstrip(), "```", ""]
