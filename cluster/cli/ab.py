"""``gaitway ab start | ls | status | report | weights | promote | stop | undo``: live comparisons."""

from __future__ import annotations

import importlib
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.output import JsonOption, print_json, print_table, say
from cluster.errors import UsageError
from cluster.settings import Settings

__all__ = ["app"]

app = typer.Typer(help="Compare versions on live traffic and promote the winner.", no_args_is_help=True)

ComparisonArgument = Annotated[str | None, typer.Argument(help="comparison; default: the latest", show_default=False)]


@app.command()
def start(
    policy: Annotated[str, typer.Option(help="policy whose traffic is split")] = "pidog-run",
    champion: Annotated[str, typer.Option(help="version or alias in service")] = "champion",
    challenger: Annotated[
        list[str] | None,
        typer.Option(
            help="version or alias that wants its place; up to three; default: challenger, or none beside shadows", show_default=False
        ),
    ] = None,
    share: Annotated[float, typer.Option(min=0.01, max=0.99, help="share of the episodes that the challengers get together")] = 0.1,
    metric: Annotated[str, typer.Option(help="outcome value that is compared; more is better")] = "forward_velocity_m_s",
    low: Annotated[float, typer.Option(help="lowest value that the metric can take")] = -0.5,
    high: Annotated[float, typer.Option(help="highest value that the metric can take")] = 0.5,
    alpha: Annotated[float, typer.Option(help="largest accepted probability of a wrong promotion")] = 0.05,
    guardrail: Annotated[
        list[str] | None,
        typer.Option(
            help="what no arm may do too often: fell<=0.1, missing<=0.2, latency_p99_ms>20<=0.05 as the robot says, "
            "server_latency_p99_ms>20<=0.05 or server_error_steps>0<=0.01 as the server measured; may be repeated"
        ),
    ] = None,
    max_episodes: Annotated[int | None, typer.Option(min=2, help="pause without a verdict after so many; default: never")] = None,
    auto: Annotated[str, typer.Option(help="off | recommend | promote: a verdict takes effect by itself")] = "off",
    shadow: Annotated[
        list[str] | None, typer.Option(help="version or alias that sees the traffic and never acts; may be repeated", show_default=False)
    ] = None,
    unit: Annotated[str, typer.Option(help="episode | robot: what is assigned, and counted as one observation")] = "episode",
    episodes_per_robot: Annotated[int, typer.Option(min=1, help="by robot: mean of how many of its episodes is its one observation")] = 5,
    ramp: Annotated[
        str | None, typer.Option(help="stages in place of --share: SHARE:EPISODES,..., such as 0.1:50,0.25:100,0.5:200", show_default=False)
    ] = None,
    bandit: Annotated[bool, typer.Option("--bandit", help="better arms get more episodes while it runs; the test stays valid")] = False,
    bandit_uniform_share: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="bandit: share of the episodes that is split evenly whatever the evidence")
    ] = 0.2,
    json_: JsonOption = False,
) -> None:
    """Start a comparison; a running endpoint splits new episodes at once. Says what it can be expected to find."""
    from cluster.store.tokens import local_actor

    settings = Settings.from_environment()
    asked = {"policy": policy, "champion": champion, "challengers": challenger or [], "shadows": shadow or [], "share": share}
    asked |= {"metric": metric, "low": low, "high": high, "alpha": alpha}
    asked |= {"guardrails": [_guardrail(text) for text in guardrail or ()], "max_episodes": max_episodes, "auto": auto}
    asked |= {"unit": unit, "episodes_per_robot": episodes_per_robot, "ramp": _ramp(ramp), "bandit": bandit}
    asked |= {"bandit_uniform_share": bandit_uniform_share}
    comparison: Any = importlib.import_module("serve_apps.comparison.starting").start(settings, asked, local_actor())
    _refresh(settings)
    if json_:
        print_json(comparison.model_dump(mode="json"))
        return
    typer.echo(comparison.id)
    plans: Any = importlib.import_module("serve_apps.comparison.plan")
    for line in plans.plan_lines(comparison):
        say(line)
    say("follow it with: gaitway ab report")


