from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serve.encoders import Answer
from serve.errors import BadRequest, TooLate
from serve.parameters import Parameters
from serve.tasks import TASKS, Classification, Embedding, Failure, Several
from textmodel.artifact import Manifest
from textmodel.classifier import TextClassifier
from textmodel.heads import Head, Linear, Logits

LABELS = ("fire", "flood", "other")
FEATURES = np.array([1, 0.5], np.float32)


class Votes:
    """A head as a forest is: it has no logits."""

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full((len(features), 3), 1 / 3, np.float32)

    def logits(self, features: NDArray[np.float32]) -> None:
        return None


def linear(multi_label: bool = False) -> Linear:
    weight = np.array([[1, 0], [2, 0], [-1, 0]], np.float32)
    return Linear(weight, np.zeros(3, np.float32), multi_label)


def classifier(
    head: Head, kind: str = "linear", multi_label: bool = False, task: str = "text-classification"
) -> TextClassifier:
    """Return a classifier of which only the head is there."""
    manifest = Manifest(
        task=task, recipe="logistic", labels=LABELS, max_length=9, pooling="mean", normalize=True,
        head=kind, runtimes=("openvino",), base_model="none", versions={}, multi_label=multi_label,
    )  # fmt: skip
    nothing: Any = None
    return TextClassifier(LABELS, nothing, nothing, head, (), manifest)


SINGLE = classifier(linear())
SEVERAL = classifier(linear(True), multi_label=True)


def answer(model: TextClassifier, cut: bool = False, **wishes: Any) -> Answer:
    task = TASKS[model.manifest.task](model)
    parameters = Parameters.read(wishes)
    task.check(parameters)
    return task.answer(FEATURES, model.head(FEATURES[None])[0], cut, parameters)


def names(labels: list[dict[str, Any]]) -> list[str]:
    return [label["label"] for label in labels]


def test_the_best_label_alone_is_the_answer() -> None:
    found = answer(SINGLE).json()
    assert set(found) == {"label", "score"}
    assert (found["label"], found["score"]) == ("flood", pytest.approx(0.705, abs=0.001))


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"top_k": 1}, ["flood"]),
        ({"top_k": 2}, ["flood", "fire"]),
        ({"top_k": None}, ["flood", "fire", "other"]),
        ({"top_k": 99}, ["flood", "fire", "other"]),
        ({"return_all_scores": True}, ["flood", "fire", "other"]),
        ({"threshold": 0.2}, ["flood", "fire"]),
        ({"threshold": 1}, []),
        ({"threshold": 0, "top_k": 2}, ["flood", "fire"]),
    ],
)
def test_who_wishes_for_several_labels_gets_a_list_best_first(
    wishes: dict[str, Any], expected: list[str]
) -> None:
    assert names(answer(SINGLE, **wishes).json()) == expected


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({}, ["flood", "fire"]),
        ({"top_k": 1}, ["flood"]),
        ({"top_k": None}, ["flood", "fire", "other"]),
        ({"threshold": 0.8}, ["flood"]),
        ({"threshold": 0.99}, []),
    ],
)
def test_a_multi_label_model_answers_with_a_list(
    wishes: dict[str, Any], expected: list[str]
) -> None:
    assert names(answer(SEVERAL, **wishes).json()) == expected


def test_the_answer_says_that_a_text_was_cut() -> None:
    assert answer(SINGLE, cut=True).json()["truncated"] is True
    assert "truncated" not in answer(SINGLE).json()
    found = answer(SINGLE, cut=True, top_k=2).json()
    assert (names(found["labels"]), found["truncated"]) == (["flood", "fire"], True)


def test_logits_are_told_by_label() -> None:
    found = answer(SINGLE, return_logits=True).json()
    assert (found["label"], found["logits"]) == ("flood", {"fire": 1, "flood": 2, "other": -1})
    own = answer(classifier(Logits(), "logits"), return_logits=False, top_k=None)
    assert "logits" not in own.json()


def test_the_embedding_is_what_the_encoder_gave() -> None:
    assert answer(SINGLE, return_embeddings=True).json()["embedding"] == [1.0, 0.5]


@pytest.mark.parametrize(
    ("model", "wishes", "message"),
    [
        (classifier(Logits(), "logits"), {"return_embeddings": True}, "no embedding of a text"),
        (classifier(Votes(), "forest"), {"return_logits": True}, "a forest has no logits"),
    ],
)
def test_a_wish_that_the_model_cannot_fulfil_is_refused(
    model: TextClassifier, wishes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        answer(model, **wishes)


def test_a_row_has_a_label_and_a_score_each() -> None:
    assert answer(SINGLE).cells() == ["flood", pytest.approx(0.705, abs=0.001)]
    assert len(answer(SINGLE, top_k=None).cells()) == 6
    assert Classification.header == ["label", "score"]


def test_an_array_has_all_scores_in_the_order_of_the_labels_or_the_embedding() -> None:
    np.testing.assert_allclose(answer(SINGLE).array(), [[0.259, 0.705, 0.035]], atol=0.001)
    np.testing.assert_array_equal(answer(SINGLE, return_embeddings=True).array(), [[1, 0.5]])


EMBEDDER = classifier(Logits(), "logits", task="feature-extraction")


def test_an_embedding_is_numbers_in_every_form() -> None:
    assert answer(EMBEDDER).json() == answer(EMBEDDER).cells() == [1.0, 0.5]
    assert answer(EMBEDDER).array().tolist() == [[1.0, 0.5]]
    assert answer(EMBEDDER, cut=True).json() == {"embedding": [1.0, 0.5], "truncated": True}
    assert answer(EMBEDDER, return_embeddings=True).json() == [1.0, 0.5]
    assert Embedding.header == ["embedding"]


@pytest.mark.parametrize("wishes", [{"top_k": 1}, {"threshold": 0.5}, {"return_logits": True}])
def test_an_embedding_has_no_labels(wishes: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="no labels, scores or logits"):
        answer(EMBEDDER, **wishes)


def test_several_texts_of_a_record_are_answered_in_one_list() -> None:
    both = Several([answer(SINGLE), answer(SINGLE)])
    assert names(both.json()) == ["flood", "flood"]
    assert (len(both.cells()), both.array().shape) == (4, (2, 3))
    assert (Several([]).json(), Several([]).cells(), len(Several([]).array())) == ([], [], 0)


def test_a_failure_stands_in_the_place_of_an_answer() -> None:
    failure = Failure(BadRequest("the text is empty"))
    assert failure.json() == {"error": {"code": "bad_request", "message": "the text is empty"}}
    assert failure.cells() == ["", "", "the text is empty"]
    with pytest.raises(TooLate):
        Failure(TooLate("too late")).array()
