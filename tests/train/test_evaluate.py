from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from textmodel.classifier import TextClassifier, load_classifier
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
    manifest = json.loads((root / "model/manifest.json").read_text())
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


@pytest.mark.parametrize("value", [0.0, 1.0, 0.123456789, 1e-7, 12345.0])
def test_metric_lines_are_found_by_the_documented_expression(
    value: float, caplog: pytest.LogCaptureFixture
) -> None:
    Metrics().report({"loss": value})
    found = re.search(METRIC_REGEX.format(name="loss"), caplog.text)
    assert found
    assert float(found[1]) == pytest.approx(value, rel=1e-5)
