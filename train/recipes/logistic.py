"""scikit-learn's logistic regression on frozen embeddings, stored as two tensors."""

from __future__ import annotations

import logging

import numpy as np
from sklearn.linear_model import LogisticRegression

from textmodel.artifact import Manifest
from textmodel.heads import Linear
from train.recipes.embeddings import embed
from train.recipes.fitting import Fitting

log = logging.getLogger(__name__)


def fit(fitting: Fitting) -> Manifest:
    settings = fitting.settings
    features, manifest = embed(fitting, "linear")
    regression = LogisticRegression(
        C=settings.C, max_iter=settings.max_iter, random_state=settings.seed
    ).fit(features, fitting.targets)
    if regression.n_iter_.max() >= settings.max_iter:
        log.warning("the solver stopped at max_iter=%d before it converged", settings.max_iter)
    as_linear(regression).save(fitting.directory)
    return manifest


def as_linear(regression: LogisticRegression) -> Linear:
    """Return the head that gives the same probabilities."""
    weight = regression.coef_.astype(np.float32)
    bias = regression.intercept_.astype(np.float32)
    if len(bias) == 1:  # of two labels, scikit-learn keeps the second one's logit alone
        weight = np.concatenate([np.zeros_like(weight), weight])
        bias = np.concatenate([np.zeros_like(bias), bias])
    return Linear(weight, bias)
