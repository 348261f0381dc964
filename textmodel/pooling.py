"""Token states to one vector a text, and a linear classifier on that."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from textmodel.heads import LINEAR_FILE, Linear

__all__ = ["POOLINGS", "Pooled", "pool"]

POOLINGS = ("mean", "cls", "max")

_DROPOUT = 0.1


def pool(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """(batch, tokens, hidden) to (batch, hidden), blind to padding."""
    if pooling == "cls":
        return states[:, 0]
    weights = mask.unsqueeze(-1).to(states.dtype)  # (batch, tokens, 1)
    if pooling == "max":
        return states.masked_fill(weights == 0, float("-inf")).amax(dim=1)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


class Pooled(nn.Module):
    """Token states (batch, tokens, hidden) and their mask (batch, tokens) to logits.

    Once trained, the model is stored as that of the recipe `logistic`: the encoder with its
    pooling, and the linear head apart.
    """

    def __init__(self, pooling: str, hidden: int, labels: int) -> None:
        super().__init__()
        self.pooling = pooling
        self.dropout = nn.Dropout(_DROPOUT)
        self.output = nn.Linear(hidden, labels)

    def save(self, directory: Path) -> None:
        (directory / LINEAR_FILE).parent.mkdir(exist_ok=True)
        weight, bias = (tensor.detach().numpy() for tensor in self.output.parameters())
        Linear(weight, bias).save(directory)

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.output(self.dropout(pool(states, mask, self.pooling)))
        return logits
