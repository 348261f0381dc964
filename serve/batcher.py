"""Requests of many clients, executed together: no timer, little padding, nobody starved.

A stream that is free takes work at once, so a lone request never waits. Its batch is the text that
has waited longest, and those among the next few dozen whose lengths are nearest to it.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence, Sized
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

__all__ = ["Batcher"]

Result = TypeVar("Result")

WINDOW = 64
"""How many waiting texts a batch is chosen from."""


@dataclass(frozen=True, eq=False)
class _Item(Generic[Result]):
    tokens: Sized
    future: Future[Result] = field(default_factory=Future)


class Batcher(Generic[Result]):
    """Collects tokenised texts, runs batches of them on `streams` threads, hands results back."""

    def __init__(
        self,
        run: Callable[[Sequence[Any]], Iterable[Result]],
        *,
        streams: int,
        batch_size: int,
    ) -> None:
        """`run` maps a batch of texts to as many results; `streams` of it run at a time."""
        self._run = run
        self._streams = streams
        self._batch_size = batch_size
        self._waiting: deque[_Item[Result]] = deque()
        self._window: list[_Item[Result]] = []  # the oldest of all that wait, oldest first
        self._changed = threading.Condition()
        for number in range(streams):
            threading.Thread(target=self._work, name=f"stream-{number}", daemon=True).start()

    def submit(self, texts: Sequence[Sized]) -> list[Future[Result]]:
        """Queue tokenised texts; returns a future for each."""
        items: list[_Item[Result]] = [_Item(tokens) for tokens in texts]
        with self._changed:
            self._waiting.extend(items)
            self._changed.notify(min(len(items), self._streams))
        return [item.future for item in items]

    def _work(self) -> None:
        while True:
            batch = self._next_batch()
            try:
                results = self._run([item.tokens for item in batch])
                for item, result in zip(batch, results, strict=True):
                    item.future.set_result(result)
            except Exception as error:  # the clients of this batch are told; the stream goes on
                for item in batch:
                    if not item.future.done():
                        item.future.set_exception(error)

    def _next_batch(self) -> list[_Item[Result]]:
        with self._changed:
            while not self._waiting and not self._window:
                self._changed.wait()
            while self._waiting and len(self._window) < WINDOW:
                self._window.append(self._waiting.popleft())
            # What waits is shared out to all streams before any of them gets a full batch.
            size = min(self._batch_size, math.ceil(len(self._window) / self._streams))
            length = len(self._window[0].tokens)
            batch = sorted(self._window, key=lambda item: abs(len(item.tokens) - length))[:size]
            chosen = set(map(id, batch))
            self._window = [item for item in self._window if id(item) not in chosen]
            return batch
