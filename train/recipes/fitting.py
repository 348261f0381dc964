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
from train.stopping import Stop
from train.world import World

__all__ = ["Fitting", "Recipe"]


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
    stop: Stop
    world: World

    @property
    def targets(self) -> NDArray[np.int64]:
        """The index of each row's label, (rows,).

        Of a multi-label task, a 1 for each label that a row has, else 0, (rows, labels).
        """
        index = {label: number for number, label in enumerate(self.labels)}
        if not self.train.multi_label:
            return np.array([index[label] for (label,) in self.train.labels], np.int64)
        targets = np.zeros((len(self.train), len(index)), np.int64)
        for row, labels in enumerate(self.train.labels):
            targets[row, [index[label] for label in labels]] = 1
        return targets


Recipe = Callable[[Fitting], Manifest]
"""Writes everything but the manifest to `directory`, and returns the manifest."""
