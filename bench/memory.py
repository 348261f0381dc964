"""How the memory of a training job grows with its rows.

Runs `train` (recipe logistic) on made-up texts, mostly distinct and of some 10 to 20 tokens, and
looks at the memory of its processes ten times a second. What is said of all rows at once must stay
small: the texts themselves, and the embeddings, which lie in a file where they are large. Pages of
files count as resident too, but the kernel takes them back when it needs them; so there is also
the anonymous part, which is what must fit into the machine. Of the 10 % of the rows that are held
out, the predictions are part of what is measured.

Usage: python bench/memory.py [ROWS ...]

Prints a table, and one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
ROWS = (10_000, 100_000, 1_000_000)
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "la", "me", "ni", "ro", "su", "ta", "ve")
COLUMNS = ("seconds", "peak_mb", "peak_anonymous_mb", "texts_mb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="*", type=int, default=ROWS)
    results = {}
    print(f"{'rows':>10}", *(f"{column:>18}" for column in COLUMNS))
    for rows in parser.parse_args().rows:
        results[rows] = measure(rows)
        print(f"{rows:>10}", *(f"{results[rows][column]:>18.0f}" for column in COLUMNS), flush=True)
    print(json.dumps(results))


def measure(rows: int) -> dict[str, float]:
    """Train on so many rows; return how long it took, and the peaks of all its processes."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        size = make_rows(root / "input/data/train/rows.csv", rows)
        (root / "input/config").mkdir()
        settings = {"recipe": "logistic", "max_iter": 20}
        (root / "input/config/hyperparameters.json").write_text(json.dumps(settings))
        started = time.monotonic()
        with (root / "log").open("w") as log:
            job = subprocess.Popen(
                [sys.executable, "-m", "train"],
                cwd=ROOT,
                env=os.environ | {"SAGEMAKER_BASE_DIR": scratch},
                stdout=log,
                stderr=log,
            )
            peak = anonymous = 0
            while job.poll() is None:
                sums = memory(job.pid)
                peak, anonymous = max(peak, sums[0]), max(anonymous, sums[1])
                time.sleep(0.1)
        if job.returncode:
            sys.exit((root / "log").read_text())
        return {
            "seconds": time.monotonic() - started,
            "peak_mb": peak / 1e6,
            "peak_anonymous_mb": anonymous / 1e6,
            "texts_mb": size / 1e6,
        }


def make_rows(path: Path, rows: int) -> int:
    """Write texts with a label that some of their words speak for; return the bytes written."""
    generator = random.Random(0)
    words = ["".join(generator.choices(SYLLABLES, k=generator.randint(1, 3))) for _ in range(5000)]
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for row in range(rows):
            label = row % 3
            chosen = generator.choices(words[label * 500 :], k=generator.randint(3, 8))
            writer.writerow([" ".join(chosen), f"label {label}"])
    return path.stat().st_size


def memory(pid: int) -> tuple[int, int]:
    """Return the resident bytes of a process and its descendants, and the anonymous part."""
    resident = anonymous = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            info = process.memory_info()
            resident += info.rss
            anonymous += info.rss - info.shared
    except psutil.NoSuchProcess:  # it has ended meanwhile
        pass
    return resident, anonymous


if __name__ == "__main__":
    main()
