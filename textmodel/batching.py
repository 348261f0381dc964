"""Which texts are executed together, by their lengths in tokens."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Batching", "Packed", "Padded", "rounded"]


class Batching(Protocol):
    """How a runtime wants its batches. Texts are told by their places in what is given."""

    def next(self, lengths: Sequence[int], streams: int = 1) -> list[int]:
        """Return the texts that are executed next, of those that wait; the oldest, 0, is one.

        Args:
            lengths: those of at least one text.
            streams: batches that are executed at the same time, over which work is spread.
        """
        ...

    def cut(self, lengths: Sequence[int]) -> list[list[int]]:
        """Put all texts into batches, where nobody minds their order."""
        ...

    def executed(self, lengths: Sequence[int]) -> int:
        """Return the tokens that a batch takes, padding included."""
        ...

    def full(self, lengths: Sequence[int]) -> bool:
        """Return whether a batch is so large that more would hardly be faster."""
        ...


@dataclass(frozen=True)
class Padded:
    """Each text is a row of its own, padded to the longest: those of like lengths go together."""

    texts: int
    """How many of those that wait are worth executing together."""
    tokens: int = 2**62
    """How many tokens, padding included, where that is fewer texts."""
    cut_tokens: int = 2**62
    """The same where all texts are known."""

    def next(self, lengths: Sequence[int], streams: int = 1) -> list[int]:
        waiting = len(lengths)
        share = math.ceil(waiting / streams)
        # Engines make kernels for each number of texts, so let it be 1, 2, 4 or 8 wherever it can.
        doubled = 1 << min((share - 1).bit_length(), waiting.bit_length() - 1)
        nearest = sorted(range(waiting), key=lambda place: abs(lengths[place] - lengths[0]))
        widest, batch = lengths[0], list[int]()
        for place in nearest[: min(self.texts, doubled)]:
            widest = max(widest, lengths[place])
            if batch and widest * (len(batch) + 1) > self.tokens:
                break
            batch.append(place)
        return batch

    def cut(self, lengths: Sequence[int]) -> list[list[int]]:
        order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
        batches, start = [], 0
        while start < len(order):
            size = max(1, self.cut_tokens // max(lengths[order[start]], 1))
            batches.append(order[start : start + size])
            start += size
        return batches

    def executed(self, lengths: Sequence[int]) -> int:
        return len(lengths) * max(lengths)

    def full(self, lengths: Sequence[int]) -> bool:
        return len(lengths) >= self.texts or 2 * self.executed(lengths) >= self.tokens


@dataclass(frozen=True)
class Packed:
    """Texts follow each other in one row, which only what is left of it at the end pads.

    A text that is longer than a row has one of its own length.
    """

    texts: int
    """How many a row may have."""
    tokens: int = 128
    """How many tokens are worth executing together."""

    def next(self, lengths: Sequence[int], streams: int = 1) -> list[int]:
        share = math.ceil(sum(lengths) / streams)
        room = self.width(max(min(share, self.tokens), lengths[0]))
        batch = list[int]()
        for place, length in enumerate(lengths):
            if length <= room and len(batch) < self.texts:
                batch.append(place)
                room -= length
        return batch

    def cut(self, lengths: Sequence[int]) -> list[list[int]]:
        left = sorted(range(len(lengths)), key=lengths.__getitem__)
        sizes = [lengths[place] for place in left]
        batches = []
        while left:
            room = max(self.tokens, self.width(sizes[-1]))
            batch = list[int]()
            while len(batch) < self.texts and (fitting := bisect_right(sizes, room)):
                room -= sizes.pop(fitting - 1)
                batch.append(left.pop(fitting - 1))
            batches.append(batch)
        return batches

    def executed(self, lengths: Sequence[int]) -> int:
        return self.width(sum(lengths))

    def full(self, lengths: Sequence[int]) -> bool:
        return len(lengths) >= self.texts or 2 * sum(lengths) >= self.tokens

    def width(self, tokens: int) -> int:
        """Return how long a row for so many tokens is: few widths need few kernels."""
        return rounded(tokens, digits=3, least=self.tokens // 2)


def rounded(number: int, digits: int, least: int = 1) -> int:
    """Return the next whole number, from this one on, that is a multiple of a power of two.

    That is `least`, or a greater one, of which so many significant binary digits are left.
    """
    step = max(1 << max(number.bit_length() - digits, 0), least)
    return -(-number // step) * step
