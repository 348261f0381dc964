"""Which texts are executed together, by their lengths in tokens."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
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
        doubled = min(_doubled(share), 1 << (waiting.bit_length() - 1))
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
    """Texts follow each other in rows of one width, which only what is left at their ends pads.

    A text that is longer than a row is in a batch of one row, which is long enough for it.
    """

    texts: int
    """How many a batch may have."""
    rows: int = 1
    """How many rows a batch may have; a power of two, as engines make kernels for each number."""
    tokens: int = 128
    """How long a row is."""

    def next(self, lengths: Sequence[int], streams: int = 1) -> list[int]:
        share = math.ceil(sum(lengths) / streams)
        if lengths[0] <= self.tokens <= share:
            rows = self._fill(lengths, self._count(share // self.tokens), self.tokens)
        else:
            rows = self._fill(lengths, 1, self.width(max(min(share, self.tokens), lengths[0])))
        return sorted(chain.from_iterable(rows))

    def cut(self, lengths: Sequence[int]) -> list[list[int]]:
        left = sorted(range(len(lengths)), key=lengths.__getitem__)
        sizes = [lengths[place] for place in left]
        batches, rows = list[list[int]](), list[list[int]]()
        while left:
            room = max(self.tokens, self.width(sizes[-1]))
            same = rows if room == self.tokens else batches
            row = list[int]()
            while len(row) < self.texts // self.rows and (fitting := bisect_right(sizes, room)):
                room -= sizes.pop(fitting - 1)
                row.append(left.pop(fitting - 1))
            same.append(row)
        while rows:
            count = self._count(len(rows))
            batches.append(list(chain.from_iterable(rows[:count])))
            rows = rows[count:]
        return batches

    def fits(self, lengths: Sequence[int]) -> bool:
        """Return whether texts can be one batch."""
        if max(lengths) > self.tokens:
            rows = self._fill(lengths, 1, self.width(max(lengths)))
        else:
            rows = self._fill(lengths, self.rows, self.tokens)
        return sum(map(len, rows)) == len(lengths)

    def arranged(self, lengths: Sequence[int]) -> tuple[list[list[int]], int]:
        """Return the texts of each row of a batch, and how long its rows are."""
        total = sum(lengths)
        if total <= self.tokens or max(lengths) > self.tokens:
            return [list(range(len(lengths)))], self.width(total)
        rows = self._fill(lengths, self.rows, self.tokens)
        return rows + [[]] * (_doubled(len(rows)) - len(rows)), self.tokens

    def executed(self, lengths: Sequence[int]) -> int:
        rows, width = self.arranged(lengths)
        return len(rows) * width

    def full(self, lengths: Sequence[int]) -> bool:
        return len(lengths) >= self.texts or 2 * sum(lengths) >= self.tokens

    def width(self, tokens: int) -> int:
        """Return how long a row for so many tokens is: few widths need few kernels."""
        return rounded(tokens, digits=3, least=self.tokens // 2)

    def _count(self, most: int) -> int:
        return min(self.rows, 1 << (most.bit_length() - 1))

    def _fill(self, lengths: Sequence[int], count: int, width: int) -> list[list[int]]:
        """Put each text into the first row that has room for it, and leave out what has none.

        The same texts alone, in the same order, are put into the same rows again; and those of
        some rows, one row after the other, need no more rows.
        """
        rows, rooms = list[list[int]](), list[int]()
        for place, length in enumerate(lengths):
            if sum(map(len, rows)) == self.texts:
                break
            number = next((n for n, room in enumerate(rooms) if length <= room), len(rows))
            if number == len(rows):
                if number == count or length > width:
                    continue
                rows.append([])
                rooms.append(width)
            rows[number].append(place)
            rooms[number] -= length
        return rows


def _doubled(number: int) -> int:
    """Return the next power of two, from this number on."""
    return 1 << (number - 1).bit_length()


def rounded(number: int, digits: int, least: int = 1) -> int:
    """Return the next whole number, from this one on, that is a multiple of a power of two.

    That is `least`, or a greater one, of which so many significant binary digits are left.
    """
    step = max(1 << max(number.bit_length() - digits, 0), least)
    return -(-number // step) * step
