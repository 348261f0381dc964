"""Real texts to send: tweets of some 20 tokens, and medical reports that fill the model's 512."""

from __future__ import annotations

import csv
import gzip
import random
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["TEXTS", "texts"]


def texts(data: Path, name: str) -> list[str]:
    """Return the distinct texts of a set, in an order that is the same each time."""
    found = list(dict.fromkeys(text for text in TEXTS[name](data) if text.strip()))
    random.Random(0).shuffle(found)
    return found


def _short(data: Path) -> list[str]:
    found = []
    for name in ("train", "test"):
        with (data / f"disaster_tweets/{name}.csv").open(encoding="utf-8", newline="") as file:
            found += [row["sentence"] for row in csv.DictReader(file)]
    return found


def _long(data: Path) -> list[str]:
    path = data / "mtsamples/mtsamples.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [row["transcription"] for row in csv.DictReader(file)]


TEXTS: Mapping[str, Callable[[Path], list[str]]] = {"short": _short, "long": _long}
