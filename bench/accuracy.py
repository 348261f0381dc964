"""Train with the image, serve with the image, and ask it for every row of the test channel.

Measures what a user of the images gets on public data sets, all over HTTP: the accuracy, whether
the server says what training predicted, and whether 64 texts in one request get the answers that
they get in 64 requests. DATA is a directory with `disaster_tweets/` and `banking77/`, each with
train.csv and test.csv; the accuracies beside them are those that the data sets' users publish.

Usage: python bench/accuracy.py DATA [--tag TAG] [--port PORT] [DATASET/RECIPE ...]

Prints a table, and one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

LOCAL_TEST = Path(__file__).resolve().parents[1] / "local_test"
RUNS = (
    ("disaster_tweets", "forest"),
    ("disaster_tweets", "logistic"),
    ("disaster_tweets", "finetune"),
    ("banking77", "logistic"),
    ("banking77", "forest"),
)
COLUMNS = ("accuracy", "served_equals_trained", "batch_equals_single", "train_s", "requests_per_s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", nargs="*", metavar="DATASET/RECIPE")
    parser.add_argument("--tag", default="test", help="of the images optml-{train,serve}-cpu")
    parser.add_argument("--port", type=int, default=8095)
    arguments = parser.parse_args()
    chosen = [tuple(run.split("/")) for run in arguments.runs] or RUNS
    results = {}
    for dataset, recipe in chosen:
        result = measure(arguments.data / dataset, recipe, arguments.tag, arguments.port)
        results[f"{dataset}/{recipe}"] = result
        print(
            f"{dataset}/{recipe}:", *(f"{name}={result[name]:.4g}" for name in COLUMNS), flush=True
        )
    print(f"\n{'run':28}", *(f"{name:>22}" for name in COLUMNS))
    for run, result in results.items():
        print(f"{run:28}", *(f"{result[name]:>22.4f}" for name in COLUMNS))
    print(json.dumps(results))


def measure(data: Path, recipe: str, tag: str, port: int) -> dict[str, float]:
    """Train on `data`/train.csv, serve, and ask for every row of `data`/test.csv."""
    with tempfile.TemporaryDirectory() as tree:
        environment = {**os.environ, "OPT_ML": str(Path(tree) / "opt_ml")}

        def script(name: str, *arguments: object) -> None:
            command = [str(LOCAL_TEST / name), *map(str, arguments)]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)

        channels = [f"{name}={data / name}.csv" for name in ("train", "test")]
        started = time.monotonic()
        script("train_local.sh", f"optml-train-cpu:{tag}", *channels, "--", f"recipe={recipe}")
        train_s = time.monotonic() - started
        predictions = Path(tree) / "opt_ml/output/data/predictions.csv"
        with predictions.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        script("serve_local.sh", f"optml-serve-cpu:{tag}", "--port", port, "--detach")
        try:
            return {"train_s": train_s, **ask_for_all(rows, f"http://127.0.0.1:{port}/invocations")}
        finally:
            script("serve_local.sh", "--stop", "--port", port)


def ask_for_all(rows: list[dict[str, str]], url: str) -> dict[str, float]:
    """Ask 32 at a time for each row alone, then for 64 rows in one request."""
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=32))

    def ask(texts: list[str]) -> list[Any]:
        answer = session.post(url, json={"inputs": texts}, timeout=60)
        answer.raise_for_status()
        answers: list[Any] = answer.json()
        return answers

    texts = [row["text"] for row in rows]
    started = time.monotonic()
    with ThreadPoolExecutor(32) as clients:
        single = [answer["label"] for (answer,) in clients.map(ask, ([text] for text in texts))]
    elapsed = time.monotonic() - started
    batches = [texts[start : start + 64] for start in range(0, len(texts), 64)]
    together = [answer["label"] for batch in batches for answer in ask(batch)]

    def share(left: list[str], right: list[str]) -> float:
        return sum(a == b for a, b in zip(left, right, strict=True)) / len(left)

    return {
        "rows": len(rows),
        "accuracy": share(single, [row["label"] for row in rows]),
        "served_equals_trained": share(single, [row["prediction"] for row in rows]),
        "batch_equals_single": share(together, single),
        "requests_per_s": len(rows) / elapsed,
    }


if __name__ == "__main__":
    main()
