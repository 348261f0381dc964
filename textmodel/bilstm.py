"""A classifier on token states: a bidirectional LSTM, max pooling and a dense layer.

Source: the review classifier on DistilBERT of "Data Science on AWS" (Barth and Fregly, O'Reilly
2021), whose sizes these are.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

__all__ = ["BILSTM_FILE", "BiLSTM"]

BILSTM_FILE = "head/bilstm.safetensors"

_UNITS, _DENSE, _DROPOUT = 50, 50, 0.2


class BiLSTM(nn.Module):
    """Token states (batch, tokens, hidden) and their mask (batch, tokens) to logits."""

    def __init__(self, hidden: int, labels: int) -> None:
        super().__init__()
        # Two LSTMs instead of a bidirectional one, which would read the padding first.
        self.forwards = nn.LSTM(hidden, _UNITS, batch_first=True)
        self.backwards = nn.LSTM(hidden, _UNITS, batch_first=True)
        self.dense = nn.Linear(2 * _UNITS, _DENSE)
        self.dropout = nn.Dropout(_DROPOUT)
        self.output = nn.Linear(_DENSE, labels)

    @classmethod
    def load(cls, directory: Path) -> BiLSTM:
        """Load what `save` wrote.

        Raises:
            OSError, SafetensorError, KeyError or RuntimeError: it is missing or broken.
        """
        tensors = load_file(directory / BILSTM_FILE)
        labels, hidden = len(tensors["output.bias"]), tensors["forwards.weight_ih_l0"].shape[1]
        head = cls(hidden, labels)
        head.load_state_dict(tensors)
        return head

    def save(self, directory: Path) -> None:
        (directory / BILSTM_FILE).parent.mkdir(exist_ok=True)
        save_file(self.state_dict(), directory / BILSTM_FILE)

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        places = torch.arange(states.shape[1], device=states.device)  # (tokens,)
        lengths = mask.sum(dim=1, keepdim=True)  # (batch, 1)
        # Each row's own tokens from last to first, its padding where it was. Its own inverse.
        mirror = torch.where(places < lengths, lengths - 1 - places, places).unsqueeze(-1)
        ahead, _ = self.forwards(states)  # (batch, tokens, units)
        back, _ = self.backwards(states.gather(1, mirror.expand_as(states)))
        both = torch.cat([ahead, back.gather(1, mirror.expand_as(back))], dim=-1)
        padding = mask.unsqueeze(-1) == 0
        highest = both.masked_fill(padding, float("-inf")).amax(dim=1)  # (batch, 2 * units)
        logits: torch.Tensor = self.output(self.dropout(torch.relu(self.dense(highest))))
        return logits
