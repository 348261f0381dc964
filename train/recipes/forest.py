"""scikit-learn's random forest on frozen embeddings, stored for treelite."""

from __future__ import annotations

import logging

import treelite
from sklearn.ensemble import RandomForestClassifier

from textmodel.artifact import Manifest
from textmodel.hardware import cpu_count
from textmodel.heads import FOREST_FILE
from train.progress import progress
from train.recipes.embeddings import embed
from train.recipes.fitting import Fitting

log = logging.getLogger(__name__)


def fit(fitting: Fitting) -> Manifest:
    settings = fitting.settings
    features, manifest = embed(fitting, "forest")
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
        forest.set_params(n_estimators=trees).fit(features, fitting.targets)
        report(trees, settings.n_estimators)
    treelite.sklearn.import_model(forest).serialize(fitting.directory / FOREST_FILE)
    return manifest
