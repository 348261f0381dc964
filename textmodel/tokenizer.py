"""Texts to token ids, and token ids to the arrays that an encoder reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as FastTokenizer

__all__ = ["TokenIds", "Tokenizer", "pad"]

TokenIds = list[int]


class Tokenizer:
    """The tokenizer of a model directory, cutting texts to `max_length` tokens. Thread-safe."""

    def __init__(self, tokenizer: Path, config: Path, max_length: int) -> None:
        """Read `tokenizer.json` and `tokenizer_config.json` as Hugging Face writes them."""
        self._tokenizer = FastTokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        pad_token = json.loads(config.read_text(encoding="utf-8")).get("pad_token", "[PAD]")
        if isinstance(pad_token, dict):
            pad_token = pad_token["content"]
        self.pad_id: int = self._tokenizer.token_to_id(pad_token) or 0

    def __call__(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the token ids of each text, special tokens included."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]


def pad(batch: Sequence[TokenIds], pad_id: int) -> dict[str, NDArray[np.int64]]:
    """Pad token ids on the right to the longest of the batch.

    Returns:
        `input_ids`, `attention_mask` and `token_type_ids`, each (batch, tokens).
    """
    width = max(map(len, batch))
    input_ids = np.full((len(batch), width), pad_id, np.int64)
    attention_mask = np.zeros((len(batch), width), np.int64)
    for row, ids in enumerate(batch):
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = 1
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "token_type_ids": np.zeros_like(input_ids),
    }
