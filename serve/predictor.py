"""The model behind the routes: loaded once, warmed up, then shared by all requests."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.batcher import Batcher
from serve.errors import BadRequest, NotReady
from serve.settings import Settings
from textmodel.classifier import TextClassifier, load_classifier
from textmodel.tokenizer import Text

__all__ = ["Predictor"]

log = logging.getLogger(__name__)


class Predictor:
    """Classifies texts of many clients at once."""

    def __init__(self) -> None:
        self._classifier: TextClassifier | None = None
        self._batcher: Batcher[NDArray[np.float32]] | None = None

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and has answered once."""
        return self._batcher is not None

    def load(self, settings: Settings) -> None:
        """Load the model and make a first real prediction.

        Raises:
            ArtifactError: the model directory cannot be used.
        """
        started = time.monotonic()
        classifier = load_classifier(
            settings.model, runtime=settings.runtime, precision=settings.precision
        )
        classifier.predict(["a first text, so that no client pays for the first run"])
        for choice in classifier.choices:
            log.info("%s", choice)
        log.info(
            "model ready after %.1f s: %d labels",
            time.monotonic() - started,
            len(classifier.labels),
        )
        self._classifier = classifier
        self._batcher = Batcher(
            classifier.probabilities,
            streams=classifier.runtime.streams,
            batch_size=classifier.runtime.batch_size,
        )

    def __call__(self, texts: Sequence[Text], parameters: Mapping[str, Any]) -> list[Any]:
        """Return, for each text, its best label, or a list of its `top_k` best.

        Of a multi-label model the labels of a text are a list in any case, best first; without
        `top_k` it holds those that apply, which may be none.

        Raises:
            NotReady: the model is still being loaded.
            BadRequest: a parameter is unknown or has a value that is not allowed.
        """
        classifier = self._classifier
        if classifier is None or self._batcher is None:
            raise NotReady("the model is still being loaded; ask again when /ping answers 200")
        labels = classifier.labels
        top_k = _top_k(parameters, len(labels))
        answers = []
        for future in self._batcher.submit(classifier.tokenize(texts)):
            scores = future.result()
            ranked = [
                {"label": labels[index], "score": float(scores[index])}
                for index in classifier.choose(scores, top_k)
            ]
            answers.append(ranked if top_k or classifier.multi_label else ranked[0])
        return answers


def _top_k(parameters: Mapping[str, Any], labels: int) -> int | None:
    unknown = sorted(set(parameters) - {"top_k"})
    if unknown:
        raise BadRequest(f"unknown parameter {', '.join(map(repr, unknown))}; known is 'top_k'")
    if "top_k" not in parameters:
        return None
    top_k = parameters["top_k"]
    if top_k is None:
        return labels
    if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
        raise BadRequest(
            f"parameter top_k={top_k!r} must be a whole number from 1, or null for all"
        )
    return min(top_k, labels)
