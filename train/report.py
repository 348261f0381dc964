"""The finished job as one page to look at: no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.recipes import Fitting

__all__ = ["History", "page"]

POINTS = 1000
"""Points of a curve at most: more cannot be seen."""

MATRIX_LABELS = 30
"""Labels up to which the whole confusion matrix is shown; of more, the commonest confusions are."""

Point = tuple[float, float]
Curves = Mapping[str, Sequence[Point]]

_WIDTH, _HEIGHT = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 12, 40
_COLORS = ("#0b6bcb", "#d1500a", "#1a7f5a", "#8a3ffc")

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2128; background: #fff;
       max-width: 760px; margin: 32px auto; padding: 0 20px }
h1 { font-size: 24px; margin-bottom: 4px } h2 { font-size: 18px; margin: 32px 0 8px }
p.facts { color: #57606a; margin: 0 0 8px } p.warning { background: #fff4e5; padding: 8px 12px;
       border-left: 4px solid #d1500a; margin: 8px 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: 4px 10px; text-align: right; border-bottom: 1px solid #e3e7ec }
th:first-child, td:first-child { text-align: left } th { font-weight: 600; color: #57606a }
.scroll { overflow-x: auto } .matrix td, .matrix th { text-align: center }
.matrix th:first-child { text-align: left } .matrix thead th { border-bottom: 2px solid #c5ccd4 }
.tall thead th { writing-mode: sideways-lr; text-align: left; padding: 8px 4px }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif } svg text { fill: #57606a }
"""


