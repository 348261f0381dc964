"""A finished text classifier: the parts of a model directory, put together."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textmodel.artifact import Artifact, Manifest
from textmodel.hardware import Choice
from textmodel.heads import HEADS, Head
from textmodel.plain import open_model, tokenizer_files
from textmodel.runtime import Runtime, load_runtime
from textmodel.tokenizer import Text, Tokenizer, Tokens, characters_of

__all__ = [
    "THRESHOLD",
    "Progress",
    "TextClassifier",
    "in_windows",
    "load_classifier",
    "load_parts",
    "run_sorted",
    "run_windows",
]

# The tokenizer runs in threads of its own; forking after that is what it warns of, and none forks.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

WINDOW_TEXTS = 4096
"""Enough that the texts within a window leave hardly any padding."""
WINDOW_CHARACTERS = 8_000_000
"""What a window holds on average at most, for tokens of some 100 MB however long the texts are."""

THRESHOLD = 0.5
"""The probability from which on a multi-label model says that a label applies."""

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
    manifest: Manifest

    @property
    def multi_label(self) -> bool:
        return self.manifest.multi_label

    def execute(self, batch: Sequence[Tokens]) -> list[tuple[Array, Array]]:
        """Execute one batch that somebody waits for.

        Returns:
            Of each text what the encoder gave, (features,), and the scores, (labels,). Where the
            encoder ends in logits, those are its features.

        Raises:
            ArithmeticError: a number is none, for which no format of answers has a place.
        """
        features = self.runtime(batch, urgent=True)
        scores = self.head(features)
        if not (np.isfinite(features).all() and np.isfinite(scores).all()):
            raise ArithmeticError("the model gives numbers that are NaN or infinite")
        return list(zip(features, scores, strict=True))

    def predict(self, texts: Sequence[Text], progress: Progress | None = None) -> Array:
        """Classify any number of texts; returns (texts, labels) in the order given."""
        outputs = run_windows(self.runtime, self.tokenize, in_windows(texts), progress)
        return np.concatenate([self.head(output) for output in outputs])

    def choose(
        self, scores: Array, top_k: int | None = 0, threshold: float | None = None
    ) -> list[int]:
        """Return the indexes of the labels that one text's scores (labels,) speak for, best first.

        Args:
            scores: one a label.
            top_k: how many at most; None for all.
            threshold: the score from which on a label counts.

        Without either, it is the best one, or of a multi-label model all from THRESHOLD up, which
        may be none.
        """
        if not top_k and threshold is None and top_k is not None:
            if not self.multi_label:
                values = scores.tolist()  # numpy's argmax gives Python's lock away, for each text
                return [values.index(max(values))]
            threshold = THRESHOLD
        order = np.argsort(-scores, kind="stable")
        if threshold is not None:
            order = order[: int((scores >= threshold).sum())]
        return [int(index) for index in (order[:top_k] if top_k else order)]


def load_classifier(
    directory: Path,
    *,
    runtime: str = "auto",
    precision: str = "auto",
    task: str | None = None,
    sparing: bool = False,
) -> TextClassifier:
    """Load the classifier that `train` wrote to `directory`, or a plain Hugging Face model.

    Args:
        directory: the model.
        runtime: `auto`, or one of `runtime.RUNTIMES`.
        precision: `auto`, `int8`, `bf16` or `fp32`.
        task: what a plain model is to be used for; None for what it says by itself.
        sparing: whether memory matters more than the last of speed.

    Raises:
        ArtifactError: the directory holds no usable model.
    """
    artifact = open_model(directory, task)
    tokenizer, loaded, choices = load_parts(artifact, runtime, precision, sparing)
    head = HEADS[artifact.manifest.head](artifact)
    manifest = artifact.manifest
    return TextClassifier(manifest.labels, tokenizer, loaded, head, choices, manifest)


def load_parts(
    artifact: Artifact, runtime: str = "auto", precision: str = "auto", sparing: bool = False
) -> tuple[Tokenizer, Runtime, tuple[Choice[Any], ...]]:
    """Load the tokenizer and the encoder alone: what a head is fitted on."""
    with tokenizer_files(artifact) as (file, config):
        tokenizer = Tokenizer(file, config, artifact.manifest.max_length)
    loaded, choices = load_runtime(artifact, tokenizer.pad_id, runtime, precision, sparing)
    return tokenizer, loaded, tuple(choices)


def in_windows(texts: Sequence[Text]) -> list[Sequence[Text]]:
    """Cut texts, in their order, into the parts that `run_windows` executes one by one.

    They are of one size, and a power of two, to be shared evenly by so many processes.
    """
    characters = sum(map(characters_of, texts))
    least = max(len(texts) / WINDOW_TEXTS, characters / WINDOW_CHARACTERS, 1)
    count = min(2 ** math.ceil(math.log2(least)), max(len(texts), 1))
    bounds = [len(texts) * number // count for number in range(count + 1)]
    return [texts[start:end] for start, end in pairwise(bounds)]


def run_windows(
    runtime: Runtime,
    tokenize: Callable[[Sequence[Text]], Sequence[Tokens]],
    windows: Sequence[Sequence[Text]],
    progress: Progress | None = None,
) -> Iterator[Array]:
    """Execute any number of texts in flat memory: yield (texts, features) of each window.

    What a window gives depends on no other. While it is executed, the next one is tokenised.
    """
    done, total = 0, sum(map(len, windows))

    def report(part: int, _: int) -> None:
        if progress:
            progress(done + part, total)

    with ThreadPoolExecutor(1) as ahead:
        coming = [ahead.submit(tokenize, window) for window in windows[:1]]
        for number in range(1, len(windows) + 1):
            tokens = coming.pop().result()
            following = windows[number : number + 1]
            coming += [ahead.submit(tokenize, window) for window in following]
            yield run_sorted(runtime, tokens, report)
            done += len(tokens)


def run_sorted(
    runtime: Runtime, tokens: Sequence[Tokens], progress: Progress | None = None
) -> Array:
    """Execute any number of texts, in the batches that suit the runtime best.

    Returns:
        The encoder's output, (texts, features), in the order given.
    """
    batches = runtime.batching.cut([len(text) for text in tokens])
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
