from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from train.report import MATRIX_LABELS, POINTS, History, _chart, _confusions, _ticks

VOID = {"meta"}
OPTIONAL = {"p", "html"}


class Strict(HTMLParser):
    """Reads a page, and fails where it would load something or where tags do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href"} & {name for name, _ in attrs}
        self.seen.add(tag)
        if tag not in VOID | OPTIONAL:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in OPTIONAL:
            assert self.open.pop() == tag


@pytest.mark.parametrize("fixture", ["forest_model", "finetuned_model"])
def test_finished_job_leaves_a_page_that_needs_nothing_else(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(fixture)
    page = (root / "output/data/report.html").read_text(encoding="utf-8")
    parser = Strict()
    parser.feed(page)
    assert not parser.open
    assert {"table", "svg"} <= parser.seen
    assert "script" not in parser.seen
    assert "<h2>Confusions, test</h2>" in page
    accuracy = re.search(r"\[metric\] test_accuracy=(\S+)", (root / "log").read_text())
    assert accuracy
    assert f"<td>{float(accuracy[1]):.4f}</td>" in page


def test_labels_are_text_and_never_markup() -> None:
    shown = _confusions(["<script>", "a & b"], [[1, 2], [3, 4]])
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "a &amp; b" in shown


def test_of_many_labels_the_commonest_confusions_are_shown() -> None:
    labels = [f"label {number}" for number in range(MATRIX_LABELS + 1)]
    counts = [[0] * len(labels) for _ in labels]
    counts[3][5], counts[4][4], counts[7][1] = 9, 100, 12
    cells = re.findall(r"<td>(.*?)</td>", _confusions(labels, counts))
    assert cells == ["label 7", "label 1", "12", "label 3", "label 5", "9"]


@pytest.mark.parametrize(
    "points",
    [
        [(0.0, 0.0), (1.0, 0.0)],
        [(5.0, 1e-9), (6.0, 1e-8)],
        [(10.0, 0.7), (100_000.0, 0.1)],
        [(1.0, -3.0), (2.0, 12345.0)],
    ],
)
def test_curve_lies_inside_its_chart(points: list[tuple[float, float]]) -> None:
    chart = ElementTree.fromstring(_chart({"a <b>": points}, "step"))
    line = chart.find("polyline")
    assert line is not None
    for pair in line.attrib["points"].split():
        x, y = map(float, pair.split(","))
        assert 56 <= x <= 704.05
        assert 11.95 <= y <= 200.05


@pytest.mark.parametrize("high", [1e-9, 0.3, 0.97, 1.0, 7.0, 100.0, 99_999.0])
def test_ticks_are_few_and_round(high: float) -> None:
    ticks = _ticks(0.0, high)
    assert ticks[0] == 0
    assert 3 <= len(ticks) <= 7
    assert 0.6 * high <= ticks[-1] <= high * 1.000001


def test_long_history_is_thinned_out_evenly() -> None:
    history = History()
    for step in range(300_000):
        history({"loss": 1.0}, step)
    steps = [step for step, _ in history.curves["loss"]]
    assert POINTS / 2 <= len(steps) <= POINTS
    assert len({after - before for before, after in pairwise(steps)}) == 1
    assert steps[-1] > 299_000
