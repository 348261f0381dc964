"""What a recipe is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from textmodel.artifact import Manifest
from train.checkpoints import Checkpoints
from train.data import Dataset
from train.hyperparameters import Hyperparameters
from train.metrics import Metrics
from train.profiler import Profiler
from train.stopping import Stop
from train.watchers import Watchers
from train.world import World

__all__ = ["UNKNOWN", "Fitting", "Recipe"]

UNKNOWN = -100
"""Stands for a label that the training rows do not have; torch's losses leave it out."""


@dataclass(frozen=True)
class Fitting:
    """One fit: the rows, the encoder to start from, and the directory to write to."""

    train: Dataset
    validation: Dataset | None
    labels: tuple[str, ...]
    encoder: Path
    settings: Hyperparameters
    directory: Path
    checkpoints: Checkpoints
    metrics: Metrics
    watchers: Watchers
    profiler: Profiler
    stop: Stop
    world: World

    @property
    def targets(self) -> NDArray[np.int64]:
        """The index of each training row's label, as `targets_of` gives them."""
        return self.targets_of(self.train)

    def targets_of(self, data: Dataset) -> NDArray[np.int64]:
        """Return the index of each row's label, (rows,), or UNKNOWN.

        Of a multi-label task, a 1 for each known label that a row has, else 0, (rows, labels).
        """
        index = {label: number for number, label in enumerate(self.labels)}
        if not data.multi_label:
            return np.array([index.get(label, UNKNOWN) for (label,) in data.labels], np.int64)
        targets = np.zeros((len(data), len(index)), np.int64)
        for row, labels in enumerate(data.labels):
            targets[row, [index[label] for label in labels if label in index]] = 1
        return targets


Recipe = Callable[[Fitting], Manifest]
"""Writes everything but the manifest to `directory`, and returns the manifest."""
