"""How far threads stand back where cores are scarce: on Linux each has a niceness of its own."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

__all__ = ["FARTHEST", "call_at", "niceness", "stand_back"]

P = ParamSpec("P")
T = TypeVar("T")

FARTHEST = 19
"""The highest niceness."""


def niceness() -> int:
    """Return the calling thread's niceness."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def call_at(least: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a thread of at least this niceness; those that it starts have it, too."""
    with ThreadPoolExecutor(1, initializer=stand_back, initargs=(least,)) as thread:
        return thread.submit(function, *args, **kwargs).result()


def stand_back(least: int) -> None:
    """Give the calling thread, and those that it will start, at least this niceness.

    Where the kernel allows it, they interrupt no thread when they wake, except those at FARTHEST,
    which run only while no others want to (sched(7)).
    """
    if sys.platform == "linux":  # elsewhere it is the process that has a priority
        level = max(niceness(), least)
        os.setpriority(os.PRIO_PROCESS, 0, level)
        with contextlib.suppress(OSError):
            policy = os.SCHED_IDLE if level == FARTHEST else os.SCHED_BATCH
            os.sched_setscheduler(0, policy, os.sched_param(0))
