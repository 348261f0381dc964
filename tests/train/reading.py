"""Channels that are written and read on the spot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.train.trees import make_tree
from train.data import Dataset, Splits, read_splits
from train.errors import UserError
from train.hyperparameters import parse
from train.job import Job
from train.world import World

Files = str | Mapping[str, str | bytes]
GOOD = "text,label\nfire,1\nflood,1\nfine,0\nfun,0\n"


class Reader:
    """Writes a job's input below `root`, and reads it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def splits(
        self, channels: Mapping[str, Files], world: World | None = None, **hyperparameters: Any
    ) -> Splits:
        inputs = hyperparameters.pop("inputs", None)
        make_tree(self.root, channels, inputs=inputs)
        return read_splits(Job(self.root), parse(hyperparameters), world or World())

    def train(self, files: Files, **hyperparameters: Any) -> Dataset:
        return self.splits({"train": files, "test": files}, **hyperparameters).train

    def error(self, files: Files, **hyperparameters: Any) -> str:
        with pytest.raises(UserError) as caught:
            self.train(files, **hyperparameters)
        return str(caught.value)


def ones(*labels: str) -> list[tuple[str, ...]]:
    return [(label,) for label in labels]


def json_lines(*rows: Any) -> dict[str, str | bytes]:
    return {"data.jsonl": "".join(json.dumps(row) + "\n" for row in rows)}
