"""Texts to tokens, and tokens to the arrays that an encoder reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as FastTokenizer

__all__ = ["Text", "Tokenizer", "Tokens", "characters_of", "pack", "pad"]

Text = str | tuple[str, str]
"""A text, or a pair of texts that the encoder reads together."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The token ids of a text, special tokens included."""

    ids: list[int]
    second: int | None = None
    """Where the second text of a pair begins, for encoders that tell the two apart."""
    cut: bool = False
    """Whether the text was longer."""

    def __len__(self) -> int:
        return len(self.ids)


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

    def __call__(self, texts: Sequence[Text]) -> list[Tokens]:
        """Tokenise each text; of a pair, the longer text is cut first."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        return [
            Tokens(
                encoding.ids,
                _second(encoding.type_ids) if isinstance(text, tuple) else None,
                bool(encoding.overflowing),
            )
            for text, encoding in zip(texts, encodings, strict=True)
        ]


def characters_of(text: Text) -> int:
    """Return how many characters a text has; of a pair, both together."""
    return len(text) if isinstance(text, str) else sum(map(len, text))


def pad(
    batch: Sequence[Tokens], pad_id: int, width: int | None = None
) -> dict[str, NDArray[np.int64]]:
    """Pad tokens on the right to `width`, or to the longest of the batch.

    Returns:
        `input_ids`, `attention_mask` and `token_type_ids`, each (batch, tokens).
    """
    width = width or max(map(len, batch))
    input_ids = np.full((len(batch), width), pad_id, np.int64)
    attention_mask = np.zeros((len(batch), width), np.int64)
    token_type_ids = np.zeros((len(batch), width), np.int64)
    for row, tokens in enumerate(batch):
        input_ids[row, : len(tokens)] = tokens.ids
        attention_mask[row, : len(tokens)] = 1
        if tokens.second is not None:
            token_type_ids[row, tokens.second : len(tokens)] = 1
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "token_type_ids": token_type_ids,
    }


def pack(
    batch: Sequence[Tokens], rows: Sequence[Sequence[int]], pad_id: int, width: int
) -> dict[str, NDArray[np.int64]]:
    """Put tokens one text after the other, and pad what is left of `width`.

    Args:
        rows: the places of the texts in each row.

    Returns:
        `input_ids`, `position_ids` (from 0 within each text), `segments` (the place of the text,
        from 1; of padding 0) and `token_type_ids`, each (rows, width).
    """
    # Of what numpy has, zeros, arange and the like let other threads have Python's lock, and a
    # server's may keep it for longer than all of this takes.
    arrays = np.empty((4, len(rows), width), np.int64)
    input_ids, position_ids, segments, token_type_ids = arrays
    positions = _positions(width)
    for row, places in enumerate(rows):
        start = 0
        token_type_ids[row] = 0
        for place in places:
            tokens = batch[place]
            end = start + len(tokens)
            input_ids[row, start:end] = tokens.ids
            position_ids[row, start:end] = positions[: len(tokens)]
            segments[row, start:end] = place + 1
            if tokens.second is not None:
                token_type_ids[row, start + tokens.second : end] = 1
            start = end
        input_ids[row, start:] = pad_id
        position_ids[row, start:] = segments[row, start:] = 0
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "segments": segments,
        "token_type_ids": token_type_ids,
    }


@lru_cache(64)  # batches have few widths, single texts any
def _positions(width: int) -> NDArray[np.int64]:
    return np.arange(width)


def _second(type_ids: list[int]) -> int | None:
    return type_ids.index(1) if 1 in type_ids else None
