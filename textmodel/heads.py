"""What turns an encoder's output into class probabilities. No pickle: safetensors and treelite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import treelite
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from textmodel.artifact import Artifact
from textmodel.hardware import cpu_count

__all__ = [
    "FOREST_FILE",
    "HEADS",
    "LINEAR_FILE",
    "Forest",
    "Head",
    "Linear",
    "Logits",
    "NoHead",
]

FOREST_FILE = "head/forest.treelite"
LINEAR_FILE = "head/linear.safetensors"

Array = NDArray[np.float32]


class Head(Protocol):
    """Maps the encoder's output (batch, features) to probabilities (batch, labels)."""

    def __call__(self, features: Array) -> Array: ...

    def logits(self, features: Array) -> Array | None:
        """Return what the probabilities are made of, (batch, labels); None where nothing is."""
        ...


class Logits:
    """The head of an encoder that ends in logits of its own."""

    def __init__(self, multi_label: bool = False) -> None:
        self._activate = _sigmoid if multi_label else _softmax

    def __call__(self, features: Array) -> Array:
        return self._activate(features)

    def logits(self, features: Array) -> Array:
        return features


class NoHead:
    """The head of an encoder whose output is the answer: there are no probabilities."""

    def __call__(self, features: Array) -> Array:
        return features[:, :0]

    def logits(self, features: Array) -> None:
        return None


class Linear:
    """Logistic regression: `weight` (labels, features), `bias` (labels,)."""

    def __init__(self, weight: Array, bias: Array, multi_label: bool = False) -> None:
        self._weight, self._bias = weight, bias
        self._activate = _sigmoid if multi_label else _softmax

    @classmethod
    def load(cls, artifact: Artifact) -> Linear:
        tensors = load_file(artifact.file(LINEAR_FILE))
        return cls(tensors["weight"], tensors["bias"], artifact.manifest.multi_label)

    def save(self, directory: Path) -> None:
        # safetensors writes the buffer as it lies, and scikit-learn's coefficients lie in columns.
        tensors = {"weight": self._weight, "bias": self._bias}
        contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        save_file(contiguous, directory / LINEAR_FILE)

    def __call__(self, features: Array) -> Array:
        return self._activate(self.logits(features))

    def logits(self, features: Array) -> Array:
        return features @ self._weight.T + self._bias


class Forest:
    """A random forest that treelite executes: 0.1 ms a row, where scikit-learn takes 2.4."""

    def __init__(self, model: treelite.Model, multi_label: bool = False) -> None:
        self._model = model
        self._multi_label = multi_label
        self._threads = cpu_count().value

    @classmethod
    def load(cls, artifact: Artifact) -> Forest:
        model = treelite.Model.deserialize(str(artifact.file(FOREST_FILE)))
        return cls(model, artifact.manifest.multi_label)

    def __call__(self, features: Array) -> Array:
        # Starting threads costs more than a small batch takes.
        threads = self._threads if len(features) > 64 else 1
        try:
            scores = treelite.gtil.predict(self._model, features, nthread=threads)
        except treelite.TreeliteError:  # OMP_NUM_THREADS, or a library, lets OpenMP use fewer
            scores = treelite.gtil.predict(self._model, features, nthread=0)
        # (rows, 1, labels), or of a multi-label forest (rows, labels, no and yes)
        scores = scores[..., 1] if self._multi_label else scores.reshape(len(features), -1)
        return np.asarray(scores, np.float32)

    def logits(self, features: Array) -> None:
        return None


HEADS: dict[str, Callable[[Artifact], Head]] = {
    "logits": lambda artifact: Logits(
        # A single label competes with none, as in Hugging Face's pipelines.
        artifact.manifest.multi_label or len(artifact.manifest.labels) == 1
    ),
    "none": lambda artifact: NoHead(),
    "linear": Linear.load,
    "forest": Forest.load,
}


def _softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float32)


def _sigmoid(logits: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))), np.float32)
