"""One process or several: answers a second, latency and memory with as many clients.

On the cores that are here, and on sixteen that are not: there the engine's threads sleep for as
long as a core would take (bench/serving/apps/sleeping_engine.py), and what is left of the machine
is HTTP, tokenising and Python, which is what several processes are for. The clients (`wrk`) take
their part of it. The contenders take turns; medians of the rounds are told.

Usage: python -m bench.processes DATA [--rounds 3] [--seconds 5]

Prints a table, and one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
from itertools import product
from pathlib import Path

from bench.serving.contenders import CONTENDERS, SLEEPING
from bench.serving.load import drive
from bench.serving.servers import running
from bench.serving.texts import texts

ENGINES = {"ours-bf16": CONTENDERS["ours-bf16"], "ours-sleeping": SLEEPING}
PROCESSES = (1, 2, 4)
CLIENTS = (1, 8, 32, 128)
KEYS = ("answers a second", "p50 ms", "p99 ms", "PSS MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="the directory with disaster_tweets/")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    arguments = parser.parse_args()
    sent = texts(arguments.data, "short")
    measured: dict[tuple[str, int, int], list[tuple[float, ...]]] = {}
    for _, engine, processes in product(range(arguments.rounds), ENGINES, PROCESSES):
        workers = {"SAGEMAKER_MODEL_SERVER_WORKERS": str(processes)}
        with running(engine, arguments.data, ENGINES[engine], **workers) as server:
            for clients in CLIENTS:
                figures = drive(server, sent, clients, arguments.seconds)
                row = (figures.per_s, figures.p50_ms, figures.p99_ms, server.memory().pss)
                measured.setdefault((engine, clients, processes), []).append(row)
    print(f"{'engine':16}{'clients':>8}{'processes':>10}" + "".join(f"{key:>18}" for key in KEYS))
    medians = {}
    for (engine, clients, processes), rows in sorted(measured.items()):
        values = [statistics.median(column) for column in zip(*rows, strict=True)]
        medians[f"{engine}/{clients}/{processes}"] = dict(zip(KEYS, values, strict=True))
        cells = "".join(f"{value:>18.1f}" for value in values)
        print(f"{engine:16}{clients:>8}{processes:>10}{cells}")
    print(json.dumps(medians))


if __name__ == "__main__":
    main()
