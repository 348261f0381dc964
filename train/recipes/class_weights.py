"""What each label counts, whatever the recipe."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from train.errors import UserError
from train.recipes.fitting import Fitting

__all__ = ["class_weights", "row_weights"]


def class_weights(fitting: Fitting) -> NDArray[np.float32] | None:
    """Return what each label counts in the loss, (labels,); None where all count the same.

    The mean over the training rows is 1, so that neither the size of a step nor the strength of a
    penalty depends on them. Of a multi-label task it is what a row that has the label counts,
    against one that has not.

    Raises:
        UserError: there are weights of labels that the training rows do not have.
    """
    chosen = fitting.settings.class_weights
    if chosen == "none":
        return None
    counts = fitting.train.label_counts()
    rows = np.array([counts[label] for label in fitting.labels], np.float64)
    if fitting.train.multi_label:
        weights = (len(fitting.train) - rows) / rows
        weights = np.clip(weights, 0.1, 100) if chosen == "balanced" else _given(chosen, fitting)
        return np.asarray(weights, np.float32)
    weights = 1 / rows if chosen == "balanced" else _given(chosen, fitting)
    return np.asarray(weights * rows.sum() / (weights * rows).sum(), np.float32)


def row_weights(fitting: Fitting, targets: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """Return what each training row counts, (rows,): its labels' weights, in the mean over them."""
    weights = class_weights(fitting)
    if weights is None:
        return None
    if not fitting.train.multi_label:
        return weights[targets]
    count = targets.sum(axis=1)
    # A row without a label counts as much as one whose label has the weight 1.
    return np.where(count, targets @ weights / np.maximum(count, 1), 1).astype(np.float32)


def _given(weights: Mapping[str, float] | str, fitting: Fitting) -> NDArray[np.float64]:
    assert not isinstance(weights, str)
    if unknown := sorted(weights.keys() - set(fitting.labels)):
        raise UserError(
            f"class_weights: {', '.join(map(repr, unknown))} are no labels of the channel train, "
            f"which has {', '.join(map(repr, fitting.labels[:20]))}"
            f"{', …' if len(fitting.labels) > 20 else ''}; labels without a weight count 1"
        )
    return np.array([weights.get(label, 1.0) for label in fitting.labels])
