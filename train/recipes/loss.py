"""The loss of fine-tuning: cross-entropy, or one decision a label, with weights by label."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from train.recipes.fitting import UNKNOWN

__all__ = ["Loss"]


class Loss:
    """What Hugging Face's Trainer calls with the model's output and a batch's targets."""

    def __init__(self, weights: NDArray[np.float32] | None, smoothing: float) -> None:
        """Take the `weights` of the labels, (labels,), of which None is all ones."""
        self._weights = None if weights is None else torch.from_numpy(weights)
        self._smoothing = smoothing

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the sum over the batch by `num_items_in_batch`, the targets of the whole step.

        `labels` are indices (batch,) or, of a multi-label task, ones and zeros (batch, labels).
        """
        logits = outputs["logits"].float()  # (batch, labels)
        weights = None if self._weights is None else self._weights.to(logits.device)
        if labels.is_floating_point():
            total = functional.binary_cross_entropy_with_logits(
                logits,
                labels * (1 - self._smoothing) + self._smoothing / 2,
                pos_weight=weights,
                reduction="sum",
            )
        else:
            total = functional.cross_entropy(
                logits, labels, weights, ignore_index=UNKNOWN, label_smoothing=self._smoothing,
                reduction="sum",
            )  # fmt: skip
        if num_items_in_batch is None:
            num_items_in_batch = (labels != UNKNOWN).sum()
        return total / num_items_in_batch.clamp(min=1)
