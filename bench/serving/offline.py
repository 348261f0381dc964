"""Many texts through HTTP, as Batch Transform sends them, against the engine without a server.

The texts are tweets, repeated in a new order until there are enough. They go as JSON Lines, first
in bodies of some thousand lines over a few connections, then all in one body. Both are compared
with `TextClassifier.predict` of all texts at once in a process of its own.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.serving import Unavailable
from bench.serving.models import MODELS
from bench.serving.reference import reference
from bench.serving.servers import post, running
from bench.serving.texts import texts

__all__ = ["offline"]

CONTENDER = "ours-bf16"
JSON_LINES = "application/jsonlines"
ANSWER_LIMIT_S = 3600
BODY_LINES = 2000
CONNECTIONS = 4
LEAST_AGREEMENT = 0.95


def offline(data: Path, lines: int, rounds: int) -> dict[str, float | str]:
    """Return texts a second of the engine and of both ways through HTTP, and their ratios."""
    sent = _many(texts(data, "short"), lines)
    model = MODELS["ours"](data) / "model"
    rates: dict[str, list[float]] = {"engine": [], "bodies": [], "one_body": []}
    agreement = 1.0
    for _ in range(rounds):
        engine = reference(model, sent, "bf16")
        rates["engine"].append(len(sent) / engine.seconds)
        for way, size in (("bodies", BODY_LINES), ("one_body", lines)):
            try:
                labels, seconds = _send(data, sent, size)
            except Unavailable as reason:
                print(f"\noffline: not available: {reason}")
                return {"not_available": str(reason)}
            rates[way].append(len(sent) / seconds)
            right = sum(a == b for a, b in zip(labels, engine.best, strict=True))
            agreement = min(agreement, right / len(sent))
    if agreement < LEAST_AGREEMENT:
        raise RuntimeError(f"only {agreement:.1%} of the labels are the engine's")
    engine_rate = statistics.median(rates["engine"])
    results: dict[str, float | str] = {"lines": lines, "agreement": agreement}
    print(f"\n{lines} lines, labels that are the engine's: {agreement:.2%}")
    print(f"{'':40}{'texts/s':>10}{'of engine':>12}")
    for way, title in (
        ("engine", "engine, no server"),
        ("bodies", f"bodies of {BODY_LINES}, {CONNECTIONS} connections"),
        ("one_body", "one body"),
    ):
        rate = statistics.median(rates[way])
        ratio = statistics.median(
            one / other for one, other in zip(rates[way], rates["engine"], strict=True)
        )
        results |= {f"{way}_texts_per_s": rate, f"{way}_ratio": ratio}
        print(f"{title:40}{rate:>10.1f}{rate / engine_rate:>12.2f}")
    return results


def _send(data: Path, sent: Sequence[str], size: int) -> tuple[list[str], float]:
    """Send texts to a fresh server, `size` lines a body; return the labels and the seconds."""
    lines = [json.dumps({"inputs": text}).encode() + b"\n" for text in sent]
    bodies = [b"".join(lines[start : start + size]) for start in range(0, len(lines), size)]
    with (
        # In such a job a request may take as long as it needs.
        running(CONTENDER, data, SAGEMAKER_BATCH="true") as server,
        ThreadPoolExecutor(CONNECTIONS) as connections,
    ):
        _post_lines(server.port, b"".join(lines[:64]))
        started = time.monotonic()
        answers = list(connections.map(lambda body: _post_lines(server.port, body), bodies))
        elapsed = time.monotonic() - started
    labels = [_label(line) for answer in answers for line in answer.splitlines()]
    if len(labels) != len(sent):
        raise Unavailable(f"{len(sent)} lines were answered with {len(labels)}")
    return labels, elapsed


def _post_lines(port: int, body: bytes) -> bytes:
    status, answer = post(port, "/invocations", body, JSON_LINES, ANSWER_LIMIT_S)
    if status != 200:
        raise Unavailable(f"{JSON_LINES} is answered with {status}: {answer[:300]!r}")
    return answer


def _label(line: bytes) -> str:
    """Return the label of one line of an answer."""
    answer = json.loads(line)
    return str((answer[0] if isinstance(answer, list) else answer)["label"])


def _many(found: Sequence[str], count: int) -> list[str]:
    generator = random.Random(0)
    many: list[str] = []
    while len(many) < count:
        many += generator.sample(found, len(found))
    return many[:count]
