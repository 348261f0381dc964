"""The threads that execute batches: as many as there are cores, however many models there are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import cache
from queue import SimpleQueue

from textmodel.hardware import cpu_count

__all__ = ["Streams", "shared_streams"]

log = logging.getLogger(__name__)


class Streams:
    """Threads that call what is submitted, in that order."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._turns: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._left = 0  # turns that have not come to their end
        for number in range(count):
            threading.Thread(target=self._work, name=f"stream-{number}", daemon=True).start()

    def submit(self, turn: Callable[[], None]) -> None:
        """Have a thread call `turn` once it is free."""
        with self._lock:
            self._left += 1
        self._turns.put(turn)

    def run(self, turn: Callable[[], None]) -> None:
        """Call `turn` here and now if nothing else is to be called, which spares its caller two
        changes of threads; else submit it."""
        with self._lock:
            idle = not self._left
            self._left += 1
        if idle:
            self._call(turn)
        else:
            self._turns.put(turn)

    def close(self) -> None:
        """End the threads after what is submitted already."""
        for _ in range(self._count):
            self._turns.put(None)

    def _work(self) -> None:
        while turn := self._turns.get():
            self._call(turn)
            del turn  # or an idle thread would keep a model that was unloaded

    def _call(self, turn: Callable[[], None]) -> None:
        try:
            turn()
        except Exception:  # the thread is not only this model's
            log.exception("a stream failed; this is a bug in optml")
        with self._lock:
            self._left -= 1


@cache
def shared_streams() -> Streams:
    """Return the streams of this process.

    Every model executes on them: threads do not become more with the models, and of several that
    are asked at once each has its turn.
    """
    return Streams(cpu_count().value)
