"""The page as text and as data; nothing here needs a browser."""

import base64
import json
import math
import re
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from cluster.errors import UsageError
from tests.benchmarks.sweep_report import make_record
from trainables.sweeps import report_charts, report_space
from trainables.sweeps.analysis import analyse
from trainables.sweeps.records import Clone, SweepRecord
from trainables.sweeps.report import render, report, write_report

STOPPED = {"status": "stopped early"}


class Page(HTMLParser):
    """What a browser would see: elements, the text outside of scripts and styles, and the embedded data."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.data, self._inside = "", "", ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = "data" if dict(attrs).get("id") == "page-data" else tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "data":
            self.data += data
        elif self._inside not in ("script", "style"):
            self.text += f" {data}"

    def ids(self) -> set[str]:
        return {attributes["id"] for _, attributes in self.elements if attributes.get("id")}  # type: ignore[misc]


def page_of(record: SweepRecord) -> Page:
    return Page(render(analyse(record)))


def rich(make_sweep: Any, count: int = 16, **info: Any) -> SweepRecord:
    """ASHA over ``count`` trials, every third finished, the others cut at a rung; the last one failed."""
    generator = np.random.default_rng(0)
    curves: dict[str, Any] = {}
    trials: dict[str, Any] = {}
    for index in range(count):
        end = (1000, 100, 300)[index % 3]
        slope = generator.uniform(0.5, 1.5)
        curves[f"trial_{index}"] = [(progress, slope * progress / 1000) for progress in range(0, end + 1, 50)]
        sample = {"learning_rate": float(10 ** generator.uniform(-5, -2)), "clip": float(generator.uniform(0.1, 0.3))}
        trials[f"trial_{index}"] = {"sample": sample} | (STOPPED if end < 1000 else {})
    trials[f"trial_{count - 1}"] |= {"status": "failed", "error": "ValueError: no", "traceback": "Traceback\nValueError: no"}
    return make_sweep(curves, trials, **info)


def figures_of(analysis: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "curves", report_charts.curves(analysis)
    yield "importance", report_charts.importance(analysis)
    yield "seeds", report_charts.seeds(analysis)
    yield "stopped", report_charts.stopped(analysis)
    yield "parallel", report_space.parallel_coordinates(analysis)
    for figure in report_space.slices(analysis):
        yield "slice", figure


def as_plotly_takes_it(item: Any) -> Any:
    """The figure as the page hands it over: colours for their names."""
    if item == "@scale":
        return [[0, "#ffffff"], [1, "#000000"]]
    if isinstance(item, str) and item.startswith("@"):
        return "#123456"
    if isinstance(item, dict):
        return {key: as_plotly_takes_it(value) for key, value in item.items()}
    return [as_plotly_takes_it(value) for value in item] if isinstance(item, list) else item


def unpacked(item: dict[str, str]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(item["bdata"]), np.dtype(item["dtype"]).newbyteorder("<"))


def test_every_figure_is_one_that_this_plotly_knows(make_sweep) -> None:
    seeds = {f"trial_{index}": index // 2 for index in range(16)}
    record = rich(make_sweep)
    drawn = dict(figures_of(analyse(record)))
    assert {name for name, figure in drawn.items() if figure} == {"curves", "importance", "stopped", "parallel", "slice"}
    for _, figure in figures_of(analyse(record)):
        if figure:
            go.Figure(as_plotly_takes_it(figure))  # raises for an unknown property or a wrong value
    trials = {name: {"configuration": f"c{group}", "seed": int(name[6:]) % 2} for name, group in seeds.items()}
    with_seeds = make_sweep({name: [(1000, group + int(name[6:]) % 2)] for name, group in seeds.items()}, trials)
    go.Figure(as_plotly_takes_it(report_charts.seeds(analyse(with_seeds))))


def test_the_curves_are_few_traces_with_gaps(make_sweep) -> None:
    figure = report_charts.curves(analyse(rich(make_sweep)))
    named = [trace["name"] for trace in figure["data"] if trace.get("name")]
    assert named == ["stopped early (10)", "failed (1)", "finished (5)", "winner: trial 10", "its best report"]
    finished = next(trace for trace in figure["data"] if trace.get("legendgroup") == "finished")
    x, y, numbers = (unpacked(finished[key]) for key in ("x", "y", "customdata"))
    assert len(x) == len(y) == len(numbers) == 5 * (21 + 1)
    assert np.flatnonzero(np.isnan(y)).tolist() == [22 * (index + 1) - 1 for index in range(5)]
    assert sorted(set(numbers.tolist())) == [1, 4, 7, 10, 13]
    assert x[:21].tolist() == list(range(0, 1001, 50))
    assert [shape["x0"] for shape in figure["layout"]["shapes"]] == [100, 300]
    assert all(trace["type"] == "scatter" for trace in figure["data"])


def test_large_sweeps_are_drawn_by_the_graphics_card(tmp_path: Path) -> None:
    from trainables.sweeps.records import load_sweep

    make_record(tmp_path, num_trials=40, num_reports=150)
    analysis = analyse(load_sweep(tmp_path))
    figure = report_charts.curves(analysis)
    assert {trace["type"] for trace in figure["data"] if trace["x"] != [None]} == {"scattergl"}
    assert analysis["importance"]["values"][0]["parameter"] == "learning_rate"
    assert analysis["stopping"]["reason"] is None


def test_a_clone_that_falls_back_starts_a_new_line(make_sweep) -> None:
    figure = report_charts.curves(analyse(make_sweep({"a": [(0, 0.0), (300, 0.1), (200, 0.5), (400, 0.6)]})))
    y = unpacked(figure["data"][0]["y"])
    assert np.flatnonzero(np.isnan(y)).tolist() == [2, 5]


def test_a_diverged_trial_does_not_flatten_the_others(make_sweep) -> None:
    curves = {f"t{index}": [(progress, progress / 1000) for progress in range(0, 1001, 50)] for index in range(9)}
    assert report_charts.curves(analyse(make_sweep(curves)))["layout"]["yaxis"]["range"] is None
    curves["t0"] = [*curves["t0"][:-1], (1000, -1e9)]
    low, high = report_charts.curves(analyse(make_sweep(curves)))["layout"]["yaxis"]["range"]
    assert -1 < low < 0 < 1 <= high < 2


def test_the_smooth_surface_is_a_weighted_mean_and_blank_where_nobody_was() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.uniform(0, 1, 200), generator.uniform(0, 1, 200)
    x, y = np.append(x, 9.0), np.append(y, 0.0)
    grid_x, grid_y, z = report_space.smooth_surface(x, y, np.append(x[:-1], 9.0), 24)
    assert (len(grid_x), len(grid_y), z.shape) == (24, 24, (24, 24))
    assert np.isnan(z[12, 12])
    column = int(np.argmin(abs(grid_x - 0.4)))
    width_x, width_y = (201 ** (-1 / 6) * axis.std(ddof=1) for axis in (x, y))
    weights = np.exp(-0.5 * (((grid_x[column] - x) / width_x) ** 2 + ((grid_y[5] - y) / width_y) ** 2))
    assert z[5, column] == pytest.approx(np.average(x, weights=weights))


def test_the_page_says_what_happened(make_sweep) -> None:
    page = page_of(rich(make_sweep))
    assert "Trial 10 won: evaluation/forward_velocity_m_s reached 1.481" in page.text
    assert "10 of 16 trials were stopped early, which saved 50 % of the full budget" in page.text
    assert "1 trial failed; the first: ValueError: no" in page.text
    assert {"winner", "next", "curves", "parameters", "budget", "failures", "trials", "about"} <= page.ids()
    data = json.loads(page.data)
    assert data["table"]["rows"][0][0][0] == 10
    assert len(data["table"]["rows"]) == 16
    assert data["table"]["columns"][:3] == ["trial", "status", "best evaluation/forward_velocity_m_s"]
    charts = {attributes["data-figure"] for _, attributes in page.elements if "data-figure" in attributes}
    assert charts - {"pair"} == set(data["figures"])


def test_the_page_loads_nothing(make_sweep) -> None:
    html = render(analyse(rich(make_sweep))).replace(get_plotlyjs(), "")
    page = Page(html)
    assert not [attributes for _, attributes in page.elements if {"src", "srcset", "data", "action"} & set(attributes)]
    assert all(attributes["href"].startswith("#") for _, attributes in page.elements if "href" in attributes)  # type: ignore[union-attr]
    assert not re.search(r"https?://|@import|url\(|//cdn", html)
    policy = next(attributes["content"] for tag, attributes in page.elements if attributes.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'")
    scripts = [attributes for tag, attributes in page.elements if tag == "script" and attributes.get("type") is None]
    nonce = re.search(r"'nonce-([^']+)'", str(policy))
    assert nonce
    assert [attributes["nonce"] for attributes in scripts] == [nonce[1]] * 2


ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(1)> & \"quoted\" 'too' %{x} \u2028"


def test_text_from_outside_stays_text(make_sweep) -> None:
    trials = {
        "a": {
            "status": "failed",
            "error": ATTACK,
            "traceback": ATTACK,
            "reason": ATTACK,
            "sample": {ATTACK: ATTACK, "clip": [None, ATTACK]},
        },
        "b": {"sample": {ATTACK: "fine", "clip": True}, "checkpoint": ATTACK},
    }
    space = {ATTACK: {"choice": [ATTACK, "fine"]}, "clip": {"choice": [True]}}
    names = {"name": ATTACK, "metric": ATTACK, "scheduler": ATTACK, "run_folder": ATTACK}
    clones = [Clone(ATTACK, "b", "a", 100, 100, {ATTACK: (ATTACK, ATTACK)})]
    html = render(analyse(make_sweep({"a": [(100, 0.1)], "b": [(100, 0.2)]}, trials, clones, search_space=space, **names)))
    page = Page(html)
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert sum(tag == "script" for tag, _ in page.elements) == 3
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert " ".join(ATTACK.split()) in page.text
    data = json.loads(page.data)
    assert ATTACK in data["table"]["columns"]
    drawn = json.dumps([data["figures"], data["pairs"]["parameters"][0]["axis"]], ensure_ascii=False)
    assert "<img" not in drawn
    assert "%{x} \u2028" not in drawn


def test_a_label_is_shown_as_it_is() -> None:
    assert unescape(report_charts.label(ATTACK)) == ATTACK
    assert "<" not in report_charts.label(ATTACK)


@pytest.mark.parametrize("unit", ["env_steps", "epochs"])
@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize(
    ("curves", "trials"),
    [
        ({}, {}),
        ({"a": []}, {"a": {"status": "pending", "sample": {}}}),
        ({"a": [(0, None)]}, {"a": {"status": "running"}}),
        ({"a": [(0, 0.5)]}, {}),
        ({"a": [], "b": []}, {name: {"status": "failed", "error": "E: x", "traceback": None} for name in "ab"}),
        ({"a": [(0, 0.5)], "b": [(0, 0.5)]}, {"b": STOPPED}),
        ({"a": [(0, math.nan), (10, 0.5)], "b": [(0, 0.1)]}, {"a": {"status": "unfinished"}, "b": {"status": "paused", "sample": {}}}),
    ],
)
def test_degenerate_sweeps_make_a_page(make_sweep, curves: Any, trials: Any, mode: str, unit: str) -> None:
    page = page_of(make_sweep(curves, trials, mode=mode, unit=unit, status="running"))
    assert "The sweep was still running at" in page.text
    assert {"curves", "budget", "trials"} <= page.ids()
    for figure in json.loads(page.data)["figures"].values():
        go.Figure(as_plotly_takes_it(figure))


def test_seeds_and_lineage_have_their_sections(make_sweep) -> None:
    curves = {name: [(500, 0.1), (1000, value)] for name, value in {"a": 0.5, "b": 0.7, "c": 0.6}.items()}
    trials = {"a": {"configuration": "x"}, "b": {"configuration": "x", "seed": 1}}
    page = page_of(make_sweep(curves, trials, [Clone("t", "c", "a", 500, 500, {"clip": (0.1, 0.2)})]))
    assert {"seeds", "lineage"} <= page.ids()
    assert "Over seeds, configuration x is the best: 0.6 m/s on average" in page.text
    lineage = json.loads(page.data)["lineage"]
    assert lineage["clones"] == [[3, 1, 500, 500, "clip: 0.1 → 0.2"]]
    assert [parameter["name"] for parameter in lineage["parameters"]] == ["clip"]


def test_failures_with_the_same_reason_share_one_traceback(make_sweep) -> None:
    trials = {f"t{index}": {"status": "failed", "error": f"E: {index % 2}", "traceback": f"trace {index}"} for index in range(5)}
    page = page_of(make_sweep({name: [] for name in trials}, trials))
    assert [sum(tag == "details" and attributes.get("class") == "failure" for tag, attributes in page.elements)] == [2]
    assert "3 trials E: 0" in page.text
    assert "trace 0" in page.text
    assert "trace 2" not in page.text


def test_the_report_lands_beside_the_sweep(make_sweep, tmp_path: Path) -> None:
    record = make_sweep({"a": [(1000, 0.5)]}, {"a": {"checkpoint": str(tmp_path / "checkpoint")}})
    page, analysis = report(record.folder)
    assert page == record.folder / "report.html"
    assert analysis["best"]["trial"] == "a"
    assert {path.name for path in (record.folder / "winner").iterdir()} == {
        "tiny_asha_evaluate.yaml",
        "tiny_asha_export.yaml",
        "tiny_asha_train.yaml",
    }
    elsewhere = tmp_path / "new" / "page.html"
    assert report(record.folder, elsewhere)[0] == write_report(record, elsewhere) == elsewhere
    assert elsewhere.read_text().startswith("<!doctype html>")
    assert list(elsewhere.parent.iterdir()) == [elsewhere]  # nothing half-written is left


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no sweep is there"):
        report(tmp_path)