@app.command("ls")
def list_(policy: Annotated[str | None, typer.Argument(help="policy; default: all")] = None, json_: JsonOption = False) -> None:
    """List comparisons, newest first."""
    from cluster.store.comparisons import list_comparisons
    from cluster.store.database import open_database

    with closing(open_database(Settings.from_environment())) as db:
        found = list_comparisons(db, policy)
    if json_:
        print_json([item.model_dump(mode="json") for item in found])
        return
    rows = [
        [
            item.id,
            item.policy,
            " / ".join(f"{arm.name} v{arm.version}" for arm in item.arms),
            item.status,
            item.episode_count,
            f"{item.created_at:%Y-%m-%d %H:%M}",
        ]
        for item in found
    ]
    print_table(
        ["comparison", "policy", "arms", "status", "episodes", "started (UTC)"],
        rows,
        "no comparison yet; start one with `gaitway ab start`",
    )


@app.command()
def report(
    comparison: ComparisonArgument = None,
    html: Annotated[Path | None, typer.Option(help="write a page that works offline to this file", show_default=False)] = None,
    json_: JsonOption = False,
) -> None:
    """Arms, episodes, means, intervals, e-values and the decision."""
    from cluster.store.database import open_database

    settings = Settings.from_environment()
    pages: Any = importlib.import_module("serve_apps.comparison.html")
    with closing(open_database(settings)) as db:
        comparison_id = _id(db, comparison)
        look = pages.examine(db, comparison_id)
        shadows = pages.shadows_of(db, look.comparison)
        if html is not None:
            pages.write_page(db, comparison_id, html)
    if json_:
        print_json(look.report.to_dict() | {"shadows": [shadow.model_dump(mode="json") for shadow in shadows]})
    else:
        typer.echo("\n".join([look.report.to_text(), *(shadow.to_text() for shadow in shadows)]))
    if html is not None:
        say(f"open it in a browser: {html}")


@app.command()
def status(comparison: ComparisonArgument = None, json_: JsonOption = False) -> None:
    """One line: the decision so far."""
    from cluster.store.database import open_database

    with closing(open_database(Settings.from_environment())) as db:
        found: Any = importlib.import_module("serve_apps.comparison.report").report(db, _id(db, comparison))
    if json_:
        shown = ("comparison_id", "status", "decision", "episodes", "reason", "recommendation", "split")
        print_json({key: found.to_dict()[key] for key in shown})
    else:
        said = "; ".join(part for part in (found.reason, found.recommendation, found.split) if part)
        typer.echo(f"{found.comparison_id}  {found.status}  {found.decision}  {found.episodes} episodes: {said}")


@app.command()
def promote(
    comparison: ComparisonArgument = None,
    arm: Annotated[str | None, typer.Option(help="arm that shall win; default: the verdict's")] = None,
    force: Annotated[bool, typer.Option("--force", help="decide without a verdict, or against it")] = False,
    json_: JsonOption = False,
) -> None:
    """End a comparison for its winner: @champion moves there, and the endpoint follows."""
    from cluster.store.database import open_database

    settings = Settings.from_environment()
    with closing(open_database(settings)) as db:
        comparison_id = _id(db, comparison)
    result: Any = importlib.import_module("serve_apps.comparison.promotion").promote(settings, comparison_id, arm, force)
    _refresh(settings)
    if json_:
        print_json({"comparison_id": comparison_id, "arm": result.arm, "version": result.version, "forced": result.forced})
    else:
        typer.echo(f"@champion = models:/{result.comparison.policy}/{result.version} ({result.arm})")


