"""What each precision of the OpenVINO runtime gives: throughput, latency, memory and agreement.

* online: batches of the next 64 texts, on a thread for each core, as a busy server executes them;
  all texts three times over, so that the first time compiles for each shape.
* offline: all texts known and sorted, tokenising included.
* lone: one text of so many tokens while nothing else runs, each time after one of another length.
* agreement: the part of the texts that gets the label that fp32 gives it.

Each precision runs in a process of its own, in turns, several times; the best is told.

Usage: python -m bench.runtimes MODEL TEXTS.csv [--column NAME] [--rounds N]

MODEL is what `train` wrote with int8=true. Prints a table, and one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from textmodel.classifier import load_classifier
from textmodel.runtime import Runtime
from textmodel.tokenizer import Tokens

PRECISIONS = ("fp32", "bf16", "int8")
LONE = (5, 30, 128)
WINDOW = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--column", default="sentence")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with arguments.texts.open(encoding="utf-8", newline="") as file:
        texts = [row[arguments.column] for row in csv.DictReader(file)]
    if arguments.precision:
        print(json.dumps(measure(arguments.model, texts, arguments.precision)))
        return
    runs: dict[str, list[dict[str, Any]]] = {precision: [] for precision in PRECISIONS}
    for _ in range(arguments.rounds):
        for precision in PRECISIONS:
            command = [
                sys.executable,
                "-m",
                "bench.runtimes",
                *sys.argv[1:],
                "--precision",
                precision,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs[precision].append(json.loads(done.stdout.splitlines()[-1]))
    labels = {precision: np.array(runs[precision][0].pop("labels")) for precision in PRECISIONS}
    results = {
        precision: best(runs[precision])
        | {"agreement": float((labels[precision] == labels["fp32"]).mean())}
        for precision in PRECISIONS
    }
    print(f"{'':24}", *(f"{precision:>9}" for precision in PRECISIONS))
    for name in results["fp32"]:
        print(f"{name:24}", *(f"{results[precision][name]:9.4g}" for precision in PRECISIONS))
    print(json.dumps(results))


def measure(model: Path, texts: Sequence[str], precision: str) -> dict[str, Any]:
    before = anonymous_mb()
    classifier = load_classifier(model, runtime="openvino", precision=precision)
    loaded = anonymous_mb() - before
    tokens, runtime = classifier.tokenize(texts), classifier.runtime
    first, *later = (online(runtime, tokens) for _ in range(3))
    served = anonymous_mb() - before
    started = time.perf_counter()
    scores = classifier.predict(texts)
    offline = len(texts) / (time.perf_counter() - started)
    return {
        "first_online_texts_per_s": first,
        "online_texts_per_s": max(later),
        "offline_texts_per_s": offline,
        **{f"lone_{length}_ms": lone(runtime, length) for length in LONE},
        "loaded_mb": loaded,
        "served_mb": served,
        "labels": scores.argmax(axis=1).tolist(),
    }


def online(runtime: Runtime, tokens: Sequence[Tokens]) -> float:
    """Return texts a second."""
    batches, waiting, coming = [], list[Tokens](), deque(tokens)
    while waiting or coming:
        while coming and len(waiting) < WINDOW:
            waiting.append(coming.popleft())
        places = runtime.batching.next([len(text) for text in waiting])
        batches.append([waiting[place] for place in places])
        waiting = [text for place, text in enumerate(waiting) if place not in places]
    started = time.perf_counter()
    with ThreadPoolExecutor(runtime.streams) as streams:
        list(streams.map(lambda batch: runtime(batch, urgent=True), batches))
    return len(tokens) / (time.perf_counter() - started)


def lone(runtime: Runtime, length: int) -> float:
    """Return the median of 100 executions of one text, in ms."""
    other, batch = ([Tokens([101] * size)] for size in (length * 2, length))
    for _ in range(100):
        runtime(other, urgent=True)
        runtime(batch, urgent=True)
    time.sleep(1)  # in which a graph may be made for a shape that comes so often
    seconds = []
    for _ in range(100):
        runtime(other, urgent=True)
        started = time.perf_counter()
        runtime(batch, urgent=True)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)) * 1e3


def anonymous_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def best(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the best of each number: the most texts a second, the least of all else."""
    return {
        name: (max if name.endswith("per_s") else min)(run[name] for run in runs)
        for name in runs[0]
    }


if __name__ == "__main__":
    main()
