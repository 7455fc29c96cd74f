"""The page as text and as data; nothing here needs a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from typer.testing import CliRunner

from cluster.cli.main import app
from cluster.settings import Settings
from cluster.store.comparisons import Arm, Comparison, Guardrail, change_weights, close_comparison, get_comparison, mark_applied
from cluster.store.database import Database
from serve_apps.comparison.html import page
from serve_apps.comparison.referee import rule

Play = Callable[..., list[str]]
ATTACK = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What a browser would see: elements, the text outside of scripts and styles, and the embedded data."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._data, self._inside = "", "", ""
        self.feed(html)
        self.text = " ".join(self.text.split())
        self.data = json.loads(self._data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = "data" if dict(attrs).get("id") == "page-data" else tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "data":
            self._data += data
        elif self._inside not in ("script", "style"):
            self.text += f" {data}"

    def charts(self) -> set[str]:
        return {str(attributes["data-figure"]) for _, attributes in self.elements if "data-figure" in attributes}


def as_plotly_takes_it(item: Any) -> Any:
    if isinstance(item, str) and item.startswith("@"):
        return "#123456"
    if isinstance(item, dict):
        return {key: as_plotly_takes_it(value) for key, value in item.items()}
    return [as_plotly_takes_it(value) for value in item] if isinstance(item, list) else item


def test_a_running_comparison(db: Database, start_comparison: Callable[..., Comparison], play: Play) -> None:
    comparison = start_comparison(guardrails=(Guardrail(name="fell", at_most=0.1), Guardrail(name="latency_ms", above=20, at_most=0.05)))
    play(comparison, 40, champion=0.1, challenger=0.1)
    change_weights(db, comparison.id, {"challenger": 0.25}, ATTACK, "token:1:ops")
    html = page(db, comparison.id)
    found = Page(html)
    assert ATTACK not in html
    assert "After 40 episodes the evidence does not separate the arms." in found.text
    assert f"gaitway ab stop {comparison.id}" in found.text
    assert f"{ATTACK} token:1:ops" in found.text
    charts = {"difference", "evidence", "means", "shares", "ratio", "guardrail-0", "guardrail-1"}
    assert found.charts() == set(found.data["figures"]) == charts
    for figure in found.data["figures"].values():
        go.Figure(as_plotly_takes_it(figure))  # raises for an unknown property or a wrong value
    assert figure_lines(found, "evidence") == ["challenger is better", "challenger is worse"]


def figure_lines(found: Page, name: str) -> list[str]:
    return [trace["name"] for trace in found.data["figures"][name]["data"] if trace.get("name")]


def test_the_page_loads_nothing_and_may_not(db: Database, comparison: Comparison, play: Play) -> None:
    play(comparison, 3, champion=0.1, challenger=0.1)
    html = page(db, comparison.id)
    found = Page(html)
    policy = next(attributes["content"] for tag, attributes in found.elements if attributes.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    assert not [tag for tag, attributes in found.elements if tag in ("link", "img", "iframe", "form") or attributes.get("src")]
    assert all((attributes["href"] or "").startswith("#") for tag, attributes in found.elements if tag == "a")
    nonces = {attributes.get("nonce") for tag, attributes in found.elements if tag == "script" and attributes.get("nonce")}
    assert len(nonces) == 1
    assert re.search(r"nonce-([\w-]+)", policy)[1] in nonces  # type: ignore[index]


def test_a_verdict_that_took_effect_stands_first_with_who_decided(db: Database, start_comparison: Any, play: Play) -> None:
    comparison = start_comparison(auto="promote")
    play(comparison, 64, champion=-0.1, challenger=0.15)
    ruling = rule(db, comparison.id)
    assert ruling is not None
    assert ruling.decided
    before = Page(page(db, comparison.id))
    assert f"gaitway ab promote {comparison.id}" in before.text  # the alias has not moved yet
    mark_applied(db, comparison.id)
    found = Page(page(db, comparison.id))
    assert "Challenger (version 2) won and is @champion, after 64 episodes." in found.text
    assert "Challenger minus champion: +0." in found.text
    assert "decided by referee" in found.text
    assert f"gaitway ab undo {comparison.id}" in found.text
    notes = [note["text"] for note in found.data["figures"]["difference"]["layout"]["annotations"]]
    assert notes == [f"decided at {ruling.report.decided_at_episode}"]


def test_nothing_counted_yet_and_one_episode(db: Database, comparison: Comparison, play: Play) -> None:
    empty = Page(page(db, comparison.id))
    assert "No episode has been counted yet." in empty.text
    assert empty.charts() == set()
    play(comparison, 1, champion=0.1, challenger=0.1)
    assert Page(page(db, comparison.id)).data["figures"]["means"]["data"][2]["mode"] == "markers"


def test_a_breach_among_four_arms(db: Database, start_comparison: Any, play: Play) -> None:
    names = ("champion", "challenger-2", "challenger-3", "challenger-4")
    arms = tuple(Arm(name=name, version=str(k + 1), weight=1.0) for k, name in enumerate(names))
    comparison = start_comparison(arms=arms, guardrails=(Guardrail(name="fell", at_most=0.1),))
    values = {"champion": 0.1, "challenger-2": 0.1, "challenger-3": 0.1, "challenger-4": -0.1}
    from cluster.store.comparisons import EpisodeRow, Outcome, record_episode, record_outcome

    for number in range(120):
        arm = arms[number % 4]
        row = EpisodeRow(
            policy="pidog-run",
            episode_id=str(number),
            version=arm.version,
            comparison_id=comparison.id,
            arm=arm.name,
            propensity=0.25,
            weights_version=1,
        )
        record_episode(db, row)
        record_outcome(db, str(number), Outcome(value=values[arm.name], fell=arm.name == "challenger-4"), policy="pidog-run")
    assert rule(db, comparison.id) is not None
    found = Page(page(db, comparison.id))
    assert "Challenger-4 broke a guardrail: fell in 30 of its 30 episodes, 10 % allowed." in found.text
    assert "guardrail breached by challenger-4 referee" in found.text
    assert "champion=1 challenger-2=1 challenger-3=1 " in found.text + " "
    assert "challenger-4=1" not in found.text


def test_what_happened_is_told_with_who_did_it(db: Database, comparison: Comparison, play: Play) -> None:
    play(comparison, 4, champion=0.1, challenger=0.1)
    close_comparison(db, comparison.id, "stopped", {"actor": "token:2:ops", "report": {"episodes": 4}})
    found = Page(page(db, comparison.id))
    assert "Stopped without a winner after 4 episodes." in found.text
    assert "ended without a winner token:2:ops" in found.text
    assert get_comparison(db, comparison.id).status == "stopped"


def test_the_command_writes_the_page(
    db: Database, comparison: Comparison, play: Play, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)
    play(comparison, 4, champion=0.1, challenger=0.1)
    path = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["ab", "report", comparison.id, "--html", str(path)])
    assert result.exit_code == 0
    assert "does not separate the arms" in result.stdout
    assert comparison.id in Page(path.read_text()).text
    refused = CliRunner().invoke(app, ["ab", "report", comparison.id, "--html", str(tmp_path)])
    assert "--html" in str(refused.exception)


def test_shadow_arms_are_told_of_and_compare_nothing(db: Database, start_comparison: Any) -> None:
    arms = (Arm(name="champion", version="1", weight=1.0), Arm(name="shadow-2", version="2", weight=0.0, shadow=True))
    comparison = start_comparison(arms=arms)
    found = Page(page(db, comparison.id))
    assert "Nothing is compared: every arm but the champion is a shadow." in found.text
    assert "shadow-2 (version 2)" in found.text
    assert "left out, too many were waiting 0" in found.text
