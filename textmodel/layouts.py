"""Batches of texts as the arrays that an OpenVINO graph reads.

Engines make kernels for each shape of a batch, so that lengths are rounded up: docs/runtimes.md
has what that saves, and what the padding costs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from textmodel.batching import Batching, Packed, Padded, rounded
from textmodel.tokenizer import Tokens, pack, pad

__all__ = ["Layout", "Shape", "layout_of"]

Arrays = dict[str, NDArray[np.int64]]
Shape = tuple[int, ...]

_TEXTS_OF_A_ROW = 16


class Layout(Protocol):
    """How a graph reads texts."""

    batching: Batching
    full: Collection[Shape]
    """Those of batches that have no room for more."""

    def parts(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return the places of the texts that are executed at a time, of a batch of any size."""
        ...

    def arrays(self, texts: Sequence[Tokens], lone: bool = False) -> Arrays:
        """Return what the graph reads; `lone` where nothing else is executing."""
        ...

    def unpadded(self, text: Tokens) -> Arrays:
        """Return what the graph reads of one text, without padding."""
        ...


def layout_of(graph: Any, pad_id: int, max_length: int, special: bool = False) -> Layout:
    """Return the layout that a graph was exported for (`export.convert_openvino`).

    Args:
        graph: an `openvino.Model`.
        pad_id: the token to pad with.
        max_length: tokens of the longest text.
        special: whether shapes that come often get graphs of their own, so that few are better.
    """
    names = [port.any_name for port in graph.inputs]
    if "segments" in names:
        slots = graph.output(0).get_partial_shape()[0].get_length()
        packed = Packed(slots, max(slots // _TEXTS_OF_A_ROW, 1))
        return _PackedRows(names, pad_id, max_length, packed, special)
    return _Rows(names, pad_id, max_length)


class _PackedRows:
    """Texts one after the other."""

    def __init__(
        self, names: Sequence[str], pad_id: int, max_length: int, packed: Packed, special: bool
    ) -> None:
        self._names = names
        self._pad_id = pad_id
        self._packed = packed
        # One width of lone texts has a graph of its own, so let it be that of most short ones.
        self._lone_least = 24 if special else 8
        self.batching: Batching = packed
        self.full: Collection[Shape] = {
            (packed.rows, packed.tokens),
            (1, packed.width(max_length)),
        }

    def parts(self, lengths: Sequence[int]) -> list[list[int]]:
        one = list(range(len(lengths)))
        return [one] if self._packed.fits(lengths) else self._packed.cut(lengths)

    def arrays(self, texts: Sequence[Tokens], lone: bool = False) -> Arrays:
        rows, width = self._packed.arranged([len(text) for text in texts])
        if lone and len(rows) == 1:
            width = max(rounded(sum(map(len, texts)), digits=2, least=8), self._lone_least)
        return _named(pack(texts, rows, self._pad_id, width), self._names)

    def unpadded(self, text: Tokens) -> Arrays:
        return _named(pack([text], [[0]], self._pad_id, len(text)), self._names)


class _Rows:
    """Each text in a row of its own."""

    # Eight texts fill a core already; more would only add padding. For texts that are sorted,
    # 1024 tokens are faster by 2 % than 32 texts each, and by 6 than 512 or 4096 tokens.
    batching: Batching = Padded(texts=8, tokens=1024, cut_tokens=1024)
    full: Collection[Shape] = ()

    def __init__(self, names: Sequence[str], pad_id: int, max_length: int) -> None:
        self._names = names
        self._pad_id = pad_id
        self._max_length = max_length

    def parts(self, lengths: Sequence[int]) -> list[list[int]]:
        return [list(range(len(lengths)))]

    def arrays(self, texts: Sequence[Tokens], lone: bool = False) -> Arrays:
        longest = max(map(len, texts))
        width = rounded(longest, digits=2 if lone else 3)
        width = width if width <= self._max_length else longest
        return _named(pad(texts, self._pad_id, width), self._names)

    def unpadded(self, text: Tokens) -> Arrays:
        return _named(pad([text], self._pad_id), self._names)


def _named(arrays: Arrays, names: Sequence[str]) -> Arrays:
    return {name: arrays[name] for name in names}
