"""SIGTERM and SIGINT: end at once, or finish the step in hand where that saves a model.

SageMaker sends SIGTERM, and SIGKILL 120 s later. A second SIGTERM asks for nothing new; a second
Ctrl-C is that of a user who does not want to wait for the model.
"""

from __future__ import annotations

import signal
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from train.errors import Stopped

__all__ = ["Stop"]

AGAIN = 1.0
"""Seconds until an exception that got lost is raised anew."""


class Stop:
    """Turns the first signal into `Stopped`, or into a request where the work can wind up."""

    def __init__(self) -> None:
        self.requested = ""
        """Why the steps should end: a signal's name, or the reason that `request` was given."""
        self.signal = ""
        """The signal's name, once there was one."""
        self._deferred = False
        self._raised: Callable[[], Stopped | None] = lambda: None

    def listen(self) -> None:
        """Install the handlers. A PID 1 without them ignores SIGTERM."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGALRM, self._raise)

    def request(self, reason: str) -> None:
        """Ask for an end of the steps from inside: what they made so far becomes the model."""
        self.requested = self.requested or reason

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note signals, for the code inside to find in `requested`, but for a second SIGINT.

        Raises:
            Stopped: there was a signal before, and what it raised got lost.
        """
        if self.signal and not self._deferred:
            raise self._new()
        outer, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = outer

    def ignore(self) -> None:
        """From here on, let no signal cut short what is left, because it takes no time."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        impatient = bool(self.signal) and number == signal.SIGINT
        self.requested = self.signal = signal.Signals(number).name
        if not self._deferred or impatient:
            self._raise(number, frame)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        """Raise `Stopped`, unless one is still on its way up: nothing may cut short the tidying.

        Python drops what is raised in a finalizer or a weak reference's callback, and libraries
        run many of them. So look a little later whether that happened.
        """
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
        if self._raised() is None:
            raise self._new()

    def _new(self) -> Stopped:
        error = Stopped(self.signal)
        self._raised = weakref.ref(error)  # no frame of the traceback may keep it alive
        return error
