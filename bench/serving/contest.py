"""All contenders side by side: throughput, latency, memory and start-up."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.serving import Unavailable
from bench.serving.contenders import AWS
from bench.serving.load import drive
from bench.serving.models import MODELS
from bench.serving.reference import reference
from bench.serving.servers import running
from bench.serving.texts import texts

__all__ = ["contest"]

CHECKED = 50
LEAST_AGREEMENT = 0.95

Point = tuple[str, int, str]
"""Texts, clients, contender."""

_COLUMNS = (
    # key, head, decimals
    ("per_s", "answers/s", 1),
    ("ratio", "x AWS", 2),
    ("p50_ms", "p50 ms", 1),
    ("p99_ms", "p99 ms", 1),
    ("errors", "errors", 0),
    ("pss_mb", "PSS MB", 0),
    ("rss_mb", "RSS MB", 0),
    ("start_s", "start s", 1),
)


def contest(
    data: Path,
    names: Sequence[str],
    sets: Sequence[str],
    clients: Sequence[int],
    seconds: int,
    rounds: int,
) -> dict[str, Any]:
    """Measure every contender at every point `rounds` times; return the medians.

    In a round each contender is started, checked, measured with all numbers of clients, and ended,
    one after the other, so that the figures that are compared were taken close to each other.
    """
    measured: dict[Point, list[dict[str, float]]] = {}
    unavailable: dict[str, str] = {}
    for kind in sets:
        sent = texts(data, kind)
        expected = reference(MODELS["ours"](data) / "model", sent[:CHECKED], "fp32").best
        for number in range(rounds):
            print(f"\n{kind} texts, round {number + 1} of {rounds}")
            print(_head("contender"))
            for name in names:
                if f"{name}/{kind}" in unavailable:
                    continue
                try:
                    _measure(measured, data, name, kind, sent, expected, clients, seconds)
                except Unavailable as reason:
                    unavailable[f"{name}/{kind}"] = str(reason)
                    print(f"{name:28} not available: {str(reason)[:200]}", flush=True)
    points = _medians(measured)
    if rounds > 1:
        print(f"\nmedians of {rounds} rounds")
        print(_head("texts/clients/contender"))
        for point, values in points.items():
            print(_row("/".join(map(str, point)), values))
    return {
        "points": {"/".join(map(str, point)): values for point, values in points.items()},
        "not_available": unavailable,
    }


def _measure(
    measured: dict[Point, list[dict[str, float]]],
    data: Path,
    name: str,
    kind: str,
    sent: Sequence[str],
    expected: Sequence[str],
    clients: Sequence[int],
    seconds: int,
) -> None:
    with running(name, data) as server:
        agreement = server.agreement(sent[: len(expected)], expected)
        if agreement < LEAST_AGREEMENT:
            raise Unavailable(f"only {agreement:.0%} of its labels are the right ones")
        for count in clients:
            figures = drive(server, sent, count, seconds)
            memory = server.memory()
            values = {
                "per_s": figures.per_s,
                "p50_ms": figures.p50_ms,
                "p99_ms": figures.p99_ms,
                "errors": figures.errors,
                "pss_mb": memory.pss,
                "rss_mb": memory.rss,
                "start_s": server.start_s,
                "agreement": agreement,
            }
            measured.setdefault((kind, count, name), []).append(values)
            print(_row(f"{name}, {count} clients", values), flush=True)


def _medians(measured: Mapping[Point, list[dict[str, float]]]) -> dict[Point, dict[str, float]]:
    """Return the median of each figure; the ratio's is that of the rounds' ratios."""
    points = {}
    for point in sorted(measured, key=lambda point: point[:2]):
        rounds = measured[point]
        points[point] = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        aws = measured.get((*point[:2], AWS), [])
        ratios = [
            one["per_s"] / other["per_s"]
            for one, other in zip(rounds, aws, strict=False)
            if other["per_s"]
        ]
        if ratios:
            points[point]["ratio"] = statistics.median(ratios)
    return points


def _head(first: str) -> str:
    return f"{first:28}" + "".join(f"{head:>11}" for _, head, _ in _COLUMNS)


def _row(first: str, values: Mapping[str, float]) -> str:
    cells = (
        f"{values[key]:.{decimals}f}" if key in values else "" for key, _, decimals in _COLUMNS
    )
    return f"{first:28}" + "".join(f"{cell:>11}" for cell in cells)
