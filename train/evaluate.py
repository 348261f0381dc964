"""Measure a classifier on held-out rows, with scikit-learn's metrics."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    multilabel_confusion_matrix,
    precision_recall_fscore_support,
)

from textmodel.classifier import TextClassifier
from train.data import Dataset, Splits
from train.metrics import MEASURED
from train.progress import progress

__all__ = ["Evaluation", "Measured", "evaluate"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """What the classifier said of the rows of a split."""

    data: Dataset
    predicted: Sequence[tuple[str, ...]]
    """One label a row, or any number of them where the task is multi-label."""
    scores: NDArray[np.float32]
    """(rows, labels)"""

    @property
    def truth(self) -> list[str]:
        """The true label of each row, or a JSON list of them."""
        return [_cell(labels, self.data.multi_label) for labels in self.data.labels]

    @property
    def predictions(self) -> list[str]:
        """The predicted label of each row, or a JSON list of them."""
        return [_cell(labels, self.data.multi_label) for labels in self.predicted]


@dataclass(frozen=True)
class Evaluation:
    """How often the classifier was right about the held-out rows, and what it said of each."""

    labels: Sequence[str]
    metrics: dict[str, float]
    """By `<split>_<metric>`."""
    reports: dict[str, Any]
    splits: dict[str, Measured]

    def write(self, directory: Path) -> None:
        """Write `evaluation.json` and `predictions.csv`."""
        directory.mkdir(parents=True, exist_ok=True)
        report = json.dumps(self.reports, indent=2, ensure_ascii=False)
        (directory / "evaluation.json").write_text(report + "\n", encoding="utf-8")
        with (directory / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self._header())
            for name, measured in self.splits.items():
                writer.writerows(self._rows(name, measured))

    def _header(self) -> list[str]:
        data = [measured.data for measured in self.splits.values()]
        pairs = any(one.pairs for one in data)
        multi_label = any(one.multi_label for one in data)
        texts = ["text", "text_pair"] if pairs else ["text"]
        return ["split", *texts, "label", "prediction", "scores" if multi_label else "score"]

    def _rows(self, split: str, measured: Measured) -> Iterator[list[object]]:
        columns = (measured.data.texts, measured.truth, measured.predictions, measured.scores)
        for text, label, prediction, scores in zip(*columns, strict=True):
            texts = text if isinstance(text, tuple) else (text,)
            yield [split, *texts, label, prediction, self._score(scores, measured.data.multi_label)]

    def _score(self, scores: NDArray[np.float32], multi_label: bool) -> object:
        rounded = [round(float(score), 6) for score in scores]
        if not multi_label:
            return max(rounded)
        return json.dumps(dict(zip(self.labels, rounded, strict=True)), ensure_ascii=False)


def evaluate(classifier: TextClassifier, splits: Splits) -> Evaluation:
    """Classify every held-out row with the finished model directory, as the server will."""
    metrics: dict[str, float] = {}
    reports: dict[str, Any] = {}
    measured: dict[str, Measured] = {}
    learned = set(splits.train.texts)
    for name, data in splits.held_out.items():
        scores = classifier.predict(data.texts, progress(log, f"evaluating {name}"))
        predicted = [
            tuple(classifier.labels[index] for index in classifier.choose(row)) for row in scores
        ]
        report = (_report_multi_label if data.multi_label else _report)(
            data.labels, predicted, classifier.labels
        )
        report["texts_also_in_train"] = sum(text in learned for text in data.texts)
        report["texts_with_conflicting_labels"] = len(data.conflicts())
        reports[name] = report
        metrics |= {f"{name}_{metric}": report[metric] for metric in MEASURED}
        measured[name] = Measured(data, predicted, scores)
    return Evaluation(classifier.labels, metrics, reports, measured)


def _report(
    true: Sequence[tuple[str, ...]], predicted: Sequence[tuple[str, ...]], known: Sequence[str]
) -> dict[str, Any]:
    truth, predictions = ([label for (label,) in rows] for rows in (true, predicted))
    labels = [*known, *sorted(set(truth) - set(known))]
    matrix: NDArray[np.int64] = confusion_matrix(truth, predictions, labels=labels)
    return {
        **_scores(truth, predictions, labels=sorted({*truth, *predictions})),
        "per_label": _per_label(truth, predictions, labels, labels),
        "confusion_matrix": {
            "labels": labels,
            "rows_are": "true labels",
            "columns_are": "predictions",
            "counts": matrix.tolist(),
        },
    }


def _report_multi_label(
    true: Sequence[tuple[str, ...]], predicted: Sequence[tuple[str, ...]], known: Sequence[str]
) -> dict[str, Any]:
    labels = [*known, *sorted({label for row in true for label in row} - set(known))]
    truth, predictions = _indicators(true, labels), _indicators(predicted, labels)
    columns = list(range(len(labels)))
    present = [
        column for column in columns if truth[:, column].any() or predictions[:, column].any()
    ]
    # (labels, 2, 2): negatives before positives, of truth in rows and of predictions in columns
    matrices: NDArray[np.int64] = multilabel_confusion_matrix(truth, predictions)
    return {
        **_scores(truth, predictions, labels=present or columns),
        "per_label": _per_label(truth, predictions, labels, columns),
        "counts_per_label": {
            label: {
                "true_positives": int(matrix[1, 1]),
                "false_positives": int(matrix[0, 1]),
                "false_negatives": int(matrix[1, 0]),
                "true_negatives": int(matrix[0, 0]),
            }
            for label, matrix in zip(labels, matrices, strict=True)
        },
    }


def _scores(truth: Any, predictions: Any, labels: Sequence[Any]) -> dict[str, Any]:
    """Return the numbers about all rows: of multi-label ones, accuracy is the exact match."""
    f1 = {
        f"{average}_f1": float(
            f1_score(truth, predictions, labels=labels, average=average, zero_division=0)
        )
        for average in ("macro", "micro", "weighted")
    }
    return {"rows": len(truth), "accuracy": float(accuracy_score(truth, predictions)), **f1}


def _per_label(
    truth: Any, predictions: Any, names: Sequence[str], labels: Sequence[Any]
) -> dict[str, dict[str, float]]:
    scores = precision_recall_fscore_support(truth, predictions, labels=labels, zero_division=0)
    columns = ("precision", "recall", "f1", "rows")
    return {
        name: dict(zip(columns, map(float, values), strict=True))
        for name, *values in zip(names, *scores, strict=True)
    }


def _indicators(rows: Sequence[tuple[str, ...]], labels: Sequence[str]) -> NDArray[np.int8]:
    """Return a 1 for each label that a row has, else 0, (rows, labels)."""
    index = {label: number for number, label in enumerate(labels)}
    indicators = np.zeros((len(rows), len(labels)), np.int8)
    for row, found in enumerate(rows):
        indicators[row, [index[label] for label in found]] = 1
    return indicators


def _cell(labels: tuple[str, ...], multi_label: bool) -> str:
    return json.dumps(labels, ensure_ascii=False) if multi_label else labels[0]
