from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import treelite
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from textmodel.artifact import Artifact, ArtifactError
from textmodel.hardware import Choice
from textmodel.heads import FOREST_FILE, HEADS, Forest, Linear, Logits, NoHead
from train.recipes.logistic import as_linear

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(size=(300, 16)).astype(np.float32)


def targets(labels: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.digitize(FEATURES[:, 0], np.linspace(-1, 1, labels - 1)).astype(np.int64)


@pytest.mark.parametrize("labels", [2, 3, 7])
@pytest.mark.parametrize("rows", [1, 64, 65, 300])
def test_forest_equals_scikit_learn(labels: int, rows: int) -> None:
    forest = RandomForestClassifier(20, random_state=0).fit(FEATURES, targets(labels))
    answers = Forest(treelite.sklearn.import_model(forest))(FEATURES[:rows])
    assert answers.shape == (rows, labels)
    np.testing.assert_allclose(answers, forest.predict_proba(FEATURES[:rows]), atol=1e-6)


def test_forest_uses_as_few_threads_as_openmp_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    many = Choice("cpus", 10_000, "more than OpenMP allows")
    monkeypatch.setattr("textmodel.heads.cpu_count", lambda: many)
    model = RandomForestClassifier(20, random_state=0).fit(FEATURES, targets(2))
    answers = Forest(treelite.sklearn.import_model(model))(FEATURES)
    np.testing.assert_allclose(answers, model.predict_proba(FEATURES), atol=1e-6)


@pytest.mark.parametrize("labels", [2, 3, 7])
def test_linear_equals_scikit_learn(labels: int) -> None:
    regression = LogisticRegression().fit(FEATURES, targets(labels))
    answers = as_linear(regression)(FEATURES)
    assert answers.shape == (300, labels)
    np.testing.assert_allclose(answers, regression.predict_proba(FEATURES), atol=1e-5)


@pytest.mark.parametrize("labels", [2, 3, 7])
def test_multi_label_forest_equals_scikit_learn(labels: int) -> None:
    several = np.stack([targets(2), *(FEATURES[:, 1:labels].T > 0.5)], axis=1)
    forest = RandomForestClassifier(20, random_state=0).fit(FEATURES, several)
    answers = Forest(treelite.sklearn.import_model(forest), multi_label=True)(FEATURES)
    assert answers.shape == (300, labels)
    for label, expected in enumerate(forest.predict_proba(FEATURES)):
        np.testing.assert_allclose(answers[:, label], expected[:, 1], atol=1e-6)


@pytest.mark.parametrize("multi_label", [False, True])
def test_probabilities_of_large_logits_are_finite(multi_label: bool) -> None:
    answers = Logits(multi_label)(np.array([[1e4, -1e4], [0, 0]], np.float32))
    np.testing.assert_allclose(answers, np.array([[1.0, 0.0], [0.5, 0.5]]), atol=1e-20)


def test_labels_of_a_multi_label_head_do_not_compete() -> None:
    head = Linear(np.ones((3, 1), np.float32), np.zeros(3, np.float32), multi_label=True)
    np.testing.assert_allclose(head(np.array([[9.0]], np.float32)), 1, atol=1e-3)


def test_every_row_of_a_head_sums_to_one() -> None:
    head = Linear(RANDOM.normal(size=(5, 16)).astype(np.float32), np.zeros(5, np.float32))
    np.testing.assert_allclose(head(FEATURES).sum(axis=1), 1, atol=1e-6)
    assert head(FEATURES).dtype == np.float32


def test_linear_of_a_model_is_what_was_saved(logistic_model: Path) -> None:
    artifact = Artifact.open(logistic_model / "model")
    head = HEADS["linear"](artifact)
    assert head(np.ones((3, 384), np.float32)).shape == (3, 2)


def test_forest_of_a_model_that_was_changed_is_refused(forest_model: Path, tmp_path: Path) -> None:
    manifest = Artifact.open(forest_model / "model").manifest
    (tmp_path / FOREST_FILE).parent.mkdir()
    (tmp_path / FOREST_FILE).write_bytes(b"not a forest")
    with pytest.raises(ArtifactError, match=FOREST_FILE):
        HEADS["forest"](Artifact(tmp_path, manifest))


def test_heads_are_listed_by_the_names_that_recipes_write(
    forest_model: Path, logistic_model: Path, finetuned_model: Path
) -> None:
    trees = (forest_model, logistic_model, finetuned_model)
    written = {Artifact.open(tree / "model").manifest.head for tree in trees}
    assert written | {"none"} == HEADS.keys()


def test_a_vector_without_a_head_has_no_scores() -> None:
    head = NoHead()
    assert head(FEATURES).shape == (300, 0)
