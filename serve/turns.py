"""Turns of the threads that serve requests: mostly one at a time reads, answers and sends.

Each call that may block gives Python's lock away. Where a dozen threads have answers to send, the
next one takes it in the middle of the first one's work, and so on in circles: a request then costs
24 switches between threads, and 12 with turns. docs/measured.md has what that gives.

A turn is no more than that. Whoever has waited for it long goes on without, so nothing can hang.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["aside", "in_turn"]

PATIENCE = 0.05
"""Seconds after which a thread goes on without a turn."""

_turn = threading.Lock()
_thread = threading.local()


@contextmanager
def in_turn() -> Iterator[None]:
    """Have the turn meanwhile, but for what is done `aside`."""
    _take()
    try:
        yield
    finally:
        _leave()


@contextmanager
def aside() -> Iterator[None]:
    """Wait for something, or work for long, while others have the turn, if this thread has it."""
    had = _leave()
    try:
        yield
    finally:
        if had:
            _take()


def _take() -> None:
    _thread.has_it = _turn.acquire(timeout=PATIENCE)


def _leave() -> bool:
    had = getattr(_thread, "has_it", False)
    _thread.has_it = False
    if had:
        _turn.release()
    return had
