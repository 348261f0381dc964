"""Progress as one line now and then, which CloudWatch shows as it is meant."""

from __future__ import annotations

import logging
import time
from typing import Protocol

__all__ = ["INTERVAL", "Report", "progress"]

INTERVAL = 10.0
"""Seconds between two lines."""


class Report(Protocol):
    """Called with how much is done, and of how much where that is known."""

    def __call__(self, done: int, total: int | None = None) -> None: ...


def progress(log: logging.Logger, what: str, *, unit: str = "", before: int = 0) -> Report:
    """Return a callback that logs `what` every few seconds, with rate and remaining time.

    `unit` is said after the numbers; of `MB`, the callback takes bytes. `before` is what was done
    before this start, by an attempt of the job that this one resumes.
    """
    scale = 1e6 if unit == "MB" else 1
    spaced = f" {unit}" if unit else ""
    start = last = time.monotonic()

    def report(done: int, total: int | None = None) -> None:
        nonlocal last
        now = time.monotonic()
        finished = total is not None and done >= total
        if not finished and now - last < INTERVAL:
            return
        last = now
        rate = (done - before) / max(now - start, 1e-9)
        known = "" if total is None else f" of {total / scale:.0f}"
        left = f", {(total - done) / rate:.0f} s left" if total is not None and rate > 0 else ""
        log.info("%s: %.0f%s%s (%s a second%s)", what, done / scale, known, spaced,
                 _three_digits(rate / scale), left)  # fmt: skip

    return report


def _three_digits(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"
