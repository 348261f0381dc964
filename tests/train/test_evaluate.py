from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from textmodel.classifier import TextClassifier, load_classifier
from textmodel.tokenizer import Text
from train.data import Dataset, Splits
from train.evaluate import Evaluation, evaluate
from train.metrics import METRIC_REGEX, Metrics

TREES = ["forest_model", "logistic_model", "finetuned_model"]


@pytest.fixture(scope="module")
def classifier(logistic_model: Path) -> TextClassifier:
    return load_classifier(logistic_model / "model")


def measure(classifier: TextClassifier, texts: list[str], labels: list[str]) -> Evaluation:
    train = Dataset(["a fire", "a joke"], [("disaster",), ("other",)])
    test = Dataset(texts, [(label,) for label in labels])
    return evaluate(classifier, Splits(train, {"test": test}))


@pytest.mark.parametrize("tree", TREES)
def test_predictions_are_what_a_freshly_loaded_classifier_answers(
    tree: str, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(tree)
    with (root / "output/data/predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    fresh = load_classifier(root / "model")
    scores = fresh.predict([row["text"] for row in rows])
    assert len(rows) == 60
    assert [row["prediction"] for row in rows] == [fresh.labels[i] for i in scores.argmax(1)]
    found = [float(row["score"]) for row in rows]
    np.testing.assert_allclose(found, scores.max(axis=1), atol=1e-6)


@pytest.mark.parametrize("tree", TREES)
def test_metrics_agree_in_manifest_report_and_log(
    tree: str, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(tree)
    accuracy = json.loads((root / "output/data/evaluation.json").read_text())["test"]["accuracy"]
    manifest = json.loads((root / "model/optml.json").read_text())
    pattern = METRIC_REGEX.format(name="test_accuracy")
    (logged,) = re.findall(pattern, (root / "log").read_text())
    assert manifest["metrics"]["test_accuracy"] == accuracy
    assert float(logged) == pytest.approx(accuracy, abs=1e-5)


@pytest.mark.parametrize("tree", ["forest_model", "logistic_model", "finetuned_model"])
def test_models_have_learned_something(tree: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(tree)
    report = json.loads((root / "output/data/evaluation.json").read_text())["test"]
    assert report["accuracy"] > 0.65


def test_report_counts_rows_by_true_label_and_prediction(classifier: TextClassifier) -> None:
    texts = ["the forest fire has killed dozens", "my cake is a disaster, still delicious"]
    report = measure(classifier, texts, ["disaster", "disaster"]).reports["test"]
    assert report["confusion_matrix"]["labels"] == ["disaster", "other"]
    assert report["confusion_matrix"]["counts"] == [[1, 1], [0, 0]]
    assert report["accuracy"] == 0.5
    assert report["per_label"]["disaster"] == {
        "precision": 1, "recall": 0.5, "f1": pytest.approx(2 / 3), "rows": 2,
    }  # fmt: skip


@pytest.mark.parametrize("label", ["never seen", "accuracy", "macro avg", "1"])
def test_label_that_the_model_lacks_counts_as_wrong(classifier: TextClassifier, label: str) -> None:
    report = measure(classifier, ["a fire", "a flood"], [label, label]).reports["test"]
    assert report["accuracy"] == 0
    assert report["per_label"][label]["rows"] == 2


def test_texts_that_were_learned_are_counted(classifier: TextClassifier) -> None:
    evaluation = measure(classifier, ["a fire", "a flood"], ["disaster", "disaster"])
    assert evaluation.reports["test"]["texts_also_in_train"] == 1


def test_every_text_survives_the_predictions_file(
    classifier: TextClassifier, tmp_path: Path
) -> None:
    texts = ['say "hi", twice', "two\r\nlines", "💔 ärger", "=1+1"]
    measure(classifier, texts, ["other"] * 4).write(tmp_path / "new")
    with (tmp_path / "new/predictions.csv").open(encoding="utf-8", newline="") as file:
        assert [row["text"] for row in csv.DictReader(file)] == texts


def test_conflicting_texts_are_counted(classifier: TextClassifier) -> None:
    texts, labels = ["a fire", "a fire", "a flood"], ["disaster", "other", "disaster"]
    report = measure(classifier, texts, labels).reports["test"]
    assert report["texts_with_conflicting_labels"] == 1


class Fixed(TextClassifier):
    """A multi-label classifier whose scores are given."""

    answers: NDArray[np.float32]

    def predict(self, texts: Any, progress: Any = None) -> NDArray[np.float32]:
        return self.answers


SCORES = [[0.9, 0.2, 0.5], [0.4, 0.6, 0.1], [0.1, 0.2, 0.3], [0.7, 0.1, 0.1]]
TRUTH = [("a", "c"), ("a", "b"), (), ("b",)]


def measure_several(
    scores: list[list[float]], truth: list[tuple[str, ...]], texts: list[Text] | None = None
) -> Evaluation:
    fixed = object.__new__(Fixed)
    values = {
        "labels": ("a", "b", "c"),
        "manifest": SimpleNamespace(multi_label=True),
        "answers": np.array(scores, np.float32),
    }
    for name, value in values.items():
        object.__setattr__(fixed, name, value)
    data = Dataset(texts or [f"text {n}" for n in range(len(truth))], truth, multi_label=True)
    return evaluate(fixed, Splits(replace(data), {"test": data}))


def test_multi_label_accuracy_is_the_exact_match() -> None:
    assert measure_several(SCORES, TRUTH).metrics["test_accuracy"] == 0.5


def test_multi_label_f1_is_averaged_over_labels_and_over_decisions() -> None:
    # a: 1 right, 1 too many, 1 missed; b: 1 right, 1 missed; c: 1 right
    metrics = measure_several(SCORES, TRUTH).metrics
    assert metrics["test_micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert metrics["test_macro_f1"] == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)


def test_multi_label_report_counts_right_and_wrong_per_label() -> None:
    report = measure_several(SCORES, TRUTH).reports["test"]
    assert report["counts_per_label"]["a"] == {
        "true_positives": 1, "false_positives": 1, "false_negatives": 1, "true_negatives": 1,
    }  # fmt: skip
    assert report["per_label"]["b"] == {
        "precision": 1, "recall": 0.5, "f1": pytest.approx(2 / 3), "rows": 2,
    }  # fmt: skip
    assert "confusion_matrix" not in report


def test_unknown_label_of_a_multi_label_row_counts_as_missed() -> None:
    report = measure_several([[0.9, 0, 0], [0, 0.9, 0]], [("a", "new"), ("b",)]).reports["test"]
    assert report["accuracy"] == 0.5
    assert report["counts_per_label"]["new"]["false_negatives"] == 1


def test_rows_without_labels_on_either_side_are_right() -> None:
    report = measure_several([[0.1, 0.1, 0.1]] * 2, [(), ()]).reports["test"]
    assert report["accuracy"] == 1
    assert report["macro_f1"] == 0


def predictions(evaluation: Evaluation, directory: Path) -> list[dict[str, str]]:
    evaluation.write(directory)
    with (directory / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_multi_label_predictions_are_json(tmp_path: Path) -> None:
    first, second, third, _ = predictions(measure_several(SCORES, TRUTH), tmp_path)
    assert json.loads(first["label"]) == json.loads(first["prediction"]) == ["a", "c"]
    assert json.loads(first["scores"]) == {"a": 0.9, "b": 0.2, "c": 0.5}
    assert (second["label"], second["prediction"]) == ('["a", "b"]', '["b"]')
    assert (third["label"], third["prediction"]) == ("[]", "[]")


def test_pairs_have_a_column_for_each_text(tmp_path: Path) -> None:
    texts: list[Text] = [("a, b", "c"), ("d", "e")]
    rows = predictions(measure_several(SCORES[:2], TRUTH[:2], texts), tmp_path)
    assert [(row["text"], row["text_pair"]) for row in rows] == texts


def test_pairs_are_measured_as_pairs(classifier: TextClassifier, tmp_path: Path) -> None:
    train = Dataset([("a", "b")], [("other",)])
    test = Dataset([("a fire", "in the woods"), ("a", "b")], [("disaster",), ("other",)])
    evaluation = evaluate(classifier, Splits(train, {"test": test}))
    assert evaluation.reports["test"]["texts_also_in_train"] == 1
    scores = [float(row["score"]) for row in predictions(evaluation, tmp_path)]
    np.testing.assert_allclose(scores, classifier.predict(test.texts).max(axis=1), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.123456789, 1e-7, 12345.0])
def test_metric_lines_are_found_by_the_documented_expression(
    value: float, caplog: pytest.LogCaptureFixture
) -> None:
    Metrics().report({"loss": value})
    found = re.search(METRIC_REGEX.format(name="loss"), caplog.text)
    assert found
    assert float(found[1]) == pytest.approx(value, rel=1e-5)
