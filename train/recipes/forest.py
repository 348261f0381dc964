"""scikit-learn's random forest on frozen embeddings, stored for treelite."""

from __future__ import annotations

import logging

import treelite
from sklearn.ensemble import RandomForestClassifier

from textmodel.artifact import Manifest
from textmodel.hardware import cpu_count
from textmodel.heads import FOREST_FILE
from train.errors import UserError
from train.progress import progress
from train.recipes.class_weights import row_weights
from train.recipes.embeddings import embed
from train.recipes.fitting import Fitting

log = logging.getLogger(__name__)


def fit(fitting: Fitting) -> Manifest:
    settings = fitting.settings
    targets = fitting.targets
    if (targets == targets[0]).all():
        raise UserError(
            "all rows of the channel train have the same labels; a forest needs rows to tell apart"
        )
    weights = row_weights(fitting, targets)
    features, manifest = embed(fitting, "forest")
    if features is None:
        return manifest
    forest = RandomForestClassifier(
        max_depth=settings.max_depth,
        min_samples_leaf=settings.min_samples_leaf,
        max_features=settings.max_features,
        random_state=settings.seed,
        n_jobs=cpu_count().value,
        warm_start=True,
    )
    report = progress(log, "growing trees")
    # Grown in tenths, for the progress lines; the seed makes the same trees in any portions.
    step = max(1, settings.n_estimators // 10)
    for trees in [*range(step, settings.n_estimators, step), settings.n_estimators]:
        last = trees == settings.n_estimators
        forest.set_params(n_estimators=trees, oob_score=settings.oob_score and last)
        forest.fit(features, targets, weights)
        report(trees, settings.n_estimators)
    if settings.oob_score:
        fitting.metrics.report({"oob_accuracy": forest.oob_score_})
    if fitting.train.multi_label:
        _tell_yes_from_no(forest)
    treelite.sklearn.import_model(forest).serialize(fitting.directory / FOREST_FILE)
    return manifest


def _tell_yes_from_no(forest: RandomForestClassifier) -> None:
    """Move what the trees say of labels that every row has from the place of `no` to `yes`.

    Of such a label scikit-learn knows one class alone, which it keeps in the first place.
    """
    always = [number for number, classes in enumerate(forest.classes_) if list(classes) == [1]]
    for tree in forest.estimators_:
        tree.tree_.value[:, always] = tree.tree_.value[:, always, ::-1]
    forest.n_classes_ = [2] * len(forest.classes_)