@app.command()
def stop(comparison: ComparisonArgument = None, json_: JsonOption = False) -> None:
    """End a comparison without a winner; @champion stays and gets all traffic."""
    from cluster.store.database import open_database

    settings = Settings.from_environment()
    with closing(open_database(settings)) as db:
        comparison_id = _id(db, comparison)
    closed: Any = importlib.import_module("serve_apps.comparison.promotion").stop(settings, comparison_id)
    _refresh(settings)
    if json_:
        print_json(closed.model_dump(mode="json"))
    else:
        typer.echo(f"{closed.id} {closed.status}")


@app.command()
def weights(
    comparison: Annotated[str, typer.Argument(help="comparison")],
    changes: Annotated[list[str], typer.Argument(help="ARM=WEIGHT, relative to the other arms'; 0: no new episodes")],
    reason: Annotated[str, typer.Option(help="why, for the record")] = "",
    json_: JsonOption = False,
) -> None:
    """Split new episodes otherwise; the endpoint follows within a second, and every episode is counted with its own split."""
    from cluster.store.comparisons import change_weights
    from cluster.store.database import open_database
    from cluster.store.tokens import local_actor

    try:
        changed = {arm: float(weight) for arm, _, weight in (change.partition("=") for change in changes)}
    except ValueError:
        raise UsageError(f"{' '.join(changes)}: give ARM=WEIGHT, such as challenger=0.5") from None
    with closing(open_database(Settings.from_environment())) as db:
        found = change_weights(db, comparison, changed, reason, local_actor())
    if json_:
        print_json(found.model_dump(mode="json"))
        return
    total = sum(arm.weight for arm in found.arms)
    print_table(["arm", "version", "share"], [[arm.name, arm.version, f"{100 * arm.weight / total:.4g} %"] for arm in found.arms], "")


@app.command()
def undo(comparison: ComparisonArgument = None, json_: JsonOption = False) -> None:
    """Give @champion back to the version that a promotion replaced, and let the endpoint follow."""
    from cluster.store.database import open_database

    settings = Settings.from_environment()
    with closing(open_database(settings)) as db:
        comparison_id = _id(db, comparison)
    version = importlib.import_module("serve_apps.comparison.promotion").undo(settings, comparison_id)
    _refresh(settings)
    if json_:
        print_json({"comparison_id": comparison_id, "champion": version})
    else:
        typer.echo(f"@champion = version {version} again")


def _guardrail(text: str) -> dict[str, Any]:
    """``fell<=0.1`` or ``latency_p99_ms>20<=0.05``."""
    figure, mark, at_most = text.partition("<=")
    name, _, above = figure.partition(">")
    try:
        return {"name": name.strip(), "above": float(above) if above else None, "at_most": float(at_most if mark else "")}
    except ValueError:
        raise UsageError(f"--guardrail {text}: give NAME<=SHARE or NAME>LIMIT<=SHARE, such as fell<=0.1") from None


def _ramp(text: str | None) -> list[dict[str, Any]]:
    """``0.1:50,0.25:100``."""
    stages = []
    for stage in (text or "").split(",") if text else ():
        share, _, count = stage.partition(":")
        try:
            stages.append({"share": float(share), "episodes": int(count)})
        except ValueError:
            raise UsageError(f"--ramp {text}: give SHARE:EPISODES,..., such as 0.1:50,0.25:100,0.5:200") from None
    return stages


def _id(db: Any, comparison: str | None) -> str:
    from cluster.store.comparisons import list_comparisons

    if comparison is not None:
        return comparison
    found = list_comparisons(db)
    if not found:
        raise UsageError("there is no comparison yet; start one with `gaitway ab start`, or name one")
    return found[0].id


def _refresh(settings: Settings) -> None:
    """Make a running endpoint follow; without one the change takes effect when it comes up."""
    from cluster.runtime.serving import refresh, serve_status

    if serve_status(settings)["running"]:
        refresh(settings)
    else:
        say("no endpoint is up; it will follow when it starts (gaitway serve up)")
