"""A finished text classifier: the parts of a model directory, put together."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textmodel.artifact import Artifact
from textmodel.hardware import Choice
from textmodel.heads import HEADS, Head
from textmodel.runtime import Runtime, load_runtime
from textmodel.tokenizer import Text, Tokenizer, Tokens

__all__ = ["Progress", "TextClassifier", "load_classifier", "load_parts", "run_sorted"]

# The tokenizer runs in threads of its own; forking after that is what it warns of, and none forks.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

Progress = Callable[[int, int], None]
"""Called with how many texts are done, and of how many."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class TextClassifier:
    """Tokenizer, encoder and head of one model directory. Thread-safe."""

    labels: tuple[str, ...]
    tokenize: Tokenizer
    runtime: Runtime
    head: Head
    choices: tuple[Choice[Any], ...]

    def probabilities(self, batch: Sequence[Tokens]) -> Array:
        """Classify one batch; returns (batch, labels)."""
        return self.head(self.runtime(batch))

    def predict(self, texts: Sequence[Text], progress: Progress | None = None) -> Array:
        """Classify any number of texts; returns (texts, labels) in the order given."""
        return self.head(run_sorted(self.runtime, self.tokenize(texts), progress))


def load_classifier(
    directory: Path, *, runtime: str = "auto", precision: str = "auto"
) -> TextClassifier:
    """Load the classifier that `train` wrote to `directory`.

    Raises:
        ArtifactError: the directory holds no usable model.
    """
    artifact = Artifact.open(directory)
    tokenizer, loaded, choices = load_parts(artifact, runtime, precision)
    head = HEADS[artifact.manifest.head](artifact)
    return TextClassifier(artifact.manifest.labels, tokenizer, loaded, head, choices)


def load_parts(
    artifact: Artifact, runtime: str = "auto", precision: str = "auto"
) -> tuple[Tokenizer, Runtime, tuple[Choice[Any], ...]]:
    """Load the tokenizer and the encoder alone: what a head is fitted on."""
    tokenizer = Tokenizer(
        artifact.file("tokenizer.json"),
        artifact.file("tokenizer_config.json"),
        artifact.manifest.max_length,
    )
    loaded, choices = load_runtime(artifact, tokenizer.pad_id, runtime, precision)
    return tokenizer, loaded, tuple(choices)


def run_sorted(
    runtime: Runtime, tokens: Sequence[Tokens], progress: Progress | None = None
) -> Array:
    """Execute any number of texts, longest first so that a batch needs little padding.

    Returns:
        The encoder's output, (texts, features), in the order given.
    """
    order = sorted(range(len(tokens)), key=lambda index: -len(tokens[index]))
    size = runtime.bulk_batch_size
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    features: Array | None = None
    done = 0
    streams = ThreadPoolExecutor(runtime.streams)
    try:
        outputs = streams.map(lambda batch: runtime([tokens[i] for i in batch]), batches)
        for batch, output in zip(batches, outputs, strict=True):
            if features is None:
                features = np.empty((len(tokens), output.shape[1]), np.float32)
            features[batch] = output
            done += len(batch)
            if progress:
                progress(done, len(tokens))
    finally:
        streams.shutdown(cancel_futures=True)  # a stopped job must not finish the whole set first
    if features is None:
        raise ValueError("there are no texts to execute")
    return features
