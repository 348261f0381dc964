from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from textmodel import classifier
from textmodel.artifact import ArtifactError
from textmodel.batching import Batching, Padded
from textmodel.classifier import (
    TextClassifier,
    in_windows,
    load_classifier,
    run_sorted,
    run_windows,
)
from textmodel.tokenizer import Text, Tokens

TEXTS = ["the river is on fire", "my fantasy team is a sinking ship", "x " * 400, "", "💔"]


class Lengths:
    """A runtime that answers each text with its first token and the width of its batch."""

    streams = 2
    anywhere = True
    batching: Batching = Padded(4, cut_tokens=4)

    def __call__(self, batch: Sequence[Tokens], *, urgent: bool = False) -> NDArray[np.float32]:
        width = max(map(len, batch))
        return np.array([(tokens.ids[0], width) for tokens in batch], np.float32)


def test_run_sorted_returns_results_in_given_order() -> None:
    lengths = random.Random(0).sample(range(1, 60), 50)
    results = run_sorted(Lengths(), [Tokens([row] * length) for row, length in enumerate(lengths)])
    assert results[:, 0].tolist() == list(range(50))


def test_run_sorted_puts_texts_of_like_length_together() -> None:
    results = run_sorted(Lengths(), [Tokens([1] * length) for length in (1, 9, 1, 9, 1, 9, 1, 9)])
    assert results[:, 1].tolist() == [1, 9] * 4


def test_run_sorted_reports_progress_up_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    run_sorted(Lengths(), [Tokens([1])] * 10, lambda done, total: seen.append((done, total)))
    assert seen == [(4, 10), (8, 10), (10, 10)]


@pytest.mark.parametrize(("texts", "sizes"), [(8, [8]), (9, [4, 5]), (17, [4, 4, 4, 5]), (0, [0])])
def test_windows_are_even_and_a_power_of_two(
    texts: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "WINDOW_TEXTS", 8)
    cut = in_windows([str(number) for number in range(texts)])
    assert [len(window) for window in cut] == sizes
    assert [text for window in cut for text in window] == [str(n) for n in range(texts)]


def test_windows_of_long_texts_and_pairs_are_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "WINDOW_CHARACTERS", 10)
    assert in_windows(["x" * 5, ("y" * 5, "y" * 5), "z" * 5, "z"]) == [
        ["x" * 5], [("y" * 5, "y" * 5)], ["z" * 5], ["z"],
    ]  # fmt: skip
    assert in_windows(["x" * 99]) == [["x" * 99]]


def test_run_windows_gives_each_window_in_order_and_counts_on() -> None:
    seen: list[tuple[int, int]] = []

    def tokenize(texts: Sequence[Text]) -> list[Tokens]:
        return [Tokens([int(str(text))]) for text in texts]

    windows = [["5", "4"], ["3"], ["2", "1", "0"]]
    outputs = run_windows(
        Lengths(), tokenize, windows, lambda done, total: seen.append((done, total))
    )
    assert [output[:, 0].tolist() for output in outputs] == [[5, 4], [3], [2, 1, 0]]
    assert seen == [(2, 6), (3, 6), (6, 6)]


def test_run_windows_holds_two_windows_of_tokens_at_most() -> None:
    tokenized: list[str] = []

    def tokenize(texts: Sequence[Text]) -> list[Tokens]:
        tokenized.append(str(texts[0]))
        return [Tokens([0])]

    outputs = run_windows(Lengths(), tokenize, [[str(number)] for number in range(9)])
    assert tokenized == []
    for number, _ in enumerate(outputs, start=1):
        assert number <= len(tokenized) <= number + 1
    assert len(tokenized) == 9


def test_run_sorted_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no texts"):
        run_sorted(Lengths(), [])


@pytest.mark.parametrize("tree", ["forest_model", "logistic_model", "finetuned_model"])
def test_predictions_do_not_depend_on_the_other_texts(
    tree: str, request: pytest.FixtureRequest
) -> None:
    classifier = load_classifier(request.getfixturevalue(tree) / "model", precision="fp32")
    single = np.concatenate([classifier.predict([text]) for text in TEXTS])
    # A forest's splits are thresholds: a feature next to one moves a tree's whole vote.
    np.testing.assert_allclose(
        classifier.predict(TEXTS), single, atol=0.06 if "forest" in tree else 1e-4
    )


def test_executing_tokens_gives_features_and_the_scores_predicted(logistic_model: Path) -> None:
    classifier = load_classifier(logistic_model / "model", precision="fp32")
    results = classifier.execute(classifier.tokenize(TEXTS))
    assert {features.shape for features, _ in results} == {(384,)}
    scores = np.array([scores for _, scores in results])
    np.testing.assert_allclose(scores, classifier.predict(TEXTS), atol=1e-4)


SCORES = np.array([0.2, 0.7, 0.6, 0.7], np.float32)


@pytest.mark.parametrize(
    ("multi_label", "wishes", "chosen"),
    [
        (False, {}, [1]),
        (True, {}, [1, 3, 2]),
        (False, {"top_k": 2}, [1, 3]),
        (True, {"top_k": None}, [1, 3, 2, 0]),
        (True, {"top_k": 4}, [1, 3, 2, 0]),
        (False, {"top_k": 10**30}, [1, 3, 2, 0]),
        (False, {"threshold": 0.65}, [1, 3]),
        (True, {"threshold": 0.0}, [1, 3, 2, 0]),
        (False, {"threshold": 0.9}, []),
        (False, {"top_k": 1, "threshold": 0.65}, [1]),
        (True, {"top_k": None, "threshold": 0.65}, [1, 3]),
    ],
)
def test_labels_are_chosen_by_rank_and_by_score(
    multi_label: bool, wishes: dict[str, Any], chosen: list[int]
) -> None:
    classifier = object.__new__(TextClassifier)
    object.__setattr__(classifier, "manifest", SimpleNamespace(multi_label=multi_label))
    assert classifier.choose(SCORES, **wishes) == chosen


@pytest.mark.parametrize("tree", ["forest_model", "logistic_model", "finetuned_model"])
def test_torch_and_openvino_give_the_same_labels(tree: str, request: pytest.FixtureRequest) -> None:
    directory = request.getfixturevalue(tree) / "model"
    openvino, torch = (
        load_classifier(directory, runtime=name, precision="fp32").predict(TEXTS)
        for name in ("openvino", "torch")
    )
    assert openvino.argmax(1).tolist() == torch.argmax(1).tolist()


def test_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no model"):
        load_classifier(tmp_path)
