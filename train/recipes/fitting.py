"""What a recipe is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from textmodel.artifact import Manifest
from train.data import Dataset
from train.hyperparameters import Hyperparameters
from train.stopping import Stop

__all__ = ["Fitting", "Recipe"]


@dataclass(frozen=True)
class Fitting:
    """One fit: the rows, the encoder to start from, and the directory to write to."""

    train: Dataset
    labels: tuple[str, ...]
    encoder: Path
    settings: Hyperparameters
    directory: Path
    stop: Stop

    @property
    def targets(self) -> NDArray[np.int64]:
        """The index of each row's label, (rows,)."""
        index = {label: number for number, label in enumerate(self.labels)}
        return np.array([index[label] for label in self.train.labels], np.int64)


Recipe = Callable[[Fitting], Manifest]
"""Writes everything but the manifest to `directory`, and returns the manifest."""
