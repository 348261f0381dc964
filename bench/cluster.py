"""What a second host brings: two containers of one core each against one container of one core.

Each container has its own /opt/ml tree and --cpus=1, the two of a job share a network of their own.
Compared is the whole job, and what it spends between reading the data and measuring the model,
which leaves out what every job does once. A forest is grown on the first host alone, so its second
host speeds up the embeddings only. The machine must have two idle cores.

DATA is a directory with train.csv and test.csv.

Usage: python -m bench.cluster DATA [--tag TAG] [--rows N] [forest] [logistic] [finetune]

Prints a table, and one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from local_test.opt_ml import build

RECIPES = ("forest", "logistic", "finetune")
COLUMNS = (
    "one_s", "two_s", "speedup", "one_fit_s", "two_fit_s", "fit_speedup",
    "one_accuracy", "two_accuracy",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE")
    parser.add_argument("--tag", default="test", help="of the image optml-train-cpu")
    parser.add_argument("--rows", type=int, help="of train.csv that are used")
    arguments = parser.parse_intermixed_args()
    if unknown := set(arguments.recipes) - set(RECIPES):
        parser.error(f"unknown recipe {', '.join(unknown)}; allowed: {', '.join(RECIPES)}")
    image = f"optml-train-cpu:{arguments.tag}"
    results = {}
    print(f"{'recipe':10}", *(f"{column:>14}" for column in COLUMNS))
    with tempfile.TemporaryDirectory() as scratch:
        train = shorten(arguments.data / "train.csv", arguments.rows, Path(scratch) / "train.csv")
        channels = {"train": train, "test": arguments.data / "test.csv"}
        for recipe in arguments.recipes or RECIPES:
            results[recipe] = result = compare(image, recipe, channels)
            print(f"{recipe:10}", *(f"{result[column]:>14.4g}" for column in COLUMNS), flush=True)
    print(json.dumps(results))


def compare(image: str, recipe: str, channels: Mapping[str, Path]) -> dict[str, float]:
    one, two = (run(image, recipe, channels, hosts) for hosts in (1, 2))
    return {
        **{f"one_{name}": value for name, value in one.items()},
        **{f"two_{name}": value for name, value in two.items()},
        "speedup": one["s"] / two["s"],
        "fit_speedup": one["fit_s"] / two["fit_s"],
    }


def run(image: str, recipe: str, channels: Mapping[str, Path], size: int) -> dict[str, float]:
    """Run a job of so many hosts; return its seconds, those of the fit, and the accuracy."""
    network = f"bench-{uuid.uuid4().hex[:12]}"
    hosts = [f"algo-{number}" for number in range(1, size + 1)]
    containers: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        trees = {host: Path(scratch) / host for host in hosts}
        docker("network", "create", "--internal", network)
        try:
            started = time.monotonic()
            for host, tree in trees.items():
                build(tree, channels, {}, {"recipe": recipe}, hosts=hosts, host=host)
                containers.append(f"{network}-{host}")
                docker(
                    "run", "--detach", "--cpus=1", f"--name={containers[-1]}",
                    f"--network={network}", f"--network-alias={host}", f"--hostname={host}",
                    f"--volume={tree}:/opt/ml", image, "train",
                )  # fmt: skip
            codes = [docker("wait", container).strip() for container in containers]
            elapsed = time.monotonic() - started
            if codes != ["0"] * size:
                sys.exit("\n".join(docker("logs", container) for container in containers))
        finally:
            for container in containers:
                docker("rm", "--force", container)
            docker("network", "rm", network)
        output = trees[hosts[0]] / "output/data"
        with (output / "profile.csv").open(encoding="utf-8", newline="") as file:
            seconds = [float(row["seconds"]) for row in csv.DictReader(file)
                       if row["phase"] == "fitting"]  # fmt: skip
        evaluation = json.loads((output / "evaluation.json").read_text(encoding="utf-8"))
        accuracy = evaluation["test"]["accuracy"]
    return {"s": elapsed, "fit_s": seconds[-1] - seconds[0], "accuracy": accuracy}


def shorten(source: Path, rows: int | None, target: Path) -> Path:
    """Return a file with the first so many rows."""
    with source.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    with target.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(lines if rows is None else lines[: rows + 1])
    return target


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"docker {' '.join(arguments)}: {done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
