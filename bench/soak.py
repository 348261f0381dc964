"""Our server under a mixed load for an hour: is its memory flat, is each answer the right one?

A few clients send, in random order, short and long texts, one or many, in every format that the
server reads, requests that it has to refuse, and requests whose client goes away in the middle of
the body or before the answer. An answer is right if the status is the one expected and each text
has the score that the engine alone gave it before, within what another batch changes in bf16.

Memory is that of all processes of the server without the pages of files. Its slope is fitted to
the samples after the warm-up, the first quarter of the time; it is called flat below 1 % of the
memory in an hour.

Usage: python -m bench.soak DATA [--minutes 60] [--clients 12] [--contender ours-bf16]

Prints a line a minute, what went wrong, a table, and one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from bench.serving.contenders import CONTENDERS
from bench.serving.mix import Mix
from bench.serving.models import MODELS
from bench.serving.reference import reference
from bench.serving.servers import Memory, Server, running
from bench.serving.texts import texts

SHORT, LONG = 3000, 200
SAMPLE_S = 5
WARM_UP = 0.25
FLAT = 0.01
"""Of the memory, in an hour."""
LEAST_MINUTES = 20
"""Before, what the libraries keep for texts of all lengths still grows."""
VERDICTS = {True: "flat", False: "not flat", None: "too short to say whether it is flat"}
SHOWN_FAULTS = 20


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are ended too
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument(
        "--contender",
        default="ours-bf16",
        choices=[name for name in CONTENDERS if name.startswith("ours")],
    )
    arguments = parser.parse_args()
    result = soak(arguments.data, arguments.contender, arguments.minutes, arguments.clients)
    print(json.dumps(result))
    sys.exit(bool(result["wrong"]))


def soak(data: Path, name: str, minutes: float, clients: int) -> dict[str, Any]:
    """Send the mix of requests for so many minutes; return counts, memory and its slope."""
    model = MODELS[CONTENDERS[name].model](data) / "model"
    short, long = texts(data, "short")[:SHORT], texts(data, "long")[:LONG]
    expected = reference(model, short + long, name.removeprefix("ours-"))
    mix = Mix(short, long, expected)
    counts: Counter[str] = Counter()
    faults: list[str] = []
    samples: list[tuple[float, Memory]] = []
    lock = threading.Lock()
    with running(name, data) as server, ThreadPoolExecutor(clients) as pool:
        started = time.monotonic()
        deadline = started + minutes * 60
        over = threading.Event()

        def client(seed: int) -> None:
            generator = Random(seed)
            while not over.is_set():
                kind, fault = mix.send(server.port, generator)
                with lock:
                    counts[kind] += 1
                    if fault:
                        faults.append(f"{kind}: {fault}")

        running_clients = [pool.submit(client, seed) for seed in range(clients)]
        try:
            _watch(server, started, deadline, samples, counts, faults)
        finally:
            over.set()  # also where this is stopped, or the server ends
        for ended in running_clients:
            ended.result()
    slope, memory = _slope(samples)
    flat = abs(slope) < FLAT * memory if minutes >= LEAST_MINUTES else None
    print(f"\n{'kind of request':32}{'sent':>10}")
    for kind, count in sorted(counts.items()):
        print(f"{kind:32}{count:>10}")
    for fault, count in Counter(faults).most_common(SHOWN_FAULTS):
        print(f"WRONG, {count} times: {fault}")
    print(
        f"{sum(counts.values())} requests, {len(faults)} with a wrong answer; memory "
        f"{memory:.0f} MB, {slope:+.2f} MB an hour: {VERDICTS[flat]}"
    )
    return {
        "minutes": minutes,
        "requests": counts,
        "wrong": len(faults),
        "memory_mb": memory,
        "slope_mb_per_hour": slope,
        "flat": flat,
        "samples": [
            [round(at), round(sample.anonymous, 1), round(sample.pss, 1)]
            for at, sample in samples[:: max(1, len(samples) // 60)]
        ],
    }


def _watch(
    server: Server,
    started: float,
    deadline: float,
    samples: list[tuple[float, Memory]],
    counts: Counter[str],
    faults: list[str],
) -> None:
    told = 0
    while (now := time.monotonic()) < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server ended with status {server.process.returncode}")
        samples.append((now - started, server.memory()))
        if len(samples) % (60 // SAMPLE_S) == 1:
            print(
                f"{(now - started) / 60:6.1f} min{sum(counts.values()):>10} requests"
                f"{len(faults):>6} wrong{samples[-1][1].anonymous:>9.1f} MB",
                flush=True,
            )
            for fault in faults[told : told + SHOWN_FAULTS]:
                print(f"WRONG: {fault}", flush=True)
            told = len(faults)
        time.sleep(max(0.0, min(SAMPLE_S, deadline - now)))


def _slope(samples: list[tuple[float, Memory]]) -> tuple[float, float]:
    """Return MB an hour, by least squares, and the mean in MB, after the warm-up."""
    settled = samples[int(len(samples) * WARM_UP) :]
    hours = np.array([at / 3600 for at, _ in settled])
    memory = np.array([sample.anonymous for _, sample in settled])
    if len(settled) < 2:
        return float("nan"), float(memory.mean())
    return float(np.polyfit(hours, memory, 1)[0]), float(memory.mean())


if __name__ == "__main__":
    main()
