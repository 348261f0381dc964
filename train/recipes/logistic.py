"""scikit-learn's logistic regression on frozen embeddings, stored as two tensors."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from textmodel.artifact import Manifest
from textmodel.heads import Linear
from train.hyperparameters import Hyperparameters
from train.progress import progress
from train.recipes.class_weights import class_weights
from train.recipes.embeddings import embed
from train.recipes.fitting import Fitting

log = logging.getLogger(__name__)

Array = NDArray[np.float32]


def fit(fitting: Fitting) -> Manifest:
    weights = class_weights(fitting)
    features, manifest = embed(fitting, "linear")
    if features is None:
        return manifest
    kind = _one_each if fitting.train.multi_label else _one_of
    kind(features, fitting.targets, weights, fitting.settings).save(fitting.directory)
    return manifest


def as_linear(regression: LogisticRegression) -> Linear:
    """Return the head that gives the same probabilities."""
    weight = regression.coef_.astype(np.float32)
    bias = regression.intercept_.astype(np.float32)
    if len(bias) == 1:  # of two labels, scikit-learn keeps the second one's logit alone
        weight = np.concatenate([np.zeros_like(weight), weight])
        bias = np.concatenate([np.zeros_like(bias), bias])
    return Linear(weight, bias)


def _one_of(
    features: Array, targets: NDArray[np.int64], weights: Array | None, settings: Hyperparameters
) -> Linear:
    """Return a head for `targets` that are the number of a label, (rows,)."""
    counts = None if weights is None else weights[targets]
    return as_linear(_solve(features, targets, counts, settings))


def _one_each(
    features: Array, targets: NDArray[np.int64], weights: Array | None, settings: Hyperparameters
) -> Linear:
    """Return a head for `targets` that are a 1 for each label of a row, (rows, labels)."""
    report = progress(log, "fitting labels")
    weight = np.zeros((targets.shape[1], features.shape[1]), np.float32)
    bias = np.zeros(targets.shape[1], np.float32)
    for label, has_it in enumerate(targets.T):
        if 0 < has_it.sum() < len(has_it):
            counts = None if weights is None else np.where(has_it, weights[label], np.float32(1))
            regression = _solve(features, has_it, counts, settings)
            weight[label], bias[label] = regression.coef_[0], regression.intercept_[0]
        else:  # nothing to tell apart: only how often the label is there, as far as rows can say
            bias[label] = np.log((has_it.sum() + 0.5) / (len(has_it) - has_it.sum() + 0.5))
        report(label + 1, len(bias))
    return Linear(weight, bias, multi_label=True)


def _solve(
    features: Array, targets: NDArray[np.int64], counts: Array | None, settings: Hyperparameters
) -> LogisticRegression:
    """Fit rows of which each counts as in `counts`, (rows,)."""
    regression = LogisticRegression(
        C=settings.C, max_iter=settings.max_iter, random_state=settings.seed
    )
    regression.set_callbacks(_Iterations()).fit(features, targets, counts)
    if regression.n_iter_.max() >= settings.max_iter:
        log.warning("the solver stopped at max_iter=%d before it converged", settings.max_iter)
    return regression


class _Iterations:
    """What scikit-learn calls while it fits: prints progress."""

    def __init__(self) -> None:
        self._done = 0
        self._report = progress(log, "solving, iterations")

    def setup(self, estimator: object, context: object) -> None: ...

    def teardown(self, estimator: object, context: object) -> None: ...

    def on_fit_task_begin(self, estimator: object, context: object) -> None: ...

    def on_fit_task_end(self, estimator: object, context: object) -> None:
        self._done += 1
        self._report(self._done)