class History:
    """The values that a job reports, thinned out evenly. Add it to the listeners of its metrics."""

    def __init__(self) -> None:
        self.curves: dict[str, list[Point]] = defaultdict(list)
        self._seen: dict[str, int] = defaultdict(int)
        self._stride: dict[str, int] = defaultdict(lambda: 1)

    def __call__(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            if self._seen[name] % self._stride[name] == 0 and math.isfinite(value):
                self.curves[name].append((step, value))
                if len(self.curves[name]) > POINTS:
                    del self.curves[name][1::2]
                    self._stride[name] *= 2
            self._seen[name] += 1


def page(fitting: Fitting, evaluation: Mapping[str, Any], history: History, profile: Path) -> str:
    """Return the page, as HTML.

    `evaluation` has a report for each split, as `evaluate` makes it; `profile` is the file of a
    Profiler, and may be missing.
    """
    curves = history.curves
    facts = {
        "recipe": fitting.settings.recipe,
        "encoder": fitting.settings.model_name,
        "training rows": str(len(fitting.train)),
        "labels": str(len(fitting.labels)),
    }
    findings = [f"{one.rule}: {one.seen}; {one.advice}" for one in fitting.watchers.findings]
    if reason := fitting.stop.requested:
        findings.append(f"the training was stopped early by {reason}")
    parts = [
        "<h1>Training job</h1>",
        '<p class="facts">' + " · ".join(f"{escape(k)} {escape(v)}" for k, v in facts.items()),
        *(f'<p class="warning">{escape(finding)}' for finding in findings),
        "<h2>Held-out rows</h2>",
        _table(
            ["split", "rows", *(measures := _measures(evaluation))],
            [
                [split, report["rows"], *(_number(report.get(name)) for name in measures)]
                for split, report in evaluation.items()
            ],
        ),
        *_section("Loss", curves, ("loss", "validation_loss")),
        *_section("On the validation rows", curves, ("validation_accuracy", "validation_macro_f1")),
    ]
    for split, report in evaluation.items():
        if "confusion_matrix" in report:
            parts.append(f"<h2>Confusions, {escape(split)}</h2>")
            parts.append(_confusions(**_arguments(report["confusion_matrix"])))
    usage, phases = _usage(profile)
    if any(len(points) > 1 for points in usage.values()):
        parts += ["<h2>The machine</h2>", _chart(usage, "seconds", top=100, bands=phases)]
    body = "\n".join(parts)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Training job</title>
<style>{_STYLE}</style>
{body}
</html>
"""


def _measures(evaluation: Mapping[str, Any]) -> list[str]:
    """Return the names of the numbers that the reports have, but for counts."""
    names = (name for report in evaluation.values() for name in report)
    return [
        name for name in dict.fromkeys(names)
        if all(isinstance(report.get(name, 0.0), float) for report in evaluation.values())
    ]  # fmt: skip


def _section(title: str, curves: Curves, names: Iterable[str]) -> list[str]:
    """Return a chart of those of the curves that have more than one point."""
    shown = {name: curves[name] for name in names if len(curves.get(name, ())) > 1}
    return [f"<h2>{title}</h2>", _chart(shown, "step")] if shown else []


def _arguments(matrix: Mapping[str, Any]) -> dict[str, Any]:
    return {"labels": matrix["labels"], "counts": matrix["counts"]}


def _confusions(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    if len(labels) > MATRIX_LABELS:
        pairs = [
            (count, labels[row], labels[column])
            for row, line in enumerate(counts)
            for column, count in enumerate(line)
            if row != column and count
        ]
        commonest = sorted(pairs, key=lambda pair: -pair[0])[:20]
        rows = [[true, predicted, count] for count, true, predicted in commonest]
        return _table(["true label", "predicted as", "rows"], rows)
    lines = []
    for label, line in zip(labels, counts, strict=True):
        total = sum(line) or 1
        cells = "".join(
            f'<td style="background:rgba(11,107,203,{0.85 * count / total:.3f});'
            f'color:{"#fff" if count / total > 0.8 else "inherit"}">{count}</td>'
            for count in line
        )
        lines.append(f"<tr><th>{escape(label)}</th>{cells}</tr>")
    tall = " tall" if len(labels) > 5 else ""
    head = "".join(f"<th>{escape(label)}</th>" for label in labels)
    return (
        '<p class="facts">rows: true labels; columns: predictions; shade: share of the true '
        f'label\'s rows<div class="scroll"><table class="matrix{tall}">'
        f"<thead><tr><th></th>{head}</tr></thead>{''.join(lines)}</table></div>"
    )


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    def line(cells: Iterable[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="scroll"><table>{line(head, "th")}{body}</table></div>'


def _usage(profile: Path) -> tuple[dict[str, list[Point]], list[tuple[str, float, float]]]:
    """Return the curves of a profile in percent by second, and its phases with begin and end."""
    columns = {"cpu_percent": "CPU %", "memory_percent": "memory %", "gpu_percent": "GPU %"}
    try:
        with profile.open(encoding="utf-8", newline="") as file:
            samples = list(csv.DictReader(file))
    except OSError:
        return {}, []
    stride = 1 + len(samples) // POINTS
    curves = {
        name: [
            (float(one["seconds"]), float(one[column])) for one in samples[::stride] if one[column]
        ]
        for column, name in columns.items()
    }
    phases, begin = [], 0.0
    for phase, group in groupby(samples, key=lambda one: one["phase"]):
        end = float(list(group)[-1]["seconds"])
        phases.append((phase, begin, end))
        begin = end
    return {name: points for name, points in curves.items() if points}, phases


def _chart(
    curves: Curves,
    unit: str,
    top: float | None = None,
    bands: Iterable[tuple[str, float, float]] = (),
) -> str:
    """Return a line chart as SVG. `bands` are spans of x with a name."""
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    x_ticks, y_ticks = _ticks(0.0, max(xs)), _ticks(min(0.0, *ys), top or max(ys))
    right_end = max(xs) or 1.0
    bottom, ceiling = y_ticks[0], max(y_ticks[-1], *ys)
    height = ceiling - bottom or 1.0

    def at_x(x: float) -> float:
        return _LEFT + x / right_end * (_WIDTH - _LEFT - _RIGHT)

    def at_y(y: float) -> float:
        return _HEIGHT - _BOTTOM - (y - bottom) / height * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for number, (name, begin, end) in enumerate(bands):
        left, right = at_x(begin), at_x(min(end, right_end))
        shade = "#f3f5f8" if number % 2 else "#e9edf2"
        parts.append(
            f'<rect x="{left:.1f}" y="{_TOP}" width="{max(right - left, 0):.1f}" '
            f'height="{_HEIGHT - _TOP - _BOTTOM}" fill="{shade}"/>'
        )
        if right - left > 8 * len(name):
            parts.append(f'<text x="{left + 4:.1f}" y="{_TOP + 14}">{escape(name)}</text>')
    for y in y_ticks:
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at_y(y):.1f}" y2="{at_y(y):.1f}" '
            f'stroke="#d5dae1"/><text x="{_LEFT - 8}" y="{at_y(y) + 4:.1f}" text-anchor="end">'
            f"{y:g}</text>"
        )
    for x in x_ticks:
        parts.append(
            f'<text x="{at_x(x):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
            f"{x:g}</text>"
        )
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{escape(unit)}</text>')
    legend = _WIDTH - _RIGHT
    for (name, points), color in reversed(list(zip(curves.items(), _COLORS, strict=False))):
        line = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.8"/>'
            f'<text x="{legend}" y="{_HEIGHT - 6}" text-anchor="end" style="fill:{color}">'
            f"{escape(name)}</text>"
        )
        legend -= 8 * len(name) + 16
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg>'


def _ticks(low: float, high: float) -> list[float]:
    """Return three to seven round numbers from at most `low` to `high`."""
    span = (high - low) or abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(span))
    step = next(size * part for part in (0.2, 0.5, 1.0, 2.0) if span / (size * part) <= 6)
    first = math.floor(low / step)
    return [round(step * number, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else ""
