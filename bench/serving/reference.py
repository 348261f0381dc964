"""The engine without a server, in a process of its own: its answers, and how fast it gives them.

`python -m bench.serving.reference MODEL PRECISION TEXTS OUTPUT` reads a JSON list of texts and
writes the probabilities, (texts, labels), as .npy; the seconds and the labels are its last line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.serving import ROOT

__all__ = ["Reference", "reference"]


@dataclass(frozen=True)
class Reference:
    """What the engine says of some texts."""

    labels: tuple[str, ...]
    probabilities: NDArray[np.float32]
    """(texts, labels)"""
    seconds: float
    """Tokenising included, loading the model not."""

    @property
    def best(self) -> list[str]:
        """The label of each text."""
        return [self.labels[index] for index in self.probabilities.argmax(axis=1)]


def reference(model: Path, texts: Sequence[str], precision: str) -> Reference:
    """Classify texts with the model directory `model`, all at once."""
    with tempfile.TemporaryDirectory() as scratch:
        source, output = Path(scratch) / "texts.json", Path(scratch) / "probabilities.npy"
        source.write_text(json.dumps(texts), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", __name__, model, precision, source, output],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        seconds, labels = json.loads(done.stdout.splitlines()[-1])
        return Reference(tuple(labels), np.load(output), seconds)


def _main(model: str, precision: str, source: str, output: str) -> None:
    from textmodel.classifier import load_classifier

    texts = json.loads(Path(source).read_text(encoding="utf-8"))
    classifier = load_classifier(Path(model), precision=precision)
    classifier.predict(texts[:64])
    started = time.perf_counter()
    probabilities = classifier.predict(texts)
    elapsed = time.perf_counter() - started
    np.save(output, probabilities)
    print(json.dumps([elapsed, classifier.labels]))


if __name__ == "__main__":
    _main(*sys.argv[1:])
