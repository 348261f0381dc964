"""Measure a classifier on held-out rows, with scikit-learn's metrics."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

from textmodel.classifier import TextClassifier
from textmodel.tokenizer import Text
from train.data import Splits
from train.progress import progress

__all__ = ["Evaluation", "evaluate"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What the classifier said of every held-out row, and how often it was right."""

    metrics: dict[str, float]
    """By `<split>_<metric>`."""
    reports: dict[str, Any]
    rows: list[tuple[str, Text, str, str, float]]
    """Split, text, label, prediction and its score."""

    def write(self, directory: Path) -> None:
        """Write `evaluation.json` and `predictions.csv`."""
        directory.mkdir(parents=True, exist_ok=True)
        report = json.dumps(self.reports, indent=2, ensure_ascii=False)
        (directory / "evaluation.json").write_text(report + "\n", encoding="utf-8")
        with (directory / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["split", "text", "label", "prediction", "score"])
            writer.writerows(self.rows)


def evaluate(classifier: TextClassifier, splits: Splits) -> Evaluation:
    """Classify every held-out row with the finished model directory, as the server will."""
    metrics: dict[str, float] = {}
    reports: dict[str, Any] = {}
    rows = []
    seen = set(splits.train.texts)
    for name, data in splits.held_out.items():
        scores = classifier.predict(data.texts, progress(log, f"evaluating {name}"))
        best = scores.argmax(axis=1)
        truth = [label for (label,) in data.labels]
        predictions = [classifier.labels[index] for index in best]
        report = _report(truth, predictions, classifier.labels)
        report["texts_also_in_train"] = sum(text in seen for text in data.texts)
        reports[name] = report
        metrics |= {
            f"{name}_accuracy": report["accuracy"],
            f"{name}_macro_f1": report["macro_f1"],
        }
        rows += [
            (name, text, label, prediction, round(float(score), 6))
            for text, label, prediction, score in zip(
                data.texts, truth, predictions, scores.max(axis=1), strict=True
            )
        ]
    return Evaluation(metrics, reports, rows)


def _report(
    truth: Sequence[str], predictions: Sequence[str], known: Sequence[str]
) -> dict[str, Any]:
    labels = [*known, *sorted(set(truth) - set(known))]
    matrix: NDArray[np.int64] = confusion_matrix(truth, predictions, labels=labels)
    scores = precision_recall_fscore_support(truth, predictions, labels=labels, zero_division=0)
    columns = ("precision", "recall", "f1", "rows")
    return {
        "rows": len(truth),
        "accuracy": float(accuracy_score(truth, predictions)),
        "macro_f1": float(f1_score(truth, predictions, average="macro", zero_division=0)),
        "weighted_f1": float(f1_score(truth, predictions, average="weighted", zero_division=0)),
        "per_label": {
            label: dict(zip(columns, map(float, values), strict=True))
            for label, *values in zip(labels, *scores, strict=True)
        },
        "confusion_matrix": {
            "labels": labels,
            "rows_are": "true labels",
            "columns_are": "predictions",
            "counts": matrix.tolist(),
        },
    }
