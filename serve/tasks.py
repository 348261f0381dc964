"""What the answer to a text looks like, by the task that the model was made for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from serve.encoders import Answer
from serve.errors import BadRequest, RequestError, body
from serve.parameters import Parameters
from textmodel.classifier import TextClassifier

__all__ = ["TASKS", "Failure", "Several", "Task"]

Array = NDArray[np.float32]


class Task(Protocol):
    """Turns what a model's encoder gave for a text into its answer."""

    header: ClassVar[list[str]]
    """The names of an answer's cells."""

    def check(self, parameters: Parameters) -> None:
        """Raise BadRequest where the model cannot do what is wished."""
        ...

    def answer(self, features: Array, scores: Array, cut: bool, parameters: Parameters) -> Answer:
        """Return the answer to one text, from its features and scores, (labels,)."""
        ...


class Classification:
    """Labels with scores; a single one if neither model nor client wants several."""

    header: ClassVar = ["label", "score"]

    def __init__(self, classifier: TextClassifier) -> None:
        self._classifier = classifier

    def check(self, parameters: Parameters) -> None:
        if parameters.return_embeddings and self._classifier.manifest.head == "logits":
            raise BadRequest(
                "return_embeddings: this model has no embedding of a text; train one with "
                "recipe=forest or logistic, or with head=pooled"
            )
        if parameters.return_logits and self._classifier.manifest.head == "forest":
            raise BadRequest(
                "return_logits: a forest has no logits; its scores are shares of votes"
            )

    def answer(self, features: Array, scores: Array, cut: bool, parameters: Parameters) -> Answer:
        classifier = self._classifier
        chosen = classifier.choose(scores, parameters.top_k, parameters.threshold)
        one = parameters.top_k == 0 and parameters.threshold is None and not classifier.multi_label
        labels = [(classifier.labels[index], float(scores[index])) for index in chosen]
        more: dict[str, Any] = {"truncated": True} if cut else {}
        if parameters.return_logits:
            logits = classifier.head.logits(features[None])
            assert logits is not None, "checked before"
            more["logits"] = dict(zip(classifier.labels, logits[0].tolist(), strict=True))
        if parameters.return_embeddings:
            more["embedding"] = features.tolist()
        return _Labels(labels, one, more, features if parameters.return_embeddings else scores)


@dataclass(frozen=True)
class _Labels:
    labels: list[tuple[str, float]]
    one: bool
    more: dict[str, Any]
    numbers: Array

    def json(self) -> Any:
        labels = [{"label": label, "score": score} for label, score in self.labels]
        if self.one:
            return labels[0] | self.more
        return {"labels": labels} | self.more if self.more else labels

    def cells(self) -> list[Any]:
        return [cell for label in self.labels for cell in label]

    def array(self) -> Array:
        return self.numbers[None]


class Embedding:
    """The vector of a text."""

    header: ClassVar = ["embedding"]

    def __init__(self, classifier: TextClassifier) -> None: ...

    def check(self, parameters: Parameters) -> None:
        if parameters.top_k != 0 or parameters.threshold is not None or parameters.return_logits:
            raise BadRequest("this model makes embeddings; it has no labels, scores or logits")

    def answer(self, features: Array, scores: Array, cut: bool, parameters: Parameters) -> Answer:
        return _Vector(features, cut)


@dataclass(frozen=True)
class _Vector:
    vector: Array
    cut: bool

    def json(self) -> Any:
        numbers = self.vector.tolist()
        return {"embedding": numbers, "truncated": True} if self.cut else numbers

    def cells(self) -> list[Any]:
        numbers: list[Any] = self.vector.tolist()
        return numbers

    def array(self) -> Array:
        return self.vector[None]


@dataclass(frozen=True)
class Several:
    """The answers to a record of several texts."""

    answers: Sequence[Answer]

    def json(self) -> Any:
        return [answer.json() for answer in self.answers]

    def cells(self) -> list[Any]:
        return [cell for answer in self.answers for cell in answer.cells()]

    def array(self) -> Array:
        arrays = [answer.array() for answer in self.answers]
        return np.concatenate(arrays) if arrays else np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class Failure:
    """What stands in the place of a record that cannot be answered."""

    error: RequestError

    def json(self) -> Any:
        return body(self.error.code, str(self.error))

    def cells(self) -> list[Any]:
        return ["", "", str(self.error)]

    def array(self) -> Array:
        raise self.error


TASKS: dict[str, Callable[[TextClassifier], Task]] = {
    "text-classification": Classification,
    "feature-extraction": Embedding,
}
