"""SIGTERM and SIGINT: end at once, or finish the step in hand where that saves a model.

SageMaker sends SIGTERM, and SIGKILL 120 s later.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from train.errors import Stopped

__all__ = ["Stop"]


class Stop:
    """Turns the first signal into `Stopped`, or into a request where the work can wind up."""

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False

    def listen(self) -> None:
        """Install the handlers. A PID 1 without them ignores SIGTERM."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note the first signal, for the code inside to find in `requested`."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.requested = not self.requested, True
        if not (self._deferred and first):
            raise Stopped(signal.Signals(number).name)
